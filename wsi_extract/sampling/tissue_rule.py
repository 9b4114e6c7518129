"""Which origins a random or grid patch may have: enough tissue, and no target where none is wanted.

`is_admissible` is the rule. `tissue_map` and `clear_unwanted` answer it for a whole square of origins at once and give
the same answers: cells of origins whose windows all lie, or all do not lie, on enough tissue are settled by one look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import BoolArray, BoolImage, FloatArray, IntArray
from wsi_extract.geometry import Rect, l0_from_out_origins
from wsi_extract.model import OutputFrame, TissueMask
from wsi_extract.sampling.law import local_centres

CELL_SIDE_PX = 16
"""Side of the squares of origins that are settled at once."""
ORIGINS_AT_ONCE = 1 << 18
"""Bounds the memory of vectorised steps to some 50 MB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TissueRule:
    """What a patch without an anchor must hold, and must not hold."""

    frame: OutputFrame
    tissue: TissueMask
    min_tissue_fraction: float
    """Inclusive."""
    unwanted_l0: FloatArray
    """(N, 2) float64, columns (x, y), level-0 px: centres that no patch may hold; mostly none."""


def tissue_fractions(origins_out: IntArray, *, frame: OutputFrame, tissue: TissueMask) -> FloatArray:
    """Return the share of tissue in the patch at each origin ``(N, 2)``."""
    return tissue.fractions(
        l0_from_out_origins(origins_out, scale=frame.scale),
        w_l0=frame.patch_w_out_px * frame.scale.x,
        h_l0=frame.patch_h_out_px * frame.scale.y,
    )


def has_tissue(origins_out: IntArray, *, rule: TissueRule) -> BoolArray:
    """Return which patches hold enough tissue."""
    enough: BoolArray = tissue_fractions(origins_out, frame=rule.frame, tissue=rule.tissue) >= rule.min_tissue_fraction
    return enough


def is_admissible(origins_out: IntArray, *, rule: TissueRule) -> BoolArray:
    """Return which patches hold enough tissue and none of the unwanted centres."""
    admissible = has_tissue(origins_out, rule=rule)
    if len(rule.unwanted_l0):
        rows = np.flatnonzero(admissible)
        admissible[rows] = ~holds_centre(origins_out[rows], centres_l0=rule.unwanted_l0, frame=rule.frame)
    return admissible


def holds_centre(origins_out: IntArray, *, centres_l0: FloatArray, frame: OutputFrame) -> BoolArray:
    """Return which patches hold at least one of the centres ``(M, 2)``.

    Centres are sorted into cells of a patch's size, so that a patch is compared with those of 2 x 2 cells only.
    """
    size_l0 = np.array([frame.patch_w_out_px * frame.scale.x, frame.patch_h_out_px * frame.scale.y])
    cells = np.floor(centres_l0 / size_l0).astype(np.int64)
    keys = (cells[:, 1] << 32) + cells[:, 0]
    order = np.argsort(keys, kind="stable")
    keys, centres_l0 = keys[order], centres_l0[order]
    first_cells = np.floor(l0_from_out_origins(origins_out, scale=frame.scale) / size_l0).astype(np.int64)
    held = np.zeros(len(origins_out), dtype=np.bool_)
    for start in range(0, len(origins_out), ORIGINS_AT_ONCE >> 6):
        chunk = slice(start, start + (ORIGINS_AT_ONCE >> 6))
        for row in (0, 1):
            first_keys = ((first_cells[chunk, 1] + row) << 32) + first_cells[chunk, 0]
            begin = np.searchsorted(keys, first_keys, side="left")
            n_near = np.searchsorted(keys, first_keys + 1, side="right") - begin
            patches = np.repeat(np.arange(len(n_near)), n_near)
            within = np.arange(len(patches)) - np.repeat(np.cumsum(n_near) - n_near, n_near)
            near = centres_l0[np.repeat(begin, n_near) + within]
            held[chunk][patches[_is_inside(origins_out[chunk][patches], centres_l0=near, frame=frame)]] = True
    return held


def _is_inside(origins_out: IntArray, *, centres_l0: FloatArray, frame: OutputFrame) -> BoolArray:
    """Return whether each patch holds the centre of the same row."""
    x = local_centres(centres_l0[:, 0], origins_out[:, 0], scale=frame.scale.x)
    y = local_centres(centres_l0[:, 1], origins_out[:, 1], scale=frame.scale.y)
    inside: BoolArray = (x >= 0) & (x < frame.patch_w_out_px) & (y >= 0) & (y < frame.patch_h_out_px)
    return inside


def may_have_tissue(corners_out: IntArray, *, side_px: int, rule: TissueRule) -> BoolArray:
    """Return which squares of origins, ``side_px`` wide from their corners on, may hold one with enough tissue.

    Never wrongly False: all windows of a square lie in one larger window, and none has more tissue than that.
    """
    scale, frame = rule.frame.scale, rule.frame
    w_l0, h_l0 = frame.patch_w_out_px * scale.x, frame.patch_h_out_px * scale.y
    union_w_l0 = w_l0 + math.ceil((side_px - 1) * scale.x) + 1
    union_h_l0 = h_l0 + math.ceil((side_px - 1) * scale.y) + 1
    growth = union_w_l0 * union_h_l0 / (w_l0 * h_l0)
    corners_l0 = l0_from_out_origins(corners_out, scale=scale)
    most = rule.tissue.fractions(corners_l0, w_l0=union_w_l0, h_l0=union_h_l0) * growth
    # Fractions are rounded to nine decimals, which the growth magnifies.
    possible: BoolArray = most >= rule.min_tissue_fraction - 1e-6 - 1e-9 * growth
    return possible


def must_have_tissue(corners_out: IntArray, *, side_px: int, rule: TissueRule) -> BoolArray:
    """Return which squares of origins surely hold enough tissue at each of them. Never wrongly True."""
    if rule.min_tissue_fraction == 0:
        return np.ones(len(corners_out), dtype=np.bool_)
    scale, frame = rule.frame.scale, rule.frame
    w_l0, h_l0 = frame.patch_w_out_px * scale.x, frame.patch_h_out_px * scale.y
    common_w_l0 = w_l0 - math.ceil((side_px - 1) * scale.x) - 1
    common_h_l0 = h_l0 - math.ceil((side_px - 1) * scale.y) - 1
    if common_w_l0 <= 0 or common_h_l0 <= 0:
        return np.zeros(len(corners_out), dtype=np.bool_)
    last_l0 = l0_from_out_origins(corners_out + side_px - 1, scale=scale)
    least = rule.tissue.fractions(last_l0, w_l0=common_w_l0, h_l0=common_h_l0)
    certain: BoolArray = least * (common_w_l0 * common_h_l0 / (w_l0 * h_l0)) >= rule.min_tissue_fraction + 1e-6
    return certain


def tissue_map(origins: Rect, *, rule: TissueRule) -> BoolImage:
    """Return `has_tissue` for every origin of a rectangle: ``(H, W)`` bool, row and column = y and x."""
    rows, columns = -(-origins.height // CELL_SIDE_PX), -(-origins.width // CELL_SIDE_PX)
    y, x = np.divmod(np.arange(rows * columns), columns)
    corners = np.stack([x, y], axis=1) * CELL_SIDE_PX + np.array([origins.x0, origins.y0])
    certain = must_have_tissue(corners, side_px=CELL_SIDE_PX, rule=rule)
    open_cells = np.flatnonzero(may_have_tissue(corners, side_px=CELL_SIDE_PX, rule=rule) & ~certain)
    cells = np.repeat(certain[:, None], CELL_SIDE_PX**2, axis=1)
    y_in, x_in = np.divmod(np.arange(CELL_SIDE_PX**2), CELL_SIDE_PX)
    inside = np.stack([x_in, y_in], axis=1)
    cells_at_once = ORIGINS_AT_ONCE // CELL_SIDE_PX**2
    for start in range(0, len(open_cells), cells_at_once):
        chunk = open_cells[start : start + cells_at_once]
        candidates = (corners[chunk, None] + inside).reshape(-1, 2)
        cells[chunk] = has_tissue(candidates, rule=rule).reshape(len(chunk), -1)
    image = cells.reshape(rows, columns, CELL_SIDE_PX, CELL_SIDE_PX).transpose(0, 2, 1, 3)
    return image.reshape(rows * CELL_SIDE_PX, columns * CELL_SIDE_PX)[: origins.height, : origins.width].copy()


def clear_unwanted(allowed: BoolImage, *, origins: Rect, rule: TissueRule) -> BoolImage:
    """Return the map of a rectangle of origins without those whose patch holds an unwanted centre."""
    frame, cleared = rule.frame, allowed.copy()
    x_out = np.arange(origins.x0, origins.x1, dtype=np.int64)
    y_out = np.arange(origins.y0, origins.y1, dtype=np.int64)
    for x_l0, y_l0 in _unwanted_near(origins, rule=rule):
        local_x = local_centres(x_l0, x_out, scale=frame.scale.x)
        local_y = local_centres(y_l0, y_out, scale=frame.scale.y)
        columns = (local_x >= 0) & (local_x < frame.patch_w_out_px)
        rows = (local_y >= 0) & (local_y < frame.patch_h_out_px)
        cleared[np.ix_(rows, columns)] = False
    return cleared


def _unwanted_near(origins: Rect, *, rule: TissueRule) -> FloatArray:
    """Return the unwanted centres that a patch with an origin in the rectangle can hold, and perhaps a few more."""
    frame, (x, y) = rule.frame, rule.unwanted_l0.T
    near = (x >= (origins.x0 - 1) * frame.scale.x) & (x <= (origins.x1 + frame.patch_w_out_px) * frame.scale.x)
    near &= (y >= (origins.y0 - 1) * frame.scale.y) & (y <= (origins.y1 + frame.patch_h_out_px) * frame.scale.y)
    centres: FloatArray = rule.unwanted_l0[near]
    return centres
