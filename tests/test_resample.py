import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.arrays import RgbImage
from wsi_extract.resample import cut_patch, support_px

NOISE = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
scales = st.floats(0.9, 5.3)


def test_whole_pixels_at_scale_1_are_copied() -> None:
    patch = cut_patch(NOISE, x_px=7.0, y_px=11.0, w_px=40.0, h_px=30.0, out_wh=(40, 30))
    np.testing.assert_array_equal(patch, NOISE[11:41, 7:47])
    assert patch.flags.c_contiguous
    assert not np.shares_memory(patch, NOISE)


def test_a_shift_of_less_than_a_pixel_is_not_rounded_away() -> None:
    patch = cut_patch(NOISE, x_px=7.5, y_px=11.0, w_px=40.0, h_px=30.0, out_wh=(40, 30))
    assert not np.array_equal(patch, NOISE[11:41, 7:47])


@settings(deadline=None, max_examples=150)
@given(
    st.floats(0.6, 5.3),
    st.floats(0.6, 5.3),
    st.floats(100, 130),
    st.floats(100, 130),
    st.tuples(st.integers(0, 50), st.integers(0, 50)),
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)),
)
def test_a_patch_does_not_depend_on_the_window_it_is_cut_from(
    scale_x: float, scale_y: float, x: float, y: float, shift: tuple[int, int], spare: tuple[int, int, int, int]
) -> None:
    """Cut from the whole image, and from a window that holds just the margin and some pixels more."""
    out_w, out_h = 24, 17
    x, y, w, h = x + shift[0], y + shift[1], scale_x * out_w, scale_y * out_h
    margin_x, margin_y = support_px(w / out_w), support_px(h / out_h)
    left, top = max(0, int(x) - margin_x - spare[0]), max(0, int(y) - margin_y - spare[1])
    right, bottom = int(np.ceil(x + w)) + margin_x + spare[2], int(np.ceil(y + h)) + margin_y + spare[3]
    whole = cut_patch(NOISE, x_px=x, y_px=y, w_px=w, h_px=h, out_wh=(out_w, out_h))
    window = NOISE[top:bottom, left:right]
    part = cut_patch(window, x_px=x - left, y_px=y - top, w_px=w, h_px=h, out_wh=(out_w, out_h))
    np.testing.assert_array_equal(whole, part)


@settings(deadline=None, max_examples=60)
@given(scales, st.floats(30, 60), st.floats(30, 60))
def test_neighbouring_patches_join_without_a_seam(scale: float, x: float, y: float) -> None:
    """The margin reaches as far as the filter: a patch equals the part of a wider one, but for rounding.

    A step in brightness at the seam makes the filter ring far into both patches, without reaching 0 or 255, because
    Pillow clips between its two passes, whose order depends on the shape.
    """
    extent = scale * 20
    window = np.full((400, 400, 3), 60, dtype=np.uint8)
    window[:, round(x + extent) :] = 200
    wide = cut_patch(window, x_px=x, y_px=y, w_px=2 * extent, h_px=extent, out_wh=(40, 20))
    for number in (0, 1):
        patch = cut_patch(window, x_px=x + number * extent, y_px=y, w_px=extent, h_px=extent, out_wh=(20, 20))
        assert np.abs(patch.astype(int) - wide[:, number * 20 : number * 20 + 20]).max() <= 1


@settings(deadline=None, max_examples=60)
@given(scales, st.floats(20, 60), st.floats(20, 60))
def test_a_ramp_stays_the_same_ramp(scale: float, x: float, y: float) -> None:
    """The value at the centre of every output pixel is the ramp's value there, within one grey level."""
    row, column = np.mgrid[:400, :400] + 0.5
    ramp: RgbImage = np.stack([column * 0.6, row * 0.6, (row + column) * 0.3], axis=-1).astype(np.uint8)
    patch = cut_patch(ramp, x_px=x, y_px=y, w_px=scale * 50, h_px=scale * 40, out_wh=(50, 40))
    out_row, out_column = np.mgrid[:40, :50] + 0.5
    at_x, at_y = x + out_column * scale, y + out_row * scale
    expected = np.stack([at_x * 0.6, at_y * 0.6, (at_x + at_y) * 0.3], axis=-1) - 0.5  # astype rounds down
    assert np.abs(patch - expected).max() <= 1.0


@settings(deadline=None, max_examples=80)
@given(scales, st.floats(-10, 10), st.floats(-10, 10), st.floats(30, 60), st.floats(30, 60))
def test_a_blob_lands_where_the_geometry_says(scale: float, dx: float, dy: float, x: float, y: float) -> None:
    """xy_window == origin + xy_patch * scale, within 0.05 output px."""
    n_out = 48
    centre_x, centre_y = x + scale * n_out / 2 + dx, y + scale * n_out / 2 + dy
    row, column = np.mgrid[:400, :400] + 0.5
    sigma = 3.0 * max(1.0, scale)
    blob = 255 * np.exp(-((column - centre_x) ** 2 + (row - centre_y) ** 2) / (2 * sigma**2))
    window: RgbImage = np.repeat(np.round(blob)[..., None], 3, axis=-1).astype(np.uint8)
    patch = cut_patch(window, x_px=x, y_px=y, w_px=scale * n_out, h_px=scale * n_out, out_wh=(n_out, n_out))
    weight = patch[..., 0].astype(float)
    out_row, out_column = np.mgrid[:n_out, :n_out] + 0.5
    found_x, found_y = (weight * out_column).sum() / weight.sum(), (weight * out_row).sum() / weight.sum()
    assert abs(found_x - (centre_x - x) / scale) < 0.05
    assert abs(found_y - (centre_y - y) / scale) < 0.05


def test_downsampling_does_not_alias() -> None:
    stripes = np.zeros((200, 200, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    patch = cut_patch(stripes, x_px=20.3, y_px=20.3, w_px=128.0, h_px=128.0, out_wh=(32, 32))
    assert patch.std() < 2
    assert abs(patch.mean() - 127.5) < 2


def test_a_patch_at_the_edge_of_the_window_is_allowed() -> None:
    patch = cut_patch(NOISE, x_px=0.0, y_px=0.0, w_px=400.0, h_px=400.0, out_wh=(100, 160))
    assert patch.shape == (160, 100, 3)
    beyond = cut_patch(NOISE, x_px=200.0, y_px=100.0, w_px=200.0 + 1e-9, h_px=300.0 + 1e-9, out_wh=(100, 160))
    np.testing.assert_array_equal(
        beyond, cut_patch(NOISE, x_px=200.0, y_px=100.0, w_px=200.0, h_px=300.0, out_wh=(100, 160))
    )


@pytest.mark.parametrize(
    ("x", "w", "out_w"),
    [(-0.5, 20.0, 10), (381.0, 20.0, 10), (10.0, 0.0, 10), (10.0, 20.0, 0)],
    ids=["left of the window", "right of the window", "no extent", "no output"],
)
def test_parts_that_do_not_exist_are_refused(x: float, w: float, out_w: int) -> None:
    with pytest.raises(ValueError, match="must be inside the window of 400 x 400 px"):
        cut_patch(NOISE, x_px=x, y_px=0.0, w_px=w, h_px=20.0, out_wh=(out_w, 10))
