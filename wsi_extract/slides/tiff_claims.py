"""What the directories of a TIFF file claim, judged by numbers before any library allocates memory for them.

OpenSlide ends the process when it cannot have the memory that a tile claims. tifffile parses the directories; no tile
is read here. Sizes of images are pixels, positions and sizes in the file are bytes.
"""

from __future__ import annotations

import stat

import numpy as np
import tifffile

from wsi_extract.errors import SlideError
from wsi_extract.model import SlideFile
from wsi_extract.slides.jpeg_tiles import NUMBER_TYPES, UNPARSABLE, first_pages, has_whole_sizes, parsed_tiff

MAX_TILE_BYTES = 2**28
"""Of a decoded tile, at 4 bytes per pixel: 8192 x 8192 px; scanners write at most 1024 x 1024."""
MAX_EXPANSION = 4
"""No encoding makes a tile larger than this many times its pixels, and a little."""
MAX_PIXEL_BYTES = 8
"""Four channels of 16 bits."""
ENCODED_EXTRA_BYTES = 2**20
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NDPI_TAG = 65420
"""In every directory of Hamamatsu's files, which count beyond the limits of TIFF and hold no tiles."""
_LISTS = ("TileOffsets", "TileByteCounts")
_REMEDY = "The file is damaged: replace it, or leave it out."


def refuse_impossible_tiles(file: SlideFile) -> None:
    """Refuse a TIFF file whose tiles cannot be what they claim to be, or are too large to be held in memory.

    Files of other formats, and files that cannot be parsed or read, are left to whoever opens them.

    Raises
    ------
    SlideError
        With the directory, its claim and the limit.
    """
    try:
        facts = file.path.stat()
        if not stat.S_ISREG(facts.st_mode):
            return
        with file.path.open("rb") as stream:
            if stream.read(4) not in MAGIC:
                return
        with parsed_tiff(file.path) as tiff:
            for number, page in enumerate(first_pages(tiff)):
                if NDPI_TAG in page.tags:
                    return
                problem = _problem_of(tiff, page, n_file_bytes=facts.st_size) if page.is_tiled else ""
                if problem:
                    where = f"image {number} of {file.path}"
                    raise SlideError(f"slide {file.slide_id}: {where} {problem}.", _REMEDY)
    except UNPARSABLE:
        return


def _problem_of(tiff: tifffile.TiffFile, page: tifffile.TiffPage, *, n_file_bytes: int) -> str:
    """Return what is impossible about the tiles of a directory; empty when nothing is."""
    if not has_whole_sizes(page):
        return "has sizes that are no whole numbers"
    size = f"tiles of {page.tilewidth} x {page.tilelength} px"
    if page.tilewidth < 1 or page.tilelength < 1:
        return f"has {size}"
    n_px = page.tilewidth * page.tilelength
    if n_px * 4 > MAX_TILE_BYTES:
        return f"has {size}; each would take {n_px * 4 / 1e6:.0f} MB of at most {MAX_TILE_BYTES / 1e6:.0f} MB"
    n_tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    n_listed = min((tag.count for name in _LISTS if (tag := page.tags.get(name)) is not None), default=n_tiles)
    if n_listed < n_tiles:
        return f"lists {n_listed:,} of the {n_tiles:,} tiles that {page.imagewidth} x {page.imagelength} px take"
    raw_bytes = n_px * MAX_PIXEL_BYTES
    most_bytes = min(n_file_bytes, MAX_EXPANSION * raw_bytes + ENCODED_EXTRA_BYTES)
    claimed = _largest_tile_bytes(tiff, page, n_file_bytes=n_file_bytes)
    if claimed > most_bytes:
        return f"has {size} of up to {claimed:,} bytes in the file, more than the {most_bytes:,} that are possible"
    return ""


def _largest_tile_bytes(tiff: tifffile.TiffFile, page: tifffile.TiffPage, *, n_file_bytes: int) -> int:
    tag = page.tags.get("TileByteCounts")
    if tag is None or int(tag.dtype) not in NUMBER_TYPES:
        return 0
    numbers = np.dtype(NUMBER_TYPES[int(tag.dtype)]).newbyteorder(tiff.byteorder)
    if tag.count * numbers.itemsize > n_file_bytes:
        return 0  # OpenSlide refuses a tag that is not in the file
    tiff.filehandle.seek(tag.valueoffset)
    counts = np.frombuffer(tiff.filehandle.read(tag.count * numbers.itemsize), dtype=numbers)
    return int(counts.max(initial=0))
