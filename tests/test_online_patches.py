"""Patches drawn while training: pixels of the slide at the place drawn, boxes by the rules of the extraction."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.helpers_dataset import flip_byte, own_dataset, shared_dataset, shared_inputs
from tests.helpers_slides import read_rgb
from wsi_extract.dataset import open_dataset
from wsi_extract.errors import ConfigError, InputError, IntegrityError
from wsi_extract.index import read_scene
from wsi_extract.model import PatchKind, Split
from wsi_extract.online_patches import OnlinePatch, OnlinePatches
from wsi_extract.sampling import Balance, OnlineOptions
from wsi_extract.state.layout import scene_folder
from wsi_extract.targets import label_patch

N = 60


def drawn(out: Path, *, epoch: int = 0, split: str = "train", seed: int = 1) -> list[OnlinePatch]:
    patches = OnlinePatches(out, split, options=OnlineOptions(seed=seed))
    return [patches.read(epoch, number) for number in range(N)]


def places(patches: list[OnlinePatch]) -> list[tuple[str, tuple[int, int]]]:
    return [(patch.slide_id, patch.origin_l0_xy) for patch in patches]


@pytest.mark.parametrize("coverage", ["anchors", "tissue"])
def test_pixels_are_those_of_the_slide(tmp_path: Path, coverage: str) -> None:
    out = shared_dataset(tmp_path, setting="pixels", coverage=coverage)
    wsi_dir = shared_inputs(tmp_path).wsi_dir
    for patch in drawn(out):
        with openslide.OpenSlide(wsi_dir / f"{patch.slide_id}.svs") as slide:
            x_l0, y_l0 = patch.origin_l0_xy
            assert np.array_equal(patch.pixels, read_rgb(slide, x_l0=x_l0, y_l0=y_l0, level=0, size_wh=(128, 128)))


def test_boxes_are_those_of_an_extracted_patch(tmp_path: Path) -> None:
    out = shared_dataset(tmp_path, setting="pixels")
    patches = drawn(out)
    for patch in patches:
        scene = read_scene(scene_folder(out, slide_id=patch.slide_id))
        expected = label_patch(
            scene.annotations,  # all of them
            origin_l0_xy=patch.origin_l0_xy,
            scale=scene.frame.scale,
            patch_wh_out=(128, 128),
            rules=scene.rules,
        )
        assert patch.labels == expected.labels
    kinds = {patch.kind for patch in patches}
    assert kinds == {PatchKind.RANDOM, PatchKind.HARD_NEGATIVE, PatchKind.MITOSIS}
    for patch in patches:
        if patch.kind is PatchKind.MITOSIS:
            assert 1 in {label.category_id for label in patch.labels if not label.is_crowd}


def test_a_patch_is_known_by_epoch_and_number(tmp_path: Path) -> None:
    out = shared_dataset(tmp_path, setting="pixels")
    first = drawn(out)
    patches = OnlinePatches(out, "train", options=OnlineOptions(seed=1))
    for number in reversed(range(N)):
        again = patches.read(0, number)
        assert places([again]) == places([first[number]])
        assert np.array_equal(again.pixels, first[number].pixels)
    assert places(drawn(out, epoch=1)) != places(first)
    assert places(drawn(out, seed=2)) != places(first)


def _place(patches: OnlinePatches, number: int) -> tuple[str, tuple[int, int], int]:
    patch = patches.read(3, number)
    return patch.slide_id, patch.origin_l0_xy, int(patch.pixels.astype(np.int64).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_draw_the_same(tmp_path: Path, method: str) -> None:
    patches = OnlinePatches(shared_dataset(tmp_path, setting="pixels"), "train", options=OnlineOptions(seed=1))
    expected = [_place(patches, number) for number in range(8)]
    assert len(pickle.dumps(patches)) < 1000, "a path, not the masks"
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_place, [(patches, number) for number in range(8)]) == expected


def test_splits_draw_from_their_own_slides(tmp_path: Path) -> None:
    out = shared_dataset(tmp_path, setting="pixels")
    for split in (Split.TRAIN, Split.VAL):
        own = {slide.slide_id for slide in open_dataset(out, split).index.slides}
        assert {patch.slide_id for patch in drawn(out, split=split)} == own


def test_without_all_tissue_random_patches_are_those_of_the_plan(tmp_path: Path) -> None:
    out = shared_dataset(tmp_path, setting="pixels", coverage="anchors")
    index = open_dataset(out, "train").index
    planned = {
        (index.slides[slide].slide_id, (x, y))
        for slide, (x, y), kind in zip(
            index.slide.tolist(), index.origins_l0.tolist(), index.kind.tolist(), strict=True
        )
        if kind == PatchKind.RANDOM
    }
    random = {place for patch, place in zip(drawn(out), places(drawn(out)), strict=True) if patch.kind == 0}
    assert random
    assert random <= planned
    anywhere = drawn(shared_dataset(tmp_path, setting="pixels", coverage="tissue"))
    assert not {place for patch, place in zip(anywhere, places(anywhere), strict=True) if patch.kind == 0} <= planned


def test_data_sets_without_the_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no pixel store\. Extract with --store pixels"):
        OnlinePatches(shared_dataset(tmp_path), "train", options=OnlineOptions(seed=1))
    with pytest.raises(InputError, match="the pixels of the planned patches only"):
        OnlinePatches(
            shared_dataset(tmp_path, setting="pixels", coverage="planned"), "train", options=OnlineOptions(seed=1)
        )
    with pytest.raises(IntegrityError, match="is no finished data set"):
        OnlinePatches(tmp_path, "train", options=OnlineOptions(seed=1))
    out = shared_dataset(tmp_path, setting="pixels")
    with pytest.raises(InputError, match="has no split 'test'"):
        OnlinePatches(out, "test", options=OnlineOptions(seed=1))
    with pytest.raises(ConfigError, match="which are not there"):
        OnlinePatches(out, "train", options=OnlineOptions(seed=1, slide_weights={"other": 2.0}))


def test_lost_pixels_are_an_error_that_names_the_patch(tmp_path: Path) -> None:
    out = own_dataset(tmp_path, setting="pixels")
    for path in (out / "pixels.zarr").rglob("c/0/*/*"):
        flip_byte(path, at=-1)
    with pytest.raises(IntegrityError, match=r"patch slide_\d/slide_\d_x\d+_y\d+\.png of slide slide_\d \(train\)"):
        drawn(out)


def test_domains_replace_groups_and_are_drawn_alike_when_balanced(tmp_path: Path) -> None:
    out = shared_dataset(tmp_path, setting="pixels")
    slides = OnlinePatches(out, "train", options=OnlineOptions(seed=1)).law.slides
    names = [slide.slide_id for slide in slides]
    domains = {name: "A" if name == names[0] else "B" for name in names}
    options = OnlineOptions(seed=1, balance=Balance.GROUPS)
    patches = OnlinePatches(out, "train", options=options, domains=domains)
    drawn = Counter(patches.read(0, number).group for number in range(300))
    assert set(drawn) == {"A", "B"}
    assert abs(drawn["A"] - 150) < 3 * (300 * 0.25) ** 0.5
    again = pickle.loads(pickle.dumps(patches))
    assert [again.read(0, number).group for number in range(20)] == [
        patches.read(0, number).group for number in range(20)
    ]


def test_a_slide_without_a_domain_is_refused(tmp_path: Path) -> None:
    out = shared_dataset(tmp_path, setting="pixels")
    with pytest.raises(InputError, match="names no domain for slide"):
        OnlinePatches(out, "train", options=OnlineOptions(seed=1), domains={})
