"""The index against the COCO documents: the same patches and boxes, number by number, in the eyes of two readers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr

from wsi_extract.disk.files import sha256_of_tree
from wsi_extract.index import IndexedSlide, SplitIndex, read_index
from wsi_extract.index.splits import COLUMNS
from wsi_extract.model import PatchKind, Split
from wsi_extract.state.layout import INDEX, index_folder
from wsi_extract.verify.documents import CocoDocument, Item
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.manifest import Manifest


def check_index_digest(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Check that no file of the index was changed, lost or added since the manifest was written."""
    findings.done.add(Check.INDEX)
    folder = output_dir / INDEX
    with findings.reading(Check.INDEX, folder):
        stated = manifest.document.index_sha256
        findings.expect(
            Check.INDEX, folder, what="the manifest's index_sha256", stated=stated, found=sha256_of_tree(folder)
        )


def check_index(
    output_dir: Path, split: Split, document: CocoDocument | None, *, manifest: Manifest, findings: Findings
) -> None:
    """Check the index of one split.

    Parameters
    ----------
    document
        The split's COCO document, ``None`` when it cannot be read.
    """
    folder = index_folder(output_dir, split=split)
    with findings.reading(Check.INDEX, folder):
        index = read_index(output_dir, split)
        findings.n_files += len(COLUMNS)
        for message in _zarr_problems(folder, index):
            findings.add(Check.INDEX, folder, message)
        size = manifest.settings.patch_size
        findings.expect(Check.INDEX, folder, what="patch_wh_px", stated=index.patch_wh_px, found=(size, size))
        if document is not None and document.is_whole:  # its own faults are reported
            for message in find_index_problems(index, document):
                findings.add(Check.INDEX, folder, message)


def _zarr_problems(folder: Path, index: SplitIndex) -> Iterator[str]:
    """Yield the columns in which zarr-python finds something else."""
    group = zarr.open_group(str(folder), mode="r", zarr_format=3)
    for name in COLUMNS:
        array, ours = group[name], getattr(index, name)
        theirs = np.asarray(array[...]) if isinstance(array, zarr.Array) else np.empty(0)
        if theirs.dtype != ours.dtype or not np.array_equal(theirs, ours):
            yield f"zarr-python reads other numbers in {name}"


def find_index_problems(index: SplitIndex, document: CocoDocument) -> Iterator[str]:
    """Yield how an index differs from a COCO document whose entries have the right shape."""
    names = {item["id"]: item["name"] for item in document.categories}
    if index.category_names != names:
        yield f"categories are {index.category_names}, in the COCO document {names}"
    if len(index) != len(document.images):
        yield f"holds {len(index)} patches, the COCO document {len(document.images)} images"
        return
    for i, image in enumerate(document.images):
        yield from _differences(f"patch {i}", _image_of(index, i), image)
    if len(index.boxes_xywh) != len(document.annotations):
        yield f"holds {len(index.boxes_xywh)} boxes, the COCO document {len(document.annotations)} annotations"
        return
    owners = np.repeat(np.arange(len(index)), np.diff(index.box_offsets)).tolist()
    for number, (owner, annotation) in enumerate(zip(owners, document.annotations, strict=True)):
        yield from _differences(f"box {number}", _annotation_of(index, number, owner=owner), annotation)


def _differences(what: str, ours: Item, theirs: Item) -> Iterator[str]:
    for key, value in ours.items():
        if key not in theirs or theirs[key] != value:
            yield f"{what}: {key} is {value!r}, in the COCO document {theirs.get(key)!r}"


def _image_of(index: SplitIndex, i: int) -> Item:
    """Return what the COCO document must say of a patch."""
    slide: IndexedSlide = index.slides[int(index.slide[i])]
    width, height = index.patch_wh_px
    x_l0, y_l0 = index.origins_l0[i].tolist()
    return {
        "id": i + 1,
        "file_name": index.file_name(i),
        "width": width,
        "height": height,
        "slide_id": slide.slide_id,
        "split": index.split.value,
        "kind": PatchKind(int(index.kind[i])).label,
        "x_l0": x_l0,
        "y_l0": y_l0,
        "l0_per_px_xy": list(slide.l0_per_px_xy),
        "um_per_px_xy": None if slide.um_per_px_xy is None else list(slide.um_per_px_xy),
        "level": slide.level,
        "tissue_fraction": float(index.tissue_fraction[i]),
    }


def _annotation_of(index: SplitIndex, number: int, *, owner: int) -> Item:
    """Return what the COCO document must say of a box."""
    source_id, part = int(index.source_id[number]), int(index.source_part[number])
    return {
        "id": number + 1,
        "image_id": owner + 1,
        "bbox": index.boxes_xywh[number].tolist(),
        "category_id": int(index.category_id[number]),
        "iscrowd": int(index.is_crowd[number]),
        "source_id": f"{source_id}.{part}" if part else str(source_id),
    }
