"""The arithmetic of the sampling law: where patches may start, and how many of each kind there are.

All origins are integers of the extraction grid, see `wsi_extract.geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from wsi_extract.arrays import FloatArray, IntArray
from wsi_extract.geometry import Scale, l0_from_out_origins


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorRule:
    """Where a patch may start on one axis so that it holds a given centre."""

    lo_out: int
    """First pixel of the domain."""
    hi_out: int
    """First pixel after the domain."""
    size_px: int
    """Side of the patch, output px."""
    scale: float
    jitter_px: int
    """Furthest shift from the centred position, output px."""
    margin_px: int
    """Least distance of the centre from the patch's edge, output px."""


def feasible_origins(centres_l0: FloatArray, *, rule: AnchorRule) -> tuple[IntArray, IntArray]:
    """Return the first and last origin around each centre on one axis, both inclusive.

    For every origin ``o`` between them the patch lies in the domain, is shifted by at most the jitter, and holds
    the centre: ``margin <= (c_l0 - floor(o * s)) / s < size - margin``. Where the last origin is before the first
    one, there is none.

    Parameters
    ----------
    centres_l0
        ``(N,)`` float64, level-0 px.

    Returns
    -------
    Two ``(N,)`` int64 arrays, extraction grid px.
    """
    cell = np.floor(centres_l0 / rule.scale).astype(np.int64)
    # The floor moves the patch by up to 1/s grid px towards zero, away from the centre.
    floor_shift_px = 0 if float(rule.scale).is_integer() else math.ceil(1 / rule.scale)
    centred = cell - rule.size_px // 2
    lower = np.maximum(cell - rule.size_px + 1 + rule.margin_px + floor_shift_px, centred - rule.jitter_px)
    upper = np.minimum(cell - rule.margin_px, centred + rule.jitter_px)
    # A quotient c/s that was rounded to the next integer would break the promise by one origin.
    lower += local_centres(centres_l0, lower, scale=rule.scale) >= rule.size_px - rule.margin_px
    upper -= local_centres(centres_l0, upper, scale=rule.scale) < rule.margin_px
    return np.maximum(lower, rule.lo_out), np.minimum(upper, rule.hi_out - rule.size_px)


def local_centres(centres_l0: FloatArray, origins_out: IntArray, *, scale: float) -> FloatArray:
    """Return where level-0 coordinates lie in patches at the origins, on one axis, output px."""
    local: FloatArray = (centres_l0 - np.floor(origins_out * scale)) / scale
    return local


def origin_keys(origins_out: IntArray, *, scale: Scale) -> IntArray:
    """Return one number per origin ``(N, 2)``, equal when patches are read from the same level-0 pixel.

    With a scale below 1 several grid origins share one level-0 origin, and with it the patch's file name.
    """
    origins_l0 = l0_from_out_origins(origins_out, scale=scale)
    keys: IntArray = (origins_l0[:, 1] << 32) + origins_l0[:, 0]
    return keys


def quotas(n: int, *, shares: Sequence[float]) -> tuple[int, ...]:
    """Divide ``n`` by the method of the largest remainder; ties go to the first.

    Shares are taken as the decimal numbers they are written as, so that 0.1 of 5 ties with 0.5 of 5.

    >>> quotas(100, shares=(0.1, 0.4, 0.5)), quotas(5, shares=(0.1, 0.4, 0.5))
    ((10, 40, 50), (1, 2, 2))
    """
    exact = [Fraction(repr(float(share))) for share in shares]
    wanted = [n * share / sum(exact) for share in exact]
    counts = [math.floor(value) for value in wanted]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - wanted[i], i))
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


def effective_shares(shares: Sequence[float], *, has_anchors: Sequence[bool]) -> tuple[float, ...]:
    """Give the share of each kind that has no anchor to the first kind, which needs none.

    >>> effective_shares((0.1, 0.4, 0.5), has_anchors=(True, False, True))
    (0.5, 0.0, 0.5)
    """
    moved = [Fraction(repr(float(share))) for share in shares]
    for i in range(1, len(moved)):
        if not has_anchors[i]:
            moved[0] += moved[i]
            moved[i] = Fraction(0)
    return tuple(float(share) for share in moved)
