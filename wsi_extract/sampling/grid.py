"""The grid plan: evenly spaced patches over all tissue, without jitter or re-weighting."""

from __future__ import annotations

import numpy as np

from wsi_extract.arrays import IntArray
from wsi_extract.geometry import Rect, grid_starts
from wsi_extract.sampling.tissue_rule import ORIGINS_AT_ONCE, TissueRule, has_tissue


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
    """
    frame = rule.frame
    x = axis_starts(
        domain_out.x0, domain_out.x1, size_px=frame.patch_w_out_px, stride_px=stride_px, scale=frame.scale.x
    )
    y = axis_starts(
        domain_out.y0, domain_out.y1, size_px=frame.patch_h_out_px, stride_px=stride_px, scale=frame.scale.y
    )
    kept = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(x) * len(y), ORIGINS_AT_ONCE):
        row, column = np.divmod(np.arange(start, min(start + ORIGINS_AT_ONCE, len(x) * len(y))), len(x))
        positions = np.stack([x[column], y[row]], axis=1)
        kept.append(positions[has_tissue(positions, rule=rule)])
    return np.concatenate(kept)
