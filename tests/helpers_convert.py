"""Convert the finished data sets of a test session, and compare what comes out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.helpers_dataset import shared_inputs
from tests.helpers_run import Inputs, extract, read_manifest
from wsi_extract.convert.options import ConvertRequest
from wsi_extract.convert.run import ConvertResult, convert_dataset
from wsi_extract.dataset import open_dataset, readable_stores
from wsi_extract.errors import IntegrityError
from wsi_extract.storage import CodecName, Store
from wsi_extract.verify import audit


class StoppedError(Exception):
    """A conversion that a test interrupted."""


@cache
def _finished(folder: Path, inputs: Inputs, store: str, codec: str | None, split_mode: str) -> Path:
    out = folder / "convert" / f"{store}-{codec}-{split_mode}"
    extract(
        inputs, out, store=store, codec=codec, split_mode=split_mode, patches_per_slide=20, label_hard_negatives=True
    )
    return out


def finished(tmp_path: Path, store: str, *, codec: str | None = None, split_mode: str = "slide") -> Path:
    """Return a data set of the session that must not be changed."""
    return _finished(tmp_path.parent, shared_inputs(tmp_path), store, codec, split_mode)


def own(tmp_path: Path, store: str) -> Path:
    """Return a copy that may be damaged."""
    return Path(shutil.copytree(finished(tmp_path, store), tmp_path / "own"))


def convert(
    source: Path,
    destination: Path,
    store: str,
    *,
    codec: str | None = None,
    n_workers: int = 2,
    stop_at: int | None = None,
    stop: Callable[[], object] | None = None,
) -> tuple[ConvertResult, list[str]]:
    """Convert, and return the notices too; ``stop_at`` patches, something happens: an error unless told otherwise."""

    def watch(n_done: int, _: int) -> None:
        if stop_at is not None and n_done >= stop_at:
            if stop is None:
                raise StoppedError
            stop()

    notices: list[str] = []
    request = ConvertRequest(
        source_dir=source,
        destination=destination,
        store=Store(store),
        codec=None if codec is None else CodecName(codec),
        n_workers=n_workers,
    )
    return convert_dataset(request, on_progress=watch, on_notice=notices.append), notices


def assert_same_patches(first: Path, second: Path) -> None:
    """Compare pixels from every store of two data sets."""
    for split in ("train", "val"):
        expected = open_dataset(first, split)
        for store in readable_stores(Store(read_manifest(second)["settings"]["store"]), is_lossy=False):
            found = open_dataset(second, split, store.value)
            assert len(found) == len(expected) > 0
            for i in range(len(found)):
                assert np.array_equal(found.read(i), expected.read(i))


def assert_unfinished(out: Path) -> None:
    """Nothing of a conversion that stopped passes for a data set."""
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("patches.zarr/**/zarr.json"))
    assert not audit(out).is_sound
    with pytest.raises(IntegrityError, match="no finished data set"):
        open_dataset(out, "train")
