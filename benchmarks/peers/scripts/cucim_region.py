"""cuCIM on the processor: ``CuImage.read_region``, saved with Pillow."""

from __future__ import annotations

import numpy as np
from cucim import CuImage  # type: ignore[import-not-found]  # in the peer's own environment
from PIL import Image

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[Image.Image]:
    """Open a slide."""
    slide, size = CuImage(path), (patch_px, patch_px)
    return Tool(
        read=lambda x, y: Image.fromarray(np.asarray(slide.read_region((x, y), size, 0))),
        save=lambda image, name: image.save(name),
    )


if __name__ == "__main__":
    make_patches(open_slide)
