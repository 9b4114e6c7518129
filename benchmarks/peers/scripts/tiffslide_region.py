"""tiffslide: OpenSlide's interface on tifffile, saved with Pillow."""

from __future__ import annotations

from PIL.Image import Image
from tiffslide import TiffSlide  # type: ignore[import-not-found]  # in the peer's own environment

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[Image]:
    """Open a slide."""
    slide, size = TiffSlide(path), (patch_px, patch_px)
    return Tool(read=lambda x, y: slide.read_region((x, y), 0, size), save=lambda image, name: image.save(name))


if __name__ == "__main__":
    make_patches(open_slide)
