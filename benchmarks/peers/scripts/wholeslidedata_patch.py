"""wholeslidedata: ``WholeSlideImage.get_patch`` on OpenSlide, saved with Pillow."""

from __future__ import annotations

from PIL import Image
from wholeslidedata.image.wholeslideimage import (  # type: ignore[import-not-found]  # in the peer's own environment
    WholeSlideImage,
)

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[Image.Image]:
    """Open a slide."""
    slide = WholeSlideImage(path, backend="openslide")
    spacing = slide.spacings[0]

    def read(x: int, y: int) -> Image.Image:
        return Image.fromarray(slide.get_patch(x, y, patch_px, patch_px, spacing, center=False))

    return Tool(read=read, save=lambda image, name: image.save(name))


if __name__ == "__main__":
    make_patches(open_slide)
