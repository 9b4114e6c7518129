"""Any bytes as a slide of JPEG tiles: described and read without OpenSlide, or refused; never more than that.

OpenSlide is left out, because atheris cannot follow it; its side is `tests.slides.test_hostile_slides`.
"""

from __future__ import annotations

import contextlib

from tests.fuzz.runner import fuzz
from tests.fuzz.scratch import scratch
from tests.helpers_jpeg_slides import JpegSlide, write_jpeg_file
from wsi_extract.errors import SlideError
from wsi_extract.model import SlideFile, SlideLevel
from wsi_extract.slides.jpeg_tiles import find_jpeg_tiles
from wsi_extract.slides.tiff_claims import refuse_impossible_tiles
from wsi_extract.slides.tiled_jpeg import TileCache, TiledJpegReader

LEVELS = (
    SlideLevel(width_px=96, height_px=64, downsample=1.0),
    SlideLevel(width_px=48, height_px=32, downsample=2.0),
)


def check(data: bytes) -> int:
    """Return the number of tiles read; every error that is none of a slide is a finding."""
    path = scratch() / "a.svs"
    path.write_bytes(data)
    n_decoded = 0
    with contextlib.suppress(SlideError):
        refuse_impossible_tiles(SlideFile(slide_id="a", path=path))
        for vendor in ("aperio", "generic-tiff"):
            tiles, reasons = find_jpeg_tiles(path, levels=LEVELS, vendor=vendor)
            assert tiles.keys() | reasons.keys() == set(range(len(LEVELS)))
            assert not tiles.keys() & reasons.keys()
            with contextlib.closing(TiledJpegReader("a", path, levels=tiles, cache=TileCache(2**20))) as reader:
                for level in tiles:
                    with contextlib.suppress(SlideError):
                        region = reader.read_region(level, x_lv=-3, y_lv=5, w_px=80, h_px=70)
                        assert region.shape == (70, 80, 3)
                n_decoded += reader.n_decoded
    return n_decoded


def seeds() -> list[bytes]:
    """Return slides of every kind of directory and stream that is read."""
    path = scratch() / "seed.svs"
    contents = []
    for is_big in (False, True):
        for spec in (
            JpegSlide(width_px=96, height_px=64, tile_w_px=32, tile_h_px=32, downsamples=(1, 2), bigtiff=is_big),
            JpegSlide(width_px=96, height_px=64, tile_w_px=48, tile_h_px=32, holds_rgb=True, shares_tables=True),
            JpegSlide(width_px=96, height_px=64, tile_w_px=64, tile_h_px=64, vendor="aperio", byteorder=">"),
        ):
            write_jpeg_file(path, spec)
            contents.append(path.read_bytes())
    return contents


if __name__ == "__main__":
    fuzz("tests.fuzz.tiff_tiles", seeds=seeds())
