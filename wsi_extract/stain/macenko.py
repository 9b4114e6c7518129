"""Stain vectors of haematoxylin and eosin, after Macenko.

M. Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009, with the
parameters of the paper and of M. Veta's widely copied code (staining-normalization): light is compared with white,
here 255, so that white stays white.

Optical density of a channel: ``-ln(max(I, 1) / 255)``. Vectors are ``(red, green, blue)`` of length 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import FloatArray
from wsi_extract.stain.profile import (
    PixelArray,
    Triple,
    UnsafeStainError,
    check_colour,
    check_count,
    check_gains,
    rounded,
    told_from,
    triple,
)

MIN_DENSITY = 0.15
"""Beta of the paper: a pixel that is paler than this in any channel is glass, or too pale to tell its colour."""
ROBUST_PERCENT = 1.0
"""Alpha of the paper: the share of pixels that may lie outside the two extreme directions, at either side."""
MAX_CONCENTRATION_PERCENTILE = 99.0

MIN_ANGLE_DEG = 8.0
"""Real haematoxylin and eosin are 15 to 40 degrees apart; a single stain without grain less than one degree."""
MIN_RED_GAP = 0.07
"""Haematoxylin takes a third of its light from red, eosin a sixth; 0.08 where eosin is a fifth of haematoxylin."""
MIN_COMPONENT = -0.05
"""A dye takes light away, in every channel; grain excuses a little."""
PUBLISHED_HAEMATOXYLIN = ((0.5626, 0.7201, 0.4062), (0.65, 0.704, 0.286))
PUBLISHED_EOSIN = ((0.2159, 0.8012, 0.5581), (0.072, 0.990, 0.105))
"""M. Veta's, and those of Ruifrok and Johnston (2001): 9 degrees apart for haematoxylin, 30 for eosin. Others that are
in use lie between them."""
MAX_TURNS_DEG = (30.0, 20.0)
"""From the nearest published haematoxylin and eosin; 14 and 7 in a scan with strong compression, up to 26 and 8 in
parts of it, 16 each after its stain was thinned to 0.4. Haematoxylin with grain is 26 from eosin, noise 28 and more."""
MAX_GRAIN_SHARE = 0.6
"""Third variance of the densities by the second: what two stains leave over, by what tells them apart. 0.4 in scans
with grain, above 0.9 in tissue whose colours are grain."""
BLACK_DENSITY = 4.8
"""One or two grey levels of 255: nothing is left to measure."""
MAX_BLACK_SHARE = 0.3
"""Of stained pixels, black in any channel; 0.08 in a scan whose stain was doubled."""
MAX_CONCENTRATION = 10.0
"""The darkest pixel there is has an optical density of 5.5 per channel, at most 9.6 in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StainVectors:
    """How the tissue of one picture is stained."""

    haematoxylin: Triple
    eosin: Triple
    max_concentrations: tuple[float, float]
    """99th percentile of each stain's concentration, haematoxylin first; optical density per unit of the vectors."""

    @property
    def basis(self) -> FloatArray:
        """(3, 2) float64, columns haematoxylin and eosin."""
        return np.array([self.haematoxylin, self.eosin], dtype=np.float64).T


REFERENCE = StainVectors(
    haematoxylin=PUBLISHED_HAEMATOXYLIN[0], eosin=PUBLISHED_EOSIN[0], max_concentrations=(1.9705, 1.0308)
)
"""The reference of Veta's code, which torchstain and most ports of the method use as well."""


def densities_of(pixels: PixelArray) -> FloatArray:
    """Return optical densities, ``(N, 3)`` float64; black counts as one grey level."""
    table = -np.log(np.maximum(np.arange(256, dtype=np.float64), 1) / 255)
    densities: FloatArray = table[pixels]
    return densities


def stained_of(pixels: PixelArray) -> PixelArray:
    """Return the pixels that tell a colour."""
    return pixels[(densities_of(pixels) >= MIN_DENSITY).all(axis=1)]


def measure_vectors(pixels: PixelArray) -> tuple[StainVectors, int]:
    """Return the stain vectors of tissue ``(N, 3)`` uint8 and the number of pixels they rest on.

    The plane of the stains is that of the two largest singular values of the densities, as the paper has it; ported
    code often takes the covariance instead, whose plane need not pass through white, and whose axes have no sign.

    Raises
    ------
    UnsafeStainError
        When too few pixels are stained, or they do not look like haematoxylin and eosin.
    """
    stained = stained_of(pixels)
    check_count(len(stained), n_pixels=len(pixels), kind="dark enough to tell their colour")
    check_colour(stained)
    densities = densities_of(stained)
    # Eigenvectors of the 3 x 3 second moments are the right singular vectors, without the (N, N) side of the SVD.
    variances, axes = np.linalg.eigh(densities.T @ densities / len(densities))
    plane = axes[:, [2, 1]] * np.where(axes[:, [2, 1]].sum(axis=0) < 0, -1.0, 1.0)
    # All densities are positive, so is the first axis (Perron): angles stay within a quarter turn of it.
    first, second = (densities @ plane).T
    low, high = np.percentile(np.arctan2(second, first), [ROBUST_PERCENT, 100 - ROBUST_PERCENT])
    extremes = (plane @ np.array([[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])).T
    # Haematoxylin is the one that takes the larger share of its light from red.
    eosin, haematoxylin = sorted(extremes, key=lambda vector: float(vector[0] / vector.sum()))
    check_directions(haematoxylin, eosin)
    _check_light(densities, variances)
    concentrations = densities @ np.linalg.pinv(np.stack([haematoxylin, eosin], axis=1)).T
    top = np.percentile(concentrations, MAX_CONCENTRATION_PERCENTILE, axis=0)
    _check_concentrations(top)
    largest = rounded(top)
    vectors = StainVectors(
        haematoxylin=triple(haematoxylin), eosin=triple(eosin), max_concentrations=(largest[0], largest[1])
    )
    return vectors, len(densities)


def check_directions(haematoxylin: FloatArray, eosin: FloatArray) -> None:
    """Refuse two unit vectors that are not haematoxylin and eosin.

    Raises
    ------
    UnsafeStainError
        When they are not finite, nearly the same, brighten the light, or have other colours.
    """
    if not (np.isfinite(haematoxylin).all() and np.isfinite(eosin).all()):
        raise UnsafeStainError("the colours of the stains cannot be computed")
    if min(haematoxylin.min(), eosin.min()) < MIN_COMPONENT:
        raise UnsafeStainError("the colours found are not those of dyes: one of them would brighten the light")
    angle = angle_deg(haematoxylin, eosin)
    gap = float(haematoxylin[0] / haematoxylin.sum() - eosin[0] / eosin.sum())
    for value, least, unit in ((angle, MIN_ANGLE_DEG, "degrees"), (gap, MIN_RED_GAP, "in the share of red")):
        if value < least:
            raise UnsafeStainError(
                f"haematoxylin and eosin cannot be told apart: their colours differ by {told_from(value, least)} "
                f"{unit}, at least {least:g} is needed; the tissue may show one stain only"
            )
    for name, vector, published, largest in (
        ("haematoxylin", haematoxylin, PUBLISHED_HAEMATOXYLIN, MAX_TURNS_DEG[0]),
        ("eosin", eosin, PUBLISHED_EOSIN, MAX_TURNS_DEG[1]),
    ):
        turn = min(angle_deg(vector, np.array(direction)) for direction in published)
        if turn > largest:
            raise UnsafeStainError(
                f"the colour taken for {name} is {told_from(turn, largest)} degrees away from it, {largest:g} "
                "are considered safe; the slide may carry another stain or ink"
            )
    if eosin[1] <= eosin[2]:
        raise UnsafeStainError(
            "the colour taken for eosin takes more from blue than from green, as brown stains such as DAB do"
        )


def _check_light(densities: FloatArray, variances: FloatArray) -> None:
    """Refuse densities of pixels that are mostly black, and colours that are mostly grain; variances ascend."""
    black = float((densities > BLACK_DENSITY).any(axis=1).mean())
    if black > MAX_BLACK_SHARE:
        raise UnsafeStainError(
            f"{told_from(100 * black, 100 * MAX_BLACK_SHARE)} % of the stained pixels are black in some channel, "
            f"{100 * MAX_BLACK_SHARE:g} % are considered safe"
        )
    grain = float(variances[0] / variances[1])
    if grain > MAX_GRAIN_SHARE:
        raise UnsafeStainError(
            "the colours are mostly grain: what two stains cannot explain is "
            f"{told_from(grain, MAX_GRAIN_SHARE)} times what tells them apart, {MAX_GRAIN_SHARE:g} is considered safe"
        )


def _check_concentrations(top: FloatArray) -> None:
    if not (np.isfinite(top).all() and (top > 0).all() and (top <= MAX_CONCENTRATION).all()):
        raise UnsafeStainError(
            f"the concentrations of haematoxylin and eosin, {top[0]:.3g} and {top[1]:.3g}, are not those of a "
            f"section that light passes; 0 to {MAX_CONCENTRATION:g} is possible"
        )


def angle_deg(first: FloatArray, second: FloatArray) -> float:
    """Return the angle between two vectors, degrees."""
    cosine = float(first @ second) / float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def density_transform(source: StainVectors, target: StainVectors) -> FloatArray:
    """Return the ``(3, 4)`` matrix that turns densities of ``source`` into those of ``target``; its last column is 0.

    Concentrations are the least-squares solution for the source's vectors, scaled so that the 99th percentiles meet
    the target's, and put on the target's vectors. What the two stains do not explain is lost, as in the paper.

    Raises
    ------
    UnsafeStainError
        When a stain would have to be amplified, or thinned, beyond what is safe.
    """
    gains = np.array(target.max_concentrations) / np.array(source.max_concentrations)
    check_gains({"haematoxylin": float(gains[0]), "eosin": float(gains[1])})
    matrix = np.zeros((3, 4), dtype=np.float64)
    matrix[:, :3] = (target.basis * gains) @ np.linalg.pinv(source.basis)
    return matrix
