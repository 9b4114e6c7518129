"""What a generated slide depends on, and what is placed on it. Lengths are level-0 px."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

ChromaSubsampling: TypeAlias = Literal["444", "422", "420"]
EDGE_MARGIN_PX = 80
"""Placed cells keep this distance from the slide's edge."""
CELL_SPACING_PX = 80
"""Placed cells keep at least this distance from each other."""
BAND_TILES = 4
"""Tiles per band and block: one tile of the next level."""


class CellKind(StrEnum):
    """Cells that are placed at known positions."""

    MITOSIS = "mitosis"
    LOOK_ALIKE = "look-alike"
    TUMOR_CELL = "tumor cell"
    GRANULOCYTE = "granulocyte"


class PenMarks(StrEnum):
    """How much of a slide is covered with ink."""

    NONE = "none"
    STROKES = "strokes"
    """Blue, green and black strokes over tissue and glass; placed cells avoid them."""
    EVERYWHERE = "everywhere"
    """Blue ink over all of the slide; no cell can be placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeSlideSpec:
    """Everything a generated slide depends on."""

    width_px: int
    height_px: int
    seed: int
    n_cells: tuple[tuple[CellKind, int], ...] = ()
    """How many cells of which kind to place."""
    tissue_share: float = 0.5
    """About the share of the slide under tissue; 0 gives bare glass."""
    pen_marks: PenMarks = PenMarks.NONE
    stain_strength: tuple[float, float] = (1.0, 1.0)
    """Haematoxylin and eosin, 1 = typical."""
    um_per_px: float = 0.2533
    tile_px: int = 240
    quality: int = 80
    chroma_subsampling: ChromaSubsampling = "422"

    def __post_init__(self) -> None:
        if min(self.width_px, self.height_px) <= 2 * EDGE_MARGIN_PX:
            raise ValueError(f"a slide must be larger than 160 x 160 px, got {self.width_px} x {self.height_px}")
        if self.tile_px not in range(16, 257, 16):
            raise ValueError(f"the width of a tile must be a multiple of 16 px up to 256, got {self.tile_px}")
        if not 0 <= self.tissue_share <= 0.9:
            raise ValueError(f"the share of tissue must lie in 0 .. 0.9, got {self.tissue_share}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"the JPEG quality must lie in 1 .. 100, got {self.quality}")
        if not (self.um_per_px > 0 and min(self.stain_strength) > 0 and all(n >= 0 for _, n in self.n_cells)):
            raise ValueError(f"resolution and stain must be positive and counts not negative, got {self}")

    @property
    def band_px(self) -> int:
        """Height of a band, and width of a block of it."""
        return BAND_TILES * self.tile_px

    @property
    def n_bands(self) -> int:
        """Bands that cover the slide's height."""
        return -(-self.height_px // self.band_px)

    @property
    def n_blocks(self) -> int:
        """Blocks that cover the slide's width."""
        return -(-self.width_px // self.band_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedCell:
    """A cell drawn with its centre on the given level-0 pixel."""

    kind: CellKind
    x_l0: int
    y_l0: int
