"""OpenSlide and OpenCV: the usual script with a faster PNG encoder, as one writes it after looking at a profile."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import openslide

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[npt.NDArray[np.uint8]]:
    """Open a slide; patches are BGR, as OpenCV writes them."""
    slide, size = openslide.OpenSlide(path), (patch_px, patch_px)

    def read(x: int, y: int) -> npt.NDArray[np.uint8]:
        rgba = np.asarray(slide.read_region((x, y), 0, size))
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR), dtype=np.uint8)

    return Tool(read=read, save=lambda bgr, name: cv2.imwrite(name, bgr))


if __name__ == "__main__":
    make_patches(open_slide)
