"""Reading finished data sets: the same patches from every store, and errors that name what is lost."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers_dataset import (
    SETTING_OF,
    STORES,
    file_of,
    flip_byte,
    open_store,
    own_dataset,
    run_extraction,
    shared_dataset,
    shared_inputs,
)
from tests.helpers_index import make_index
from tests.helpers_run import make_dataset, read_coco
from wsi_extract.dataset import NameLookup, PatchDataset, open_dataset
from wsi_extract.disk.files import sha256_of
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.model import PatchKind
from wsi_extract.storage import Store

each_store = pytest.mark.parametrize("store", STORES)


@each_store
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_store_gives_the_pixels_of_the_png_files(tmp_path: Path, store: Store, split: str) -> None:
    with_files = shared_dataset(tmp_path)
    patches = open_store(shared_dataset(tmp_path, setting=SETTING_OF[store]), store, split=split)
    images = read_coco(with_files, split)["images"]
    assert len(patches) == len(images) > 0
    for i, image in enumerate(images):
        assert patches.index.file_name(i) == image["file_name"]
        with Image.open(with_files / f"{split}2017" / image["file_name"]) as picture:
            assert np.array_equal(patches.read(i), np.asarray(picture))


@each_store
def test_a_batch_arrives_in_the_order_asked_for(tmp_path: Path, store: Store) -> None:
    patches = open_store(shared_dataset(tmp_path, setting=SETTING_OF[store]), store)
    wanted = np.random.default_rng(1).integers(len(patches), size=40)
    batch = patches.read_many(wanted)
    assert len(set(wanted.tolist())) < len(wanted), "some patches are asked for twice"
    for i, pixels in zip(wanted.tolist(), batch, strict=True):
        assert np.array_equal(pixels, patches.read(i))
    assert patches.read_many([]).shape == (0, *patches.patch_shape)


@each_store
def test_refuses_patches_and_arrays_that_do_not_fit(tmp_path: Path, store: Store) -> None:
    patches = open_store(shared_dataset(tmp_path, setting=SETTING_OF[store]), store)
    for i in (-1, len(patches)):
        with pytest.raises(IndexError, match=f"there is no patch {i}: the split train holds {len(patches)}"):
            patches.read(i)
        with pytest.raises(IndexError, match=f"there is no patch {i}"):
            patches.read_many([0, i])
    height, width, _ = patches.patch_shape
    wrong = (
        np.empty((height, width), dtype=np.uint8),
        np.empty((height, width, 3), dtype=np.float32),
        np.empty((width, height, 6), dtype=np.uint8)[..., ::2],
    )
    for out in wrong:
        with pytest.raises(ValueError, match="C-contiguous uint8 array"):
            patches.read_into(0, out)  # type: ignore[arg-type]  # the wrong type is what is tested
    with pytest.raises(ValueError, match="C-contiguous uint8 array"):
        patches.read_many_into([0, 1], np.empty((1, height, width, 3), dtype=np.uint8))


def test_the_fastest_store_is_taken_unless_another_is_asked_for(tmp_path: Path) -> None:
    both, pixels = shared_dataset(tmp_path), shared_dataset(tmp_path, setting="pixels")
    assert open_dataset(both, "train").store is Store.ZARR
    assert open_dataset(str(both), "val", "png").store is Store.PNG
    assert open_dataset(pixels, "train").store is Store.PIXELS
    with pytest.raises(InputError, match=r"has no store 'pixels'.*extracted with: zarr, png"):
        open_dataset(both, "train", "pixels")
    with pytest.raises(InputError, match="has no store 'hdf5'"):
        open_dataset(both, "train", "hdf5")
    with pytest.raises(InputError, match=r"has no split 'valid'\. Its splits are train, val\."):
        open_dataset(both, "valid")


def test_a_plain_data_set_of_png_files_is_read(tmp_path: Path) -> None:
    patches = open_dataset(make_dataset(tmp_path), "val")
    assert patches.store is Store.PNG
    assert patches.read(0).shape == patches.patch_shape


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    out = own_dataset(tmp_path)
    manifest = json.loads((out / "manifest.json").read_bytes())
    wrong: list[object] = [{**manifest["settings"], "store": "tape"}, [], None]
    for settings in wrong:
        (out / "manifest.json").write_text(json.dumps({**manifest, "settings": settings}))
        with pytest.raises(IntegrityError, match=r"manifest\.json is damaged"):
            open_dataset(out, "train")
    (out / "manifest.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"manifest.json is damaged"):
        open_dataset(out, "train")
    (out / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"is no finished data set.*run an interrupted extraction again"):
        open_dataset(out, "train")


def _remove(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    n_bytes = path.stat().st_size
    for at in range(300, max(301, n_bytes - 8192), 2000):  # in front of the shard's index
        flip_byte(path, at=at)


@each_store
@pytest.mark.parametrize("damage", [_remove, _truncate, _flip])
def test_a_lost_patch_is_an_error_that_names_it(tmp_path: Path, store: Store, damage: Callable[[Path], None]) -> None:
    sound = open_store(shared_dataset(tmp_path, setting=SETTING_OF[store]), store)
    patches = open_store(own_dataset(tmp_path, setting=SETTING_OF[store]), store)
    damage(file_of(patches, 0))
    errors = [_error_of(patches, i) for i in range(len(patches))]
    lost = [i for i, error in enumerate(errors) if error]
    assert 0 < len(lost) < len(patches)
    for i, error in enumerate(errors):
        slide_id = patches.index.slides[patches.index.slide[i]].slide_id
        if error:
            assert f"patch {patches.index.file_name(i)} of slide {slide_id} (train)" in error
            assert "run the extraction again" in error
        else:
            assert np.array_equal(patches.read(i), sound.read(i))
    with pytest.raises(IntegrityError, match=patches.index.file_name(lost[0])):
        patches.read_many([len(patches) - 1, lost[0]])


def _error_of(patches: PatchDataset, i: int) -> str:
    try:
        patches.read(i)
    except IntegrityError as error:
        return str(error)
    return ""


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    patches = open_store(own_dataset(tmp_path), Store.PNG)
    Image.new("RGB", (8, 8)).save(file_of(patches, 2))
    with pytest.raises(IntegrityError, match=r"has the shape \(8, 8, 3\), expected \(128, 128, 3\)"):
        patches.read(2)


def test_an_array_that_does_not_fit_the_index_is_refused(tmp_path: Path) -> None:
    out = own_dataset(tmp_path)
    slides = sorted((out / "patches.zarr" / "train").glob("slide_*"))
    other = tmp_path / "other"
    run_extraction(shared_inputs(tmp_path), other, store="zarr", patches_per_slide=8)
    document = other / slides[0].relative_to(out) / "zarr.json"
    (slides[0] / "zarr.json").write_bytes(document.read_bytes())
    with pytest.raises(IntegrityError, match=r"holds 8 patches of \(128, 128\) px, but the index says 16"):
        open_dataset(out, "train", "zarr").read(0)


def _digest_of_all(out: Path, store: str, n_times: int) -> str:
    patches = open_dataset(out, "train", store)
    for _ in range(n_times):
        pixels = patches.read_many(range(len(patches)))
    return sha256_of(pixels.tobytes())


@each_store
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_at_the_same_time(tmp_path: Path, store: Store, method: str) -> None:
    out = shared_dataset(tmp_path, setting=SETTING_OF[store])
    expected = _digest_of_all(out, store.value, 1)
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = [pool.apply_async(_digest_of_all, (out, store.value, 3)) for _ in range(4)]
        assert _digest_of_all(out, store.value, 3) == expected
        assert [result.get() for result in results] == [expected] * 4


_inherited: dict[str, PatchDataset] = {}


def _read_inherited(i: int) -> str:
    return sha256_of(_inherited["patches"].read(i).tobytes())


@each_store
def test_open_files_do_not_pass_to_forked_or_pickled_data_sets(tmp_path: Path, store: Store) -> None:
    patches = open_store(shared_dataset(tmp_path, setting=SETTING_OF[store]), store)
    expected = [sha256_of(patches.read(i).tobytes()) for i in range(len(patches))]
    _inherited["patches"] = patches  # with its files open
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_read_inherited, range(len(patches))) == expected
    copy = pickle.loads(pickle.dumps(patches))
    assert len(pickle.dumps(patches)) < 1000, "a path, not the arrays"
    assert [sha256_of(copy.read(i).tobytes()) for i in range(len(copy))] == expected


def test_patches_are_found_by_their_names(tmp_path: Path) -> None:
    index = open_dataset(shared_dataset(tmp_path), "train").index
    names = NameLookup(index)
    assert [names.row_of(index.file_name(i)) for i in range(len(index))] == list(range(len(index)))


_INDEX = make_index(slide=np.repeat([0, 1, 2], [30, 1, 20]), kind=np.full(51, int(PatchKind.GRID), dtype=np.int64))
_NAMES = {_INDEX.file_name(i): i for i in range(len(_INDEX))}


@given(
    slide=st.integers(min_value=0, max_value=3),
    x=st.integers(min_value=-1, max_value=60),
    y=st.integers(min_value=-1, max_value=100),
    form=st.sampled_from(["{s}/{s}_x{x}_y{y}.png", "{s}/{s}_x0{x}_y{y}.png", "{s}_x{x}_y{y}.png", "{s}/{s}_x{x}_y{y}"]),
)
def test_other_names_are_refused(slide: int, x: int, y: int, form: str) -> None:
    name = form.format(s=f"slide_{slide}", x=x, y=y)
    if name in _NAMES:
        assert NameLookup(_INDEX).row_of(name) == _NAMES[name]
    else:
        with pytest.raises(InputError, match="has no patch"):
            NameLookup(_INDEX).row_of(name)
