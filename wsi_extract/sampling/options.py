"""Settings of the sampler, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Mode = Literal["anchored", "grid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How patches of a slide are placed.

    Raises
    ------
    ValueError
        When a value is out of its range; the message gives the rule and the value.
    """

    mode: Mode
    """``anchored``: around annotations plus random tissue; ``grid``: all tissue, evenly."""
    patches_per_slide: int
    """Patches per slide and split, anchored mode."""
    shares: tuple[float, float, float]
    """Shares of random, hard negative and mitosis patches; sum 1."""
    stride_px: int
    """Step of the grid on both axes, output px."""
    seed: int
    epoch: int = 0
    jitter_fraction: float = 0.5
    """Furthest shift of an anchored patch, as a share of its side."""
    min_margin_px: int = 0
    """Least distance of an anchor's centre from the patch's edge, output px."""
    max_repeats_per_anchor: int | None = None
    random_negatives_only: bool = False
    """Random patches never hold the centre of a target."""
    min_tissue_fraction: float = 0.10
    """Least tissue in random and grid patches, inclusive."""

    def __post_init__(self) -> None:
        if self.mode not in ("anchored", "grid"):
            raise ValueError(f"mode must be 'anchored' or 'grid', got {self.mode!r}")
        _check_shares(self.shares)
        _check_at_least(1, patches_per_slide=self.patches_per_slide, stride_px=self.stride_px)
        _check_at_least(0, seed=self.seed, epoch=self.epoch, min_margin_px=self.min_margin_px)
        if self.max_repeats_per_anchor is not None:
            _check_at_least(1, max_repeats_per_anchor=self.max_repeats_per_anchor)
        if not 0 <= self.jitter_fraction <= 0.5:
            raise ValueError(f"jitter_fraction must be from 0 to 0.5, got {self.jitter_fraction}")
        if not 0 <= self.min_tissue_fraction <= 1:
            raise ValueError(f"min_tissue_fraction must be from 0 to 1, got {self.min_tissue_fraction}")


def _check_shares(shares: tuple[float, float, float]) -> None:
    valid = len(shares) == 3 and all(math.isfinite(share) and share >= 0 for share in shares)
    if not valid or abs(math.fsum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be three numbers of at least 0 with sum 1, got {shares}")


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def stride_from_overlap(size_px: int, *, overlap: float) -> int:
    """Return the step between windows of ``size_px`` of which neighbours share ``overlap`` of their width.

    >>> stride_from_overlap(256, overlap=0.5)
    128

    Raises
    ------
    ValueError
        When ``overlap`` is not in [0, 1), or so large that no step of a whole pixel is left.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, got {overlap}")
    stride_px = round(size_px * (1 - overlap))
    if stride_px < 1:
        raise ValueError(f"overlap {overlap} of a window of {size_px} px leaves a step of less than one pixel")
    return stride_px
