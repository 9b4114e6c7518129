"""A difference between two readers is found wherever it must be, and is not invented."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers_jpeg_slides import texture
from wsi_extract.arrays import RgbImage
from wsi_extract.errors import SlideError
from wsi_extract.slides.direct_proof import N_JUNCTIONS, N_MISSING, SIDE_PX, choose_places, find_difference
from wsi_extract.slides.jpeg_tiles import JpegTiles

Reader = Callable[[int, int], RgbImage]


def tiles_of(width_px: int, height_px: int, *, tile_px: int = 100, missing: tuple[int, ...] = ()) -> JpegTiles:
    n_tiles = -(-width_px // tile_px) * -(-height_px // tile_px)
    byte_counts = np.random.default_rng(0).integers(1, 1000, n_tiles)
    byte_counts[list(missing)] = 0
    return JpegTiles(
        width_px=width_px,
        height_px=height_px,
        tile_w_px=tile_px,
        tile_h_px=tile_px,
        offsets=np.arange(n_tiles),
        byte_counts=byte_counts,
        header=b"",
        is_rgb=False,
    )


def reader_of(image: RgbImage) -> Reader:
    padded = np.pad(image, ((0, SIDE_PX), (0, SIDE_PX), (0, 0)), constant_values=255)
    return lambda x, y: padded[y : y + SIDE_PX, x : x + SIDE_PX]


def refuse(x: int, y: int) -> RgbImage:
    raise SlideError(f"no pixels at {x}, {y}.")


TILES = tiles_of(730, 510)
IMAGE = texture(730, 510)


def test_equal_readers_do_not_differ() -> None:
    assert find_difference(TILES, direct=reader_of(IMAGE), reference=reader_of(IMAGE.copy()), seed=0) == ""


def shift(image: RgbImage) -> RgbImage:
    return np.roll(image, 1, axis=1)


def brighten(image: RgbImage) -> RgbImage:
    return image ^ np.uint8(1)


def blunt(image: RgbImage) -> RgbImage:
    """Return what differs in the last column of each tile only."""
    other = image.copy()
    other[:, 99::100] ^= 1
    return other


def crop(image: RgbImage) -> RgbImage:
    """Return what differs in the last row of the level only."""
    other = image.copy()
    other[-1] = 255
    return other


@pytest.mark.parametrize("change", [shift, brighten, blunt, crop], ids=lambda change: change.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_what_differs_everywhere_in_kind_is_found(change: Callable[[RgbImage], RgbImage], seed: int) -> None:
    difference = find_difference(TILES, direct=reader_of(change(IMAGE)), reference=reader_of(IMAGE), seed=seed)
    assert difference.startswith("its pixels differ from OpenSlide's by up to ")
    assert " grey levels at (" in difference


def test_a_gap_that_is_filled_otherwise_is_found() -> None:
    filled = IMAGE.copy()
    filled[300:400, 200:300] = 0  # tile 26 of 8 columns
    find = tiles_of(730, 510, missing=(26,))
    assert "differ" in find_difference(find, direct=reader_of(IMAGE), reference=reader_of(filled), seed=3)


def test_a_refusal_is_a_difference_unless_both_refuse() -> None:
    good = reader_of(IMAGE)
    assert "though OpenSlide reads it: no pixels at 0, 0." in find_difference(
        TILES, direct=refuse, reference=good, seed=0
    )
    assert find_difference(TILES, direct=good, reference=refuse, seed=0).startswith(
        "OpenSlide cannot read it at (0, 0)"
    )
    assert find_difference(TILES, direct=refuse, reference=refuse, seed=0) == ""


@given(width=st.integers(1, 400), height=st.integers(1, 400), tile=st.integers(1, 300), seed=st.integers(0, 2**64 - 1))
def test_places_touch_the_level_its_corners_and_junctions(width: int, height: int, tile: int, seed: int) -> None:
    tiles = tiles_of(width, height, tile_px=tile)
    places = choose_places(tiles, rng=np.random.default_rng(seed))
    assert len(places) == 4 + min(N_JUNCTIONS, len(tiles.offsets))
    assert (places >= 0).all()
    assert (places < (width, height)).all()
    corners = {(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)}
    covered = {c for c in corners for x, y in places if x <= c[0] < x + SIDE_PX and y <= c[1] < y + SIDE_PX}
    assert covered == corners
    again = choose_places(tiles, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(places, again)


def test_missing_tiles_are_looked_at() -> None:
    n_missing = 7
    tiles = tiles_of(730, 510, missing=tuple(range(10, 10 + n_missing)))
    assert len(choose_places(tiles, rng=np.random.default_rng(0))) == 4 + N_JUNCTIONS + N_MISSING
    empty = tiles_of(730, 510, missing=tuple(range(48)))
    assert len(choose_places(empty, rng=np.random.default_rng(0))) == 4 + N_MISSING
