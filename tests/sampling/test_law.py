"""Origins around an anchor, quotas, shares, settings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.test_scenes import OPTIONS, SCALES
from wsi_extract.config import MIXTURES
from wsi_extract.geometry import Scale
from wsi_extract.sampling import SamplingOptions, stride_from_overlap
from wsi_extract.sampling.law import AnchorRule, effective_shares, feasible_origins, origin_keys, quotas


def rule_of(**changes: float) -> AnchorRule:
    rule = AnchorRule(lo_out=0, hi_out=10_000, size_px=256, scale=1.0, jitter_px=128, margin_px=0)
    return dataclasses.replace(rule, **changes)  # type: ignore[arg-type]  # names and types are the caller's


def span(centre_l0: float, rule: AnchorRule) -> tuple[int, int]:
    first, last = feasible_origins(np.array([centre_l0]), rule=rule)
    return int(first[0]), int(last[0])


@pytest.mark.parametrize(
    ("centre_l0", "changes", "expected"),
    [
        pytest.param(5000.0, {}, (4745, 5000), id="interior: 256 origins"),
        pytest.param(5000.7, {}, (4745, 5000), id="the fraction of the centre does not matter"),
        pytest.param(5000.0, {"margin_px": 25}, (4770, 4975), id="margin 25: 206 origins"),
        pytest.param(5000.0, {"jitter_px": 0}, (4872, 4872), id="no jitter: centred"),
        pytest.param(5000.0, {"jitter_px": 26}, (4846, 4898), id="jitter of a tenth"),
        pytest.param(0.0, {}, (0, 0), id="at the left edge"),
        pytest.param(40.3, {}, (0, 40), id="near the left edge"),
        pytest.param(9999.9, {}, (9744, 9744), id="at the right edge"),
        pytest.param(9990.0, {}, (9735, 9744), id="near the right edge"),
        pytest.param(5000.0, {"size_px": 257, "jitter_px": 128}, (4744, 5000), id="odd side: 257 origins"),
        pytest.param(20_000.0, {"scale": 4.0}, (4745, 5000), id="whole scale: as on the grid"),
        pytest.param(10_005.0, {"scale": 2.001}, (4746, 5000), id="broken scale: one origin less"),
        pytest.param(
            143.0, {"scale": 1.1, "margin_px": 30}, (0, 99), id="at origin 100 it is 29.999999999999996 inside"
        ),
        pytest.param(4935.0, {"scale": 0.987}, (4747, 5000), id="scale below 1: two less"),
        pytest.param(5000.0, {"hi_out": 5100, "lo_out": 4900}, (4900, 4844), id="domain narrower than the patch"),
    ],
)
def test_origins_around_an_anchor(centre_l0: float, changes: dict[str, float], expected: tuple[int, int]) -> None:
    assert span(centre_l0, rule_of(**changes)) == expected


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_every_feasible_origin_keeps_the_promises(data: st.DataObject) -> None:
    scale = data.draw(st.one_of(st.sampled_from(SCALES), st.floats(0.3, 9)), label="scale")
    size = data.draw(st.integers(16, 301), label="size")
    lo = data.draw(st.integers(0, 500), label="lo")
    hi = lo + data.draw(st.integers(1, 2000), label="width")
    margin = data.draw(st.integers(0, (size - 1) // 2), label="margin")
    jitter = round(data.draw(st.floats(0, 0.5), label="jitter") * size)
    step = data.draw(st.sampled_from([0.5, 1.0, 0.1]), label="step")
    first_step = math.ceil(lo * scale / step)
    centre_l0 = data.draw(st.integers(first_step, max(first_step, math.ceil(hi * scale / step) - 1))) * step
    rule = rule_of(lo_out=lo, hi_out=hi, size_px=size, scale=scale, jitter_px=jitter, margin_px=margin)
    first, last = span(centre_l0, rule)
    for origin in {first, last, (first + last) // 2} if first <= last else ():
        local = (centre_l0 - math.floor(origin * scale)) / scale
        assert margin <= local < size - margin
        assert lo <= origin
        assert origin + size <= hi
        assert abs(origin - (math.floor(centre_l0 / scale) - size // 2)) <= jitter


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_origin_is_left_out_at_whole_scales(data: st.DataObject) -> None:
    scale = float(data.draw(st.integers(1, 8)))
    size, margin = data.draw(st.integers(16, 65)), data.draw(st.integers(0, 7))
    jitter, hi = data.draw(st.integers(0, 33)), data.draw(st.integers(70, 300))
    centre_l0 = data.draw(st.integers(0, int(hi * scale) * 4 - 1)) / 4
    rule = rule_of(hi_out=hi, size_px=size, scale=scale, jitter_px=jitter, margin_px=margin)
    first, last = span(centre_l0, rule)
    brute = [
        origin
        for origin in range(hi - size + 1)
        if margin <= (centre_l0 - origin * scale) / scale < size - margin
        and abs(origin - (math.floor(centre_l0 / scale) - size // 2)) <= jitter
    ]
    assert brute == list(range(first, last + 1))


@pytest.mark.parametrize(
    ("n", "shares", "expected"),
    [
        pytest.param(100, MIXTURES["ccmct"], (10, 40, 50), id="ccmct"),
        pytest.param(100, MIXTURES["midog"], (50, 0, 50), id="midog"),
        pytest.param(100, MIXTURES["midog25"], (25, 25, 50), id="midog25"),
        pytest.param(1, MIXTURES["ccmct"], (0, 0, 1), id="one patch goes to the largest share"),
        pytest.param(5, MIXTURES["ccmct"], (1, 2, 2), id="tie of random and mitosis goes to random"),
        pytest.param(1, (0.5, 0.0, 0.5), (1, 0, 0), id="tie of halves goes to random"),
        pytest.param(1, (0.0, 0.5, 0.5), (0, 1, 0), id="tie without random goes to hard negatives"),
        pytest.param(3, (0.333333333, 0.333333333, 0.333333334), (1, 1, 1), id="thirds"),
        pytest.param(100, (0.29, 0.57, 0.14), (29, 57, 14), id="0.29 * 100 is 28.999 as a float"),
    ],
)
def test_quotas(n: int, shares: tuple[float, float, float], expected: tuple[int, ...]) -> None:
    assert quotas(n, shares=shares) == expected


@settings(deadline=None)
@given(n=st.integers(1, 5000), parts=st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any))
def test_quotas_sum_to_n_and_stay_within_one_of_the_share(n: int, parts: list[int]) -> None:
    shares = [part / sum(parts) for part in parts]
    counts = quotas(n, shares=shares)
    assert sum(counts) == n
    assert all(abs(count - n * share) < 1 + 1e-6 for count, share in zip(counts, shares, strict=True))
    assert all(count == 0 for count, part in zip(counts, parts, strict=True) if part == 0)


@pytest.mark.parametrize(
    ("has_anchors", "expected"),
    [
        ((True, True, True), (0.1, 0.4, 0.5)),
        ((True, False, True), (0.5, 0.0, 0.5)),
        ((True, True, False), (0.6, 0.4, 0.0)),
        ((True, False, False), (1.0, 0.0, 0.0)),
    ],
)
def test_b06_share_of_a_missing_kind_moves_to_random(
    has_anchors: tuple[bool, ...], expected: tuple[float, ...]
) -> None:
    assert effective_shares((0.1, 0.4, 0.5), has_anchors=has_anchors) == expected


def test_origins_with_one_level_0_pixel_have_one_key() -> None:
    origins = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [0, 3]])
    keys = origin_keys(origins, scale=Scale(x=0.5, y=0.5)).tolist()
    assert keys[0] == keys[1] == keys[3]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("size", "overlap", "stride"), [(256, 0.5, 128), (256, 0.0, 256), (256, 0.75, 64), (255, 0.25, 191)]
)
def test_stride_from_overlap(size: int, overlap: float, stride: int) -> None:
    assert stride_from_overlap(size, overlap=overlap) == stride


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5, 0.999, float("nan")])
def test_overlap_that_leaves_no_step_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap"):
        stride_from_overlap(256, overlap=overlap)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "both"),
        ("patches_per_slide", 0),
        ("shares", (0.5, 0.6, 0.1)),
        ("shares", (-0.1, 0.6, 0.5)),
        ("shares", (0.5, 0.5)),
        ("shares", (float("nan"), 0.5, 0.5)),
        ("stride_px", 0),
        ("seed", -1),
        ("epoch", -1),
        ("jitter_fraction", 0.6),
        ("jitter_fraction", float("nan")),
        ("min_margin_px", -1),
        ("max_repeats_per_anchor", 0),
        ("min_tissue_fraction", 1.1),
    ],
)
def test_b13_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(OPTIONS, **{name: value})  # type: ignore[arg-type]  # wrong on purpose


def test_shares_may_miss_one_by_rounding() -> None:
    SamplingOptions(mode="grid", patches_per_slide=1, shares=(0.1, 0.2, 0.7 + 1e-10), stride_px=1, seed=0)
