"""TIAToolbox: ``WSIReader.read_rect``, which its patch extractors call, and ``tiatoolbox.utils.misc.imwrite``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tiatoolbox.utils.misc import imwrite  # type: ignore[import-not-found]  # in the peer's own environment
from tiatoolbox.wsicore.wsireader import WSIReader  # type: ignore[import-not-found]  # in the peer's own environment

from benchmarks.peers.scripts.loop import Tool, make_patches


def open_slide(path: str, patch_px: int) -> Tool[npt.NDArray[np.uint8]]:
    """Open a slide."""
    reader, size = WSIReader.open(path), (patch_px, patch_px)
    return Tool(
        read=lambda x, y: reader.read_rect((x, y), size, resolution=0, units="level"),
        save=lambda rgb, name: imwrite(Path(name), rgb),
    )


if __name__ == "__main__":
    make_patches(open_slide)
