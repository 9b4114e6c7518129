"""Read levels stored as JPEG tiles of a TIFF file: decode each tile once, keep it, put regions together.

simplejpeg (libjpeg-turbo) decodes; OpenSlide is not known here. Whether the pixels are those OpenSlide would show is
for the caller to prove. Positions and sizes are pixels of the level (``_lv``). What a level does not cover is white.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import simplejpeg

from wsi_extract.arrays import RgbImage
from wsi_extract.caches import DIRECT_CACHE_BYTES
from wsi_extract.errors import SlideError
from wsi_extract.slides.jpeg_tiles import APP0, APP14, SOI, JpegTiles, segments_before_scan

PixelMap: TypeAlias = Callable[[RgbImage], RgbImage]
"""Changes colours pixel by pixel: (H, W, 3) uint8 -> the same shape, as a new array. Hashable."""

MAX_EXPANSION = 2
"""No JPEG stream is larger than this many times its pixels, and what may stand beside them."""
STREAM_EXTRA_BYTES = 2**20
_REMEDY_UNREADABLE = "Check the disk or the network it lies on and who may read it, or leave the slide out."
_REMEDY_DAMAGED = (
    "The file is damaged or incomplete: replace it, or leave it out. If OpenSlide shows the place as it should be, "
    "--reader openslide reads it."
)


class TileCache:
    """Decoded tiles, the least recently used dropped first. Of one process and one thread, shared by its slides.

    The arrays of dropped tiles are used again, because fresh memory costs as much as half the decoding of a tile.
    """

    def __init__(self, n_bytes: int = DIRECT_CACHE_BYTES) -> None:
        self._n_bytes = n_bytes
        self._n_bytes_used = 0
        self._tiles: OrderedDict[int, RgbImage] = OrderedDict()
        self._spare: RgbImage | None = None
        self._n_numbered = 0

    def number_tiles(self, n_tiles: int) -> int:
        """Return the first of ``n_tiles`` consecutive keys that nobody else uses."""
        self._n_numbered += n_tiles
        return self._n_numbered - n_tiles

    def get(self, key: int) -> RgbImage | None:
        """Return the tile, ``None`` when it is not there. Copy from it before the next `put`."""
        tile = self._tiles.get(key)
        if tile is not None:
            self._tiles.move_to_end(key)
        return tile

    def empty_tile(self, shape: tuple[int, int, int]) -> RgbImage:
        """Return an array to decode into, with any content; nothing else refers to it."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.shape == shape else np.empty(shape, dtype=np.uint8)

    def put(self, key: int, tile: RgbImage) -> None:
        """Keep a tile, dropping the least recently used ones that exceed the size; the new one always stays."""
        self._tiles[key] = tile
        self._n_bytes_used += tile.nbytes
        while self._n_bytes_used > self._n_bytes and len(self._tiles) > 1:
            self._spare = self._tiles.popitem(last=False)[1]
            self._n_bytes_used -= self._spare.nbytes

    def clear(self) -> None:
        """Drop every tile."""
        self._tiles.clear()
        self._spare = None
        self._n_bytes_used = 0

    def __len__(self) -> int:
        return len(self._tiles)


class TiledJpegReader:
    """The JPEG tiles of a slide, open for reading. Close it; it never crosses processes.

    Parameters
    ----------
    slide_id, path
        The slide, for messages, and its file.
    levels
        The levels to read, see `find_jpeg_tiles`.
    cache
        Keeps decoded tiles, after ``pixel_map``.
    pixel_map
        Applied once to each decoded tile, never to the white of missing tiles and of what lies beyond the edge.

    Raises
    ------
    SlideError
        When the file cannot be opened.
    """

    def __init__(
        self,
        slide_id: str,
        path: Path,
        *,
        levels: Mapping[int, JpegTiles],
        cache: TileCache,
        pixel_map: PixelMap | None = None,
    ) -> None:
        self._slide_id = slide_id
        self._path = path
        self._levels = {number: (tiles, cache.number_tiles(len(tiles.offsets))) for number, tiles in levels.items()}
        self._cache = cache
        self._pixel_map = pixel_map
        self._stream = bytearray()
        self.n_decoded = 0
        """Tiles decoded so far."""
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY)
            self._n_file_bytes = os.fstat(self._file).st_size
        except OSError as error:
            self.close()
            message = f"slide {slide_id}: cannot open {path}: {error.strerror}."
            raise SlideError(message, _REMEDY_UNREADABLE, path=path) from error

    def read_region(self, level: int, *, x_lv: int, y_lv: int, w_px: int, h_px: int) -> RgbImage:
        """Return a region of a level, ``(h_px, w_px, 3)`` uint8, C-contiguous, white where the level ends.

        Raises `SlideError` when a tile cannot be read or decoded, `KeyError` for a level that was not given.
        """
        tiles, first_key = self._levels[level]
        tile_w, tile_h, n_columns = tiles.tile_w_px, tiles.tile_h_px, tiles.n_columns
        x0, y0 = max(x_lv, 0), max(y_lv, 0)
        x1, y1 = min(x_lv + w_px, tiles.width_px), min(y_lv + h_px, tiles.height_px)
        region: RgbImage = np.empty((h_px, w_px, 3), dtype=np.uint8)
        if x1 - x0 < w_px or y1 - y0 < h_px:
            region.fill(255)
            if x1 <= x0 or y1 <= y0:
                return region
        get = self._cache.get
        for row in range(y0 // tile_h, (y1 - 1) // tile_h + 1):
            top = row * tile_h
            above, below = max(y0, top), min(y1, top + tile_h)
            band = region[above - y_lv : below - y_lv]
            for column in range(x0 // tile_w, (x1 - 1) // tile_w + 1):
                left = column * tile_w
                before, after = max(x0, left), min(x1, left + tile_w)
                index = row * n_columns + column
                tile = get(first_key + index)
                if tile is None:
                    tile = self._load(level, index)
                band[:, before - x_lv : after - x_lv] = tile[above - top : below - top, before - left : after - left]
        return region

    def _load(self, level: int, index: int) -> RgbImage:
        """Read, decode and keep a tile; a missing one is white and costs nothing to make again."""
        tiles, first_key = self._levels[level]
        shape = (tiles.tile_h_px, tiles.tile_w_px, 3)
        if not tiles.byte_counts[index]:
            return np.broadcast_to(np.uint8(255), shape)
        tile = self._cache.empty_tile(shape)
        try:
            stream = self._read_stream(tiles, index)
            height, width, colours, _ = simplejpeg.decode_jpeg_header(stream)
            if (height, width) != shape[:2] or colours not in {"YCbCr", "RGB"}:
                raise ValueError(f"it is {colours}, {width} x {height} px")
            simplejpeg.decode_jpeg(
                stream, colorspace="RGB", fastdct=False, fastupsample=False, buffer=tile, strict=True
            )
        except (ValueError, OSError) as error:
            self._refuse(level, index, error)
        self.n_decoded += 1
        if self._pixel_map is not None:
            tile = self._pixel_map(tile)
        self._cache.put(first_key + index, tile)
        return tile

    def _read_stream(self, tiles: JpegTiles, index: int) -> memoryview:
        """Return a complete JPEG stream; valid until the next one is read. Raises ValueError and OSError."""
        n_bytes = int(tiles.byte_counts[index]) - len(SOI)
        offset, start = int(tiles.offsets[index]), len(tiles.header)
        if n_bytes <= 0 or offset + n_bytes > self._n_file_bytes:
            raise ValueError(f"its {n_bytes} bytes at {offset} are not in the file")
        if n_bytes > MAX_EXPANSION * tiles.tile_w_px * tiles.tile_h_px * 3 + STREAM_EXTRA_BYTES:
            raise ValueError(f"its {n_bytes} bytes are more than its pixels can take")
        if len(self._stream) < start + n_bytes:
            self._stream = bytearray(start + n_bytes)
        self._stream[:start] = tiles.header
        soi = bytearray(len(SOI))
        stream = memoryview(self._stream)[: start + n_bytes]
        n_read = os.preadv(self._file, [soi, stream[start:]], offset)
        if n_read != len(soi) + n_bytes or soi != SOI:
            raise ValueError("it is no whole JPEG stream")
        if not tiles.is_rgb:
            return stream
        segments, scan = segments_before_scan(stream[start:])
        if not any(code in {APP0, APP14} for code, _ in segments):
            return stream
        kept = [segment for code, segment in segments if code not in {APP0, APP14}]
        return memoryview(b"".join([tiles.header, *kept, stream[start + scan :]]))

    def _refuse(self, level: int, index: int, error: ValueError | OSError) -> NoReturn:
        row, column = divmod(index, self._levels[level][0].n_columns)
        where = f"tile {index} (column {column}, row {row}) of level {level} of {self._path}"
        if isinstance(error, OSError):
            message = f"slide {self._slide_id}: cannot read {where}: {error.strerror}."
            raise SlideError(message, _REMEDY_UNREADABLE, path=self._path) from error
        raise SlideError(f"slide {self._slide_id}: cannot decode {where}: {error}.", _REMEDY_DAMAGED) from error

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        if self._file >= 0:
            file, self._file = self._file, -1
            with suppress(OSError):  # of a mount that has gone; nothing was written
                os.close(file)
