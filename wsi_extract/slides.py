"""Find slides, describe them and read their pixels. The only module that knows OpenSlide.

Positions are level-0 pixels (``_l0``), sizes are pixels of the level that is read (``_lv``). What a slide does not
cover is white: transparent pixels and everything beyond its edge. What cannot be read is an error, never a colour.
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import fsencode
from pathlib import Path
from typing import NoReturn, Self

import cv2
import numpy as np
import openslide
import tifffile

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError, SlideError
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import SlideFile, SlideInfo, SlideLevel
from wsi_extract.resolution import ResolutionOverride, choose_overview, objective_power_of, resolve_um_per_px
from wsi_extract.slide_names import SLIDE_EXTENSIONS, slide_id_of

TILE_CACHE_BYTES = 64 * 2**20
"""Decoded tiles kept per process; OpenSlide's own default is 32 MiB per open slide."""
_REMEDY_DAMAGED = "The file is damaged, incomplete or not a slide: replace it, or leave it out."
_REMEDY_REPLACED = "Do not change slides during a run; start the run again."
_CHUNK_PX = 2048  # side of the parts an overview is read in: about 50 MB, and few tiles are cut by their edges


def openslide_version() -> str:
    """Return the version of the OpenSlide library in use, which decides how pixels are decoded."""
    return openslide.__library_version__


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSlides:
    """What lies in the slide folder."""

    slides: tuple[SlideFile, ...]
    """Sorted by id."""
    ignored: tuple[Path, ...]
    """Visible files that are no slides by their extension, and pipes or devices that carry a slide's extension."""


def find_slides(folder: Path) -> FoundSlides:
    """Find every slide below ``folder``, by its extension and without opening it; DICOM files are opened.

    Links are followed, every real folder is entered once. Hidden files, hidden folders and the data folder beside
    an ``.mrxs`` file are passed over. DICOM files of one folder and one series are one slide.

    Raises `InputError` when the folder is missing, cannot be listed or holds no slide, when two slides would get
    one id (upper and lower case are the same), or when two names lead to one file.
    """
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"the slide folder {folder} {reason}.", "Give the folder that holds the slides as --wsi_dir.")
    candidates: list[Path] = []
    ignored: list[Path] = []
    for path in _walk(folder):
        known = path.suffix.lower() in SLIDE_EXTENSIONS
        (candidates if known and _is_regular_or_missing(path) else ignored).append(path)
    if not candidates:
        remedy = f"Slides end in {' '.join(sorted(SLIDE_EXTENSIONS))}."
        raise InputError(f"no slides in {folder}: {len(ignored)} other files.", remedy)
    slides = [
        SlideFile(slide_id=slide_id_of(files[0].relative_to(folder)), path=files[0], companions=tuple(files[1:]))
        for files in _group_dicom(candidates)
    ]
    _refuse_duplicates(slides)
    return FoundSlides(slides=tuple(sorted(slides, key=lambda slide: slide.slide_id)), ignored=tuple(sorted(ignored)))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield every visible file below ``folder``; each real folder once, whatever links lead to it."""
    entered: set[Path] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        real = current.resolve()
        if real in entered:
            continue
        entered.add(real)
        try:
            entries = sorted(path for path in current.iterdir() if not path.name.startswith("."))
            folders = {path for path in entries if path.is_dir()}
        except OSError as error:
            message = f"cannot list {current}: {error.strerror}."
            raise InputError(message, "Make the folder readable, or move it away.") from error
        mrxs_data = {path.stem for path in entries if path.suffix.lower() == ".mrxs"}
        pending.extend(path for path in reversed(entries) if path in folders and path.name not in mrxs_data)
        yield from (path for path in entries if path not in folders)


def _is_regular_or_missing(path: Path) -> bool:
    """Return False for pipes, sockets and devices, which are never opened; a broken link is reported later."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _group_dicom(candidates: Sequence[Path]) -> list[list[Path]]:
    """Return the files of each slide, in order of name: one, or all DICOM files of one series in one folder."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(candidates):
        series = _dicom_series_of(path) if path.suffix.lower() == ".dcm" else None
        key = (path, "") if series is None else (path.parent, series)
        groups.setdefault(key, []).append(path)
    return list(groups.values())


def _dicom_series_of(path: Path) -> str | None:
    """Return the series a DICOM file belongs to, ``None`` when it cannot be opened; describing it tells why."""
    try:
        with OpenedSlide(SlideFile(slide_id=path.stem, path=path)) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except SlideError:
        return None


def _refuse_duplicates(slides: Sequence[SlideFile]) -> None:
    by_id: dict[str, SlideFile] = {}
    by_file: dict[Path, SlideFile] = {}
    for slide in slides:
        twin = by_id.setdefault(slide.slide_id.casefold(), slide)
        if twin is not slide:
            what, remedy = f"would both be called {slide.slide_id}", "Rename one of them."
        else:
            # A broken link, perhaps to itself, has no target to compare.
            twin = by_file.setdefault(slide.path.resolve() if slide.path.is_file() else slide.path, slide)
            what, remedy = "are one file", "Remove one: a slide under two names can be in training and validation."
        if twin is not slide:
            raise InputError(f"{twin.path} and {slide.path} {what}.", remedy)


class OpenedSlide:
    """An open slide: close it, or use it in a ``with`` statement. Never crosses processes.

    Opening raises `SlideError` when a file is missing, not a regular file, or not a slide OpenSlide can read.
    After any `SlideError` the handle is dead: OpenSlide fails every later read.
    """

    def __init__(self, slide: SlideFile | SlideInfo, *, tile_cache: openslide.OpenSlideCache | None = None) -> None:
        self.slide_id = slide.slide_id
        self.path = slide.path
        self._files = (slide.path, *slide.companions)
        self._stamp = self._stat_files()  # before opening, so that a pipe never is
        try:
            self._handle = openslide.OpenSlide(slide.path)
            if tile_cache is not None:
                self._handle.set_cache(tile_cache)
            self.properties: Mapping[str, str] = dict(self._handle.properties)
            sizes = zip(self._handle.level_dimensions, self._handle.level_downsamples, strict=True)
        except openslide.OpenSlideError as error:
            raise SlideError(f"slide {self.slide_id}: cannot open {self.path}: {error}.", _REMEDY_DAMAGED) from error
        self.levels = tuple(SlideLevel(width_px=w, height_px=h, downsample=downsample) for (w, h), downsample in sizes)

    def _stat_files(self) -> tuple[tuple[int, int], ...]:
        """Return size and time of change of each file."""
        try:
            stats = [path.stat() for path in self._files]
        except OSError as error:
            what = f"cannot find {error.filename}: {error.strerror}"
            raise SlideError(f"slide {self.slide_id}: {what}.", "Restore the file, or leave the slide out.") from error
        if not all(stat.S_ISREG(entry.st_mode) for entry in stats):
            raise SlideError(f"slide {self.slide_id}: {self.path} is not a regular file.", _REMEDY_DAMAGED)
        return tuple((entry.st_size, entry.st_mtime_ns) for entry in stats)

    def check_unchanged(self) -> None:
        """Raise `SlideError` when a file of the slide was replaced, changed or removed since it was opened."""
        if self._stat_files() != self._stamp:
            raise SlideError(f"slide {self.slide_id}: {self.path} changed while it was open.", _REMEDY_REPLACED)

    def read_region(self, level: int, *, x_l0: int, y_l0: int, w_lv_px: int, h_lv_px: int) -> RgbImage:
        """Return a region of a level, ``(h_lv_px, w_lv_px, 3)`` uint8, C-contiguous, from level-0 pixel (x, y) on.

        Any position is allowed. Pixels outside the level are white; transparent ones are composited on white.

        Raises `SlideError` when the pixels cannot be read, `ValueError` without such a level or with an empty region.
        """
        if not 0 <= level < len(self.levels) or w_lv_px < 1 or h_lv_px < 1:
            raise ValueError(f"slide {self.slide_id}: no region of {w_lv_px} x {h_lv_px} px at level {level}")
        size = self.levels[level]
        # Some formats draw beyond the edge of a level; never ask for more than there is.
        w_read_px = min(w_lv_px, math.ceil(size.width_px - x_l0 / size.downsample))
        h_read_px = min(h_lv_px, math.ceil(size.height_px - y_l0 / size.downsample))
        covered = np.empty((0, 0, 3), dtype=np.uint8)
        if w_read_px > 0 and h_read_px > 0:
            try:
                image = self._handle.read_region((int(x_l0), int(y_l0)), level, (w_read_px, h_read_px))
            except openslide.OpenSlideError as error:
                where = f"{w_read_px} x {h_read_px} px of level {level} at level-0 pixel ({x_l0}, {y_l0})"
                message = f"slide {self.slide_id}: cannot read {where} of {self.path}: {error}."
                raise SlideError(message, _REMEDY_DAMAGED) from error
            covered = _composite_on_white(np.asarray(image))
        missing = ((0, h_lv_px - covered.shape[0]), (0, w_lv_px - covered.shape[1]), (0, 0))
        return covered if covered.shape[:2] == (h_lv_px, w_lv_px) else np.pad(covered, missing, constant_values=255)

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the open slide {self.slide_id} cannot be pickled: send its SlideInfo and open that instead")


def _composite_on_white(rgba: RgbImage) -> RgbImage:
    """Return ``rgba`` ((H, W, 4), straight alpha) on white, ``(H, W, 3)``."""
    rgb = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB).astype(np.uint8, copy=False)
    if rgba[..., 3].min() == 255:
        return rgb
    for y in range(0, len(rgba), 256):  # in strips, to bound the memory of the wide integers
        alpha = rgba[y : y + 256, :, 3:].astype(np.uint16)
        # OpenSlide stores c * alpha; its binding divides by alpha, rounding down. Rounding up gives c * alpha back.
        rgb[y : y + 256] = (rgb[y : y + 256] * alpha + 254) // 255 + (255 - alpha)
    return rgb


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
        raise SlideError(f"slide {slide.slide_id}: {what}.", _REMEDY_DAMAGED)
    return bounds


def fingerprint_of(file: SlideFile | SlideInfo) -> str:
    """Return a digest that changes when a slide's file is replaced, without reading all of it.

    SHA-256 over size, first and last MiB, 16 x 64 KiB between them, and names and sizes of the slide's further files.
    Raises `SlideError` when a file cannot be read.
    """
    try:
        size = file.path.stat().st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        pieces = [(0, 2**20), (max(0, size - 2**20), 2**20), *((size * i // 17, 2**16) for i in range(1, 17))]
        with file.path.open("rb") as stream:
            for start, length in pieces:
                stream.seek(start)
                digest.update(stream.read(length))
        mrxs_data = sorted(file.path.with_suffix("").iterdir()) if file.path.suffix.lower() == ".mrxs" else []
        for path in (*file.companions, *mrxs_data):
            digest.update(b"%s\0%d\0" % (fsencode(path.name), path.stat().st_size))
    except OSError as error:
        message = f"slide {file.slide_id}: cannot read {error.filename or file.path}: {error.strerror}."
        raise SlideError(message, _REMEDY_DAMAGED) from error
    return digest.hexdigest()


class SlideCache:
    """The open slides of one process: the least recently used is closed when there are too many. One thread only."""

    def __init__(self, *, max_open: int = 4, tile_cache_bytes: int = TILE_CACHE_BYTES) -> None:
        if max_open < 1:
            raise ValueError(f"at least one slide must be open, got {max_open}")
        self._max_open = max_open
        self._tile_cache = openslide.OpenSlideCache(tile_cache_bytes)
        self._open: OrderedDict[tuple[Path, str], OpenedSlide] = OrderedDict()

    def get(self, info: SlideInfo) -> OpenedSlide:
        """Return the open slide, opening it when needed. It stays the cache's: do not close it.

        Raises `SlideError` when it cannot be opened or is no longer the file that was described and opened.
        """
        key = (info.path, info.fingerprint)
        if key not in self._open:
            self._open[key] = self._open_described(info)
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        try:
            self._open[key].check_unchanged()
        except SlideError:
            self.evict(info)
            raise
        return self._open[key]

    def _open_described(self, info: SlideInfo) -> OpenedSlide:
        slide = OpenedSlide(info, tile_cache=self._tile_cache)
        if fingerprint_of(info) != info.fingerprint:
            slide.close()
            raise SlideError(f"slide {info.slide_id}: {info.path} changed since the run began.", _REMEDY_REPLACED)
        return slide

    def evict(self, info: SlideInfo) -> None:
        """Close the slide if it is open. Call it after every error: a handle that failed once fails for ever."""
        slide = self._open.pop((info.path, info.fingerprint), None)
        if slide is not None:
            slide.close()

    def close(self) -> None:
        """Close every slide."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_overview(
    slide: OpenedSlide, info: SlideInfo, *, target_downsample: float, max_px: int = 16_000_000
) -> tuple[RgbImage, Scale]:
    """Return the whole slide at low magnification.

    The coarsest level not coarser than the target is read in chunks and reduced by a whole factor, averaging areas,
    as far as the target or ``max_px`` asks for. Memory stays below 200 MB, whatever the size of the level.
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
    return rgb, Scale(x=factor * info.width_l0_px / level.width_px, y=factor * info.height_l0_px / level.height_px)
