"""The smallest data sets that hold every kind of file, and single bits of them, flipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers_run import extract, make_inputs
from wsi_extract.state.layout import DASK_REPORT, OWNED, lock_path
from wsi_extract.storage import Store

BROKEN_NAME = "broken.svs"
COUNTS = {2: 3, 7: 2, 3: 0}


def make_tiny_dataset(folder: Path, store: Store) -> Path:
    """Extract eight patches of two slides, one for training, one for validation; a third slide cannot be read."""
    inputs = make_inputs(folder / "input", n_slides=2, counts=lambda uid: COUNTS)
    (inputs.wsi_dir / BROKEN_NAME).write_bytes(b"II*\0 and nothing else")
    out = folder / "out"
    extract(inputs, out, store=store.value, patch_size=32, patches_per_slide=4, train_val_split=0.5)
    return out


def committed_files(out: Path) -> list[Path]:
    """Return the files in which no bit may change without a trace: all but what is for people, and the lock."""
    excluded = {out / DASK_REPORT, lock_path(out)}
    tops = [out / name for name in OWNED]
    below = [path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])]
    return sorted(path for path in below if path.is_file() and path not in excluded)


@contextmanager
def flipped(path: Path, *, position: int, bit: int) -> Iterator[None]:
    """Flip one bit of a file for the length of the ``with`` block."""
    before = path.read_bytes()
    try:
        path.write_bytes(before[:position] + bytes([before[position] ^ (1 << bit)]) + before[position + 1 :])
        yield
    finally:
        path.write_bytes(before)
