"""dlup: ``SlideImage.read_region`` at the resolution of level 0, and the PNG writer of its pictures."""

from __future__ import annotations

import fim  # type: ignore[import-not-found]  # in the peer's own environment
from dlup import SlideImage  # type: ignore[import-not-found]  # in the peer's own environment

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[fim.Image]:
    """Open a slide with the reader dlup prefers, OpenSlide.

    Its usual filter, Lanczos, changes pixels even where the scale stays; the nearest pixel is the pixel itself.
    """
    slide, size = SlideImage.from_file_path(path, interpolator="NEAREST"), (patch_px, patch_px)
    return Tool(
        read=lambda x, y: slide.read_region((x, y), 1.0, size),
        save=lambda image, name: image.write_png(name),
    )


if __name__ == "__main__":
    make_patches(open_slide)
