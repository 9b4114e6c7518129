"""pyvips: ``Region.fetch``, its fastest way to small regions, saved with Pillow."""

from __future__ import annotations

import pyvips  # type: ignore[import-not-found]  # in the peer's own environment
from PIL import Image

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[Image.Image]:
    """Open a slide."""
    region, size = pyvips.Region.new(pyvips.Image.new_from_file(path)), (patch_px, patch_px)

    def read(x: int, y: int) -> Image.Image:
        return Image.frombytes("RGB", size, region.fetch(x, y, patch_px, patch_px))

    return Tool(read=read, save=lambda image, name: image.save(name))


if __name__ == "__main__":
    make_patches(open_slide)
