"""Planes, scales, grids and areas."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsi_extract.arrays import BoolImage, FloatArray
from wsi_extract.geometry import (
    Rect,
    Scale,
    covered_area,
    grid_starts,
    integral_image,
    l0_from_out_origins,
    out_from_l0_boxes,
    out_from_l0_domain,
)
from wsi_extract.model import TissueMask

SCALES = (1.0, 2.0, 4.0, 2.001, 3.99, 4.016, 0.987)
one_scale = st.sampled_from(SCALES) | st.floats(0.05, 64, allow_nan=False)
scales = st.builds(Scale, x=one_scale, y=one_scale)


def l0_from_out_origin(o_out: int, *, scale: float) -> int:
    origins = np.array([[o_out, o_out]], dtype=np.int64)
    return int(l0_from_out_origins(origins, scale=Scale(x=scale, y=scale))[0, 0])


@pytest.mark.parametrize("x", [0.0, -1.0, math.nan, math.inf])
def test_scale_refuses_what_is_not_positive_and_finite(x: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        Scale(x=x, y=1.0)
    with pytest.raises(ValueError, match="positive and finite"):
        Scale(x=1.0, y=x)


def test_rect_without_content_has_no_negative_size() -> None:
    assert (Rect(x0=5, y0=9, x1=3, y1=9).width, Rect(x0=5, y0=9, x1=3, y1=9).height) == (0, 0)
    assert (Rect(x0=-2, y0=1, x1=3, y1=9).width, Rect(x0=-2, y0=1, x1=3, y1=9).height) == (5, 8)


@pytest.mark.parametrize(
    ("o_out", "scale", "o_l0"),
    [
        pytest.param(-1, 2.5, -3, id="int() would give -2"),
        pytest.param(-3, 0.987, -3, id="int() would give -2 below zero"),
        pytest.param(1, 2.5, 2, id="floor above zero"),
        pytest.param(-4, 2.0, -8, id="whole product"),
        pytest.param(0, 3.99, 0, id="zero"),
    ],
)
def test_b16_origins_are_floored_below_zero_too(o_out: int, scale: float, o_l0: int) -> None:
    assert l0_from_out_origin(o_out, scale=scale) == o_l0
    pair = l0_from_out_origins(np.array([[o_out, o_out]]), scale=Scale(x=scale, y=1.0))
    assert pair.tolist() == [[o_l0, o_out]]
    assert pair.dtype == np.int64


@given(origins=st.lists(st.tuples(st.integers(-10_000, 200_000), st.integers(-10_000, 200_000))), scale=scales)
def test_b16_one_origin_and_many_agree(origins: list[tuple[int, int]], scale: Scale) -> None:
    many = l0_from_out_origins(np.array(origins, dtype=np.int64).reshape(-1, 2), scale=scale)
    one = [[l0_from_out_origin(x, scale=scale.x), l0_from_out_origin(y, scale=scale.y)] for x, y in origins]
    assert many.tolist() == one


def test_b16_boxes_keep_their_fractions() -> None:
    box = out_from_l0_boxes(np.array([[10.5, 20.25, 11.0, 21.0]]), origin_l0_xy=(10, 20), scale=Scale(x=2.0, y=0.5))
    assert box.tolist() == [[0.25, 0.5, 0.5, 2.0]]


@given(
    box=st.lists(st.floats(-1e5, 2e5, allow_nan=False), min_size=4, max_size=4),
    o_out=st.tuples(st.integers(-100, 50_000), st.integers(-100, 50_000)),
    scale=scales,
)
def test_boxes_round_trip_through_the_origin_the_pixels_are_read_from(
    box: list[float], o_out: tuple[int, int], scale: Scale
) -> None:
    ((x_l0, y_l0),) = l0_from_out_origins(np.array([o_out]), scale=scale).tolist()
    local = out_from_l0_boxes(np.array([box]), origin_l0_xy=(x_l0, y_l0), scale=scale)[0]
    back = local * [scale.x, scale.y, scale.x, scale.y] + [x_l0, y_l0, x_l0, y_l0]
    assert np.allclose(back, box, rtol=0, atol=1e-6)


# --- domains -------------------------------------------------------------------------------------------------------


def check_axis(lo_l0: int, hi_l0: int, lo_out: int, hi_out: int, *, scale: float) -> None:
    """The grid interval is the largest one inside, in exact arithmetic, and its first pixel is read inside."""
    exact = Fraction(scale)
    assert lo_out * exact >= lo_l0
    assert (lo_out - 1) * exact < lo_l0
    assert hi_out * exact <= hi_l0
    assert (hi_out + 1) * exact > hi_l0
    assert l0_from_out_origin(lo_out, scale=scale) >= lo_l0


@given(
    lo=st.tuples(st.integers(-1_000, 100_000), st.integers(-1_000, 100_000)),
    size=st.tuples(st.integers(0, 100_000), st.integers(0, 100_000)),
    scale=scales,
)
@example(lo=(32768, 77202), size=(1000, 1000), scale=Scale(x=0.9895213649403592, y=34.114891736632785))
@example(lo=(0, 0), size=(54305, 1100), scale=Scale(x=1.246528176288305, y=1.1))
def test_domain_is_the_largest_grid_rectangle_inside(lo: tuple[int, int], size: tuple[int, int], scale: Scale) -> None:
    domain_l0 = Rect(x0=lo[0], y0=lo[1], x1=lo[0] + size[0], y1=lo[1] + size[1])
    out = out_from_l0_domain(domain_l0, scale=scale)
    check_axis(domain_l0.x0, domain_l0.x1, out.x0, out.x1, scale=scale.x)
    check_axis(domain_l0.y0, domain_l0.y1, out.y0, out.y1, scale=scale.y)


@given(
    lo=st.integers(0, 50_000),
    length=st.integers(1, 50_000),
    scale=one_scale,
    size=st.integers(16, 1024),
    position=st.floats(0, 1),
)
def test_patches_in_the_domain_never_leave_it_at_level_0(
    lo: int, length: int, scale: float, size: int, position: float
) -> None:
    out = out_from_l0_domain(Rect(x0=lo, y0=0, x1=lo + length, y1=1), scale=Scale(x=scale, y=1.0))
    if out.width < size:
        return
    for o_out in (out.x0, out.x1 - size, out.x0 + int(position * (out.width - size))):
        o_l0 = l0_from_out_origin(o_out, scale=scale)
        assert o_l0 >= lo
        # Without any tolerance: a reader that is asked for 1e-12 px too much refuses.
        assert o_l0 + size * scale <= lo + length


@given(cut=st.integers(1, 100_000), scale=one_scale)
def test_domains_of_two_halves_share_no_grid_pixel(cut: int, scale: float) -> None:
    factors = Scale(x=1.0, y=scale)
    upper = out_from_l0_domain(Rect(x0=0, y0=0, x1=1, y1=cut), scale=factors)
    lower = out_from_l0_domain(Rect(x0=0, y0=cut, x1=1, y1=200_000), scale=factors)
    assert upper.y1 <= lower.y0 <= upper.y1 + 1


# --- grids ---------------------------------------------------------------------------------------------------------


@given(lo=st.integers(-500, 500), length=st.integers(0, 2_000), size=st.integers(1, 300), stride=st.integers(1, 300))
@example(lo=0, length=7215, size=256, stride=128)
@example(lo=0, length=5412, size=256, stride=128)
def test_grid_starts_cover_the_interval_and_never_leave_it(lo: int, length: int, size: int, stride: int) -> None:
    hi = lo + length
    starts = grid_starts(lo, hi, size=size, stride=stride)
    assert starts.dtype == np.int64
    if length < size:
        assert len(starts) == 0
        return
    assert (starts[0], starts[-1]) == (lo, hi - size)
    steps = np.diff(starts)
    assert np.all(steps >= 1)  # no start twice
    assert np.all(steps[:-1] == stride)
    assert np.all(steps <= stride)
    if stride <= size:
        covered = np.zeros(length, dtype=np.int64)
        for start in starts - lo:
            covered[start : start + size] += 1
        assert covered.min() >= 1
        if stride == size:
            # Only the last window, placed flush with the end, may overlap another one.
            assert covered.max() <= 2
            assert np.count_nonzero(covered == 2) == (size - length % size) % size


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (1, 0), (-4, 4), (4, -1)])
def test_grid_starts_refuse_sizes_below_one(size: int, stride: int) -> None:
    with pytest.raises(ValueError, match="at least 1 px"):
        grid_starts(0, 10, size=size, stride=stride)


# --- areas ---------------------------------------------------------------------------------------------------------


def overlap_1d(a0: float, a1: float, n: int) -> FloatArray:
    """Length of [a0, a1) inside each pixel [i, i + 1): the definition, without any table."""
    pixel = np.arange(n)
    result: FloatArray = np.clip(np.minimum(a1, pixel + 1) - np.maximum(a0, pixel), 0, None)
    return result


def area_by_definition(mask: BoolImage, box: FloatArray) -> float:
    weights = np.outer(overlap_1d(box[1], box[3], mask.shape[0]), overlap_1d(box[0], box[2], mask.shape[1]))
    return float(weights[mask].sum())


@st.composite
def masks(draw: st.DrawFn) -> BoolImage:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.integers(0, 2 ** (height * width) - 1))
    flat = [bool(bits >> i & 1) for i in range(height * width)]
    return np.array(flat, dtype=np.bool_).reshape(height, width)


coordinate = st.floats(-20, 30, allow_nan=False) | st.integers(-20, 30).map(float)


@given(mask=masks(), corners=st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=8))
def test_covered_area_is_the_area_by_definition(
    mask: BoolImage, corners: list[tuple[float, float, float, float]]
) -> None:
    boxes = np.array(corners, dtype=np.float64).reshape(-1, 4)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    areas = covered_area(integral_image(mask), boxes)
    assert areas.shape == (len(boxes),)
    assert np.allclose(areas, [area_by_definition(mask, box) for box in boxes], rtol=0, atol=1e-9)


def test_integral_image_counts_every_rectangle() -> None:
    mask = np.random.default_rng(3).random((5, 7)) > 0.5
    table = integral_image(mask)
    assert table.shape == (6, 8)
    assert all(table[i, j] == mask[:i, :j].sum() for i in range(6) for j in range(8))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_an_empty_mask_covers_nothing(shape: tuple[int, int]) -> None:
    table = integral_image(np.zeros(shape, dtype=np.bool_))
    assert covered_area(table, np.array([[0.0, 0.0, 3.0, 3.0]])).tolist() == [0.0]


# --- tissue fractions ----------------------------------------------------------------------------------------------


def test_a_window_with_exactly_the_threshold_passes_it() -> None:
    # 10 x 10 mask pixels of 25.6 level-0 px: 10 of 100 are tissue, and 25.6 has no exact binary form.
    mask = np.zeros((30, 30), dtype=np.bool_)
    mask[10, 10:20] = True
    tissue = TissueMask(mask=mask, l0_per_mask_px=Scale(x=25.6, y=25.6))
    assert tissue.fractions(np.array([[256, 256]]), w_l0=256, h_l0=256)[0] >= 0.10
    mask[10, 19] = False
    less = TissueMask(mask=mask, l0_per_mask_px=Scale(x=25.6, y=25.6))
    assert less.fractions(np.array([[256, 256]]), w_l0=256, h_l0=256)[0] < 0.10


@pytest.mark.parametrize("side", [16.016, 25.6, 31.7, 12.8])
def test_a_tenth_is_a_tenth_wherever_the_window_starts(side: float) -> None:
    # Every tenth row of the mask is tissue, and windows are 10 x 10 mask pixels at the top: exactly 0.10 each,
    # which floats alone give as 0.09999999999999998 for some origins.
    mask = np.zeros((20, 100), dtype=np.bool_)
    mask[::10] = True
    tissue = TissueMask(mask=mask, l0_per_mask_px=Scale(x=side, y=side))
    origins = np.array([[x, 0] for x in range(0, int(90 * side), 8)])
    assert set(tissue.fractions(origins, w_l0=10 * side, h_l0=10 * side).tolist()) == {0.10}


def test_fractions_weigh_mask_pixels_cut_by_the_window() -> None:
    mask = np.array([[True, False]])
    tissue = TissueMask(mask=mask, l0_per_mask_px=Scale(x=8.0, y=4.0))
    origins = np.array([[0, 0], [4, 0], [6, 2], [8, 0], [-4, 0], [100, 100]])
    # Half a window outside the mask counts as glass; anisotropic pixels are weighed per axis.
    expected = [1.0, 0.5, 0.125, 0.0, 0.5, 0.0]
    assert tissue.fractions(origins, w_l0=8, h_l0=4).tolist() == expected


def test_tissue_share_of_masks() -> None:
    assert TissueMask(mask=np.zeros((0, 0), dtype=np.bool_), l0_per_mask_px=Scale(x=1, y=1)).tissue_share == 0.0
    assert TissueMask(mask=np.eye(4, dtype=np.bool_), l0_per_mask_px=Scale(x=1, y=1)).tissue_share == 0.25


@given(
    mask=masks(),
    scale=scales,
    origins=st.lists(st.tuples(st.integers(-50, 300), st.integers(-50, 300)), min_size=1, max_size=5),
    size=st.tuples(st.floats(1, 200), st.floats(1, 200)),
)
def test_fractions_are_the_definition_and_stay_between_0_and_1(
    mask: BoolImage, scale: Scale, origins: list[tuple[int, int]], size: tuple[float, float]
) -> None:
    tissue = TissueMask(mask=mask, l0_per_mask_px=scale)
    shares = tissue.fractions(np.array(origins), w_l0=size[0], h_l0=size[1])
    assert np.all((shares >= 0) & (shares <= 1))
    for share, (x, y) in zip(shares, origins, strict=True):
        box = np.array([x / scale.x, y / scale.y, (x + size[0]) / scale.x, (y + size[1]) / scale.y])
        window = size[0] / scale.x * size[1] / scale.y
        assert share == pytest.approx(area_by_definition(mask, box) / window, abs=1e-7)
