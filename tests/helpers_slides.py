"""Makers of small slides for tests: lossless, with pixels that say where they are, and slides without tissue."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import openslide
import tifffile

from wsi_extract.arrays import BoolImage, FloatArray, IntArray, RgbImage
from wsi_extract.geometry import Rect
from wsi_extract.synthetic import HeSlideSpec, PenMarks, write_he_slide

Resolution: TypeAlias = float | tuple[float, float] | None
"""Micrometres per level-0 pixel, one value or (x, y); None leaves it out of the file."""
Vendor: TypeAlias = Literal["generic-tiff", "aperio"]
"""How OpenSlide is to recognise the slide."""
Colours: TypeAlias = Callable[[FloatArray, FloatArray], RgbImage]
"""Colours of pixels whose centres have the given level-0 coordinates, (1, W) and (H, 1)."""

CODE_PERIOD_PX = 4096
"""Positions that `decode_positions` tells apart per axis."""

_RAMP_RED = 205
_RAMP_GREEN = (90.0, 80.0)
_RAMP_BLUE = (160.0, 60.0)
"""Value at 0 and rise over the slide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pyramid:
    """Geometry and file format of a lossless slide."""

    width_px: int
    height_px: int
    downsamples: tuple[float, ...] = (1, 4)
    """A level has ``floor(size / downsample)`` pixels; the first is 1."""
    um_per_px: Resolution = 0.25
    tile_px: int = 256
    vendor: Vendor = "generic-tiff"

    @property
    def um_per_px_xy(self) -> tuple[float, float] | None:
        if self.um_per_px is None or isinstance(self.um_per_px, tuple):
            return self.um_per_px
        return self.um_per_px, self.um_per_px

    def level_wh_px(self, downsample: float) -> tuple[int, int]:
        return int(self.width_px // downsample), int(self.height_px // downsample)


# --- reading and measuring


def read_rgb(slide: openslide.OpenSlide, *, x_l0: int, y_l0: int, level: int, size_wh: tuple[int, int]) -> RgbImage:
    """Return a region of an opaque slide, ``(H, W, 3)``."""
    return np.asarray(slide.read_region((x_l0, y_l0), level, size_wh))[..., :3]


def read_level(path: Path, *, level: int) -> RgbImage:
    """Return all of one level of an opaque slide, ``(H, W, 3)``."""
    with openslide.OpenSlide(path) as slide:
        return read_rgb(slide, x_l0=0, y_l0=0, level=level, size_wh=slide.level_dimensions[level])


def coloured(rgb: RgbImage) -> BoolImage:
    """Return which pixels are neither white nor grey nor black."""
    return np.asarray(np.ptp(rgb.astype(np.int64), axis=-1) > 25)


def darkest_decile(rgb: RgbImage, *, x: int, y: int) -> float:
    """Return the brightness below which a tenth of the 31 x 31 px around a point lies."""
    return float(np.quantile(rgb[y - 15 : y + 16, x - 15 : x + 16].mean(axis=2), 0.1))


# --- pixels that encode their position


def encode_positions(x_l0: IntArray, y_l0: IntArray) -> RgbImage:
    """Return colours for level-0 pixels: low bytes in red (x) and green (y), the next four bits of both in blue."""
    x, y = np.broadcast_arrays(x_l0, y_l0)
    blue = (x // 256 % 16) * 16 + y // 256 % 16
    return np.stack([x % 256, y % 256, blue], axis=-1).astype(np.uint8)


def decode_positions(rgb: RgbImage) -> tuple[IntArray, IntArray]:
    """Return level-0 (x, y) of every pixel of a position slide, modulo 4096; the inverse of `encode_positions`."""
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return red + blue // 16 * 256, green + blue % 16 * 256


def write_position_slide(
    path: Path,
    *,
    width_px: int,
    height_px: int,
    downsamples: tuple[float, ...] = (1, 4),
    um_per_px: Resolution = 0.25,
    tile_px: int = 256,
    vendor: Vendor = "generic-tiff",
) -> None:
    """Write a lossless slide whose every pixel encodes where it comes from, see `decode_positions`.

    Lower levels are decimated, not averaged: pixel (i, j) of a level with downsample d encodes the level-0 pixel
    ``(floor(i * d), floor(j * d))``, the top left one of those it covers.
    """
    pyramid = Pyramid(
        width_px=width_px,
        height_px=height_px,
        downsamples=downsamples,
        um_per_px=um_per_px,
        tile_px=tile_px,
        vendor=vendor,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        _write_pyramid(file, pyramid=pyramid, colours=_position_colours, anchor=0.0)


def _position_colours(x_l0: FloatArray, y_l0: FloatArray) -> RgbImage:
    return encode_positions(np.floor(x_l0).astype(np.int64), np.floor(y_l0).astype(np.int64))


# --- tissue-coloured pixels whose colour rises with the position


@dataclass(frozen=True, slots=True, kw_only=True)
class RampFit:
    """Where a patch of a ramp slide comes from."""

    x_l0: float
    y_l0: float
    """The patch's top left corner, level-0 px."""
    l0_per_px_x: float
    l0_per_px_y: float


def write_ramp_slide(
    path: Path,
    *,
    width_px: int,
    height_px: int,
    tissue_l0: tuple[Rect, ...],
    downsamples: tuple[float, ...] = (1, 4),
    um_per_px: Resolution = 0.25,
    vendor: Vendor = "generic-tiff",
) -> None:
    """Write a lossless slide, white but for rectangles coloured like eosin, where green rises with x and blue with y.

    At the level-0 coordinates (x, y) of a pixel's centre, green is ``90 + 80 * x / width`` and blue
    ``160 + 60 * y / height``, dithered so that their means over many pixels are exact; see `fit_ramp`. All levels show
    the same colours at the same place. The tissue's outline is exact on level 0 only.

    A reader that rounds down where it interpolates, as OpenSlide does where a level's downsample is no whole number,
    darkens by up to half a value: that reads as ``width / 160`` px. Sizes that the downsamples divide avoid it.
    """
    pyramid = Pyramid(
        width_px=width_px, height_px=height_px, downsamples=downsamples, um_per_px=um_per_px, vendor=vendor
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_ramp_slide(pyramid, tissue_l0))


@lru_cache(maxsize=16)
def _ramp_slide(pyramid: Pyramid, tissue_l0: tuple[Rect, ...]) -> bytes:
    """Return the file; kept, as the slides of `tests.helpers_run.make_inputs` are asked for by dozens of test files."""

    def colours(x_l0: FloatArray, y_l0: FloatArray) -> RgbImage:
        return _ramp_colours(x_l0, y_l0, pyramid=pyramid, tissue_l0=tissue_l0)

    file = io.BytesIO()
    _write_pyramid(file, pyramid=pyramid, colours=colours, anchor=0.5)
    return file.getvalue()


def _ramp_colours(x_l0: FloatArray, y_l0: FloatArray, *, pyramid: Pyramid, tissue_l0: tuple[Rect, ...]) -> RgbImage:
    # Additive recurrences with irrational steps spread evenly over 0 .. 1, which keeps means free of rounding.
    dither_green = _fraction(x_l0 * 0.7548776662466927 + y_l0 * 0.5698402909980532)
    dither_blue = _fraction(x_l0 * 0.5698402909980532 + y_l0 * 0.7548776662466927)
    rgb = np.full((*dither_green.shape, 3), 255, dtype=np.uint8)
    inside = np.zeros(dither_green.shape, dtype=np.bool_)
    for rect in tissue_l0:
        inside |= (x_l0 >= rect.x0) & (x_l0 < rect.x1) & (y_l0 >= rect.y0) & (y_l0 < rect.y1)
    # Assigned to bytes, values that are not negative round down.
    np.copyto(rgb[..., 0], _RAMP_RED, where=inside)
    green = _RAMP_GREEN[0] + _RAMP_GREEN[1] * x_l0 / pyramid.width_px + dither_green
    np.copyto(rgb[..., 1], green, where=inside, casting="unsafe")
    blue = _RAMP_BLUE[0] + _RAMP_BLUE[1] * y_l0 / pyramid.height_px + dither_blue
    np.copyto(rgb[..., 2], blue, where=inside, casting="unsafe")
    return rgb


def _fraction(values: FloatArray) -> FloatArray:
    """Return ``values % 1``, several times faster."""
    return np.asarray(values - np.floor(values))


def fit_ramp(rgb: RgbImage, *, width_px: int, height_px: int) -> RampFit:
    """Return where a patch lying wholly in the tissue of a ramp slide comes from, whatever its scale.

    Straight lines through the means of columns and rows; better than 1 px from 64 x 64 px on, for slides of up to
    about 8,000 px.
    """
    x_by_column = (rgb[..., 1].mean(axis=0) - _RAMP_GREEN[0]) * width_px / _RAMP_GREEN[1]
    y_by_row = (rgb[..., 2].mean(axis=1) - _RAMP_BLUE[0]) * height_px / _RAMP_BLUE[1]
    (step_x, x_l0), (step_y, y_l0) = (
        np.polyfit(np.arange(len(values)) + 0.5, values, 1) for values in (x_by_column, y_by_row)
    )
    return RampFit(x_l0=float(x_l0), y_l0=float(y_l0), l0_per_px_x=float(step_x), l0_per_px_y=float(step_y))


def ramp_position(rgb: RgbImage, *, width_px: int, height_px: int) -> tuple[float, float]:
    """Return the level-0 coordinates (x, y) of the centre of a patch lying wholly in the tissue of a ramp slide."""
    return (
        float((rgb[..., 1].mean() - _RAMP_GREEN[0]) * width_px / _RAMP_GREEN[1]),
        float((rgb[..., 2].mean() - _RAMP_BLUE[0]) * height_px / _RAMP_BLUE[1]),
    )


# --- slides without tissue


def write_blank_slide(path: Path, *, width_px: int = 2001, height_px: int = 1503, seed: int = 1) -> None:
    """Write an Aperio slide of bare glass."""
    write_he_slide(path, HeSlideSpec(width_px=width_px, height_px=height_px, seed=seed, tissue_share=0))


def write_pen_slide(path: Path, *, width_px: int = 2001, height_px: int = 1503, seed: int = 1) -> None:
    """Write an Aperio slide of glass under blue ink, without tissue."""
    spec = HeSlideSpec(width_px=width_px, height_px=height_px, seed=seed, tissue_share=0, pen_marks=PenMarks.EVERYWHERE)
    write_he_slide(path, spec)


# --- files


def _write_pyramid(file: BinaryIO, *, pyramid: Pyramid, colours: Colours, anchor: float) -> None:
    """Write the levels tile by tile; ``anchor`` says which point of a pixel gives its colour, 0 corner, 0.5 centre."""
    with tifffile.TiffWriter(file, byteorder="<") as tiff:
        for index, downsample in enumerate(pyramid.downsamples):
            width, height = pyramid.level_wh_px(downsample)
            is_generic = pyramid.vendor == "generic-tiff"
            tiff.write(
                _tiles(pyramid, colours=colours, downsample=downsample, anchor=anchor),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(pyramid.tile_px, pyramid.tile_px),
                photometric="rgb",
                compression="adobe_deflate",
                compressionargs={"level": 1},
                subfiletype=1 if is_generic and index > 0 else 0,
                resolution=_pixels_per_cm(pyramid, downsample=downsample) if is_generic else None,
                resolutionunit="CENTIMETER" if is_generic and pyramid.um_per_px is not None else None,
                description=None if is_generic else _aperio_description(pyramid, index=index),
                metadata=None,
                software=False,
            )


def _tiles(pyramid: Pyramid, *, colours: Colours, downsample: float, anchor: float) -> Iterator[RgbImage]:
    width, height = pyramid.level_wh_px(downsample)
    centres = np.arange(pyramid.tile_px) + anchor
    for y in range(0, height, pyramid.tile_px):
        for x in range(0, width, pyramid.tile_px):
            x_l0 = np.asarray((x + centres[None, :]) * downsample, dtype=np.float64)
            y_l0 = np.asarray((y + centres[:, None]) * downsample, dtype=np.float64)
            yield colours(x_l0, y_l0)


def _pixels_per_cm(pyramid: Pyramid, *, downsample: float) -> tuple[float, float] | None:
    if pyramid.um_per_px_xy is None:
        return None
    um_x, um_y = pyramid.um_per_px_xy
    return 10_000 / (um_x * downsample), 10_000 / (um_y * downsample)


def _aperio_description(pyramid: Pyramid, *, index: int) -> str:
    """Return what Aperio's files say; they know one resolution for both axes."""
    width, height = pyramid.width_px, pyramid.height_px
    tile = f"({pyramid.tile_px}x{pyramid.tile_px})"
    text = f"Aperio Image Library v12.0.15\r\n{width}x{height} [0,0 {width}x{height}] {tile}"
    if index > 0:
        level_width, level_height = pyramid.level_wh_px(pyramid.downsamples[index])
        return f"{text} -> {level_width}x{level_height} RGB"
    if pyramid.um_per_px_xy is None:
        return f"{text} RGB|AppMag = 40"
    um_x, um_y = pyramid.um_per_px_xy
    if um_x != um_y:
        raise ValueError(f"an Aperio file holds one resolution for both axes, got {um_x} and {um_y} um per px")
    return f"{text} RGB|AppMag = 40|MPP = {um_x:.6g}"
