"""The grid plan: evenly spaced patches over all tissue, without jitter or re-weighting."""

from __future__ import annotations

import numpy as np

from wsi_extract.arrays import IntArray
from wsi_extract.errors import SlideError
from wsi_extract.geometry import Rect, grid_starts, out_from_l0_domain
from wsi_extract.model import OutputFrame, SlideInfo
from wsi_extract.sampling.tissue_rule import ORIGINS_AT_ONCE, TissueRule, has_tissue

MAX_POSITIONS = 2**30
"""Of a grid, before tissue is asked for: some minutes of looking."""
MAX_PATCHES = 10_000_000
"""Of one slide: a plan of more could not be read back, see `wsi_extract.state.plans.MAX_PLAN_BYTES`."""
REMEDY_STRIDE = "Choose a larger --stride_px, a smaller --overlap, a larger --patch_size or a coarser --mpp."


def check_grid(info: SlideInfo, frame: OutputFrame, *, stride_px: int) -> None:
    """Refuse a grid that no plan can hold, by its numbers alone.

    Raises
    ------
    SlideError
        With the number of positions and what to change.
    """
    n_positions = count_positions(info, frame, stride_px=stride_px)
    if n_positions > MAX_POSITIONS:
        raise SlideError(
            f"slide {info.slide_id}: a grid of {n_positions:,} positions, {stride_px} px apart ({info.path}); "
            f"the limit is {MAX_POSITIONS:,}.",
            REMEDY_STRIDE,
        )


def count_positions(info: SlideInfo, frame: OutputFrame, *, stride_px: int) -> int:
    """Return how many positions the grid of a whole slide has; at least as many as there are patches."""
    domain = out_from_l0_domain(info.domain_l0, scale=frame.scale)
    n_x, n_y = (
        max(0, -(-(length - size) // stride_px) + 1)
        for length, size in ((domain.width, frame.patch_w_out_px), (domain.height, frame.patch_h_out_px))
    )
    return n_x * n_y


def axis_starts(lo_out: int, hi_out: int, *, size_px: int, stride_px: int, scale: float) -> IntArray:
    """Return the starts that cover ``[lo_out, hi_out)``, no two of them read from the same level-0 pixel.

    With a scale below 1 the last start, flush with the end, can be read from the same pixel as the one before it.
    """
    starts = grid_starts(lo_out, hi_out, size=size_px, stride=stride_px)
    _, first = np.unique(np.floor(starts * scale), return_index=True)
    return starts[first]


def grid_origins(domain_out: Rect, *, stride_px: int, rule: TissueRule) -> IntArray:
    """Return the origins ``(N, 2)`` of the grid positions with enough tissue, row by row.

    Without the tissue rule they cover every pixel of the domain, as long as the stride is at most the patch's side.
    The search ends as soon as there are more than `MAX_PATCHES`, which is for the caller to refuse.
    """
    frame = rule.frame
    x = axis_starts(
        domain_out.x0, domain_out.x1, size_px=frame.patch_w_out_px, stride_px=stride_px, scale=frame.scale.x
    )
    y = axis_starts(
        domain_out.y0, domain_out.y1, size_px=frame.patch_h_out_px, stride_px=stride_px, scale=frame.scale.y
    )
    kept = [np.empty((0, 2), dtype=np.int64)]
    n_kept = 0
    for start in range(0, len(x) * len(y), ORIGINS_AT_ONCE):
        row, column = np.divmod(np.arange(start, min(start + ORIGINS_AT_ONCE, len(x) * len(y))), len(x))
        positions = np.stack([x[column], y[row]], axis=1)
        kept.append(positions[has_tissue(positions, rule=rule)])
        n_kept += len(kept[-1])
        if n_kept > MAX_PATCHES:
            break
    return np.concatenate(kept)
