"""An open slide and its pixels, read by OpenSlide or, where that is proven equal, tile by tile. Only user of OpenSlide.

Positions are level-0 pixels (``_l0``), sizes are pixels of the level that is read (``_lv``). What a slide does not
cover is white: transparent pixels and everything beyond its edge. What cannot be read is an error, never a colour.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Self, TypeAlias

import cv2
import numpy as np
import openslide

from wsi_extract.arrays import RgbImage
from wsi_extract.causes import errno_of
from wsi_extract.errors import SlideError
from wsi_extract.model import SlideFile, SlideInfo, SlideLevel
from wsi_extract.slides.jpeg_tiles import find_jpeg_tiles
from wsi_extract.slides.slide_files import fingerprint_of
from wsi_extract.slides.tiled_jpeg import PixelMap, TileCache, TiledJpegReader

ComposerCache: TypeAlias = openslide.OpenSlideCache
"""Tiles that OpenSlide keeps decoded; several slides may share it."""
FileStamp: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""Of each file of a slide: size, time of change of its content, and what nobody can set back: inode and time of change
of anything of it, times in ns."""

REMEDY_DAMAGED = "The file is damaged, incomplete or not a slide: replace it, or leave it out."
REMEDY_UNREADABLE = "Check the disk or the network it lies on and who may read it, or leave the slide out."
REMEDY_REPLACED = "Do not change slides during a run; start the run again."
REMEDY_READER = "Read it with OpenSlide: --reader auto."


def unreadable(slide: SlideFile | SlideInfo, error: OSError) -> SlideError:
    """Return what to raise from an error of the system at reading a slide."""
    what = f"cannot read {error.filename or slide.path}: {error.strerror}"
    return SlideError(f"slide {slide.slide_id}: {what}.", REMEDY_UNREADABLE, path=_place_of(slide))


def _place_of(slide: SlideFile | SlideInfo) -> Path:
    """Return where a file lies that was there once; a link that never led anywhere is judged as it stands."""
    return Path(os.path.realpath(slide.path)) if isinstance(slide, SlideInfo) else slide.path


def openslide_version() -> str:
    """Return the version of the OpenSlide library in use, which decides how pixels are decoded."""
    return openslide.__library_version__


class OpenedSlide:
    """An open slide: close it, or use it in a ``with`` statement. Never crosses processes.

    Opening raises `SlideError` when a file is missing, not a regular file, or not a slide OpenSlide can read.
    After any `SlideError` the handle is dead: OpenSlide fails every later read.

    Parameters
    ----------
    slide
        Of a described slide, whose levels are known, the OpenSlide handle is opened when it is first needed, if there
        are levels to decode directly.
    tile_cache
        Where OpenSlide keeps decoded tiles; ``None`` for a cache of this slide alone.
    direct_levels
        Levels whose JPEG tiles are decoded without OpenSlide, see `choose_reader`.
    direct_tiles
        Where they are kept once decoded; ``None`` for a cache of this slide alone.
    pixel_map
        Applied to all pixels of the slide, not to the white where there are none.
    """

    def __init__(
        self,
        slide: SlideFile | SlideInfo,
        *,
        tile_cache: ComposerCache | None = None,
        direct_levels: Sequence[int] = (),
        direct_tiles: TileCache | None = None,
        pixel_map: PixelMap | None = None,
    ) -> None:
        self.slide_id = slide.slide_id
        self.path = slide.path
        self._slide = slide
        self._files = (slide.path, *slide.companions)
        self.stamp = self._stat_files()  # before opening, so that a pipe never is
        self._tile_cache = tile_cache
        self._pixel_map = pixel_map
        self._openslide: openslide.OpenSlide | None = None
        self._tiles: TiledJpegReader | None = None
        self._direct_levels = frozenset(direct_levels)
        if self._direct_levels and isinstance(slide, SlideInfo):
            self.levels = slide.levels
            self._direct_tiles = TileCache() if direct_tiles is None else direct_tiles
            self._tiles = self._open_tiles(slide)
        elif self._direct_levels:
            raise ValueError(f"slide {self.slide_id}: only a described slide can be read directly")
        else:
            self.levels = self._read_levels()

    def _open_tiles(self, info: SlideInfo) -> TiledJpegReader:
        try:
            found, reasons = find_jpeg_tiles(info.path, levels=info.levels, vendor=info.vendor)
        except OSError as error:
            raise unreadable(info, error) from error
        for level in sorted(self._direct_levels):
            if level not in found:
                what = f"level {level} of {self.path} cannot be read directly: {reasons.get(level, 'there is none')}"
                raise SlideError(f"slide {self.slide_id}: {what}.", REMEDY_READER)
        tiles = {level: found[level] for level in self._direct_levels}
        return TiledJpegReader(
            self.slide_id, self.path, levels=tiles, cache=self._direct_tiles, pixel_map=self._pixel_map
        )

    @property
    def _handle(self) -> openslide.OpenSlide:
        if self._openslide is None:
            with self._refusals(f"cannot open {self.path}"):
                handle = openslide.OpenSlide(self.path)
                if self._tile_cache is not None:
                    handle.set_cache(self._tile_cache)
                self._openslide = handle
        return self._openslide

    def _read_levels(self) -> tuple[SlideLevel, ...]:
        try:
            with self._refusals(f"cannot open {self.path}"):
                return _levels_of(self._handle)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Turn an error of OpenSlide into one of the slide, raised from that of the system if that is behind it."""
        try:
            yield
        except openslide.OpenSlideError as error:
            trouble = self._trouble()
            said = f"{error}" if trouble is None else f"{error} ({trouble.strerror})"
            cause = trouble or error
            remedy = REMEDY_DAMAGED if errno_of(cause) is None else REMEDY_UNREADABLE
            message = f"slide {self.slide_id}: {what}: {said}."
            raise SlideError(message, remedy, path=_place_of(self._slide)) from cause

    def _trouble(self) -> OSError | None:
        """Return what the system says to reading the slide's files; OpenSlide does not always repeat it."""
        try:
            for path in self._files:
                with path.open("rb", buffering=0) as stream:
                    stream.read(1)
        except OSError as error:
            return error
        return None

    @property
    def properties(self) -> Mapping[str, str]:
        """What the file says of itself, by OpenSlide's names; without what has a name that is no text."""
        with self._refusals(f"cannot read the properties of {self.path}"):
            stated = self._handle.properties
            return {name: value for name in stated if (value := stated.get(name)) is not None}

    def reads_tiles(self, level: int) -> bool:
        """Whether regions of a level may overlap, or be small, without any tile being decoded twice."""
        return level in self._direct_levels

    def _stat_files(self) -> FileStamp:
        """Return size and time of change of each file."""
        try:
            stats = [path.stat() for path in self._files]
        except OSError as error:
            message = f"slide {self.slide_id}: cannot find {error.filename}: {error.strerror}."
            remedy = "Restore the file, or leave the slide out."
            raise SlideError(message, remedy, path=_place_of(self._slide)) from error
        if not all(stat.S_ISREG(entry.st_mode) for entry in stats):
            raise SlideError(f"slide {self.slide_id}: {self.path} is not a regular file.", REMEDY_DAMAGED)
        return tuple((entry.st_size, entry.st_mtime_ns, entry.st_ino, entry.st_ctime_ns) for entry in stats)

    def check_unchanged(self) -> None:
        """Raise `SlideError` when a file of the slide was replaced, changed or removed since it was opened.

        A file that only changed its owner, its rights or its number of names is the same; its fingerprint tells.
        """
        stamp = self._stat_files()
        if stamp == self.stamp:
            return
        looks_same = [entry[:2] for entry in stamp] == [entry[:2] for entry in self.stamp]
        if not (looks_same and isinstance(self._slide, SlideInfo)) or self._slide.fingerprint != fingerprint_of(
            self._slide
        ):
            raise SlideError(f"slide {self.slide_id}: {self.path} changed while it was open.", REMEDY_REPLACED)
        self.stamp = stamp

    def read_region(self, level: int, *, x_l0: int, y_l0: int, w_lv_px: int, h_lv_px: int) -> RgbImage:
        """Return a region of a level, ``(h_lv_px, w_lv_px, 3)`` uint8, C-contiguous, from level-0 pixel (x, y) on.

        Any position is allowed. Pixels outside the level are white; transparent ones are composited on white.

        Raises `SlideError` when the pixels cannot be read, `ValueError` without such a level or with an empty region.
        """
        if not 0 <= level < len(self.levels) or w_lv_px < 1 or h_lv_px < 1:
            raise ValueError(f"slide {self.slide_id}: no region of {w_lv_px} x {h_lv_px} px at level {level}")
        if self._tiles is not None and level in self._direct_levels:
            step = int(self.levels[level].downsample)  # a whole number, or the level would not be read directly
            x_lv, x_rest = divmod(int(x_l0), step)
            y_lv, y_rest = divmod(int(y_l0), step)
            if not x_rest and not y_rest:
                return self._tiles.read_region(level, x_lv=x_lv, y_lv=y_lv, w_px=w_lv_px, h_px=h_lv_px)
        return self._read_composed(level, x_l0=int(x_l0), y_l0=int(y_l0), w_lv_px=w_lv_px, h_lv_px=h_lv_px)

    def _read_composed(self, level: int, *, x_l0: int, y_l0: int, w_lv_px: int, h_lv_px: int) -> RgbImage:
        """Read a region through OpenSlide."""
        size = self.levels[level]
        # Some formats draw beyond the edge of a level; never ask for more than there is.
        w_read_px = min(w_lv_px, math.ceil(size.width_px - x_l0 / size.downsample))
        h_read_px = min(h_lv_px, math.ceil(size.height_px - y_l0 / size.downsample))
        if w_read_px <= 0 or h_read_px <= 0:
            return np.full((h_lv_px, w_lv_px, 3), 255, dtype=np.uint8)
        where = f"{w_read_px} x {h_read_px} px of level {level} at level-0 pixel ({x_l0}, {y_l0})"
        handle = self._handle  # whose opening has a message of its own
        with self._refusals(f"cannot read {where} of {self.path}"):
            image = handle.read_region((x_l0, y_l0), level, (w_read_px, h_read_px))
        rgba = np.asarray(image)
        covered = _composite_on_white(rgba)
        if self._pixel_map is not None:
            covered = self._pixel_map(covered)
            covered[rgba[..., 3] == 0] = 255  # white, not a colour of the slide
        missing = ((0, h_lv_px - h_read_px), (0, w_lv_px - w_read_px), (0, 0))
        return covered if covered.shape[:2] == (h_lv_px, w_lv_px) else np.pad(covered, missing, constant_values=255)

    def drop_tiles(self) -> None:
        """Give back the memory of all tiles that were decoded directly, those of other slides in the cache too."""
        if self._tiles is not None:
            self._direct_tiles.clear()

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        if self._openslide is not None:
            self._openslide.close()
        if self._tiles is not None:
            self._tiles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the open slide {self.slide_id} cannot be pickled: send its SlideInfo and open that instead")


def _levels_of(handle: openslide.OpenSlide) -> tuple[SlideLevel, ...]:
    sizes = zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    return tuple(SlideLevel(width_px=w, height_px=h, downsample=downsample) for (w, h), downsample in sizes)


def _composite_on_white(rgba: RgbImage) -> RgbImage:
    """Return ``rgba`` ((H, W, 4), straight alpha) on white, ``(H, W, 3)``."""
    rgb = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB).astype(np.uint8, copy=False)
    if rgba[..., 3].min() == 255:
        return rgb
    if rgba[..., 3].max() == 0:  # as are large parts of slides with missing tiles
        rgb.fill(255)
        return rgb
    for y in range(0, len(rgba), 256):  # in strips, to bound the memory of the wide integers
        alpha = rgba[y : y + 256, :, 3:].astype(np.uint16)
        # OpenSlide stores c * alpha; its binding divides by alpha, rounding down. Rounding up gives c * alpha back.
        rgb[y : y + 256] = (rgb[y : y + 256] * alpha + 254) // 255 + (255 - alpha)
    return rgb
