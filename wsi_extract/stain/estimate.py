"""One slide's pixels -> what normalises it, or why it had better stay as it was scanned."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_extract.arrays import FloatArray
from wsi_extract.reading import StainNorm
from wsi_extract.stain import macenko, reinhard
from wsi_extract.stain.profile import PixelArray, UnsafeStainError, rounded
from wsi_extract.stain.target import StainTarget
from wsi_extract.stain.transform import StainTransform


@dataclass(frozen=True, slots=True, kw_only=True)
class StainEstimate:
    """What a look at the tissue of a slide gave."""

    transform: StainTransform | None
    """``None``: the pixels stay as they are."""
    reason: str
    """Why there is no transform, for the user; empty when there is one."""
    n_pixels: int
    """Stained pixels that the estimate rests on; 0 without a transform."""


def estimate_stain(pixels: PixelArray, *, method: StainNorm, target: StainTarget) -> StainEstimate:
    """Return what brings the stain of a slide to that of ``target``; the same pixels always give the same numbers.

    Parameters
    ----------
    pixels
        ``(N, 3)`` uint8, sampled where the slide holds tissue; glass between them is left out. Any N, also 0.

    Raises
    ------
    ValueError
        When ``pixels`` has another shape or type, or the target belongs to another method.
    """
    if pixels.ndim != 2 or pixels.shape[1] != 3 or pixels.dtype.name != "uint8":
        raise ValueError(f"pixels must be (N, 3) uint8, got {pixels.shape} {pixels.dtype}")
    if target.method is not method:
        raise ValueError(f"the target belongs to {target.method.value}, not to {method.value}")
    try:
        matrix, n_pixels = _matrix_of(pixels, target=target)
    except UnsafeStainError as error:
        return StainEstimate(transform=None, reason=error.message, n_pixels=0)
    return StainEstimate(transform=StainTransform(method=method, affine=rounded(matrix)), reason="", n_pixels=n_pixels)


def _matrix_of(pixels: PixelArray, *, target: StainTarget) -> tuple[FloatArray, int]:
    if target.method is StainNorm.MACENKO:
        vectors, n_pixels = macenko.measure_vectors(pixels)
        return macenko.density_transform(vectors, target.vectors), n_pixels
    statistics, n_pixels = reinhard.measure_statistics(pixels)
    return reinhard.log_lms_transform(statistics, target.statistics), n_pixels
