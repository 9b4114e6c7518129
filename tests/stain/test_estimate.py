from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.texture import make_textured_slide
from tests.stain.helpers import EOSIN, HAEMATOXYLIN, stained_pixels
from wsi_extract.errors import InputError
from wsi_extract.reading import StainNorm
from wsi_extract.stain import StainEstimate, StainTarget, default_target, estimate_stain, fit_target
from wsi_extract.stain.macenko import angle_deg, check_directions, measure_vectors
from wsi_extract.stain.profile import PixelArray, UnsafeStainError
from wsi_extract.stain.reinhard import measure_statistics
from wsi_extract.synthetic import HeSlideSpec, compose_scene
from wsi_extract.synthetic.bands import draw_band

METHODS = (StainNorm.MACENKO, StainNorm.REINHARD)
both = pytest.mark.parametrize("method", METHODS)


def estimate(pixels: PixelArray, method: StainNorm) -> StainEstimate:
    return estimate_stain(pixels, method=method, target=default_target(method))


def grey_noise(mean: tuple[int, int, int], *, spread: float, common: float = 0) -> PixelArray:
    rng = np.random.default_rng(5)
    light = np.array(mean) + common * rng.standard_normal((20_000, 1)) + spread * rng.standard_normal((20_000, 3))
    return np.clip(light, 0, 255).astype(np.uint8)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1000),
    grain=st.floats(0, 3),
    amounts=st.tuples(st.floats(0.8, 2.5), st.floats(0.8, 2.5)),
)
def test_macenko_finds_the_stains_haematoxylin_first(seed: int, grain: float, amounts: tuple[float, float]) -> None:
    vectors, n_pixels = measure_vectors(stained_pixels(20_000, seed=seed, grain=grain, amounts=amounts))
    assert angle_deg(np.array(vectors.haematoxylin), np.array(HAEMATOXYLIN)) < 6
    assert angle_deg(np.array(vectors.eosin), np.array(EOSIN)) < 6
    assert 1000 < n_pixels < 20_000


def test_macenko_on_generated_tissue() -> None:
    """The generator's own stains, within what grain, JPEG and pale eosin allow."""
    patches = make_textured_slide(6, patch_px=128, min_tissue_fraction=0.5).patches()
    vectors, _ = measure_vectors(patches.reshape(-1, 3))
    assert angle_deg(np.array(vectors.haematoxylin), np.array((0.90, 1.00, 0.45))) < 8
    assert angle_deg(np.array(vectors.eosin), np.array((0.15, 1.00, 0.50))) < 10


def test_a_normalised_slide_has_the_stains_of_the_target() -> None:
    pixels = stained_pixels(50_000)
    found = estimate(pixels, StainNorm.MACENKO).transform
    assert found is not None
    again, _ = measure_vectors(found(pixels[None])[0])
    target = default_target(StainNorm.MACENKO).vectors
    assert angle_deg(np.array(again.haematoxylin), np.array(target.haematoxylin)) < 2
    assert angle_deg(np.array(again.eosin), np.array(target.eosin)) < 2
    assert np.allclose(again.max_concentrations, target.max_concentrations, rtol=0.1)


def test_a_normalised_slide_has_the_colours_of_the_target() -> None:
    pixels = stained_pixels(50_000, amounts=(1.5, 1.5))
    pixels = pixels[pixels.mean(axis=1) < 200]
    target = measure_statistics(stained_pixels(50_000, amounts=(1.8, 2.0), seed=1))[0]
    wanted = StainTarget(method=StainNorm.REINHARD, name="other tissue", values=(*target.mean, *target.deviation))
    found = estimate_stain(pixels, method=StainNorm.REINHARD, target=wanted).transform
    assert found is not None
    again, _ = measure_statistics(found(pixels[None])[0])
    assert np.allclose(again.mean, target.mean, atol=0.05)
    assert np.allclose(again.deviation, target.deviation, rtol=0.15)


@both
def test_two_stains_of_one_tissue_become_alike(method: StainNorm) -> None:
    """The purpose: the same places, stained twice, look the same afterwards."""
    first = stained_pixels(20_000, amounts=(1.2, 1.2))
    second = stained_pixels(20_000, amounts=(1.6, 1.4), haematoxylin=(0.58, 0.74, 0.34), eosin=(0.12, 0.86, 0.50))
    transforms = [estimate(pixels, method).transform for pixels in (first, second)]
    assert transforms[0] is not None
    assert transforms[1] is not None
    before = np.abs(first.astype(float) - second).mean()
    after = np.abs(transforms[0](first[None]).astype(float) - transforms[1](second[None])).mean()
    assert after < before / 3


@both
def test_the_estimate_depends_on_the_pixels_not_on_their_order(method: StainNorm) -> None:
    pixels = stained_pixels(10_000, grain=4)
    shuffled = pixels[np.random.default_rng(0).permutation(len(pixels))]
    first, second = estimate(pixels, method), estimate(shuffled, method)
    assert first == estimate(pixels.copy(), method)
    assert first.transform is not None
    assert second.transform is not None
    assert np.allclose(first.transform.affine, second.transform.affine, atol=1e-8)


@both
def test_glass_between_the_tissue_changes_nothing(method: StainNorm) -> None:
    pixels = stained_pixels(10_000, amounts=(1.5, 1.5))
    glass = np.full((20_000, 3), 243, dtype=np.uint8)
    assert estimate(np.concatenate([glass, pixels]), method) == estimate(pixels, method)


def with_ink(share: float) -> PixelArray:
    pixels = stained_pixels(20_000, amounts=(1.5, 1.5))
    pixels[: int(share * len(pixels))] = (20, 160, 60)
    return pixels


RUIFROK = ((0.65, 0.704, 0.286), (0.072, 0.990, 0.105))
HISTOMICSTK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
VETA = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))


@both
@pytest.mark.parametrize("vectors", [RUIFROK, HISTOMICSTK, VETA], ids=["Ruifrok", "HistomicsTK", "Veta"])
@pytest.mark.parametrize("amount", [0.7, 1.0, 1.2])
def test_published_stains_are_safe(
    method: StainNorm, vectors: tuple[tuple[float, float, float], tuple[float, float, float]], amount: float
) -> None:
    haematoxylin, eosin = vectors
    amounts = (1.5 * amount, 1.2 * amount)
    pixels = stained_pixels(20_000, haematoxylin=haematoxylin, eosin=eosin, amounts=amounts, grain=2)
    assert estimate(pixels, method).reason == ""


@pytest.mark.parametrize("strength", [(0.7, 0.7), (2.0, 2.0), (0.4, 1.0), (2.0, 1.0), (0.4, 2.0)], ids=str)
def test_generated_slides_are_safe_however_strong_their_stain(strength: tuple[float, float]) -> None:
    spec = HeSlideSpec(width_px=480, height_px=960, seed=3, tissue_share=0.8, stain_strength=strength)
    pixels = draw_band(compose_scene(spec), 0).reshape(-1, 3)
    assert {method: estimate(pixels[::4], method).reason for method in METHODS} == dict.fromkeys(METHODS, "")


@pytest.mark.parametrize("strength", [(0.4, 0.4), (1.0, 0.4), (2.0, 0.4)], ids=str)
def test_macenko_takes_pale_eosin(strength: tuple[float, float]) -> None:
    spec = HeSlideSpec(width_px=480, height_px=960, seed=3, tissue_share=0.8, stain_strength=strength)
    assert estimate(draw_band(compose_scene(spec), 0).reshape(-1, 3)[::4], StainNorm.MACENKO).reason == ""


# Each row: what the pixels are, for which method, and what the reason speaks of.
UNSAFE = [
    ("nothing", np.empty((0, 3), dtype=np.uint8), METHODS, "^no tissue was found$"),
    ("few", stained_pixels(900, amounts=(2, 2)), METHODS, "too little stained tissue"),
    ("glass", grey_noise((243, 242, 244), spread=3), METHODS, "0 of 20000 sampled pixels"),
    ("one colour", np.full((20_000, 3), (150, 90, 140), dtype=np.uint8), (StainNorm.MACENKO,), "cannot be told apart"),
    ("flat", np.full((20_000, 3), (150, 90, 140), dtype=np.uint8), (StainNorm.REINHARD,), "nearly the same colour"),
    ("one grey", np.full((20_000, 3), 150, dtype=np.uint8), METHODS, "is grey, not a colour picture"),
    ("tinted glass", grey_noise((200, 180, 205), spread=3), (StainNorm.REINHARD,), "^the slide is nearly colourless"),
    ("haematoxylin", stained_pixels(20_000, amounts=(2, 0)), (StainNorm.MACENKO,), "one stain only"),
    ("eosin", stained_pixels(20_000, amounts=(0, 2)), (StainNorm.MACENKO,), "one stain only"),
    ("grey", grey_noise((120, 120, 120), spread=4, common=30), (StainNorm.MACENKO,), "cannot be told apart"),
    ("green ink", grey_noise((50, 170, 80), spread=20), METHODS, "ink"),
    ("grain", grey_noise((120, 120, 120), spread=15, common=45), METHODS, "degrees away|grain|ink|colourless"),
    ("any colour", grey_noise((128, 128, 128), spread=200), METHODS, "brighten|degrees away|ink"),
    ("brown", stained_pixels(20_000, amounts=(1, 1), eosin=(0.27, 0.57, 0.78)), (StainNorm.MACENKO,), "DAB"),
    ("haematoxylin with grain", stained_pixels(20_000, amounts=(1, 0), grain=6), (StainNorm.MACENKO,), "eosin"),
    ("clean eosin", stained_pixels(20_000, amounts=(0, 2)), (StainNorm.REINHARD,), "one stain only"),
    ("nearly black", stained_pixels(20_000, amounts=(20, 20), grain=3), METHODS, "black in some channel|yellow-blue"),
    ("some green ink", with_ink(0.1), METHODS, "ink"),
    ("black", np.zeros((20_000, 3), dtype=np.uint8), METHODS, "is grey"),
    ("pale", stained_pixels(500_000, amounts=(0.2, 0.2)), METHODS, "too little stained tissue|brightness|colourless"),
]


@pytest.mark.parametrize(
    ("pixels", "method", "reason"),
    [
        pytest.param(pixels, method, reason, id=f"{name}-{method.value}")
        for name, pixels, methods, reason in UNSAFE
        for method in methods
    ],
)
def test_unsafe_slides_stay_as_they_are_with_a_reason(pixels: PixelArray, method: StainNorm, reason: str) -> None:
    found = estimate(pixels, method)
    assert found.transform is None
    assert found.n_pixels == 0
    assert re.search(reason, found.reason)


def test_reasons_name_what_fails_with_enough_digits() -> None:
    turned = np.array([np.cos(np.radians(7.998)), np.sin(np.radians(7.998)), 0.0])
    with pytest.raises(UnsafeStainError, match=r"differ by 7\.998 degrees, at least 8 is needed;"):
        check_directions(turned, np.array([1.0, 0.0, 0.0]))
    alike = np.array([[0.3, 0.9, 0.3], [0.22, 0.7, 0.68]])
    haematoxylin, eosin = alike / np.linalg.norm(alike, axis=1, keepdims=True)
    with pytest.raises(UnsafeStainError, match=r"differ by 0\.0625 in the share of red, at least 0\.07 is needed;"):
        check_directions(haematoxylin, eosin)


def test_a_contrast_that_must_be_blown_up_is_unsafe() -> None:
    target = StainTarget(method=StainNorm.REINHARD, name="vivid", values=(8.7, -0.1, 0.04, 4.0, 0.1, 0.03))
    found = estimate_stain(stained_pixels(20_000), method=StainNorm.REINHARD, target=target)
    assert found.transform is None
    assert "brightness would have to be multiplied by" in found.reason


@both
def test_a_picture_becomes_the_target(method: StainNorm) -> None:
    pixels = stained_pixels(30_000, amounts=(1.5, 1.5))
    target = fit_target(pixels.reshape(100, 300, 3), method=method, name="reference.png")
    assert target.name == "reference.png"
    own = estimate_stain(pixels, method=method, target=target).transform
    assert own is not None
    tissue = pixels[pixels.mean(axis=1) < 200][None]
    assert np.abs(own(tissue).astype(int) - tissue).mean() < 1.0, "a picture is its own target"


def test_a_large_picture_is_thinned() -> None:
    pixels = stained_pixels(1_500_000, amounts=(1.5, 1.5))
    for method in METHODS:
        whole = fit_target(pixels.reshape(1000, 1500, 3), method=method, name="large").values
        part = fit_target(pixels[:500_000].reshape(500, 1000, 3), method=method, name="part").values
        assert np.allclose(whole, part, atol=0.02), method


@both
@pytest.mark.parametrize("shape_hw", [(0, 0), (10, 10), (200, 200)])
def test_a_picture_of_glass_is_no_target(method: StainNorm, shape_hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"glass\.png cannot serve as stain target") as caught:
        fit_target(np.full((*shape_hw, 3), 250, dtype=np.uint8), method=method, name="glass.png")
    assert "Choose a sharp picture" in str(caught.value)


@both
def test_targets_survive_json(method: StainNorm) -> None:
    for target in (default_target(method), fit_target(stained_pixels(9000)[None], method=method, name="é")):
        assert StainTarget.from_json(json.loads(json.dumps(target.to_json()))) == target
        assert hash(target) == hash(StainTarget.from_json(target.to_json()))


@pytest.mark.parametrize(
    "document",
    [
        {"method": "macenko", "name": "a"},
        {"method": "macenko", "name": "a", "values": [1.0] * 6},
        {"method": "reinhard", "name": "a", "values": [1.0] * 8},
        {"method": "none", "name": "a", "values": []},
        {"method": "macenko", "name": "a", "values": [float("inf")] * 8},
        {"method": "macenko", "name": "a", "values": 8},
    ],
    ids=["no values", "too few", "too many", "none", "infinite", "no list"],
)
def test_other_documents_are_no_targets(document: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        StainTarget.from_json(document)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="no stain target"):
        default_target(StainNorm.NONE)
    with pytest.raises(ValueError, match="belongs to reinhard"):
        estimate_stain(stained_pixels(10), method=StainNorm.MACENKO, target=default_target(StainNorm.REINHARD))
    with pytest.raises(ValueError, match=r"must be \(N, 3\) uint8"):
        estimate(np.zeros((4, 4, 3), dtype=np.uint8), StainNorm.MACENKO)
