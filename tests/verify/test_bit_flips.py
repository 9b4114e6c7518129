"""No bit of a finished data set can flip without a trace, in whichever file; a seeded sample of all places."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.helpers_bit_flips import committed_files, flipped, make_tiny_dataset
from wsi_extract.state.layout import ERRORS, INDEX, MANIFEST, SLIDES_TABLE, STATE
from wsi_extract.storage import Store
from wsi_extract.verify import audit

N_FLIPS = 30
"""Of each store, one per file drawn; every byte of all four takes some hours."""
SUSPECTS = {
    MANIFEST: 6,
    SLIDES_TABLE: 4,
    ERRORS: 4,
    f"{STATE}/run.json": 4,
    f"{STATE}/plans/slide_1.json": 4,
    f"{STATE}/plans/slide_1.npz": 6,
    f"{STATE}/slides/slide_1.json": 3,
    f"{STATE}/faults/broken.json": 3,
}
"""Files that something else than a digest of theirs might be thought to guard, and how many flips each gets."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[Store, Path]:
    return {store: make_tiny_dataset(tmp_path_factory.mktemp(store.value), store) for store in Store}


def is_unseen(out: Path, path: Path, *, rng: random.Random) -> str:
    """Flip a bit somewhere in a file; return where, when the audit finds nothing."""
    position, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    with flipped(path, position=position, bit=bit):
        return f"{path.relative_to(out)} byte {position} bit {bit}" if audit(out).is_sound else ""


@pytest.mark.parametrize("store", Store)
def test_no_flipped_bit_stays_unseen(finished: dict[Store, Path], store: Store) -> None:
    out, rng = finished[store], random.Random(f"bits {store}")
    files = committed_files(out)
    chosen = rng.sample(files, N_FLIPS)
    assert [unseen for path in chosen if (unseen := is_unseen(out, path, rng=rng))] == []
    assert audit(out).problems == ()


def test_no_flipped_bit_stays_unseen_where_it_is_easily_overlooked(finished: dict[Store, Path]) -> None:
    out, rng = finished[Store.PNG], random.Random("suspects")
    paths = [out / name for name, n_flips in SUSPECTS.items() for _ in range(n_flips)]
    assert [unseen for path in paths if (unseen := is_unseen(out, path, rng=rng))] == []


@pytest.mark.parametrize("store", Store)
def test_every_kind_of_file_is_there_to_be_flipped(finished: dict[Store, Path], store: Store) -> None:
    out = finished[store]
    names = {path.relative_to(out).as_posix() for path in committed_files(out)}
    assert names >= set(SUSPECTS)
    assert any(name.startswith(f"{INDEX}/train/") for name in names)
    assert any(name.endswith(".png") for name in names) == store.has_png
    assert any(name.startswith("patches.zarr/train/") for name in names) == store.has_patch_arrays
    assert any(name.startswith("pixels.zarr/slide_1/0/c/") for name in names) == (store is Store.PIXELS)
    assert any(name.startswith(f"{STATE}/pixels/") for name in names) == (store is Store.PIXELS)
