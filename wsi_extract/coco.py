"""Write COCO documents exactly as the official Deformable-DETR loader and pycocotools need them, as a stream.

Ids start at 1 and follow plan order; boxes are absolute xywh inside the patch with their area and iscrowd; patches
without boxes stay in ``images``. Extra keys carry the provenance and are ignored by every known reader.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from wsi_extract.disk.files import atomic_writer, scratch_for
from wsi_extract.state.records import BlockDocument, LabelEntry, PatchEntry

AREA_DECIMALS = 8
"""All the digits of the product of two sides of four decimals: the area is exactly w * h, and never zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoCounts:
    """What one document holds."""

    n_images: int = 0
    n_empty_images: int = 0
    n_crowd: int = 0
    labels_by_category: Counter[int] = field(default_factory=Counter)
    images_by_kind: Counter[str] = field(default_factory=Counter)


class CocoWriter:
    """Adds the patches and boxes of one split to its COCO document; see `open_coco`."""

    def __init__(self, images: IO[bytes], annotations: IO[bytes]) -> None:
        self._images = images
        self._annotations = annotations
        self._json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode
        self._n_images = 0
        self._n_empty_images = 0
        self._n_annotations = 0
        self._n_crowd = 0
        self._labels_by_category: Counter[int] = Counter()
        self._images_by_kind: Counter[str] = Counter()

    def add(self, document: BlockDocument) -> None:
        """Add the patches of one block, in the order of its record.

        Raises
        ------
        ValueError
            When the record holds what JSON cannot express: NaN, infinity, half a character.
        """
        is_first_image, is_first_annotation = self._n_images == 0, self._n_annotations == 0
        images, annotations = [], []
        before_kind, before_tissue = self._common_texts(document)
        for patch in document["patches"]:
            self._n_images += 1
            self._n_empty_images += not patch["labels"]
            images.append(self._image(patch, before_kind=before_kind, before_tissue=before_tissue))
            for label in patch["labels"]:
                self._n_annotations += 1
                self._n_crowd += label["iscrowd"]
                self._labels_by_category[label["category_id"]] += 1 - label["iscrowd"]
                annotations.append(self._annotation(label))
        self._images_by_kind.update(patch["kind"] for patch in document["patches"])
        _write_lines(self._images, images, is_first=is_first_image)
        _write_lines(self._annotations, annotations, is_first=is_first_annotation)

    @property
    def counts(self) -> CocoCounts:
        """What was added so far."""
        return CocoCounts(
            n_images=self._n_images,
            n_empty_images=self._n_empty_images,
            n_crowd=self._n_crowd,
            labels_by_category=self._labels_by_category.copy(),
            images_by_kind=self._images_by_kind.copy(),
        )

    def _common_texts(self, document: BlockDocument) -> tuple[str, str]:
        """Return the two stretches of an image's text that all patches of a block share."""
        width, height = document["patch_wh_px"]
        json_of = self._json
        before_kind = (
            f',"width":{width},"height":{height},"slide_id":{json_of(document["slide_id"])}'
            f',"split":{json_of(document["split"])},"kind":'
        )
        before_tissue = (
            f',"l0_per_px_xy":{json_of(document["l0_per_px_xy"])},"um_per_px_xy":{json_of(document["um_per_px_xy"])}'
            f',"level":{document["level"]},"tissue_fraction":'
        )
        return before_kind, before_tissue

    def _image(self, patch: PatchEntry, *, before_kind: str, before_tissue: str) -> str:
        """Return an image as JSON, put together from its parts: encoding a dictionary takes five times as long."""
        json_of = self._json
        anchor = patch["anchor"]
        look_alikes = ""
        if "look_alikes" in patch:
            boxes = [{"bbox": entry["bbox"], "source_id": entry["source_id"]} for entry in patch["look_alikes"]]
            look_alikes = f',"look_alikes":{json_of(boxes)}'
        tissue_fraction = patch["tissue_fraction"]
        if not math.isfinite(tissue_fraction):
            raise ValueError(f"the tissue fraction {tissue_fraction} is not JSON compliant")
        return (
            f'{{"id":{self._n_images},"file_name":{json_of(patch["file_name"])}'
            f'{before_kind}{json_of(patch["kind"])},"requested_kind":{json_of(patch["requested_kind"])}'
            f',"anchor":{"null" if anchor is None else json_of(anchor)},"x_l0":{patch["x_l0"]},"y_l0":{patch["y_l0"]}'
            f"{before_tissue}{tissue_fraction!r}{look_alikes}}}"
        )

    def _annotation(self, label: LabelEntry) -> str:
        _, _, width, height = label["bbox"]
        return self._json(
            {
                "id": self._n_annotations,
                "image_id": self._n_images,
                "category_id": label["category_id"],
                "bbox": label["bbox"],
                "area": round(width * height, AREA_DECIMALS),
                "iscrowd": label["iscrowd"],
                "source_id": label["source_id"],
            }
        )


@contextmanager
def open_coco(path: Path, *, category_names: dict[int, str], description: str) -> Iterator[CocoWriter]:
    """Open the COCO document of one split for adding block records in plan order; memory stays flat.

    The document appears when the block of the ``with`` statement ends without an error, whole or not at all.

    Parameters
    ----------
    path
        The JSON file.
    category_names
        Name of each category id; ids are 1-based.
    description
        Text of ``info.description``.
    """
    head = {
        "info": {"description": description, "version": "1.0"},
        "licenses": [],
        "categories": [
            {"id": key, "name": name, "supercategory": "cell"} for key, name in sorted(category_names.items())
        ],
    }
    with atomic_writer(path) as stream, scratch_for(path) as spool:
        head_json = json.dumps(head, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        stream.write(head_json[:-1].encode() + b',\n"images":[')
        yield CocoWriter(stream, spool)
        stream.write(b'\n],\n"annotations":[')
        spool.seek(0)
        shutil.copyfileobj(spool, stream)
        stream.write(b"\n]}\n")


def write_coco(
    path: Path, documents: Iterable[BlockDocument], *, category_names: dict[int, str], description: str
) -> CocoCounts:
    """Write the COCO document of one split from its block records, ordered by slide and block; see `open_coco`."""
    with open_coco(path, category_names=category_names, description=description) as coco:
        for document in documents:
            coco.add(document)
    return coco.counts


def _write_lines(stream: IO[bytes], lines: list[str], *, is_first: bool) -> None:
    """Add JSON values to an array, each on a line of its own."""
    if lines:
        stream.write((("\n" if is_first else ",\n") + ",\n".join(lines)).encode())
