"""Mean and standard deviation of tissue in the l-alpha-beta space of Ruderman, after Reinhard.

E. Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21(5), 2001, with that
paper's matrices (RGB to LMS, eq. 4; l-alpha-beta, eq. 6), natural logarithms of grey levels 0 .. 255, and statistics
over tissue only, as HistomicsTK has it, whose published reference is thereby usable. Some packages use CIELAB
instead; their statistics do not fit here.

LMS below one grey level counts as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from wsi_extract.arrays import FloatArray
from wsi_extract.stain.profile import (
    GAIN_RANGE,
    PixelArray,
    Triple,
    UnsafeStainError,
    check_colour,
    check_count,
    check_gains,
    told_from,
    triple,
)

LMS_FROM_RGB = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
MAX_TISSUE_GREY = 220.0
"""A pixel is tissue when the mean of its channels is at most this; glass is brighter."""
FADE_GREYS = (200.0, 235.0)
"""Means of the channels between which the change falls from all to nothing. Glass is 235 to 246 in scans, not 255.
Tissue reaches the mean of its target to 0.03 and the deviation to 5 %. A fade that begins later is steeper: paler
tissue would end up darker."""
MAX_SHIFTS = (2.0, 0.35, 0.12)
"""Largest change of the mean of l, alpha and beta: a factor of 3 in brightness; colours from eosin to haematoxylin."""
MEAN_ALPHA_RANGE = (-0.8, 0.04)
"""Pale scans have -0.04, dark ones -0.45; the yellowest published eosin alone 0.02, random colours 0.05."""
MIN_COLOUR = 0.03
"""Length of mean alpha and beta; the palest tissue has 0.05, grey pixels 0.00."""
MEAN_BETA_RANGE = (-0.05, 0.2)
"""Haematoxylin alone has -0.01, eosin alone 0.1; green and blue inks less, red ones more."""
MAX_COLOUR_DEVIATIONS = (0.5, 0.15)
"""Of alpha and beta; a scan whose stain was doubled has 0.33 and 0.09, random colours 0.60 and 0.13."""
MIN_REDNESS_CORRELATION = -0.97
"""Of l with beta. Eosin alone grows redder as it grows darker, -0.98 with much grain; haematoxylin breaks that."""
GREEN_LEAD = 20
"""Grey levels by which green pixels are brighter in green than in red and in blue."""
MAX_GREEN_SHARE = 0.05
"""Of tissue; neither stain is green, a scan with fringes and refracting specks holds up to 0.02 in places."""
_AXES = ("brightness", "yellow-blue contrast", "red-green contrast")
_MIN_DEVIATION = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourStatistics:
    """The colours of the tissue of one picture; l, alpha and beta."""

    mean: Triple
    deviation: Triple


REFERENCE = ColourStatistics(mean=(8.74108109, -0.12440419, 0.0444982), deviation=(0.6135447, 0.10989545, 0.0286032))
"""A region of TCGA-A2-A3XS-DX1 (Amgad et al., Bioinformatics 2019), the reference that HistomicsTK documents."""


def lab_from_log_lms() -> FloatArray:
    """Return the (3, 3) orthonormal matrix from ln LMS to l-alpha-beta."""
    scale = np.diag([1 / sqrt(3), 1 / sqrt(6), 1 / sqrt(2)])
    matrix: FloatArray = scale @ np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])
    return matrix


def lab_of(pixels: PixelArray) -> FloatArray:
    """Return l-alpha-beta, ``(N, 3)`` float64."""
    lms = pixels.astype(np.float64) @ np.array(LMS_FROM_RGB).T
    lab: FloatArray = np.log(np.maximum(lms, 1.0)) @ lab_from_log_lms().T
    return lab


def measure_statistics(pixels: PixelArray) -> tuple[ColourStatistics, int]:
    """Return the statistics of the tissue among ``(N, 3)`` uint8 pixels, and how many pixels are tissue.

    Raises
    ------
    UnsafeStainError
        When too few pixels are tissue, or they all have one colour.
    """
    tissue = pixels[pixels.sum(axis=1, dtype=np.int64) <= 3 * MAX_TISSUE_GREY]
    check_count(len(tissue), n_pixels=len(pixels), kind="darker than glass")
    check_colour(tissue)
    lab = lab_of(tissue)
    deviation = lab.std(axis=0)
    if deviation.min() < _MIN_DEVIATION:
        raise UnsafeStainError("the tissue has no contrast: all of its pixels have nearly the same colour")
    _check_colours(tissue, lab)
    return ColourStatistics(mean=triple(lab.mean(axis=0)), deviation=triple(deviation)), len(tissue)


def _check_colours(tissue: PixelArray, lab: FloatArray) -> None:
    """Refuse tissue, ``(N, 3)`` uint8 and its l-alpha-beta, that has other colours than haematoxylin and eosin."""
    red, green, blue = tissue.astype(np.int64).T
    green_share = float((green > np.maximum(red, blue) + GREEN_LEAD).mean())
    if green_share > MAX_GREEN_SHARE:
        raise UnsafeStainError(
            f"{told_from(100 * green_share, 100 * MAX_GREEN_SHARE)} % of the tissue is green, "
            f"{100 * MAX_GREEN_SHARE:g} % are considered safe; the slide may carry ink"
        )
    mean, deviation = lab.mean(axis=0), lab.std(axis=0)
    for axis, (low, high), largest in zip(
        (1, 2), (MEAN_ALPHA_RANGE, MEAN_BETA_RANGE), MAX_COLOUR_DEVIATIONS, strict=True
    ):
        if not (low <= mean[axis] <= high and deviation[axis] <= largest):
            raise UnsafeStainError(
                f"the {_AXES[axis]} of the tissue, {mean[axis]:.2f} with a deviation of {deviation[axis]:.2f}, is not "
                f"that of haematoxylin and eosin, {low:g} to {high:g} with at most {largest:g}; the slide may carry "
                "another stain or ink"
            )
    if np.hypot(mean[1], mean[2]) < MIN_COLOUR:
        raise UnsafeStainError("the tissue is colourless on the mean: its stains cannot be told from grain")
    correlation = float(np.corrcoef(lab[:, 0], lab[:, 2])[0, 1])
    if correlation < MIN_REDNESS_CORRELATION:
        raise UnsafeStainError(
            f"the tissue may show one stain only, eosin: its redness follows its darkness "
            f"(correlation {correlation:.2f})"
        )


def log_lms_transform(source: ColourStatistics, target: ColourStatistics) -> FloatArray:
    """Return the ``(3, 4)`` matrix, offset last, that turns ln LMS of ``source`` into those of ``target``.

    Raises
    ------
    UnsafeStainError
        When the colours are too far apart for tissue of the same stain.
    """
    gains = np.array(target.deviation) / np.array(source.deviation)
    if gains[0] > GAIN_RANGE[1]:
        raise UnsafeStainError(
            f"the slide is nearly colourless next to the target: its {_AXES[0]} would have to be multiplied by "
            f"{told_from(float(gains[0]), GAIN_RANGE[1])}, at most {GAIN_RANGE[1]:g} is considered safe"
        )
    check_gains({name: float(gain) for name, gain in zip(_AXES, gains, strict=True)})
    mean = np.array(source.mean)
    for name, shift, largest in zip(_AXES, np.abs(np.array(target.mean) - mean), MAX_SHIFTS, strict=True):
        if shift > largest:
            raise UnsafeStainError(
                f"the mean {name} of the tissue is {told_from(shift, largest)} away from the target, "
                f"{largest:g} is considered safe; the slide may carry another stain or ink"
            )
    into = lab_from_log_lms()
    matrix = np.empty((3, 4), dtype=np.float64)
    matrix[:, :3] = into.T @ np.diag(gains) @ into
    matrix[:, 3] = into.T @ (np.array(target.mean) - gains * mean)
    return matrix
