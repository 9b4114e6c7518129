from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.stain_reference import macenko_by_the_book, reinhard_by_the_book
from benchmarks.texture import make_textured_slide
from tests.stain.helpers import stained_pixels
from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.reading import StainNorm
from wsi_extract.stain import StainTransform, default_target, estimate_stain
from wsi_extract.stain.macenko import StainVectors, density_transform, measure_vectors
from wsi_extract.stain.profile import rounded
from wsi_extract.stain.reinhard import ColourStatistics, lab_of, log_lms_transform, measure_statistics

METHODS = (StainNorm.MACENKO, StainNorm.REINHARD)
MACENKO_TARGET = default_target(StainNorm.MACENKO).vectors
REINHARD_TARGET = default_target(StainNorm.REINHARD).statistics

both = pytest.mark.parametrize("method", METHODS)
seeds = st.integers(0, 2**32 - 1)


def transform_of(method: StainNorm) -> StainTransform:
    pixels = stained_pixels(20_000, grain=4)
    transform = estimate_stain(pixels, method=method, target=default_target(method)).transform
    assert transform is not None
    return transform


def random_image(shape_hw: tuple[int, int], *, seed: int) -> RgbImage:
    return np.random.default_rng(seed).integers(0, 256, (*shape_hw, 3), dtype=np.uint8)


def assert_close(found: RgbImage, expected: FloatArray) -> None:
    """Less than one grey level between the rounded result and the exact one, on top of the half of rounding."""
    assert np.abs(found.astype(np.float64) - expected).max() < 0.51


def tissue() -> RgbImage:
    return np.concatenate(list(make_textured_slide(4, patch_px=128, min_tissue_fraction=0.4).patches()))


def random_vectors(rng: np.random.Generator) -> StainVectors:
    def near(vector: tuple[float, float, float]) -> tuple[float, float, float]:
        moved = np.abs(np.array(vector) + rng.normal(0, 0.07, 3))
        first, second, third = (moved / np.linalg.norm(moved)).tolist()
        return first, second, third

    return StainVectors(
        haematoxylin=near((0.65, 0.70, 0.29)),
        eosin=near((0.1, 0.95, 0.3)),
        max_concentrations=(rng.uniform(0.7, 3), rng.uniform(0.7, 3)),
    )


@settings(deadline=None, max_examples=30)
@given(seed=seeds)
def test_macenko_is_the_textbook_on_any_colours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = random_vectors(rng), random_vectors(rng)
    transform = StainTransform(method=StainNorm.MACENKO, affine=rounded(density_transform(source, target)))
    rgb = random_image((31, 67), seed=seed)
    assert_close(transform(rgb), macenko_by_the_book(rgb, source=source, target=target))


@settings(deadline=None, max_examples=30)
@given(seed=seeds)
def test_reinhard_is_the_textbook_on_any_colours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources = [
        ColourStatistics(
            mean=(rng.uniform(8, 9.3), rng.uniform(-0.3, 0.0), rng.uniform(0.0, 0.1)),
            deviation=(rng.uniform(0.3, 0.9), rng.uniform(0.05, 0.2), rng.uniform(0.015, 0.05)),
        )
        for _ in range(2)
    ]
    affine = rounded(log_lms_transform(sources[0], sources[1]))
    rgb = random_image((31, 67), seed=seed)
    found = StainTransform(method=StainNorm.REINHARD, affine=affine)(rgb)
    assert_close(found, reinhard_by_the_book(rgb, source=sources[0], target=sources[1]))


def test_tissue_becomes_what_the_textbook_says() -> None:
    rgb = tissue()
    pixels = rgb.reshape(-1, 3)
    vectors, _ = measure_vectors(pixels)
    statistics, _ = measure_statistics(pixels)
    macenko = estimate_stain(pixels, method=StainNorm.MACENKO, target=default_target(StainNorm.MACENKO)).transform
    reinhard = estimate_stain(pixels, method=StainNorm.REINHARD, target=default_target(StainNorm.REINHARD)).transform
    assert macenko is not None
    assert reinhard is not None
    assert_close(macenko(rgb), macenko_by_the_book(rgb, source=vectors, target=MACENKO_TARGET))
    assert_close(reinhard(rgb), reinhard_by_the_book(rgb, source=statistics, target=REINHARD_TARGET))
    assert not np.array_equal(macenko(rgb), rgb)


@both
@settings(deadline=None, max_examples=25)
@given(seed=seeds, width=st.integers(1, 400), height=st.integers(1, 120))
def test_a_pixel_becomes_the_same_wherever_it_stands(method: StainNorm, seed: int, width: int, height: int) -> None:
    transform = transform_of(method)
    rng = np.random.default_rng(seed)
    rgb = random_image((height, width), seed=seed)
    whole = transform(rgb)
    order = rng.permutation(height * width)
    shuffled = transform(rgb.reshape(-1, 3)[order].reshape(1, -1, 3))
    assert np.array_equal(shuffled[0], whole.reshape(-1, 3)[order])
    y, x = rng.integers(height), rng.integers(width)
    window = rgb[y:, x:]
    assert np.array_equal(transform(window), whole[y:, x:])


@both
def test_a_window_of_many_strips_is_that_of_its_tiles(method: StainNorm) -> None:
    transform = transform_of(method)
    rgb = random_image((700, 501), seed=3)
    whole = transform(rgb)
    assert np.array_equal(whole[240:480, 250:490], transform(rgb[240:480, 250:490]))
    assert np.array_equal(whole[-1:, -1:], transform(rgb[-1:, -1:]))


@both
def test_white_stays_white_and_glass_nearly(method: StainNorm) -> None:
    transform = transform_of(method)
    assert (transform(np.full((3, 5, 3), 255, dtype=np.uint8)) == 255).all()
    glass = np.full((4, 4, 3), 250, dtype=np.uint8)
    assert np.abs(transform(glass).astype(int) - 250).max() <= 10


def test_reinhard_leaves_glass_as_it_was_scanned() -> None:
    """Glass of scanners is 235 to 246 and never quite neutral."""
    rng = np.random.default_rng(7)
    glass = np.clip(np.array([242, 241, 244]) + 2 * rng.standard_normal((40, 50, 3)), 0, 255).astype(np.uint8)
    assert np.array_equal(transform_of(StainNorm.REINHARD)(glass), glass)


def test_tissue_reaches_its_target_although_the_change_fades_on_the_palest() -> None:
    pixels = tissue().reshape(-1, 3)
    target = REINHARD_TARGET
    transform = estimate_stain(pixels, method=StainNorm.REINHARD, target=default_target(StainNorm.REINHARD)).transform
    assert transform is not None
    lab = lab_of(transform(pixels[None])[0][pixels.mean(axis=1) <= 220])
    assert np.allclose(lab.mean(axis=0), target.mean, atol=0.03)
    assert np.allclose(lab.std(axis=0), target.deviation, rtol=0.05)


@both
@pytest.mark.parametrize("shape_hw", [(1, 1), (0, 7), (7, 0), (0, 0), (1, 40_000), (40_000, 1)])
def test_any_size(method: StainNorm, shape_hw: tuple[int, int]) -> None:
    rgb = random_image(shape_hw, seed=1)
    result = transform_of(method)(rgb)
    assert result.shape == rgb.shape
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous


@both
@pytest.mark.parametrize("view", [np.s_[::2, ::3], np.s_[::-1, ::-1], np.s_[:, :, ::-1], np.s_[5:9, 100:107]])
def test_views_are_as_good_as_copies_and_stay_as_they_are(method: StainNorm, view: tuple[slice, ...]) -> None:
    rgb = random_image((60, 130), seed=2)
    before = rgb.copy()
    transform = transform_of(method)
    assert np.array_equal(transform(rgb[view]), transform(np.ascontiguousarray(rgb[view])))
    assert np.array_equal(rgb, before)


def test_what_would_be_brighter_than_any_light_is_white() -> None:
    """Exponentials beyond what an integer holds must not come back as black."""
    affine = tuple(-300.0 if i % 5 == 0 else 0.0 for i in range(12))
    black = np.zeros((2, 2, 3), dtype=np.uint8)
    assert (StainTransform(method=StainNorm.MACENKO, affine=affine)(black) == 255).all()
    brighter = (1.0, 0.0, 0.0, 900.0, 0.0, 1.0, 0.0, 900.0, 0.0, 0.0, 1.0, 900.0)
    assert (StainTransform(method=StainNorm.REINHARD, affine=brighter)(black + 100) == 255).all()


@given(
    method=st.sampled_from(METHODS),
    affine=st.lists(st.floats(-1000, 1000), min_size=12, max_size=12).map(tuple),
)
def test_a_transform_survives_json(method: StainNorm, affine: tuple[float, ...]) -> None:
    transform = StainTransform(method=method, affine=affine)
    again = StainTransform.from_json(json.loads(json.dumps(transform.to_json())))
    assert again == transform
    assert hash(again) == hash(transform)
    assert StainTransform.from_json(json.loads(json.dumps(asdict(transform)))) == transform


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"method": "macenko"},
        {"method": "vahadane", "affine": [0.0] * 12},
        {"method": "none", "affine": [0.0] * 12},
        {"method": "macenko", "affine": [0.0] * 11},
        {"method": "macenko", "affine": [float("nan")] * 12},
        {"method": "macenko", "affine": [1e9] * 12},
        {"method": "macenko", "affine": "000000000000"},
        {"method": "macenko", "affine": [None] * 12},
    ],
    ids=["empty", "no numbers", "unknown", "none", "too few", "not finite", "too large", "text", "null"],
)
def test_other_documents_are_no_transforms(document: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        StainTransform.from_json(document)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (4, 3)])
def test_only_rgb_images_are_mapped(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
        transform_of(StainNorm.MACENKO)(np.zeros(shape, dtype=np.uint8))
