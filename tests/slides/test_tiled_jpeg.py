"""Slides of JPEG tiles in every way of storing them: found, decoded once, and equal to OpenSlide pixel by pixel."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers_jpeg_slides import (
    PHOTOMETRIC,
    TILE_BYTE_COUNTS,
    TILE_WIDTH,
    JpegSlide,
    overwrite,
    patch_tag,
    texture,
    tile_place,
    write_jpeg_file,
    write_jpeg_slide,
)
from tests.helpers_slides import read_level
from wsi_extract.arrays import RgbImage
from wsi_extract.caches import MAX_DIRECT_TILE_BYTES
from wsi_extract.errors import SlideError
from wsi_extract.model import SlideInfo
from wsi_extract.slides.jpeg_tiles import find_jpeg_tiles
from wsi_extract.slides.opened_slide import OpenedSlide
from wsi_extract.slides.tiled_jpeg import PixelMap, TileCache, TiledJpegReader

PLAIN = JpegSlide()
COMPRESSION = 259
VARIANTS = {
    "4:2:0": PLAIN,
    "4:2:2": replace(PLAIN, subsampling="4:2:2"),
    "4:4:4": replace(PLAIN, subsampling="4:4:4"),
    "without markers of its own": replace(PLAIN, drops_markers=True),
    "rgb": replace(PLAIN, holds_rgb=True),
    "rgb without markers": replace(PLAIN, holds_rgb=True, drops_markers=True),  # libjpeg alone would guess YCbCr
    "shared tables": replace(PLAIN, shares_tables=True),
    "shared tables, rgb, no markers": replace(PLAIN, shares_tables=True, holds_rgb=True, drops_markers=True),
    "bigtiff": replace(PLAIN, bigtiff=True),
    "big-endian bigtiff": replace(PLAIN, byteorder=">", bigtiff=True, shares_tables=True),
    "240 px": replace(PLAIN, tile_w_px=240, tile_h_px=240, vendor="aperio", subsampling="4:2:2"),
    "256 x 512 px": replace(PLAIN, tile_w_px=256, tile_h_px=512),
    "no multiple of 8": replace(PLAIN, tile_w_px=100, tile_h_px=92),
    "one tile": replace(PLAIN, width_px=90, height_px=70),
    "one row, whole tiles": replace(PLAIN, width_px=96 * 4, height_px=96),
    "pyramid": replace(PLAIN, vendor="aperio", downsamples=(1, 2, 4)),
    "gaps": replace(PLAIN, downsamples=(1, 2), missing=((0, 0), (0, 12), (1, 3))),
    "aperio with gaps": replace(PLAIN, vendor="aperio", missing=((0, 3), (0, 12))),
}


@contextmanager
def opened(
    info: SlideInfo, *, cache: TileCache | None = None, pixel_map: PixelMap | None = None
) -> Iterator[TiledJpegReader]:
    found, reasons = find_jpeg_tiles(info.path, levels=info.levels, vendor=info.vendor)
    assert not reasons
    reader = TiledJpegReader(
        info.slide_id, info.path, levels=found, cache=TileCache() if cache is None else cache, pixel_map=pixel_map
    )
    yield reader
    reader.close()
    reader.close()


def region(reader: TiledJpegReader, x_lv: int, y_lv: int, w_px: int, h_px: int, *, level: int = 0) -> RgbImage:
    pixels = reader.read_region(level, x_lv=x_lv, y_lv=y_lv, w_px=w_px, h_px=h_px)
    assert pixels.shape == (h_px, w_px, 3)
    assert pixels.flags.c_contiguous
    assert pixels.flags.owndata
    return pixels


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS.keys())
def test_pixels_equal_openslide(tmp_path: Path, spec: JpegSlide) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", spec)
    assert info.vendor == spec.vendor
    with opened(info) as reader, OpenedSlide(info) as slide:
        for number, level in enumerate(info.levels):
            w, h, step = level.width_px, level.height_px, int(level.downsample)
            for x, y, w_px, h_px in [(0, 0, w, h), (w // 3, h // 5, 77, 51), (w - 20, h - 30, 64, 64), (5, 5, 3, 1)]:
                expected = slide.read_region(number, x_l0=x * step, y_l0=y * step, w_lv_px=w_px, h_lv_px=h_px)
                np.testing.assert_array_equal(region(reader, x, y, w_px, h_px, level=number), expected)


def test_the_order_of_bytes_in_a_classic_tiff_makes_no_difference(tmp_path: Path) -> None:
    # Without OpenSlide, which does not open such files.
    info = write_jpeg_slide(tmp_path / "little.tif", PLAIN)
    write_jpeg_file(tmp_path / "big.tif", replace(PLAIN, byteorder=">"))
    with opened(info) as little, opened(replace(info, path=tmp_path / "big.tif")) as big:
        np.testing.assert_array_equal(region(little, 0, 0, 700, 500), region(big, 0, 0, 700, 500))


def test_the_photometric_rules_over_what_streams_say(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", replace(PLAIN, subsampling="4:4:4"))
    usual = read_level(info.path, level=0)
    patch_tag(info.path, level=0, tag=PHOTOMETRIC, value=2)  # the JFIF markers in the tiles go on saying YCbCr
    unusual = read_level(info.path, level=0)
    assert (usual != unusual).any()
    with opened(info) as reader:
        np.testing.assert_array_equal(region(reader, 0, 0, 700, 500), unusual)


def test_missing_tiles_are_white(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", replace(PLAIN, vendor="aperio", missing=((0, 3),)))
    with opened(info, pixel_map=invert) as reader:
        assert (region(reader, 96 * 3, 0, 96, 96) == 255).all()
        assert (region(reader, 96 * 2, 0, 96, 96) != 255).any()


def invert(rgb: RgbImage) -> RgbImage:
    return 255 - rgb


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SlideInfo:
    return write_jpeg_slide(tmp_path_factory.mktemp("plain") / "s.tif", PLAIN)


@given(x=st.integers(-150, 800), y=st.integers(-150, 600), w=st.integers(1, 300), h=st.integers(1, 300))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_regions_anywhere_are_parts_of_the_level_on_white(plain: SlideInfo, x: int, y: int, w: int, h: int) -> None:
    margin = 300
    canvas = np.full((500 + 2 * margin, 700 + 2 * margin + 300, 3), 255, dtype=np.uint8)
    with opened(plain, cache=TileCache(5 * 96 * 96 * 3)) as reader, opened(plain, pixel_map=invert) as inverting:
        canvas[margin : margin + 500, margin : margin + 700] = region(reader, 0, 0, 700, 500)
        expected = canvas[y + margin : y + margin + h, x + margin : x + margin + w]
        expected = np.pad(expected, ((0, h - len(expected)), (0, 0), (0, 0)), constant_values=255)
        np.testing.assert_array_equal(region(reader, x, y, w, h), expected)
        inside = np.zeros((h, w), dtype=np.bool_)
        inside[max(0, -y) : max(0, 500 - y), max(0, -x) : max(0, 700 - x)] = True
        mapped = np.where(inside[..., None], 255 - expected, 255)
        np.testing.assert_array_equal(region(inverting, x, y, w, h), mapped)


# --- once


def test_no_tile_is_decoded_twice_while_the_cache_holds_it(plain: SlideInfo) -> None:
    with opened(plain) as reader:
        for y in range(0, 500, 32):
            for x in range(0, 700, 32):
                region(reader, x, y, 64, 64)
        assert reader.n_decoded == 8 * 6  # 700 x 500 px in tiles of 96


def test_only_touched_tiles_are_decoded(plain: SlideInfo) -> None:
    with opened(plain) as reader:
        region(reader, 96, 96, 96, 96)
        assert reader.n_decoded == 1
        region(reader, 97, 96, 96, 96)
        assert reader.n_decoded == 2
        region(reader, 1000, 0, 10, 10)
        assert reader.n_decoded == 2


def test_the_map_is_applied_once_to_each_tile(plain: SlideInfo) -> None:
    shapes = []

    def watch(rgb: RgbImage) -> RgbImage:
        shapes.append(rgb.shape)
        return rgb.copy()

    with opened(plain, pixel_map=watch) as reader:
        for x in range(0, 700, 50):
            region(reader, x, 0, 100, 96)
    assert shapes == [(96, 96, 3)] * 8


def test_a_small_cache_costs_time_never_pixels(plain: SlideInfo) -> None:
    with opened(plain) as reader:
        expected = region(reader, 0, 0, 700, 500)
    for n_tiles in (0, 1, 3):
        cache = TileCache(n_tiles * 96 * 96 * 3)
        with opened(plain, cache=cache) as reader:
            for _ in range(2):
                np.testing.assert_array_equal(region(reader, 0, 0, 700, 500), expected)
            assert len(cache) == max(1, n_tiles)
            assert reader.n_decoded == 2 * 48


def test_slides_and_levels_share_a_cache_without_mixing(tmp_path: Path, plain: SlideInfo) -> None:
    other = write_jpeg_slide(tmp_path / "t.tif", replace(PLAIN, holds_rgb=True, downsamples=(1, 2)))
    cache = TileCache()
    with opened(plain, cache=cache) as first, opened(other, cache=cache) as second:
        for info, reader in [(plain, first), (other, second)] * 2:
            for number, level in enumerate(info.levels):
                pixels = region(reader, 0, 0, level.width_px, level.height_px, level=number)
                np.testing.assert_array_equal(pixels, read_level(info.path, level=number))
        assert len(cache) == first.n_decoded + second.n_decoded == 48 + 48 + 4 * 3
        cache.clear()
        assert len(cache) == 0
        np.testing.assert_array_equal(region(first, 0, 0, 700, 500), read_level(plain.path, level=0))


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 5))
def test_the_cache_keeps_what_was_used_last(keys: list[int], n_kept: int) -> None:
    cache, recent = TileCache(n_kept * 12), list[int]()
    for key in keys:
        tile = cache.get(key)
        assert (tile is not None) == (key in recent)
        if tile is None:
            fresh = cache.empty_tile((2, 2, 3))
            fresh.fill(key)
            cache.put(key, fresh)
        else:
            assert (tile == key).all()
        recent = [*[each for each in recent if each != key], key][-max(1, n_kept) :]


# --- damage


DAMAGES = {
    "cut": lambda length: (length // 2, b"\xff\xd9" + bytes(length // 2 - 2)),
    "no stream": lambda length: (0, bytes(length)),
    "no tables": lambda _: (2, b"\xff\xd9"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_tile_is_an_error_that_names_it(tmp_path: Path, damage: object) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", replace(PLAIN, vendor="aperio"))
    start, length = tile_place(info.path, tile=10)
    assert callable(damage)
    where, data = damage(length)
    overwrite(info.path, at=start + where, data=data)
    with opened(info) as reader:
        good = region(reader, 0, 0, 96, 96)
        with pytest.raises(SlideError, match=r"slide s: .*tile 10 \(column 2, row 1\) of level 0 of .*s\.tif: "):
            region(reader, 150, 50, 96, 96)
        np.testing.assert_array_equal(region(reader, 0, 0, 96, 96), good)


def test_a_file_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", replace(PLAIN, vendor="aperio", bigtiff=True))
    patch_tag(info.path, level=0, tag=TILE_BYTE_COUNTS, value=10**9, index=10)
    with opened(info) as reader, pytest.raises(SlideError, match="are not in the file"):
        region(reader, 150, 50, 96, 96)


def test_a_tile_of_another_size_is_an_error(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", replace(PLAIN, tile_w_px=100))
    patch_tag(info.path, level=0, tag=TILE_WIDTH, value=112)
    with opened(info) as reader, pytest.raises(SlideError, match="it is YCbCr, 100 x 96 px"):
        region(reader, 0, 0, 96, 96)
    patch_tag(info.path, level=0, tag=TILE_WIDTH, value=99)
    found, reasons = find_jpeg_tiles(info.path, levels=info.levels, vendor="generic-tiff")
    assert (found, reasons) == ({}, {0: "it has 42 TileOffsets for 48 tiles"})


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_tile_of_other_colours_is_an_error(tmp_path: Path, mode: str) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", PLAIN)
    start, length = tile_place(info.path, tile=10)
    target = io.BytesIO()
    Image.new(mode, (96, 96)).save(target, format="jpeg", quality=20)
    stream = target.getvalue()
    assert len(stream) <= length
    overwrite(info.path, at=start, data=stream)
    patch_tag(info.path, level=0, tag=TILE_BYTE_COUNTS, value=len(stream), index=10)
    with opened(info) as reader, pytest.raises(SlideError, match=r"tile 10 .* 96 x 96 px"):
        region(reader, 150, 50, 96, 96)


def test_tiles_that_fill_the_cache_are_left_to_openslide(tmp_path: Path) -> None:
    side_px = 16 * math.ceil(math.sqrt(MAX_DIRECT_TILE_BYTES / 3) / 16) + 16
    spec = JpegSlide(width_px=100, height_px=100, tile_w_px=side_px, tile_h_px=side_px)
    assert "larger than 8 MB" in reason_of(write_jpeg_slide(tmp_path / "s.tif", spec), 0)


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"slide s: cannot open .*gone\.svs: No such file"):
        TiledJpegReader("s", tmp_path / "gone.svs", levels={}, cache=TileCache())


# --- what is refused


def reason_of(info: SlideInfo, level: int) -> str:
    found, reasons = find_jpeg_tiles(info.path, levels=info.levels, vendor=info.vendor)
    assert found.keys().isdisjoint(reasons)
    assert sorted([*found, *reasons]) == list(range(len(info.levels)))
    return reasons.get(level, "")


@pytest.mark.parametrize(
    ("spec", "reasons"),
    [
        pytest.param(
            replace(PLAIN, vendor="aperio", downsamples=(1, 2), missing=((0, 3),)),
            ["", "tiles are missing, or may be, in it or in the levels before"],
            id="a gap of a level is one of those below",
        ),
        pytest.param(
            replace(PLAIN, vendor="aperio", downsamples=(1, 2, 4), missing=((1, 3),)),
            ["", *["tiles are missing, or may be, in it or in the levels before"] * 2],
            id="a gap in a lower level",
        ),
        pytest.param(
            replace(PLAIN, width_px=701, downsamples=(1, 2)),
            ["", "its downsample is 2.00143, no whole number"],
            id="fractional downsample",
        ),
    ],
)
def test_levels_that_are_not_read_directly(tmp_path: Path, spec: JpegSlide, reasons: list[str]) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", spec)
    assert [reason_of(info, level) for level in range(len(info.levels))] == reasons


def test_other_formats_and_layouts_are_not_read_directly(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", PLAIN)
    assert "its format, leica, is not" in reason_of(replace(info, vendor="leica"), 0)
    patch_tag(info.path, level=0, tag=COMPRESSION, value=8)
    assert reason_of(info, 0) == "its compression is 8, not 7 (JPEG)"
    patch_tag(info.path, level=0, tag=COMPRESSION, value=7)
    patch_tag(info.path, level=0, tag=PHOTOMETRIC, value=8)
    assert "photometric interpretation is 8" in reason_of(info, 0)
    grey = tmp_path / "grey.tif"
    tifffile.imwrite(grey, texture(700, 500)[..., 0], tile=(96, 96), compression="jpeg")
    assert "1 channels of 8 bits" in reason_of(replace(info, path=grey), 0)
    twins = tmp_path / "twins.tif"
    with tifffile.TiffWriter(twins) as tiff:
        for _ in range(2):
            tiff.write(texture(700, 500), tile=(96, 96), compression="jpeg", photometric="ycbcr")
    assert reason_of(replace(info, path=twins), 0) == "2 tiled images of its file have its size"


def test_a_file_that_is_no_tiff_is_not_read_directly(tmp_path: Path, plain: SlideInfo) -> None:
    path = tmp_path / "s.tif"
    path.write_bytes(b"not a TIFF file")
    assert "cannot be parsed" in reason_of(replace(plain, path=path), 0)


def test_damaged_directories_give_a_reason_or_tiles_never_another_error(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", replace(PLAIN, shares_tables=True, downsamples=(1, 2)))
    whole = info.path.read_bytes()
    with tifffile.TiffFile(info.path) as tiff:
        start = tiff.pages.first.offset
    rng = np.random.default_rng(0)
    for position in [*range(16), *range(start, start + 200)]:  # of the header and of the first directory
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        info.path.write_bytes(damaged)
        reason_of(info, 0)
