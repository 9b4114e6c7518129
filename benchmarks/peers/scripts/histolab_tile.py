"""histolab: ``Slide.extract_tile``, as its tilers call it, and ``Tile.save``."""

from __future__ import annotations

from tempfile import gettempdir

from histolab.slide import Slide  # type: ignore[import-not-found]  # in the peer's own environment
from histolab.tile import Tile  # type: ignore[import-not-found]  # in the peer's own environment
from histolab.types import CP  # type: ignore[import-not-found]  # in the peer's own environment

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[Tile]:
    """Open a slide; the folder for processed pictures that histolab asks for is not used."""
    slide = Slide(path, processed_path=gettempdir())

    def read(x: int, y: int) -> Tile:
        return slide.extract_tile(CP(x, y, x + patch_px, y + patch_px), tile_size=(patch_px, patch_px), level=0)

    return Tool(read=read, save=lambda tile, name: tile.save(name))


if __name__ == "__main__":
    make_patches(open_slide)
