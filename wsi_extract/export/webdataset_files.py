"""Tar files for the webdataset package and its kin: read one after the other, fast also from object storage.

<destination>/<split>-<k>.tar       k = 000000, 000001, ...; each holds, per patch, <key>.png and <key>.json

The key is ``<slide_id>_<count>`` with "%" and "." replaced by "%25" and "%2E": readers take everything after the
first dot for the ending of the file. The JSON names the patch as the COCO document does.

A tar file depends on the data set and the options only: same patches, same bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wsi_extract.arrays import IntArray
from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import atomic_writer, canonical_json
from wsi_extract.epochs import shuffled
from wsi_extract.export.names import mitosis_flags, patch_name
from wsi_extract.export.source import Source, row_ranges
from wsi_extract.index import SplitIndex
from wsi_extract.model import PatchKind

BYTES_PER_MB = 10**6


def write_split(
    source: Source, destination: Path, *, shard_mb: float, shuffle_seed: int | None, advance: Callable[[int], None]
) -> None:
    """Write the tar files of one split that are not there yet."""
    index = source.index
    make_folder(destination)
    order = patch_order(index, shuffle_seed=shuffle_seed)
    is_mitosis = mitosis_flags(index)
    for k, places in enumerate(row_ranges(0, len(index), size=patches_per_shard(index, shard_mb=shard_mb))):
        path = destination / f"{index.split}-{k:06d}.tar"
        if not path.exists():
            with (
                atomic_writer(path) as stream,
                tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for i in order[places.start : places.stop].tolist():
                    key = key_of(patch_name(index, i))
                    _add(tar, f"{key}.png", source.png(i))
                    _add(tar, f"{key}.json", canonical_json(describe_patch(index, i, label=int(is_mitosis[i]))))
        advance(len(places))


def patch_order(index: SplitIndex, *, shuffle_seed: int | None) -> IntArray:
    """Return the patches of a split in the order of the tar files, ``(N,)`` int64."""
    if shuffle_seed is None:
        return np.arange(len(index), dtype=np.int64)
    return shuffled(len(index), seed=shuffle_seed, epoch=0)


def patches_per_shard(index: SplitIndex, *, shard_mb: float) -> int:
    """Return how many patches go into one tar file, so that their pixels take ``shard_mb``; at least one.

    Raw pixels count, not PNG bytes: where a file ends must be known before its patches are read.
    """
    width_px, height_px = index.patch_wh_px
    return max(1, int(shard_mb * BYTES_PER_MB) // (width_px * height_px * 3))


def key_of(name: str) -> str:
    """Return a key without dots; different names have different keys.

    >>> key_of("TCGA-1.2_000003")
    'TCGA-1%2E2_000003'
    """
    return name.replace("%", "%25").replace(".", "%2E")


def describe_patch(index: SplitIndex, i: int, *, label: int) -> dict[str, object]:
    """Return what is known of a patch: label, boxes in patch px, and where it comes from."""
    slide = index.slides[int(index.slide[i])]
    rows = index.labels_of(i)
    x_l0, y_l0 = index.origins_l0[i].tolist()
    return {
        "name": patch_name(index, i),
        "file_name": index.file_name(i),
        "image_id": index.image_id(i),
        "slide_id": slide.slide_id,
        "split": str(index.split),
        "kind": PatchKind(int(index.kind[i])).label,
        "label": label,
        "width": index.patch_wh_px[0],
        "height": index.patch_wh_px[1],
        "x_l0": x_l0,
        "y_l0": y_l0,
        "l0_per_px_xy": slide.l0_per_px_xy,
        "um_per_px_xy": slide.um_per_px_xy,
        "boxes_xywh": index.boxes_xywh[rows].tolist(),
        "category_id": index.category_id[rows].tolist(),
        "is_crowd": index.is_crowd[rows].tolist(),
    }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # A new header holds no user and no time: its numbers are 0 and its names empty.
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))
