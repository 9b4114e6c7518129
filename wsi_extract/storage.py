"""The ways in which the pixels of a data set may be kept, as choices; knows nothing of how that is done."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Store(StrEnum):
    """How the pixels of patches are kept; the COCO documents and the index are the same for all."""

    PNG = "png"
    """One file per patch: what every tool reads."""
    ZARR = "zarr"
    """One Zarr array per slide, one chunk per patch: made for training."""
    BOTH = "both"
    """PNG files and Zarr arrays."""
    PIXELS = "pixels"
    """One OME-Zarr image per slide that holds each pixel once; patches are windows of it. For overlapping patches,
    and for drawing new ones during training."""

    @property
    def has_png(self) -> bool:
        """Whether there is a PNG file per patch."""
        return self in {Store.PNG, Store.BOTH}

    @property
    def has_patch_arrays(self) -> bool:
        """Whether there is a Zarr array of patches per slide."""
        return self in {Store.ZARR, Store.BOTH}


class PngEncoder(StrEnum):
    """What compresses PNG files; every reader of PNG reads them all, and the pixels are the same."""

    ISAL = "isal"
    """Average filter and ISA-L: small and fast."""
    FPNG = "fpng"
    """fpng: the fastest, larger files; needs the package fpng."""
    OPENCV = "opencv"
    """OpenCV's own: where ISA-L does not install."""


class CodecName(StrEnum):
    """How the pixels of a Zarr chunk are compressed."""

    ZSTD = "zstd"
    """Lossless; every Zarr v3 reader knows it. Level -7 (fastest) to 19 (smallest)."""
    NONE = "none"
    """Raw pixels and a checksum: the fastest to read, the largest."""
    WEBP = "webp"
    """Lossless WebP; needs imagecodecs. Level 0 (fastest) to 6."""
    JPEG_XL = "jpeg-xl"
    """Lossless JPEG XL: the smallest, slow to read; needs imagecodecs. Level 1 (fastest) to 9."""
    JPEG = "jpeg"
    """Lossy JPEG, 4:4:4; level = quality, 1 to 100. Changes pixels; needs imagecodecs."""


LEVELS: Mapping[CodecName, tuple[int, int, int]] = {
    CodecName.ZSTD: (-7, 19, -1),
    CodecName.NONE: (0, 0, 0),
    CodecName.WEBP: (0, 6, 0),
    CodecName.JPEG_XL: (1, 9, 1),
    CodecName.JPEG: (1, 100, 95),
}
"""Lowest, highest and default level.

zstd level 1 saves 4 to 8 % of stained tissue, and doubles the time to read a patch; level -1 saves where there is
something to save, such as glass. See docs/performance.md.
"""


class Coverage(StrEnum):
    """Which pixels of a slide the pixel store holds."""

    PLANNED = "planned"
    """Those of the planned patches."""
    ANCHORS = "anchors"
    """Those too that any patch around any anchor can reach, so that training can draw a new jitter."""
    TISSUE = "tissue"
    """Those too that any patch on tissue can reach, so that training can draw new random patches."""
