"""Tell tissue from glass on a low-magnification image of a slide.

Pure: image in, boolean mask of the same size out. Tuned for haematoxylin and eosin at about 4 um per pixel. It errs
on the side of tissue: a patch too many costs time, a piece of pale stroma left out is never seen again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np

from wsi_extract.arrays import BoolImage, GrayImage, RgbImage

TissueMethod: TypeAlias = Literal["lab", "hsv"]

NOMINAL_UM_PER_PX = 4.0
"""Assumed for images of unknown resolution: a mask at 2.5x."""

SMOOTHING_UM = 6.0
"""Standard deviation of the smoothing: kills noise, keeps strands of stroma."""
GAP_UM = 40.0
"""Gaps narrower than this are closed: lumina, cracks, walls of fat cells."""
STRAND_UM = 12.0
"""Structures thinner than this are removed: dust, threads, edges of the cover slip."""
SPECK_UM2 = 80.0**2
"""Islands of tissue smaller than this are dirt."""
HOLE_UM2 = 120.0**2
"""Holes smaller than this belong to the tissue: fat cells, vessels, glands."""
PEN_FRINGE_UM = 30.0
"""Around a pen mark colours mix with the glass and look like eosin."""

# Eight-bit LAB: L is 0..255, a and b are offset by 128.
_MAX_L_RANGE = (230, 240)
"""Tissue is darker than Otsu's threshold, which is kept between pale stroma and glass."""
_MIN_A = 128 + 4
"""Tissue is pinker than this; glass, grey dust and black are not."""
_MAX_SATURATION_RANGE = (12, 18)
"""Otsu's threshold on the saturation, kept between tinted glass and pale stroma."""
_MIN_VALUE = 40
"""Below this brightness saturation is noise."""

_STRIP_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """The sizes above in pixels of one image."""

    smoothing_px: float
    gap_px: int
    strand_px: int
    fringe_px: int
    speck_px: float
    hole_px: float


def _sizes_at(um_per_px: float | None) -> _Sizes:
    um = NOMINAL_UM_PER_PX if um_per_px is None else um_per_px
    return _Sizes(
        smoothing_px=max(0.8, SMOOTHING_UM / um),
        gap_px=_odd(GAP_UM / um),
        strand_px=_odd(STRAND_UM / um),
        fringe_px=_odd(2 * PEN_FRINGE_UM / um),
        speck_px=SPECK_UM2 / um**2,
        hole_px=HOLE_UM2 / um**2,
    )


def _odd(size_px: float) -> int:
    """Return the odd number nearest to ``size_px``, at least 1: the width of a centred structuring element."""
    return max(1, 2 * round((size_px - 1) / 2) + 1)


def segment_tissue(rgb: RgbImage, *, method: TissueMethod, um_per_px: float | None) -> BoolImage:
    """Return where an overview image shows stained tissue.

    An image without tissue (glass, grey, black, pen only) gives an empty mask.

    Parameters
    ----------
    rgb
        ``(H, W, 3)`` uint8, transparent areas already white.
    method
        ``lab``: darker than glass (Otsu's threshold on L, within bounds) and pink to purple (a*), without pen marks.
        ``hsv``: Otsu's threshold, within bounds, on the median-filtered saturation, without pen marks.
    um_per_px
        Size of the image's pixels, which turns the sizes of this module into pixels; ``None`` assumes
        `NOMINAL_UM_PER_PX`.

    Returns
    -------
    ``(H, W)`` bool.

    Raises
    ------
    ValueError
        When the image has another shape or type, the method is unknown or the resolution is not positive.

    Notes
    -----
    Thresholds on a whole slide follow N. Otsu, IEEE Trans. SMC 9 (1979); bounds are needed because Otsu's method
    always finds two classes, also on a slide that is all glass or all tissue.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"an overview must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    if method not in ("lab", "hsv"):
        raise ValueError(f"the method must be lab or hsv, got {method!r}")
    if um_per_px is not None and not um_per_px > 0:
        raise ValueError(f"the resolution must be positive, got {um_per_px} um per px")
    if rgb.size == 0:
        return np.zeros(rgb.shape[:2], dtype=np.bool_)
    sizes = _sizes_at(um_per_px)
    smooth = cv2.GaussianBlur(rgb, (0, 0), sizes.smoothing_px, borderType=cv2.BORDER_REPLICATE).astype(
        np.uint8, copy=False
    )
    found = _stained_by_lab(smooth) if method == "lab" else _stained_by_saturation(smooth)
    found &= ~_near_pen(smooth, sizes=sizes)
    del smooth  # the largest buffer; what follows needs room
    return _tidy(found, sizes=sizes)


def _in_strips(function: Callable[[RgbImage], GrayImage], rgb: RgbImage) -> GrayImage:
    """Apply a function of single pixels strip by strip, so that its intermediate images stay small."""
    out = np.empty(rgb.shape[:2], dtype=np.uint8)
    for y in range(0, len(rgb), _STRIP_ROWS):
        out[y : y + _STRIP_ROWS] = function(rgb[y : y + _STRIP_ROWS])
    return out


def _bounded_otsu(channel: cv2.typing.MatLike, *, bounds: tuple[int, int]) -> float:
    threshold, _ = cv2.threshold(channel, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return min(max(threshold, bounds[0]), bounds[1])


def _stained_by_lab(rgb: RgbImage) -> BoolImage:
    lightness = np.empty(rgb.shape[:2], dtype=np.uint8)
    is_reddish = np.empty(rgb.shape[:2], dtype=np.bool_)
    for y in range(0, len(rgb), _STRIP_ROWS):
        lab = cv2.cvtColor(rgb[y : y + _STRIP_ROWS], cv2.COLOR_RGB2LAB)
        lightness[y : y + _STRIP_ROWS] = lab[..., 0]
        is_reddish[y : y + _STRIP_ROWS] = lab[..., 1] >= _MIN_A
    stained: BoolImage = lightness < _bounded_otsu(lightness, bounds=_MAX_L_RANGE)
    return stained & is_reddish


def _stained_by_saturation(rgb: RgbImage) -> BoolImage:
    saturation = cv2.medianBlur(_in_strips(_saturation, rgb), 7).astype(np.uint8, copy=False)
    stained: BoolImage = saturation > _bounded_otsu(saturation, bounds=_MAX_SATURATION_RANGE)
    return stained


def _saturation(rgb: RgbImage) -> GrayImage:
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    saturation: GrayImage = np.where(hsv[..., 2] < _MIN_VALUE, 0, hsv[..., 1]).astype(np.uint8, copy=False)
    return saturation


def _near_pen(rgb: RgbImage, *, sizes: _Sizes) -> BoolImage:
    """Return pen marks and their fringes."""
    return cv2.dilate(_in_strips(_pen, rgb), _disk(sizes.fringe_px)).astype(np.bool_)


def _pen(rgb: RgbImage) -> GrayImage:
    """Return 1 on pen marks.

    Eosin and haematoxylin absorb green most, so that tissue has R > G < B, hardly ever G > R. Green and blue ink
    have G > R or hardly any R and G; red ink has next to no blue and green; black ink is dark without colour.
    """
    red, green, blue = cv2.split(rgb)
    over_red = cv2.subtract(green, red)  # saturates at 0
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    cold = (over_red > 12) & (spread > 30)
    hot = (cv2.subtract(red, cv2.max(green, blue)) > 125) & (cv2.absdiff(green, blue) < 60)
    black = (red < 70) & (spread < 22)
    violet = cv2.subtract(blue, cv2.max(red, green)) > 100
    pen: GrayImage = (cold | hot | violet | black).astype(np.uint8)
    return pen


def _disk(width_px: int) -> GrayImage:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width_px, width_px)).astype(np.uint8, copy=False)


def _tidy(found: BoolImage, *, sizes: _Sizes) -> BoolImage:
    """Remove threads, close gaps, drop specks and fill holes, in this order: closing first would join dust."""
    mask = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, _disk(sizes.strand_px))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disk(sizes.gap_px))
    kept = _drop_small(mask.astype(np.uint8, copy=False), min_area_px=sizes.speck_px)
    background = (~kept).astype(np.uint8)
    return ~_drop_small(background, min_area_px=sizes.hole_px)


def _drop_small(mask: GrayImage, *, min_area_px: float) -> BoolImage:
    """Return ``mask`` without its connected components of less than ``min_area_px``."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area_px
    large[0] = False  # label 0 is what the mask leaves out
    kept = np.empty(mask.shape, dtype=np.bool_)
    for y in range(0, len(mask), _STRIP_ROWS):  # the look-up widens its index to 8 bytes per pixel
        kept[y : y + _STRIP_ROWS] = large[labels[y : y + _STRIP_ROWS]]
    return kept
