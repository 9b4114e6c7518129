"""The ways in which the pixels of a slide may be read and normalised, as choices; knows nothing of how that is done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReaderMode(StrEnum):
    """Who decodes the tiles of a slide. The pixels are the same."""

    AUTO = "auto"
    """The direct reader where it is proven equal to OpenSlide on the slide, else OpenSlide."""
    OPENSLIDE = "openslide"
    """OpenSlide for all slides."""
    DIRECT = "direct"
    """The direct reader; slides it cannot read, or reads differently, fail."""


class StainNorm(StrEnum):
    """How the stain of a slide is brought to that of a target."""

    NONE = "none"
    """Pixels as they were scanned."""
    MACENKO = "macenko"
    """Optical densities along the slide's own two stain vectors, moved to those of the target (Macenko 2009)."""
    REINHARD = "reinhard"
    """Mean and standard deviation in the l-alpha-beta space of tissue, moved to those of the target (Reinhard 2001)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderChoice:
    """Who reads a slide, and why."""

    direct_levels: tuple[int, ...] = ()
    """Levels of the pyramid whose tiles are decoded directly; the others go through OpenSlide."""
    reason: str = ""
    """Why the level of the patches is not among them; empty when it is, or when OpenSlide was asked for."""
