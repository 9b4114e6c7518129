"""The transform of one slide as plain numbers: part of records, hashable, callable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Self

import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.reading import StainNorm
from wsi_extract.stain.apply import map_densities, map_log_lms

MAX_COEFFICIENT = 1000.0
"""Keeps all sums within single precision; estimates stay far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StainTransform:
    """What brings the stain of one slide to that of a target; plain numbers, hashable.

    Macenko: optical densities are multiplied by the matrix. White stays white.

    Reinhard: natural logarithms of LMS are mapped by matrix and offset. That would tint glass, whose colour no
    statistics of tissue know; from the brightness of pale tissue to that of glass, the change fades out linearly.
    """

    method: StainNorm
    affine: tuple[float, ...]
    """(3, 4) by rows, the offset last."""

    def __post_init__(self) -> None:
        if self.method is StainNorm.NONE:
            raise ValueError("a stain transform belongs to macenko or reinhard; without a method there is none")
        if len(self.affine) != 12 or not all(isfinite(v) and abs(v) <= MAX_COEFFICIENT for v in self.affine):
            raise ValueError(
                f"a stain transform is 12 numbers between -{MAX_COEFFICIENT:g} and {MAX_COEFFICIENT:g}, "
                f"got {self.affine}"
            )

    def __call__(self, rgb: RgbImage) -> RgbImage:
        """Return the normalised pixels as a new array.

        Parameters
        ----------
        rgb
            ``(H, W, 3)`` uint8, views too; any size, also 0.

        Raises
        ------
        ValueError
            When the image has another shape or type.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"an image must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
        matrix = np.array(self.affine, dtype=np.float32).reshape(3, 4)
        return map_densities(rgb, matrix) if self.method is StainNorm.MACENKO else map_log_lms(rgb, matrix)

    def to_json(self) -> dict[str, object]:
        """Return the transform as JSON values."""
        return {"method": self.method.value, "affine": list(self.affine)}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Self:
        """Rebuild a transform from `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        affine = document["affine"]
        if not isinstance(affine, list | tuple):
            raise TypeError(f"the numbers of a stain transform must be a list, got {affine!r}")
        return cls(method=StainNorm(str(document["method"])), affine=tuple(float(value) for value in affine))
