"""Prove that a level of JPEG tiles read directly has the pixels of the reference reader, on a sample of places.

Neither reader is known here: both are functions. What could differ differs in kind, for all tiles of a level alike
(colours, subsampling, tables, orientation, gaps between tiles) or at its edges, so that a few places tell.
Positions and sizes are pixels of the level (``_lv``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wsi_extract.arrays import IntArray, RgbImage
from wsi_extract.errors import SlideError
from wsi_extract.slides.jpeg_tiles import JpegTiles

SIDE_PX = 64
"""Side of the regions: small ones, so that the decoding of their tiles is all they cost."""
N_JUNCTIONS = 5
"""Places where four tiles meet, drawn at random; the corners of the level come on top."""
N_MISSING = 2
"""Missing tiles that are looked at, if there are any."""


def find_difference(
    tiles: JpegTiles,
    *,
    direct: Callable[[int, int], RgbImage],
    reference: Callable[[int, int], RgbImage],
    seed: int,
) -> str:
    """Compare two readers of a level where it matters most, and describe the first difference; empty without any.

    Compared are places where tiles meet, drawn with the compressed size of the tiles as weight, because tissue shows
    differences that glass hides; the corners of the level; and some missing tiles. A place that neither can read is
    no difference: the slide is damaged there, for both.

    Parameters
    ----------
    direct, reference
        Return the region of `SIDE_PX` x `SIDE_PX` px whose top left pixel is (x, y); white beyond the level. They
        raise `SlideError` when they cannot read it.
    seed
        Of the places; the same seed always draws the same.
    """
    for x, y in choose_places(tiles, rng=np.random.default_rng(seed)).tolist():
        pixels, refusal = _read(direct, x, y)
        expected, expected_refusal = _read(reference, x, y)
        where = f"at ({x}, {y})"
        if expected is None and pixels is None:
            continue
        if pixels is None:
            return f"it cannot be read {where}, though OpenSlide reads it: {refusal}"
        if expected is None:
            return f"OpenSlide cannot read it {where}: {expected_refusal}"
        difference = int(np.abs(pixels.astype(np.int16) - expected).max())
        if difference:
            return f"its pixels differ from OpenSlide's by up to {difference} grey levels {where}"
    return ""


def _read(read: Callable[[int, int], RgbImage], x_lv: int, y_lv: int) -> tuple[RgbImage | None, str]:
    try:
        return read(x_lv, y_lv), ""
    except SlideError as error:
        return None, error.message


def choose_places(tiles: JpegTiles, *, rng: np.random.Generator) -> IntArray:
    """Return the top left pixels of the regions to compare, ``(N, 2)`` int64, columns (x, y), level px."""
    size_wh = np.array([tiles.width_px, tiles.height_px])
    tile_wh = np.array([tiles.tile_w_px, tiles.tile_h_px])
    across = SIDE_PX // 4  # of the region lies beyond the edge, where it must be white
    far = np.maximum(size_wh - SIDE_PX + across, 0)
    corners = np.array([[0, 0], [far[0], 0], [0, far[1]], far])
    missing = np.flatnonzero(tiles.byte_counts == 0)
    weights = tiles.byte_counts / max(1, tiles.byte_counts.sum())
    n_drawn = min(N_JUNCTIONS, int(np.count_nonzero(weights)))
    drawn = rng.choice(len(weights), size=n_drawn, replace=False, p=weights) if n_drawn else missing[:0]
    numbers = np.concatenate([drawn, rng.permutation(missing)[:N_MISSING]])
    # Any of the four junctions of the tile, and any place of the region that has the junction inside.
    junctions = (np.stack([numbers % tiles.n_columns, numbers // tiles.n_columns], axis=1)) * tile_wh
    junctions = junctions + rng.integers(0, 2, junctions.shape) * tile_wh
    places = np.clip(junctions - rng.integers(1, SIDE_PX, junctions.shape), 0, far)
    return np.concatenate([corners, places]).astype(np.int64)
