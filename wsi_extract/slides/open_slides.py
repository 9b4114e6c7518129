"""The slides of a run: find them, keep them open, choose who reads them, see them whole.

Positions are level-0 pixels (``_l0``), sizes are pixels of the level that is read (``_lv``). `OpenedSlide` reads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self, TypeAlias

import cv2
import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.caches import DIRECT_CACHE_BYTES, OPENSLIDE_CACHE_BYTES, TILES_BESIDE_MASK_PX
from wsi_extract.causes import SHORTAGES, TRANSIENT, errno_of, remedy_for
from wsi_extract.errors import EnvironmentFaultError, SlideError
from wsi_extract.geometry import Scale
from wsi_extract.model import SlideFile, SlideInfo
from wsi_extract.reading import ReaderChoice, ReaderMode
from wsi_extract.resolution import choose_overview
from wsi_extract.slides.direct_proof import SIDE_PX, find_difference
from wsi_extract.slides.jpeg_tiles import JpegTiles, find_jpeg_tiles
from wsi_extract.slides.opened_slide import (
    REMEDY_READER,
    REMEDY_REPLACED,
    ComposerCache,
    FileStamp,
    OpenedSlide,
    openslide_version,
    unreadable,
)
from wsi_extract.slides.slide_description import describe_slide
from wsi_extract.slides.slide_files import FoundSlides, SeriesOf, find_slide_files, fingerprint_of
from wsi_extract.slides.tiled_jpeg import PixelMap, TileCache, TiledJpegReader

__all__ = [
    "FoundSlides",
    "OpenedSlide",
    "SlideCache",
    "choose_reader",
    "describe_slide",
    "dicom_series_of",
    "find_slides",
    "fingerprint_of",
    "openslide_version",
    "read_overview",
]

_BY_OPENSLIDE = ReaderChoice()
_CHUNK_PX = 2048  # side of the parts an overview is read in: about 50 MB, and few tiles are cut by their edges
MAX_OVERVIEW_READ_PX = 2**35
"""Some ten minutes of decoding."""


def _open_each(paths: Sequence[Path]) -> Mapping[Path, str | None]:
    return {path: dicom_series_of(path) for path in paths}


def find_slides(folder: Path, *, series_of: SeriesOf = _open_each) -> FoundSlides:
    """Find every slide below ``folder``; DICOM files are opened, see `find_slide_files` for the rules and errors.

    Parameters
    ----------
    series_of
        Opens them; in this process unless it is told otherwise.
    """
    return find_slide_files(folder, series_of=series_of)


def dicom_series_of(path: Path) -> str | None:
    """Return the series a DICOM file belongs to, ``None`` when it cannot be opened; describing it tells why.

    Raises `EnvironmentFaultError` when that may change in a moment: a file left out would be a slide of its own.
    """
    try:
        with OpenedSlide(SlideFile(slide_id=path.stem, path=path)) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except SlideError as error:
        number = errno_of(error)
        if number in TRANSIENT | SHORTAGES:
            raise EnvironmentFaultError(error.message, remedy_for(number)) from error
        return None


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
        self._tile_cache_bytes = tile_cache_bytes
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
        try:
            self._check_fingerprint(info, slide.stamp)
        except BaseException:
            slide.close()
            raise
        return slide

    def _check_fingerprint(self, info: SlideInfo, stamp: FileStamp) -> None:
        # Reading a file for its fingerprint takes 4 ms: once per process, unless the file was touched since.
        if self._known.get((info.path, info.fingerprint)) != stamp:
            if fingerprint_of(info) != info.fingerprint:
                raise SlideError(f"slide {info.slide_id}: {info.path} changed since the run began.", REMEDY_REPLACED)
            self._known[info.path, info.fingerprint] = stamp

    def evict(self, info: SlideInfo) -> None:
        """Close the slide however it is open. Call it after every error: a handle that failed once fails for ever."""
        for key in [key for key in self._open if key[:2] == (info.path, info.fingerprint)]:
            self._open.pop(key).close()

    def close(self) -> None:
        """Close every slide, and forget all that was read of them: after an error none of it is beyond doubt."""
        while self._open:
            self._open.popitem()[1].close()
        self._direct_tiles.clear()
        self._tile_cache = ComposerCache(self._tile_cache_bytes)
        self._known.clear()

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
    Raises `SlideError` when a part of the level cannot be read, or the level is too large to be read whole.

    Returns ``(H, W, 3)`` uint8, whose last row and column may reach over the slide's edge, where they are white, and
    the exact number of level-0 pixels per pixel of it.
    """
    index, factor = choose_overview(info.levels, target_downsample=target_downsample, max_px=max_px)
    level = info.levels[index]
    if level.width_px * level.height_px > MAX_OVERVIEW_READ_PX:
        raise SlideError(
            f"slide {info.slide_id}: where its tissue is could only be seen by reading all of level {index}, "
            f"{level.width_px} x {level.height_px} px ({info.path}); the limit is {MAX_OVERVIEW_READ_PX / 1e9:.0f} "
            "billion px.",
            "Write it anew with lower levels (a pyramid), or leave it out.",
        )
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
    try:
        tiles, reasons = find_jpeg_tiles(info.path, levels=info.levels, vendor=info.vendor)
    except OSError as error:
        raise unreadable(info, error) from error
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

    troubles: list[SlideError] = []

    def read_direct(x_lv: int, y_lv: int) -> RgbImage:
        with _noted(troubles):
            return reader.read_region(level, x_lv=x_lv, y_lv=y_lv, w_px=SIDE_PX, h_px=SIDE_PX)

    def read_openslide(x_lv: int, y_lv: int) -> RgbImage:
        try:
            with _noted(troubles):
                return slides.get(info).read_region(
                    level, x_l0=x_lv * step, y_l0=y_lv * step, w_lv_px=SIDE_PX, h_lv_px=SIDE_PX
                )
        except SlideError:
            slides.evict(info)
            raise

    with closing(reader):
        difference = find_difference(tiles, direct=read_direct, reference=read_openslide, seed=seed)
    if troubles:
        raise troubles[0]
    return difference


@contextmanager
def _noted(troubles: list[SlideError]) -> Iterator[None]:
    """Note errors that the system is behind: they tell nothing of how a reader reads."""
    try:
        yield
    except SlideError as error:
        if errno_of(error) is not None:
            troubles.append(error)
        raise
