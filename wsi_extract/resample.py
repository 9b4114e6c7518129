"""Cut one output patch out of a window of level pixels, at sub-pixel position and any scale.

Pure: knows nothing of slides or levels; positions are pixels of the window. The pixel in column j covers
``[j, j + 1)``, so that a patch of extent w shown with n columns has its column i at ``x + (i + 0.5) * w / n``.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from wsi_extract.arrays import RgbImage

BICUBIC_SUPPORT_PX = 2.0
"""Reach of Pillow's bicubic filter on each side of a sample, in pixels of the coarser image."""
_ROUNDING_PX = 1e-6


def support_px(scale: float) -> int:
    """Return how many window pixels around a patch its pixels depend on, for ``scale`` window px per output px.

    A patch cut from two windows that both hold this margin around it is the same byte for byte. One pixel more
    than the filter's reach, because the filter's ends are rounded to whole pixels.

    >>> support_px(0.5), support_px(1.0), support_px(4.0)
    (3, 3, 9)
    """
    return math.ceil(BICUBIC_SUPPORT_PX * max(scale, 1.0)) + 1


def cut_patch(
    window: RgbImage, *, x_px: float, y_px: float, w_px: float, h_px: float, out_wh: tuple[int, int]
) -> RgbImage:
    """Return the part of ``window`` at ``[x, x + w) x [y, y + h)`` as a patch of ``out_wh`` pixels.

    Whole-pixel positions at scale 1 are copied; everything else is resampled with an antialiased bicubic filter.
    Pixels beyond the window's edge do not exist for the filter: leave `support_px` around the patch wherever the
    slide goes on, and the result does not depend on the window.

    Parameters
    ----------
    window
        ``(H, W, 3)`` uint8.
    x_px, y_px, w_px, h_px
        Position and extent in window pixels, inside the window. For a result independent of the window, compute
        the position as ``position_lv - window_origin_lv`` with a whole-numbered origin: that difference is exact.
    out_wh
        Width and height of the patch, output pixels.

    Returns
    -------
    ``(out_h, out_w, 3)`` uint8, C-contiguous, never a view of the window.

    Raises
    ------
    ValueError
        When the part is empty or reaches outside the window by more than rounding.
    """
    (out_w, out_h), (height, width) = out_wh, window.shape[:2]
    fits_x = x_px >= 0 and x_px + w_px <= width + _ROUNDING_PX
    fits_y = y_px >= 0 and y_px + h_px <= height + _ROUNDING_PX
    if not (fits_x and fits_y) or min(w_px, h_px) <= 0 or min(out_wh) < 1:
        raise ValueError(
            f"the part at ({x_px}, {y_px}) of {w_px} x {h_px} px, shown as {out_w} x {out_h}, "
            f"must be inside the window of {width} x {height} px and not empty"
        )
    if x_px == int(x_px) and y_px == int(y_px) and (w_px, h_px) == (out_w, out_h):
        return window[int(y_px) : int(y_px) + out_h, int(x_px) : int(x_px) + out_w].copy()
    x_start, x_stop = _neighbourhood(x_px, extent_px=w_px, n_out=out_w, window_px=width)
    y_start, y_stop = _neighbourhood(y_px, extent_px=h_px, n_out=out_h, window_px=height)
    x0, y0 = x_px - x_start, y_px - y_start
    image = Image.fromarray(np.ascontiguousarray(window[y_start:y_stop, x_start:x_stop]))
    box = (x0, y0, min(x0 + w_px, image.width), min(y0 + h_px, image.height))
    return np.array(image.resize(out_wh, Image.Resampling.BICUBIC, box=box), dtype=np.uint8)


def _neighbourhood(start_px: float, *, extent_px: float, n_out: int, window_px: int) -> tuple[int, int]:
    """Return the whole pixels ``[start, stop)`` a patch depends on, on one axis.

    Pillow keeps the box in single precision; cutting the neighbourhood out first keeps the numbers small and, as
    the margin is always the same, equal for every window the patch may be cut from.
    """
    margin = support_px(extent_px / n_out)
    first = math.floor(start_px)
    last = first + math.ceil(start_px - first + extent_px)
    return max(0, first - margin), min(window_px, last + margin)
