"""Pixels for benchmarks: a generated slide with the grain of a scanner, after the JPEG compression of a slide file.

Generated tissue alone is smoother than scanned tissue, and a codec is judged by the grain: noise decides how many
bytes remain, and how long an entropy coder is busy with them. The grain is set so that Pillow's PNG and zstd come to
the sizes and to the decoding time they have on scanned H&E; ``docs/performance.md`` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import IntArray, RgbImage
from wsi_extract.errors import InputError
from wsi_extract.model import SlideFile
from wsi_extract.slides.open_slides import OpenedSlide
from wsi_extract.synthetic import HeSlideSpec, compose_scene
from wsi_extract.synthetic.bands import draw_band

LUMINANCE_GRAIN = 10.0
"""Standard deviation of the noise that all three channels share, grey levels."""
LUMINANCE_BLUR_PX = 0.6
"""Sigma of its Gauss filter: the optics and the demosaicking correlate neighbours."""
COLOUR_GRAIN = 9.0
"""Standard deviation of the noise of each channel by itself, grey levels."""
COLOUR_BLUR_PX = 0.9
JPEG_TILE_PX = 240
JPEG_QUALITY = 80
TISSUE_GREY = 215
"""A pixel darker than this on the mean of its channels counts as tissue."""
GLASS_GREY = 236
GRAIN_OF_GLASS = 0.05
"""Grain of bare glass as a share of that of tissue."""
_MAX_COLUMNS = 32
_ROWS_PER_ROW_OF_PATCHES = 4
"""The picture may grow this many times higher than its patches need, because not every place is tissue."""

_MAX_SLIDE_PX = 8192
"""No more of a slide than this is looked at, px per side."""

Noise = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TexturedSlide:
    """A picture and the grid patches on it that are tissue."""

    rgb: RgbImage
    """(H, W, 3) uint8; a plane without a pyramid."""
    origins: IntArray
    """(N, 2) int64, columns (x, y), px of ``rgb``, in grid order: row by row from the top."""
    patch_px: int

    def __len__(self) -> int:
        return len(self.origins)

    def patch(self, number: int) -> RgbImage:
        """Return the pixels of one patch, C-contiguous."""
        x, y = self.origins[number].tolist()
        return np.ascontiguousarray(self.rgb[y : y + self.patch_px, x : x + self.patch_px])

    def patches(self) -> RgbImage:
        """Return all patches, ``(N, H, W, 3)`` uint8."""
        return np.stack([self.patch(number) for number in range(len(self))])


def make_textured_slide(
    n_patches: int, *, patch_px: int = 256, min_tissue_fraction: float = 0.9, seed: int = 1
) -> TexturedSlide:
    """Draw tissue until it holds ``n_patches`` patches that do not overlap; the same arguments give the same pixels.

    Parameters
    ----------
    min_tissue_fraction
        Least tissue in a patch. Dense tissue hardly compresses; glass and gaps in lighter patches do.

    Raises
    ------
    ValueError
        When no patch is asked for, or the tissue has no room for them.
    """
    if n_patches < 1:
        raise ValueError(f"a benchmark needs at least one patch, got {n_patches}")
    n_columns = min(_MAX_COLUMNS, n_patches + 1)
    n_rows = -(-n_patches // n_columns) * _ROWS_PER_ROW_OF_PATCHES
    spec = HeSlideSpec(width_px=n_columns * patch_px, height_px=n_rows * patch_px, seed=seed, tissue_share=0.9)
    rows: list[RgbImage] = []
    origins: list[tuple[int, int]] = []
    for row in _rows_of(spec, patch_px=patch_px):
        y = len(rows) * patch_px
        origins.extend(
            (x, y)
            for x in range(0, row.shape[1], patch_px)
            if _tissue_fraction(row[:, x : x + patch_px]) >= min_tissue_fraction
        )
        rows.append(row)
        if len(origins) >= n_patches:
            xy = np.array(origins[:n_patches], dtype=np.int64)
            return TexturedSlide(rgb=np.concatenate(rows), origins=xy, patch_px=patch_px)
    raise ValueError(f"the tissue of seed {seed} has room for {len(origins)} of {n_patches} patches: try another seed")


def _rows_of(spec: HeSlideSpec, *, patch_px: int) -> Iterator[RgbImage]:
    """Yield the picture in strips ``(patch_px, W, 3)``, as a scanner delivers it."""
    scene = compose_scene(spec)
    rng = np.random.default_rng(spec.seed)
    strip = np.empty((0, spec.width_px, 3), dtype=np.uint8)
    for band in range(spec.n_bands):
        scanned = _compress(_add_grain(draw_band(scene, band), rng=rng))
        strip = np.concatenate([strip, scanned[:, : spec.width_px]])
        while len(strip) >= patch_px:
            yield strip[:patch_px]
            strip = strip[patch_px:]


def _add_grain(rgb: RgbImage, *, rng: np.random.Generator) -> RgbImage:
    """Return the picture with grain where there is tissue; bare glass is nearly smooth in scans."""
    height, width = rgb.shape[:2]
    shared = LUMINANCE_GRAIN * _noise(rng, shape=(height, width, 1), blur_px=LUMINANCE_BLUR_PX)
    own = COLOUR_GRAIN * _noise(rng, shape=(height, width, 3), blur_px=COLOUR_BLUR_PX)
    grey = cv2.GaussianBlur(rgb.mean(axis=2, dtype=np.float32), (0, 0), 2)
    share = np.clip((GLASS_GREY - grey) / (GLASS_GREY - TISSUE_GREY), GRAIN_OF_GLASS, 1)
    return np.asarray(np.clip(np.rint(rgb + share[..., None] * (shared + own)), 0, 255), dtype=np.uint8)


def _noise(rng: np.random.Generator, *, shape: tuple[int, int, int], blur_px: float) -> Noise:
    """Return Gaussian noise of standard deviation 1 whose neighbours resemble each other."""
    white = rng.standard_normal(shape, dtype=np.float32)
    blurred = cv2.GaussianBlur(white, (0, 0), blur_px).reshape(shape)
    return np.asarray(blurred / blurred.std(), dtype=np.float32)


def _compress(rgb: RgbImage) -> RgbImage:
    """Return what a slide file of JPEG tiles gives back; a band is a whole number of tiles high and wide."""
    out, size = np.empty_like(rgb), JPEG_TILE_PX
    for y in range(0, rgb.shape[0], size):
        for x in range(0, rgb.shape[1], size):
            tile = np.ascontiguousarray(rgb[y : y + size, x : x + size])
            data = imagecodecs.jpeg8_encode(
                tile, level=JPEG_QUALITY, colorspace="rgb", outcolorspace="ycbcr", subsampling="444"
            )
            out[y : y + size, x : x + size] = imagecodecs.jpeg8_decode(data)
    return out


def _tissue_fraction(rgb: RgbImage) -> float:
    return float((rgb.mean(axis=2) < TISSUE_GREY).mean())


def tissue_of_slide(path: Path, *, n_patches: int, patch_px: int = 256, min_tissue_fraction: float = 0.9) -> RgbImage:
    """Return up to ``n_patches`` tissue patches ``(N, H, W, 3)`` of a slide file, spread evenly over its level 0.

    Patches may overlap by three quarters, because sample slides are small.

    Raises
    ------
    InputError
        When the slide holds no tissue patch.
    """
    with OpenedSlide(SlideFile(slide_id=path.stem, path=path)) as slide:
        w, h = (min(side, _MAX_SLIDE_PX) for side in (slide.levels[0].width_px, slide.levels[0].height_px))
        rgb = slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=w, h_lv_px=h)
    step = patch_px // 4
    found = [
        rgb[y : y + patch_px, x : x + patch_px]
        for y in range(0, rgb.shape[0] - patch_px + 1, step)
        for x in range(0, rgb.shape[1] - patch_px + 1, step)
    ]
    tissue = [patch for patch in found if _tissue_fraction(patch) >= min_tissue_fraction]
    if not tissue:
        raise InputError(f"no tissue in the first {_MAX_SLIDE_PX} px of {path}.", "Choose another slide.")
    return np.stack(tissue[:: -(-len(tissue) // n_patches)])
