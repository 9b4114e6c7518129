"""Planes, scales and rectangles: the one place where coordinates change their plane.

Three pixel planes occur, and every name of a coordinate carries one of them:

``_l0``
    pixels of level 0, the slide's full resolution; annotations live here.
``_lv``
    pixels of the pyramid level that is read.
``_out``
    pixels of the output patch. ``scale`` = level-0 pixels per output pixel, an exact float per axis.

The *extraction grid* is the whole slide at output resolution: an integer origin ``o_out`` on it is read from
level-0 pixel ``floor(o_out * scale)``. Pixels and boxes use that same level-0 origin, so that for every object

    xy_l0 == origin_l0 + xy_patch * scale

All intervals are half-open, ``[start, stop)``. Pure: knows nothing of slides, files or configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from wsi_extract.arrays import BoolImage, CountImage, FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Rect:
    """A half-open rectangle of whole pixels, ``[x0, x1) x [y0, y1)``; the owner's name tells the plane."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Columns covered, never negative."""
        return max(0, self.x1 - self.x0)

    @property
    def height(self) -> int:
        """Rows covered, never negative."""
        return max(0, self.y1 - self.y0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Level-0 pixels per output pixel, per axis; above 1 the output is coarser than the slide."""

    x: float
    y: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x) and math.isfinite(self.y) and self.x > 0 and self.y > 0):
            raise ValueError(f"a scale must be positive and finite, got {self.x} x {self.y}")


def l0_from_out_origins(origins_out: IntArray, *, scale: Scale) -> IntArray:
    """Convert grid origins ``(N, 2)``, columns (x, y), to the level-0 pixels they are read from.

    The floor, also below zero, where ``int()`` would round towards the slide.
    """
    factors = np.array([scale.x, scale.y], dtype=np.float64)
    return np.floor(origins_out * factors).astype(np.int64)


def out_from_l0_domain(domain_l0: Rect, *, scale: Scale) -> Rect:
    """Return the largest grid rectangle whose level-0 footprint lies inside ``domain_l0``.

    In exact arithmetic: a quotient rounded to a whole number would let patches start one pixel outside.
    """
    scale_x, scale_y = Fraction(scale.x), Fraction(scale.y)
    return Rect(
        x0=math.ceil(domain_l0.x0 / scale_x),
        y0=math.ceil(domain_l0.y0 / scale_y),
        x1=math.floor(domain_l0.x1 / scale_x),
        y1=math.floor(domain_l0.y1 / scale_y),
    )


def out_from_l0_boxes(boxes_l0: FloatArray, *, origin_l0_xy: tuple[int, int], scale: Scale) -> FloatArray:
    """Move level-0 boxes ``(N, 4)`` (x0, y0, x1, y1) into the pixels of the patch read at ``origin_l0_xy``."""
    origin = np.array([*origin_l0_xy, *origin_l0_xy], dtype=np.float64)
    factors = np.array([scale.x, scale.y, scale.x, scale.y], dtype=np.float64)
    return (boxes_l0 - origin) / factors


def grid_starts(lo: int, hi: int, *, size: int, stride: int) -> IntArray:
    """Return the starts of windows of ``size`` that cover ``[lo, hi)`` without leaving it.

    Windows are ``stride`` apart; when the last one does not end at ``hi``, one more is placed flush with it.
    An interval shorter than ``size`` holds no window.

    >>> grid_starts(0, 10, size=4, stride=4).tolist()
    [0, 4, 6]
    """
    if size < 1 or stride < 1:
        raise ValueError(f"window size and stride must be at least 1 px, got {size} and {stride}")
    last = hi - size
    if last < lo:
        return np.empty(0, dtype=np.int64)
    starts = np.arange(lo, last + 1, stride, dtype=np.int64)
    return starts if starts[-1] == last else np.append(starts, last)


def integral_image(mask: BoolImage) -> CountImage:
    """Return the summed-area table of ``mask``: ``(H + 1, W + 1)`` int32, zero in the first row and column.

    Raises
    ------
    ValueError
        When the mask has more pixels than an int32 counts.
    """
    if mask.size > np.iinfo(np.int32).max:
        raise ValueError(f"a mask of {mask.shape[1]} x {mask.shape[0]} px is too large for its summed-area table")
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int32)
    np.cumsum(mask, axis=0, dtype=np.int32, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, dtype=np.int32, out=table[1:, 1:])
    return table


def _interpolate(table: CountImage, x: FloatArray, y: FloatArray) -> FloatArray:
    """Read the summed-area table between its nodes: exact, because the mask is constant inside a pixel."""
    x_lo = np.minimum(np.floor(x).astype(np.int64), table.shape[1] - 2)
    y_lo = np.minimum(np.floor(y).astype(np.int64), table.shape[0] - 2)
    fx, fy = x - x_lo, y - y_lo
    top = table[y_lo, x_lo] * (1 - fx) + table[y_lo, x_lo + 1] * fx
    bottom = table[y_lo + 1, x_lo] * (1 - fx) + table[y_lo + 1, x_lo + 1] * fx
    result: FloatArray = top * (1 - fy) + bottom * fy
    return result


def covered_area(table: CountImage, boxes: FloatArray) -> FloatArray:
    """Return the area of set mask pixels inside each box, weighting pixels cut by the border by their share.

    Parameters
    ----------
    table
        Summed-area table of the mask, see `integral_image`.
    boxes
        ``(N, 4)`` float64, columns (x0, y0, x1, y1) in mask pixels; parts outside the mask count as unset.

    Returns
    -------
    ``(N,)`` float64, square mask pixels.
    """
    height, width = table.shape[0] - 1, table.shape[1] - 1
    if height == 0 or width == 0:
        return np.zeros(len(boxes), dtype=np.float64)
    x0, x1 = np.clip(boxes[:, 0], 0, width), np.clip(boxes[:, 2], 0, width)
    y0, y1 = np.clip(boxes[:, 1], 0, height), np.clip(boxes[:, 3], 0, height)
    return (
        _interpolate(table, x1, y1)
        - _interpolate(table, x0, y1)
        - _interpolate(table, x1, y0)
        + _interpolate(table, x0, y0)
    )
