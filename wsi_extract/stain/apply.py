"""Map windows of pixels fast: single-precision vector code, in strips that fit into the cache.

Every pixel is mapped by itself, and to the same value wherever it stands in whatever window. That is not given: OpenCV
computes the last pixels of a row by other instructions than the rest, which may round otherwise. Hence the pixels of
a strip are laid in one long row, and its last ones are padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import RgbImage
from wsi_extract.stain.macenko import densities_of
from wsi_extract.stain.reinhard import FADE_GREYS, LMS_FROM_RGB

FloatArray32: TypeAlias = npt.NDArray[np.float32]
FloatRow: TypeAlias = npt.NDArray[np.float32]
"""(1, n, 3) float32."""

_STRIP_PX = 16384
"""A few rows of so many pixels stay in a second-level cache of 1 MB."""
_VECTOR_PX = 32
"""A multiple of the pixels that any vector instruction handles at once."""
_MAX_LOG = 12.0
"""Far brighter than white (5.5); the exponential of more might not be finite."""


def map_densities(rgb: RgbImage, matrix: FloatArray32) -> RgbImage:
    """Return the image whose optical densities are those of ``rgb`` times the ``(3, 4)`` matrix, offset last.

    Densities are ``-ln(max(I, 1) / 255)``; what would be brighter than white is white.
    """
    out = np.empty(rgb.shape, dtype=np.uint8)
    light = -matrix
    light[:, 3] += np.float32(np.log(255))
    row, work = _rows_for(rgb, n_rows=2)
    for strip, target, n_px in _strips(rgb, out):
        cv2.LUT(strip, _density_table(), dst=row[0, :n_px].reshape(strip.shape))
        cv2.transform(row, light, dst=work)
        cv2.exp(work, dst=work)
        cv2.threshold(work, 255, 0, cv2.THRESH_TRUNC, dst=work)  # beyond 2**31 the conversion to bytes gives 0
        cv2.convertScaleAbs(work[0, :n_px].reshape(strip.shape), dst=target)
    return out


def map_log_lms(rgb: RgbImage, matrix: FloatArray32) -> RgbImage:
    """Return the image whose logarithmic LMS are those of ``rgb`` mapped by the ``(3, 4)`` matrix, offset last.

    Between the two `FADE_GREYS` the change fades out; what is brighter stays.
    """
    out = np.empty(rgb.shape, dtype=np.uint8)
    into, back, share_of = _lms_matrices()
    row, work, share, ones = _rows_for(rgb, n_rows=4)
    ones.fill(1)
    for strip, target, n_px in _strips(rgb, out):
        np.copyto(row[0, :n_px].reshape(strip.shape), strip)
        cv2.transform(row, into, dst=share)
        cv2.max(share, ones, dst=share)
        cv2.log(share, dst=share)
        cv2.transform(share, matrix, dst=work)
        cv2.threshold(work, _MAX_LOG, 0, cv2.THRESH_TRUNC, dst=work)
        cv2.exp(work, dst=share)
        cv2.transform(share, back, dst=work)
        cv2.threshold(work, 255, 0, cv2.THRESH_TRUNC, dst=work)  # else half of too much light outshines glass
        cv2.transform(row, share_of, dst=share)
        cv2.threshold(share, 1, 0, cv2.THRESH_TRUNC, dst=share)
        cv2.threshold(share, 0, 0, cv2.THRESH_TOZERO, dst=share)
        cv2.subtract(work, row, dst=work)
        cv2.multiply(work, share, dst=work)
        cv2.add(work, row, dst=work)
        cv2.threshold(work, 0, 0, cv2.THRESH_TOZERO, dst=work)  # the conversion to bytes takes absolute values
        cv2.convertScaleAbs(work[0, :n_px].reshape(strip.shape), dst=target)
    return out


def _strips(rgb: RgbImage, out: RgbImage) -> Iterator[tuple[RgbImage, RgbImage, int]]:
    """Yield strips of the image, the same strips of the result, and the number of their pixels."""
    rows = _rows_per_strip(rgb)
    for y in range(0, len(rgb) if rgb.size else 0, rows):
        strip = rgb[y : y + rows]
        yield strip, out[y : y + rows], strip.shape[0] * strip.shape[1]


def _rows_per_strip(rgb: RgbImage) -> int:
    """Return the height of strips of nearly equal size."""
    height, width = len(rgb), int(rgb.shape[1])
    n_strips = max(1, -(-height * width // _STRIP_PX))
    return max(1, -(-height // n_strips))


def _rows_for(rgb: RgbImage, *, n_rows: int) -> FloatArray32:
    """Return ``(n_rows, 1, n, 3)`` memory for the pixels of a strip and the padding behind them."""
    n_px = _rows_per_strip(rgb) * rgb.shape[1]
    n_padded = (-(-n_px // _VECTOR_PX) + 1) * _VECTOR_PX
    rows = np.empty((n_rows, 1, n_padded, 3), dtype=np.float32)
    rows[0, 0, n_px:] = 1  # what happened to lie there might overflow
    return rows


@cache
def _density_table() -> FloatArray32:
    """Return the optical density of every grey level, ``(256,)``."""
    grey = np.arange(256, dtype=np.uint8)
    return np.ascontiguousarray(densities_of(grey), dtype=np.float32)


@cache
def _lms_matrices() -> tuple[FloatArray32, FloatArray32, FloatArray32]:
    """Return LMS from RGB, RGB from LMS, and the share of the change that a pixel of RGB gets, three times."""
    into = np.array(LMS_FROM_RGB, dtype=np.float64)
    full, none = FADE_GREYS
    slope = -1 / (3 * (none - full))
    share = np.tile(np.array([slope, slope, slope, -3 * none * slope]), (3, 1))
    return into.astype(np.float32), np.linalg.inv(into).astype(np.float32), share.astype(np.float32)
