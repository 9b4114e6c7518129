"""The slides of a run: find them, describe them, keep them open, choose who reads them, see them whole.

Positions are level-0 pixels (``_l0``), sizes are pixels of the level that is read (``_lv``). `OpenedSlide` reads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self, TypeAlias

import cv2
import numpy as np
import tifffile

from wsi_extract.arrays import RgbImage
from wsi_extract.caches import DIRECT_CACHE_BYTES, OPENSLIDE_CACHE_BYTES, TILES_BESIDE_MASK_PX
from wsi_extract.direct_proof import SIDE_PX, find_difference
from wsi_extract.errors import SlideError
from wsi_extract.geometry import Rect, Scale
from wsi_extract.jpeg_tiles import JpegTiles, find_jpeg_tiles
from wsi_extract.model import SlideFile, SlideInfo
from wsi_extract.opened_slide import (
    REMEDY_DAMAGED,
    REMEDY_READER,
    REMEDY_REPLACED,
    ComposerCache,
    FileStamp,
    OpenedSlide,
    openslide_version,
)
from wsi_extract.reading import ReaderChoice, ReaderMode
from wsi_extract.resolution import ResolutionOverride, choose_overview, objective_power_of, resolve_um_per_px
from wsi_extract.slide_files import FoundSlides, find_slide_files, fingerprint_of
from wsi_extract.tiled_jpeg import PixelMap, TileCache, TiledJpegReader

__all__ = [
    "FoundSlides",
    "OpenedSlide",
    "SlideCache",
    "choose_reader",
    "describe_slide",
    "find_slides",
    "fingerprint_of",
    "openslide_version",
    "read_overview",
]

_BY_OPENSLIDE = ReaderChoice()
_CHUNK_PX = 2048  # side of the parts an overview is read in: about 50 MB, and few tiles are cut by their edges


def find_slides(folder: Path) -> FoundSlides:
    """Find every slide below ``folder``; DICOM files are opened, see `find_slide_files` for the rules and errors."""
    return find_slide_files(folder, series_of=_dicom_series_of)


def _dicom_series_of(path: Path) -> str | None:
    """Return the series a DICOM file belongs to, ``None`` when it cannot be opened; describing it tells why."""
    try:
        with OpenedSlide(SlideFile(slide_id=path.stem, path=path)) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except SlideError:
        return None


def describe_slide(file: SlideFile, *, override: ResolutionOverride | None) -> SlideInfo:
    """Open a slide once and return what the run needs to know; `SlideError` when it cannot be opened or trusted."""
    with OpenedSlide(file) as slide:
        _refuse_16_bit_grey(slide)
        um_per_px_xy, source = resolve_um_per_px(slide.properties, override)
        return SlideInfo(
            slide_id=file.slide_id,
            path=file.path,
            vendor=slide.properties.get("openslide.vendor", "unknown"),
            levels=slide.levels,
            um_per_px_xy=um_per_px_xy,
            um_per_px_source=source,
            bounds_l0=_bounds_of(slide),
            objective_power=objective_power_of(slide.properties),
            fingerprint=fingerprint_of(file),
            companions=file.companions,
        )


def _refuse_16_bit_grey(slide: OpenedSlide) -> None:
    """Refuse what OpenSlide's TIFF library decodes wrongly, in silence: the last tile of each row is scrambled."""
    if slide.properties.get("openslide.vendor") == "generic-tiff":
        with tifffile.TiffFile(slide.path) as tiff:
            page = tiff.pages.first
            if page.samplesperpixel == 1 and page.bitspersample != 8:
                what = f"{page.bitspersample}-bit grey values, which cannot be read reliably ({slide.path})"
                raise SlideError(f"slide {slide.slide_id} holds {what}.", "Convert it to 8-bit RGB, or leave it out.")


def _bounds_of(slide: OpenedSlide) -> Rect | None:
    """Return the scanned part of level 0; OpenSlide states all four numbers or none."""
    stated = [slide.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
    try:
        x, y, width, height = (int(text) for text in stated if text is not None)
    except ValueError:
        return None
    size = slide.levels[0]
    bounds = Rect(x0=max(0, x), y0=max(0, y), x1=min(x + width, size.width_px), y1=min(y + height, size.height_px))
    if not (bounds.width and bounds.height):
        what = f"its bounds, {width} x {height} px at ({x}, {y}), lie outside it ({slide.path})"
        raise SlideError(f"slide {slide.slide_id}: {what}.", REMEDY_DAMAGED)
    return bounds


class SlideCache:
    """The open slides of one process: the least recently used is closed when there are too many. One thread only."""

    def __init__(
        self,
        *,
        max_open: int = 4,
        tile_cache_bytes: int = OPENSLIDE_CACHE_BYTES,
        direct_tile_cache_bytes: int = DIRECT_CACHE_BYTES,
    ) -> None:
        if max_open < 1:
            raise ValueError(f"at least one slide must be open, got {max_open}")
        self._max_open = max_open
        self._tile_cache = ComposerCache(tile_cache_bytes)
        self._direct_tiles = TileCache(direct_tile_cache_bytes)
        self._open: OrderedDict[_CacheKey, OpenedSlide] = OrderedDict()
        self._known: dict[tuple[Path, str], FileStamp] = {}

    def get(
        self, info: SlideInfo, *, reader: ReaderChoice = _BY_OPENSLIDE, pixel_map: PixelMap | None = None
    ) -> OpenedSlide:
        """Return the open slide, opening it when needed. It stays the cache's: do not close it.

        Raises `SlideError` when it cannot be opened or is no longer the file that was described and opened.
        """
        key = (info.path, info.fingerprint, reader.direct_levels, pixel_map)
        if key not in self._open:
            self._open[key] = self._open_described(info, reader=reader, pixel_map=pixel_map)
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        try:
            self._open[key].check_unchanged()
        except SlideError:
            self.evict(info)
            raise
        return self._open[key]

    def _open_described(self, info: SlideInfo, *, reader: ReaderChoice, pixel_map: PixelMap | None) -> OpenedSlide:
        slide = OpenedSlide(
            info,
            tile_cache=self._tile_cache,
            direct_levels=reader.direct_levels,
            direct_tiles=self._direct_tiles,
            pixel_map=pixel_map,
        )
        # Reading a file for its fingerprint takes 4 ms: once per process, unless the file was touched since.
        if self._known.get((info.path, info.fingerprint)) != slide.stamp:
            if fingerprint_of(info) != info.fingerprint:
                slide.close()
                raise SlideError(f"slide {info.slide_id}: {info.path} changed since the run began.", REMEDY_REPLACED)
            self._known[info.path, info.fingerprint] = slide.stamp
        return slide

    def evict(self, info: SlideInfo) -> None:
        """Close the slide however it is open. Call it after every error: a handle that failed once fails for ever."""
        for key in [key for key in self._open if key[:2] == (info.path, info.fingerprint)]:
            self._open.pop(key).close()

    def close(self) -> None:
        """Close every slide, and forget its tiles."""
        while self._open:
            self._open.popitem()[1].close()
        self._direct_tiles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_CacheKey: TypeAlias = tuple[Path, str, tuple[int, ...], PixelMap | None]
"""File and fingerprint of a slide, and how it is read."""


def read_overview(
    slide: OpenedSlide, info: SlideInfo, *, target_downsample: float, max_px: int = 16_000_000
) -> tuple[RgbImage, Scale]:
    """Return the whole slide at low magnification.

    The coarsest level not coarser than the target is read in chunks and reduced by a whole factor, averaging areas,
    as far as the target or ``max_px`` asks for. Memory stays below 200 MB, whatever the size of the level; decoded
    tiles are dropped afterwards when the overview is so large that what is made of it needs their room.
    Raises `SlideError` when a part of the level cannot be read.

    Returns ``(H, W, 3)`` uint8, whose last row and column may reach over the slide's edge, where they are white, and
    the exact number of level-0 pixels per pixel of it.
    """
    index, factor = choose_overview(info.levels, target_downsample=target_downsample, max_px=max_px)
    level = info.levels[index]
    width, height = math.ceil(level.width_px / factor), math.ceil(level.height_px / factor)
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    step = max(1, _CHUNK_PX // factor)
    for y in range(0, height, step):
        for x in range(0, width, step):
            part = rgb[y : y + step, x : x + step]
            h, w = part.shape[:2]
            x_l0, y_l0 = round(x * factor * level.downsample), round(y * factor * level.downsample)
            chunk = slide.read_region(index, x_l0=x_l0, y_l0=y_l0, w_lv_px=w * factor, h_lv_px=h * factor)
            part[...] = cv2.resize(chunk, (w, h), interpolation=cv2.INTER_AREA)
    if width * height > TILES_BESIDE_MASK_PX:
        slide.drop_tiles()
    return rgb, Scale(x=factor * info.width_l0_px / level.width_px, y=factor * info.height_l0_px / level.height_px)


def choose_reader(
    info: SlideInfo, slides: SlideCache, *, mode: ReaderMode, levels: Sequence[int], patch_level: int, seed: int
) -> ReaderChoice:
    """Return who reads a slide: the direct reader for those levels where it is proven equal to OpenSlide.

    Parameters
    ----------
    slides
        Opens the slide for OpenSlide's side of the comparison.
    levels, patch_level
        The levels that will be read, and the one that patches are cut from.
    seed
        Draws the places that are compared.

    Raises
    ------
    SlideError
        When the slide cannot be opened, or the direct reader is demanded but cannot be used for the patches.
    """
    if mode is ReaderMode.OPENSLIDE:
        return ReaderChoice()
    slides.get(info)  # raises what must not be mistaken for a difference
    tiles, reasons = find_jpeg_tiles(info.path, levels=info.levels, vendor=info.vendor)
    for level in sorted({*levels, patch_level} & tiles.keys()):
        reasons[level] = _difference_of(info, slides, level=level, tiles=tiles[level], seed=seed)
    reason = reasons[patch_level] and f"level {patch_level}: {reasons[patch_level]}"
    if reason and mode is ReaderMode.DIRECT:
        message = f"slide {info.slide_id}: {info.path} cannot be read directly: {reason}."
        raise SlideError(message, REMEDY_READER)
    direct = sorted(level for level in {*levels, patch_level} if not reasons[level])
    return ReaderChoice(direct_levels=tuple(direct), reason=reason)


def _difference_of(info: SlideInfo, slides: SlideCache, *, level: int, tiles: JpegTiles, seed: int) -> str:
    """Return how the direct reader differs from OpenSlide on a level; empty when it does not."""
    step = int(info.levels[level].downsample)
    # Without a cache to speak of: no tile is looked at twice, and memory that is used again costs nothing.
    reader = TiledJpegReader(info.slide_id, info.path, levels={level: tiles}, cache=TileCache(0))

    def read_direct(x_lv: int, y_lv: int) -> RgbImage:
        return reader.read_region(level, x_lv=x_lv, y_lv=y_lv, w_px=SIDE_PX, h_px=SIDE_PX)

    def read_openslide(x_lv: int, y_lv: int) -> RgbImage:
        try:
            return slides.get(info).read_region(
                level, x_l0=x_lv * step, y_l0=y_lv * step, w_lv_px=SIDE_PX, h_lv_px=SIDE_PX
            )
        except SlideError:
            slides.evict(info)
            raise

    with closing(reader):
        return find_difference(tiles, direct=read_direct, reference=read_openslide, seed=seed)
