"""pyvips: a crop of the tiled TIFF, decoded and compressed by libvips in one pipeline when it is saved."""

from __future__ import annotations

import pyvips  # type: ignore[import-not-found]  # in the peer's own environment

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[pyvips.Image]:
    """Open a slide; a crop is lazy, so that saving it is where the work is done."""
    image = pyvips.Image.new_from_file(path, access="random")
    return Tool(
        read=lambda x, y: image.crop(x, y, patch_px, patch_px), save=lambda crop, name: crop.write_to_file(name)
    )


if __name__ == "__main__":
    make_patches(open_slide)
