"""Choose small windows on tissue from which the stain of a slide is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from wsi_extract.arrays import BoolImage, FloatArray, IntArray
from wsi_extract.disk.files import canonical_json
from wsi_extract.geometry import Rect
from wsi_extract.model import TissueMask

_DRAWS_PER_PLACE = 4
"""On small tissue many draws fall into the same window."""


def sample_places(
    tissue: TissueMask, *, domains: Sequence[Rect], n_places: int, side_l0_px: int, seed: int, slide_id: str
) -> IntArray:
    """Return where to look at the tissue of a slide: different windows, spread over all of it.

    Windows are squares of the lattice of ``side_l0_px`` that starts at pixel (0, 0), so that they are whole pixels of
    a level whose downsample divides the side, and never overlap. The tissue, read row by row, is cut into parts of
    equal area, and each part gives one random point, whose square is taken.

    Parameters
    ----------
    domains
        Rectangles of level 0; every window lies inside one of them.
    seed, slide_id
        What the choice depends on, besides the tissue.

    Returns
    -------
    ``(N, 2)`` int64, columns (x, y), level-0 px of the upper left corners, by y, then x. N is ``n_places``, or fewer
    when the tissue has not so many squares, or 0 without tissue.

    Raises
    ------
    ValueError
        When no place is asked for, or the side is not positive.
    """
    if n_places < 1 or side_l0_px < 1:
        raise ValueError(f"at least one window of at least 1 px is needed, got {n_places} of {side_l0_px} px")
    inside = _tissue_inside(tissue, domains)
    draws = _fractions((_DRAWS_PER_PLACE * n_places, 3), seed=seed, slide_id=slide_id)
    points_mask = _points_on(inside, draws)
    scale = np.array([tissue.l0_per_mask_px.x, tissue.l0_per_mask_px.y])
    corners = np.floor(points_mask * scale / side_l0_px).astype(np.int64) * side_l0_px
    fits = np.zeros(len(corners), dtype=np.bool_)
    for rect in domains:
        lo, hi = np.array([rect.x0, rect.y0]), np.array([rect.x1, rect.y1])
        fits |= ((corners >= lo) & (corners + side_l0_px <= hi)).all(axis=1)
    yx = np.unique(corners[fits][:, ::-1], axis=0)
    kept = np.arange(min(n_places, len(yx))) * len(yx) // max(1, min(n_places, len(yx)))
    return np.ascontiguousarray(yx[kept][:, ::-1])


def _tissue_inside(tissue: TissueMask, domains: Sequence[Rect]) -> BoolImage:
    """Return the mask where its pixels touch a domain."""
    scale = tissue.l0_per_mask_px
    inside = np.zeros_like(tissue.mask)
    for rect in domains:
        rows = slice(max(0, floor(rect.y0 / scale.y)), max(0, ceil(rect.y1 / scale.y)))
        columns = slice(max(0, floor(rect.x0 / scale.x)), max(0, ceil(rect.x1 / scale.x)))
        inside[rows, columns] = tissue.mask[rows, columns]
    return inside


def _points_on(mask: BoolImage, draws: FloatArray) -> FloatArray:
    """Return one point ``(x, y)`` in mask px per draw: the i-th lies in the i-th part of the set pixels.

    Row by row, because a list of all set pixels takes eight times the memory of the mask.
    """
    ends = np.cumsum(np.count_nonzero(mask, axis=1))
    n_set = int(ends[-1]) if len(ends) else 0
    if n_set == 0:
        return np.empty((0, 2), dtype=np.float64)
    ranks = np.floor((np.arange(len(draws)) + draws[:, 0]) / len(draws) * n_set).astype(np.int64)
    rows = np.searchsorted(ends, ranks, side="right")
    points = np.empty((len(draws), 2), dtype=np.float64)
    for i, (row, rank) in enumerate(zip(rows.tolist(), ranks.tolist(), strict=True)):
        set_columns = np.flatnonzero(mask[row])
        points[i] = set_columns[rank - int(ends[row])], row
    return points + draws[:, 1:]


def _fractions(shape: tuple[int, int], *, seed: int, slide_id: str) -> FloatArray:
    """Return numbers uniform on [0, 1) that depend on seed and slide alone; raw Philox output never changes."""
    digest = hashlib.blake2b(canonical_json(["stain places", seed, slide_id]), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(digest, dtype="<u8").astype(np.uint64))
    raw = generator.random_raw(shape[0] * shape[1]).reshape(shape)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
