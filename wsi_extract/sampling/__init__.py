"""Sampling: where the patches of a slide are. Pure; nothing here opens a slide or a file.

    options        settings
    law            origins around an anchor, quotas: the arithmetic
    randomness     random numbers keyed by what they are for
    anchored       patches around annotations
    tissue_rule    which origins hold enough tissue
    random_draw    patches anywhere on tissue
    grid           patches everywhere on tissue
    draft, plan    all of it for one slide, ordered and accounted for
    coverage       which pixels of a slide some patch can need
    chances        the arithmetic of shares and weights
    online, online_slide   the law of an epoch drawn anew, for training

A mitosis or hard-negative patch always holds its annotation's centre, and its origin is uniform over all origins for
which that is so, within the jitter. Nothing is clamped, so patches do not pile up at the borders.
"""

from wsi_extract.sampling.coverage import CoverageScene, needed_chunks
from wsi_extract.sampling.grid import MAX_PATCHES, check_grid, count_positions
from wsi_extract.sampling.online import Balance, OnlineDraw, OnlineLaw, OnlineOptions
from wsi_extract.sampling.online_slide import OnlineSlide
from wsi_extract.sampling.options import SamplingOptions, stride_from_overlap
from wsi_extract.sampling.plan import plan_slide

__all__ = [
    "MAX_PATCHES",
    "Balance",
    "CoverageScene",
    "OnlineDraw",
    "OnlineLaw",
    "OnlineOptions",
    "OnlineSlide",
    "SamplingOptions",
    "check_grid",
    "count_positions",
    "needed_chunks",
    "plan_slide",
    "stride_from_overlap",
]
