"""One HDF5 file per split.

<destination>/<split>.h5
    images            (N, H, W, 3) uint8, RGB, one chunk per patch
    labels            (N,) int64: 1 where the patch holds a mitosis
    names             (N,) UTF-8 strings: <slide_id>_<count>
    boxes/offsets     (N+1,) int64: boxes of patch i are rows [offsets[i], offsets[i+1])
    boxes/xywh        (M, 4) float64, patch px
    boxes/category_id (M,) int64;  boxes/is_crowd (M,) bool

HDF5 keeps its bookkeeping in memory while a file is open: a process that is killed leaves a file that nothing can
read. Therefore patches are written to parts of their own, which are closed one by one, and joined at the end by
copying compressed chunks as they are; the parts are then removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from wsi_extract.disk.files import canonical_json
from wsi_extract.export.hdf5_output import Hdf5Output, atomic_hdf5
from wsi_extract.export.names import mitosis_flags, patch_name
from wsi_extract.export.optional import import_optional
from wsi_extract.export.options import Compression
from wsi_extract.export.source import Source, row_ranges
from wsi_extract.index import SplitIndex

if TYPE_CHECKING:
    import h5py  # it has no types

SCHEMA = 1
PATCHES_PER_PART = 1024
"""What a killed export has to do again, and no more."""
COMPRESSION_NAMES = {Compression.LZF: "lzf", Compression.GZIP: "gzip", Compression.NONE: None}
NAMES_PER_WRITE = 65536
SHARE_OF_RAW = {Compression.LZF: 0.94, Compression.GZIP: 0.9, Compression.NONE: 1.0}
"""Bytes of stained tissue in the file per raw byte; for estimates only."""


def load_h5py() -> ModuleType:
    """Import h5py.

    Raises
    ------
    InputError
        When it is not installed.
    """
    return import_optional("h5py", purpose="an export to HDF5")


def write_split(source: Source, destination: Path, *, compression: Compression, advance: Callable[[int], None]) -> None:
    """Write the file of one split; parts that were finished before are kept."""
    h5py = load_h5py()
    index = source.index
    path = destination / f"{index.split}.h5"
    parts_folder = destination / f"{index.split}.parts"
    if not path.exists():
        parts = []
        for rows in row_ranges(0, len(index), size=PATCHES_PER_PART):
            part = parts_folder / f"{rows.start:012d}.h5"
            if not part.exists():
                with atomic_hdf5(h5py, part) as output:
                    _write_part(output, source, rows=rows, compression=compression)
            parts.append(part)
            advance(len(rows))
        with atomic_hdf5(h5py, path) as output:
            _join(h5py, output, index=index, parts=parts, compression=compression)
    else:
        advance(len(index))
    if parts_folder.exists():
        shutil.rmtree(parts_folder)


def _create_images(
    file: h5py.File, *, n_patches: int, wh_px: tuple[int, int], compression: Compression
) -> h5py.Dataset:
    """Create the array of patches, one chunk each; an empty array can neither be chunked nor compressed."""
    width_px, height_px = wh_px
    shape = (n_patches, height_px, width_px, 3)
    if not n_patches:
        return file.create_dataset("images", shape=shape, dtype=np.uint8)
    return file.create_dataset(
        "images",
        shape=shape,
        dtype=np.uint8,
        chunks=(1, height_px, width_px, 3),
        compression=COMPRESSION_NAMES[compression],
    )


def _write_part(output: Hdf5Output, source: Source, *, rows: range, compression: Compression) -> None:
    images = _create_images(output.file, n_patches=len(rows), wh_px=source.index.patch_wh_px, compression=compression)
    for number, i in enumerate(rows):
        images[number] = source.pixels(i)
        output.check()


def _join(
    h5py: ModuleType, output: Hdf5Output, *, index: SplitIndex, parts: list[Path], compression: Compression
) -> None:
    """Copy the chunks of the parts as they are, and add the small arrays."""
    images = _create_images(output.file, n_patches=len(index), wh_px=index.patch_wh_px, compression=compression)
    row = 0
    for part in parts:
        with h5py.File(part, "r") as part_file:
            part_images = part_file["images"]
            for number in range(len(part_images)):
                mask, chunk = part_images.id.read_direct_chunk((number, 0, 0, 0))
                images.id.write_direct_chunk((row, 0, 0, 0), chunk, filter_mask=mask)
                output.check()
                row += 1
    _write_tables(h5py, output.file, index=index)


def _write_tables(h5py: ModuleType, file: h5py.File, *, index: SplitIndex) -> None:
    """Write everything but the pixels."""
    file.create_dataset("labels", data=mitosis_flags(index).astype(np.int64))
    names = file.create_dataset("names", shape=(len(index),), dtype=h5py.string_dtype("utf-8"))
    for rows in row_ranges(0, len(index), size=NAMES_PER_WRITE):
        names[rows.start : rows.stop] = [patch_name(index, i) for i in rows]
    boxes = file.create_group("boxes")
    boxes.create_dataset("offsets", data=index.box_offsets.astype(np.int64))
    boxes.create_dataset("xywh", data=index.boxes_xywh.astype(np.float64))
    boxes.create_dataset("category_id", data=index.category_id.astype(np.int64))
    boxes.create_dataset("is_crowd", data=index.is_crowd.astype(np.bool_))
    file.attrs["schema"] = SCHEMA
    file.attrs["split"] = str(index.split)
    file.attrs["channels"] = "RGB"
    file.attrs["categories"] = canonical_json({str(key): name for key, name in index.category_names.items()}).decode()
