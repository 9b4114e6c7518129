"""What slides are brought to: a published reference, or the tissue of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Self

import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError
from wsi_extract.reading import StainNorm
from wsi_extract.stain import macenko, reinhard
from wsi_extract.stain.macenko import StainVectors
from wsi_extract.stain.profile import UnsafeStainError
from wsi_extract.stain.reinhard import ColourStatistics

MAX_TARGET_PIXELS = 1_000_000
"""More pixels of a picture change nothing; they are thinned out evenly."""

_N_VALUES = {StainNorm.MACENKO: 8, StainNorm.REINHARD: 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class StainTarget:
    """The stain that slides are brought to, as plain numbers."""

    method: StainNorm
    name: str
    """Where it comes from, for people."""
    values: tuple[float, ...]
    """Macenko: haematoxylin and eosin (red, green, blue of each), then their largest concentrations.
    Reinhard: means, then standard deviations of l, alpha and beta."""

    def __post_init__(self) -> None:
        expected = _N_VALUES.get(self.method)
        if expected is None:
            raise ValueError(f"a stain target belongs to macenko or reinhard, got {self.method!r}")
        if len(self.values) != expected or not all(isfinite(value) for value in self.values):
            raise ValueError(f"a target for {self.method.value} is {expected} finite numbers, got {self.values}")

    @property
    def vectors(self) -> StainVectors:
        """The stain vectors of a Macenko target."""
        assert self.method is StainNorm.MACENKO
        v = self.values
        return StainVectors(haematoxylin=(v[0], v[1], v[2]), eosin=(v[3], v[4], v[5]), max_concentrations=(v[6], v[7]))

    @property
    def statistics(self) -> ColourStatistics:
        """The colours of a Reinhard target."""
        assert self.method is StainNorm.REINHARD
        v = self.values
        return ColourStatistics(mean=(v[0], v[1], v[2]), deviation=(v[3], v[4], v[5]))

    def to_json(self) -> dict[str, object]:
        """Return the target as JSON values."""
        return {"method": self.method.value, "name": self.name, "values": list(self.values)}

    def identity(self) -> dict[str, object]:
        """Return what the pixels depend on, as JSON values: all but the name."""
        return {"method": self.method.value, "values": list(self.values)}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Self:
        """Rebuild a target from `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        values = document["values"]
        if not isinstance(values, list | tuple):
            raise TypeError(f"the values of a stain target must be a list, got {values!r}")
        return cls(
            method=StainNorm(str(document["method"])),
            name=str(document["name"]),
            values=tuple(float(value) for value in values),
        )


def _values_of_vectors(vectors: StainVectors) -> tuple[float, ...]:
    return (*vectors.haematoxylin, *vectors.eosin, *vectors.max_concentrations)


def _values_of_statistics(statistics: ColourStatistics) -> tuple[float, ...]:
    return (*statistics.mean, *statistics.deviation)


PUBLISHED_TARGETS: Mapping[StainNorm, StainTarget] = MappingProxyType(
    {
        StainNorm.MACENKO: StainTarget(
            method=StainNorm.MACENKO,
            name="reference of M. Veta's staining-normalization",
            values=_values_of_vectors(macenko.REFERENCE),
        ),
        StainNorm.REINHARD: StainTarget(
            method=StainNorm.REINHARD,
            name="TCGA-A2-A3XS-DX1, the reference of HistomicsTK",
            values=_values_of_statistics(reinhard.REFERENCE),
        ),
    }
)
"""What is used when the user gives no picture."""


def default_target(method: StainNorm) -> StainTarget:
    """Return the published target of a method.

    Raises
    ------
    ValueError
        For `StainNorm.NONE`, which has no target.
    """
    if method not in PUBLISHED_TARGETS:
        raise ValueError(f"there is no stain target for {method.value!r}")
    return PUBLISHED_TARGETS[method]


def fit_target(rgb: RgbImage, *, method: StainNorm, name: str) -> StainTarget:
    """Measure the stain of a reference picture, ``(H, W, 3)`` uint8.

    Parameters
    ----------
    name
        What the picture is called in messages and records, such as the name of its file.

    Raises
    ------
    InputError
        When the picture does not tell how its tissue is stained.
    """
    flat = rgb.reshape(-1, 3)
    pixels = np.ascontiguousarray(flat[:: -(-len(flat) // MAX_TARGET_PIXELS) or 1])
    try:
        if method is StainNorm.MACENKO:
            values = _values_of_vectors(macenko.measure_vectors(pixels)[0])
        else:
            values = _values_of_statistics(reinhard.measure_statistics(pixels)[0])
    except UnsafeStainError as error:
        raise InputError(
            f"{name} cannot serve as stain target for {method.value}: {error.message}.",
            "Choose a sharp picture full of tissue stained with haematoxylin and eosin, or leave the target out.",
        ) from error
    return StainTarget(method=method, name=name, values=values)
