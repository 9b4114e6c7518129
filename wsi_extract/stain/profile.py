"""What both methods share: three numbers per colour channel, and the reasons that make a measurement unsafe."""

from __future__ import annotations

from math import ceil
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import FloatArray
from wsi_extract.errors import WsiExtractError

Triple: TypeAlias = tuple[float, float, float]
PixelArray: TypeAlias = npt.NDArray[np.uint8]
"""(N, 3) uint8, RGB."""

MIN_TISSUE_PIXELS = 1000
"""Percentiles and deviations of fewer pixels are those of a few cells."""
MIN_TISSUE_SHARE = 0.02
"""Of the sampled pixels; when fewer are stained, they are the specks and the grain of pale tissue."""
MAX_GREY_SPREAD = 2
"""Grey levels; rounding leaves one or two between the channels of a grey JPEG."""
GAIN_RANGE = (0.1, 5.0)
"""A stain, or a contrast, may be multiplied by this; beyond it, grain becomes tissue or tissue becomes flat."""


class UnsafeStainError(WsiExtractError):
    """The pixels do not tell how the tissue is stained; the message is one sentence for the user."""


def rounded(values: FloatArray) -> tuple[float, ...]:
    """Return nine digits behind the point: what remains is the same with every build of the linear algebra library."""
    return tuple(round(float(value), 9) + 0.0 for value in np.ravel(values))


def triple(values: FloatArray) -> Triple:
    """Return three numbers, rounded."""
    first, second, third = rounded(values)
    return first, second, third


def check_count(n_found: int, *, n_pixels: int, kind: str) -> None:
    """Refuse to measure a handful of pixels.

    Raises
    ------
    UnsafeStainError
        When there are no pixels at all, or fewer than `MIN_TISSUE_PIXELS` or `MIN_TISSUE_SHARE` were found.
    """
    if not n_pixels:
        raise UnsafeStainError("no tissue was found")
    n_needed = max(MIN_TISSUE_PIXELS, ceil(MIN_TISSUE_SHARE * n_pixels))
    if n_found < n_needed:
        raise UnsafeStainError(
            f"too little stained tissue: {n_found} of {n_pixels} sampled pixels are {kind}, "
            f"at least {n_needed} are needed"
        )


def check_colour(pixels: PixelArray) -> None:
    """Refuse pixels whose three channels hold the same picture.

    Raises
    ------
    UnsafeStainError
        When no pixel has more than `MAX_GREY_SPREAD` between its channels.
    """
    if int(np.ptp(pixels, axis=1).max()) <= MAX_GREY_SPREAD:
        raise UnsafeStainError("the picture is grey, not a colour picture")


def told_from(value: float, limit: float) -> str:
    """Return a number with as many digits as it takes to see that it is not the limit.

    >>> told_from(7.996, 8), told_from(18.72, 8)
    ('7.996', '18.7')
    """
    for n_digits in range(3, 9):
        text = f"{value:.{n_digits}g}"
        if float(text) != round(limit, 9):
            return text
    return repr(value)


def check_gains(gains: dict[str, float]) -> None:
    """Refuse factors that would amplify grain, or wipe out the tissue.

    Raises
    ------
    UnsafeStainError
        When a factor is not finite or outside `GAIN_RANGE`.
    """
    low, high = GAIN_RANGE
    for name, gain in gains.items():
        if not low <= gain <= high:
            factor = told_from(gain, low if gain < low else high)
            raise UnsafeStainError(
                f"the {name} would have to be multiplied by {factor} to match the target; "
                f"{low:g} to {high:g} is considered safe"
            )
