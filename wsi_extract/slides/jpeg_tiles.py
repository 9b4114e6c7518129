"""Find the JPEG tiles of TIFF slides, level by level, and what turns each tile into a complete JPEG stream.

tifffile parses the directories; no tile is read here. Only what OpenSlide is known to read in the same way is
accepted. Positions in the file and sizes are bytes, sizes of images are pixels of the level (``_px``).
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from wsi_extract.arrays import IntArray
from wsi_extract.caches import MAX_DIRECT_TILE_BYTES
from wsi_extract.model import SlideLevel

JPEG = 7
"""The TIFF compression whose tiles are JPEG streams, with tables that may stand in a tag of their own."""
RGB, YCBCR = 2, 6
"""TIFF photometric interpretations."""
MAX_DIRECTORIES = 256
"""Images that are looked at; slides have some twenty."""
_READABLE_VENDORS = ("aperio", "generic-tiff")
NUMBER_TYPES = {3: "u2", 4: "u4", 16: "u8"}
"""NumPy types of the TIFF types that count and place tiles."""
UNPARSABLE = (tifffile.TiffFileError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, OSError)
"""What damaged directories lead to in tifffile and here, as found by changing every byte of one."""
SOI = b"\xff\xd8"
# libjpeg takes the colours of a stream from these markers: JFIF, wherever it stands, means YCbCr, Adobe with
# transform 0 means RGB. OpenSlide takes them from the TIFF photometric instead.
_JFIF_MARKER = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE_RGB_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
APP0, APP14, _SOS, _DQT, _DHT = 0xE0, 0xEE, 0xDA, 0xDB, 0xC4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JpegTiles:
    """Where the tiles of one level lie, and what turns each of them into a complete JPEG stream."""

    width_px: int
    height_px: int
    """Of the level."""
    tile_w_px: int
    tile_h_px: int
    offsets: IntArray
    """(N,) int64, positions in the file, row of tiles by row of tiles."""
    byte_counts: IntArray
    """(N,) int64; 0 for a missing tile, which is white."""
    header: bytes
    """What comes before a tile's own segments: start of image, marker of the colours, shared tables."""
    is_rgb: bool
    """Whether the streams hold RGB, whatever markers of their own say; otherwise YCbCr."""

    @property
    def n_columns(self) -> int:
        """Number of tiles side by side."""
        return -(-self.width_px // self.tile_w_px)

    @property
    def n_rows(self) -> int:
        """Number of tiles above each other."""
        return -(-self.height_px // self.tile_h_px)


def find_jpeg_tiles(
    path: Path, *, levels: Sequence[SlideLevel], vendor: str
) -> tuple[dict[int, JpegTiles], dict[int, str]]:
    """Find the JPEG tiles of each level that can be read directly, and say why the others cannot.

    Accepted are levels of Aperio and generic TIFF files, 8-bit RGB or YCbCr in one plane, that exactly one tiled
    directory of the file fits. Missing tiles are accepted where OpenSlide makes them transparent, but not in the lower
    levels of an Aperio file, where it draws them from the level before.

    Returns
    -------
    tuple
        The tiles by level, and the reason by level for all others. Every level is in one of the two.

    Raises
    ------
    OSError
        When the file cannot be read, which says nothing about its tiles.
    """
    if vendor not in _READABLE_VENDORS:
        return {}, dict.fromkeys(range(len(levels)), f"its format, {vendor}, is not one of tiled JPEG images")
    found: dict[int, JpegTiles] = {}
    reasons: dict[int, str] = {}
    try:
        with parsed_tiff(path) as tiff:
            pages = [page for page in first_pages(tiff) if page.is_tiled]
            for number, level in enumerate(levels):
                try:
                    found[number] = _tiles_of(tiff, _page_of(level, pages))
                except UNPARSABLE as error:
                    _raise_if_unreadable(error)
                    reasons[number] = f"{error}"
    except UNPARSABLE as error:
        _raise_if_unreadable(error)
        return {}, dict.fromkeys(range(len(levels)), f"its file cannot be parsed without OpenSlide: {error}")
    reasons |= {number: reason for number in found if (reason := _reason_against(number, found, levels, vendor))}
    return {number: tiles for number, tiles in found.items() if number not in reasons}, reasons


@contextmanager
def parsed_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file. What tifffile finds odd about a damaged one, line by line, is kept from the terminal."""
    logger = tifffile.logger()
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    finally:
        logger.disabled = was_disabled


def first_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Yield the first `MAX_DIRECTORIES` directories: those of a damaged file may have no end."""
    for page in itertools.islice(tiff.pages, MAX_DIRECTORIES):
        if isinstance(page, tifffile.TiffPage):
            yield page


def has_whole_sizes(page: tifffile.TiffPage) -> bool:
    """Tell whether sizes are numbers; of a damaged tag they are bytes or text, which arithmetic would multiply."""
    sizes = (page.imagewidth, page.imagelength, page.tilewidth, page.tilelength)
    return all(isinstance(size, int) for size in sizes)


def _raise_if_unreadable(error: Exception) -> None:
    """Raise an error of the system again, unless it is about a place in the file that cannot be: that is damage."""
    if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL, errno.EOVERFLOW}:
        raise error


def _page_of(level: SlideLevel, pages: Sequence[tifffile.TiffPage]) -> tifffile.TiffPage:
    """Return the directory of a level; raises ValueError when there is not exactly one, or its tiles are not ours."""
    fits = [page for page in pages if (page.imagewidth, page.imagelength) == (level.width_px, level.height_px)]
    if len(fits) != 1:
        raise ValueError(f"{len(fits)} tiled images of its file have its size")
    page = fits[0]
    if not has_whole_sizes(page):
        raise ValueError("its sizes are no whole numbers")
    if page.compression != JPEG:
        raise ValueError(f"its compression is {page.compression:d}, not {JPEG} (JPEG)")
    bits, channels = page.bitspersample, page.samplesperpixel
    if (channels, bits, page.planarconfig, page.imagedepth) != (3, 8, 1, 1):
        raise ValueError(f"it holds {channels} channels of {bits} bits, not 3 of 8 in one plane")
    tile_bytes = page.tilewidth * page.tilelength * channels
    if tile_bytes > MAX_DIRECT_TILE_BYTES:
        raise ValueError(f"its tiles are larger than {MAX_DIRECT_TILE_BYTES / 1e6:.0f} MB")
    if page.photometric not in {RGB, YCBCR}:
        raise ValueError(f"its photometric interpretation is {page.photometric:d}, neither RGB nor YCbCr")
    return page


def _reason_against(number: int, found: Mapping[int, JpegTiles], levels: Sequence[SlideLevel], vendor: str) -> str:
    """Return why OpenSlide shows more of a level than its own tiles; empty when it does not."""
    if not float(levels[number].downsample).is_integer():
        # OpenSlide shifts such a level by the fraction of a pixel on which a region begins.
        return f"its downsample is {levels[number].downsample:.6g}, no whole number"
    # What one level of an Aperio file lacks is missing, for OpenSlide, in all levels below, and drawn from above.
    is_complete = {each: bool(tiles.byte_counts.all()) for each, tiles in found.items()}
    if vendor == "aperio" and number > 0 and not all(is_complete.get(each) for each in range(number + 1)):
        return "tiles are missing, or may be, in it or in the levels before"
    return ""


def _read_numbers(tiff: tifffile.TiffFile, page: tifffile.TiffPage, name: str) -> IntArray:
    """Return the numbers of a tag, straight from the file: 18 ms less for 174,000 tiles than from Python integers."""
    tag = page.tags.get(name)
    if tag is None or int(tag.dtype) not in NUMBER_TYPES:
        raise ValueError(f"it has no {name} that are whole numbers")
    numbers = np.dtype(NUMBER_TYPES[int(tag.dtype)]).newbyteorder(tiff.byteorder)
    expected = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    # Before reading, which takes the memory first.
    if tag.count != expected or tag.count * numbers.itemsize > tiff.filehandle.size:
        raise ValueError(f"it has {tag.count} {name} for {expected} tiles")
    tiff.filehandle.seek(tag.valueoffset)
    values = np.frombuffer(tiff.filehandle.read(tag.count * numbers.itemsize), dtype=numbers).astype(np.int64)
    if len(values) != expected:
        raise ValueError(f"it has {len(values)} {name} for {expected} tiles")
    return values


def _tiles_of(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> JpegTiles:
    is_rgb = page.photometric == RGB
    marker = _ADOBE_RGB_MARKER if is_rgb else _JFIF_MARKER
    return JpegTiles(
        width_px=page.imagewidth,
        height_px=page.imagelength,
        tile_w_px=page.tilewidth,
        tile_h_px=page.tilelength,
        offsets=_read_numbers(tiff, page, "TileOffsets"),
        byte_counts=_read_numbers(tiff, page, "TileByteCounts"),
        header=SOI + marker + _tables_of(page.jpegtables or b""),
        is_rgb=is_rgb,
    )


def _tables_of(stream: bytes) -> bytes:
    """Return the segments of a stream of tables that outlive it: quantisation and Huffman tables."""
    segments, _ = segments_before_scan(memoryview(stream)[len(SOI) :])
    return b"".join(bytes(segment) for code, segment in segments if code in {_DQT, _DHT})


def segments_before_scan(stream: memoryview) -> tuple[list[tuple[int, memoryview]], int]:
    """Return (code, segment with its marker) of what precedes the scan or the end, and where that begins.

    ``stream`` begins after its SOI.
    """
    segments = []
    position = 0
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        code = stream[position + 1]
        if code == 0xFF:  # a fill byte
            position += 1
            continue
        if code == _SOS:
            break
        stop = position + 2 + (stream[position + 2] << 8 | stream[position + 3])
        segments.append((code, stream[position:stop]))
        position = stop
    return segments, position
