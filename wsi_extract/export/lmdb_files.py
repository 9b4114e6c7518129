"""One LMDB environment per split, for readers that fetch single patches at random.

<destination>/<split>.lmdb/
    <slide_id>_<count>     pixels: the bytes of the (H, W, 3) uint8 array, or a PNG file
    __len__                number of patches, decimal digits
    __keys__               the keys of the patches in the order of the index, JSON
    __labels__             (N,) uint8: 1 where the patch holds a mitosis
    __box_offsets__        (N+1,) int64: boxes of patch i are rows [offsets[i], offsets[i+1])
    __boxes_xywh__         (M, 4) float64, patch px;  __category_id__ (M,) int16;  __is_crowd__ (M,) uint8
    __meta__               what the values are, JSON; written last: its existence means that the split is complete

Arrays are little-endian, C order. No patch is named like one of the other keys, because its name ends in a count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import canonical_json
from wsi_extract.export.names import mitosis_flags, patch_name
from wsi_extract.export.optional import import_optional
from wsi_extract.export.options import Encoding
from wsi_extract.export.source import Source, row_ranges
from wsi_extract.index import SplitIndex

if TYPE_CHECKING:
    import lmdb

SCHEMA = 1
META = b"__meta__"
MAX_BATCH_PATCHES = 256
MAX_BATCH_BYTES = 64 * 1024**2
"""Of one transaction, which LMDB holds in memory until it is committed."""
PAGE_BYTES = 4096
SPARE_BYTES = 64 * 1024**2


def load_lmdb() -> ModuleType:
    """Import lmdb.

    Raises
    ------
    InputError
        When it is not installed.
    """
    return import_optional("lmdb", purpose="an export to LMDB")


def write_split(source: Source, destination: Path, *, encoding: Encoding, advance: Callable[[int], None]) -> None:
    """Write the patches of one split; transactions that were committed before are kept.

    Raises
    ------
    OSError
        When LMDB cannot write.
    """
    lmdb = load_lmdb()
    folder = destination / f"{source.index.split}.lmdb"
    make_folder(folder)
    try:
        with lmdb.open(str(folder), map_size=map_size_of(source.index), max_dbs=0) as environment:
            _fill(environment, source, encoding=encoding, advance=advance)
    except lmdb.Error as error:
        raise OSError(f"{folder}: {error}") from error


def _fill(environment: lmdb.Environment, source: Source, *, encoding: Encoding, advance: Callable[[int], None]) -> None:
    index = source.index
    with environment.begin() as transaction:
        if transaction.get(META) is not None:
            advance(len(index))
            return
    # Until the last transaction the environment holds patches only, in the order of the index.
    n_done = int(environment.stat()["entries"])
    advance(n_done)
    n_per_batch = max(1, min(MAX_BATCH_PATCHES, MAX_BATCH_BYTES // _raw_bytes(index)))
    for batch in row_ranges(n_done, len(index), size=n_per_batch):
        with environment.begin(write=True) as transaction:
            for i in batch:
                transaction.put(patch_name(index, i).encode(), _value(source, i, encoding=encoding))
        advance(len(batch))
    with environment.begin(write=True) as transaction:
        for key, value in _tables(index, encoding=encoding):
            transaction.put(key, value)


def _value(source: Source, i: int, *, encoding: Encoding) -> bytes:
    return source.pixels(i).tobytes() if encoding is Encoding.RAW else source.png(i)


def _raw_bytes(index: SplitIndex) -> int:
    width_px, height_px = index.patch_wh_px
    return width_px * height_px * 3


def map_size_of(index: SplitIndex) -> int:
    """Return an upper bound of the size of the file: address space, not disk.

    PNG files of pure noise are larger than the pixels by less than a hundredth.
    """
    tables_bytes = len(index) * 1024 + len(index.boxes_xywh) * 64
    return pages_bytes(index) * 101 // 100 + len(index) * PAGE_BYTES + 2 * tables_bytes + SPARE_BYTES


def pages_bytes(index: SplitIndex) -> int:
    """Return the size of the raw pixels in the file, where a value takes whole pages."""
    return len(index) * (_raw_bytes(index) // PAGE_BYTES + 1) * PAGE_BYTES


def _tables(index: SplitIndex, *, encoding: Encoding) -> Iterator[tuple[bytes, bytes]]:
    width_px, height_px = index.patch_wh_px
    keys = [patch_name(index, i) for i in range(len(index))]
    yield b"__len__", str(len(index)).encode()
    yield b"__keys__", canonical_json(keys)
    yield b"__labels__", mitosis_flags(index).astype(np.uint8).tobytes()
    yield b"__box_offsets__", index.box_offsets.astype("<i8").tobytes()
    yield b"__boxes_xywh__", index.boxes_xywh.astype("<f8").tobytes()
    yield b"__category_id__", index.category_id.astype("<i2").tobytes()
    yield b"__is_crowd__", index.is_crowd.astype(np.uint8).tobytes()
    meta = {
        "schema": SCHEMA,
        "split": str(index.split),
        "n_patches": len(index),
        "encoding": encoding.value,
        "shape": [height_px, width_px, 3],
        "dtype": "uint8",
        "channels": "RGB",
        "categories": {str(key): name for key, name in index.category_names.items()},
    }
    yield META, canonical_json(meta)
