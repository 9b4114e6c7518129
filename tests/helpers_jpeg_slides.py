"""Makers of slides of JPEG tiles, in all the ways in which a TIFF file may hold them, and of damage to them."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tifffile
from PIL import Image

from wsi_extract.arrays import RgbImage
from wsi_extract.model import SlideFile, SlideInfo
from wsi_extract.slides.open_slides import describe_slide

PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH, TILE_BYTE_COUNTS, JPEG_TABLES = 262, 322, 323, 325, 347
_APP0, _APP14 = b"\xff\xe0", b"\xff\xee"


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegSlide:
    """How a slide is stored."""

    width_px: int = 700
    height_px: int = 500
    tile_w_px: int = 96
    tile_h_px: int = 96
    downsamples: tuple[float, ...] = (1,)
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0"
    holds_rgb: bool = False
    """Streams of RGB, and a photometric interpretation to match; otherwise YCbCr."""
    drops_markers: bool = False
    """Leave out what a JPEG stream says of its colours itself."""
    shares_tables: bool = False
    """Abbreviated streams: the tables stand in a tag."""
    bigtiff: bool = False
    byteorder: Literal["<", ">"] = "<"
    vendor: Literal["aperio", "generic-tiff"] = "generic-tiff"
    missing: tuple[tuple[int, int], ...] = ()
    """(level, number) of tiles without data."""


def texture(width_px: int, height_px: int, *, seed: int = 0) -> RgbImage:
    """Return coarse noise in strong colours, (H, W, 3): no two places are alike, and every channel tells."""
    noise = np.random.default_rng(seed).normal(128, 200, (height_px, width_px, 3))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 1.5), 0, 255).astype(np.uint8)


def write_jpeg_slide(path: Path, spec: JpegSlide) -> SlideInfo:
    """Write a slide and return its description."""
    write_jpeg_file(path, spec)
    return describe(path)


def write_jpeg_file(path: Path, spec: JpegSlide) -> None:
    """Write a slide."""
    image = texture(spec.width_px, spec.height_px)
    with tifffile.TiffWriter(path, bigtiff=spec.bigtiff, byteorder=spec.byteorder) as tiff:
        for number, downsample in enumerate(spec.downsamples):
            size_wh = (int(spec.width_px / downsample), int(spec.height_px / downsample))
            level = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            tables = [(JPEG_TABLES, 7, None, _encode(level[:16, :16], spec, stream_type=1), True)]
            tiff.write(
                _tiles(level, spec),
                shape=level.shape,
                dtype=np.uint8,
                tile=(_up_to_16(spec.tile_h_px), _up_to_16(spec.tile_w_px)),
                compression="jpeg",
                photometric="rgb" if spec.holds_rgb else "ycbcr",
                subfiletype=1 if number else 0,
                description="Aperio Image Library\n|AppMag = 40|MPP = 0.25" if spec.vendor == "aperio" else None,
                extratags=tables if spec.shares_tables else [],
                metadata=None,
            )
    for number in range(len(spec.downsamples)):
        patch_tag(path, level=number, tag=TILE_WIDTH, value=spec.tile_w_px)
        patch_tag(path, level=number, tag=TILE_LENGTH, value=spec.tile_h_px)
    for number, tile in spec.missing:
        patch_tag(path, level=number, tag=TILE_BYTE_COUNTS, value=0, index=tile)


def describe(path: Path) -> SlideInfo:
    return describe_slide(SlideFile(slide_id=path.stem, path=path), override=None)


def patch_tag(path: Path, *, level: int, tag: int, value: int, index: int = 0) -> None:
    """Overwrite one number of a tag in place."""
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages[level].tags[tag]  # type: ignore[union-attr]  # no page of ours is a frame
        kind = {3: "H", 4: "I", 16: "Q"}[int(entry.dtype)]
        where, order = entry.valueoffset + index * struct.calcsize(kind), tiff.byteorder
    with path.open("r+b") as stream:
        stream.seek(where)
        stream.write(struct.pack(order + kind, value))


def tile_place(path: Path, *, level: int = 0, tile: int) -> tuple[int, int]:
    """Return where the stream of a tile begins in the file, and its length in bytes."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        return page.dataoffsets[tile], page.databytecounts[tile]


def overwrite(path: Path, *, at: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def _tiles(image: RgbImage, spec: JpegSlide) -> Iterator[bytes]:
    height, width = image.shape[:2]
    for top in range(0, height, spec.tile_h_px):
        for left in range(0, width, spec.tile_w_px):
            part = image[top : top + spec.tile_h_px, left : left + spec.tile_w_px]
            missing = ((0, spec.tile_h_px - part.shape[0]), (0, spec.tile_w_px - part.shape[1]), (0, 0))
            yield _encode(np.pad(part, missing, mode="edge"), spec, stream_type=2 if spec.shares_tables else 0)


def _encode(tile: RgbImage, spec: JpegSlide, *, stream_type: int) -> bytes:
    target = io.BytesIO()
    Image.fromarray(tile).save(
        target,
        format="jpeg",
        quality=85,
        subsampling="4:4:4" if spec.holds_rgb else spec.subsampling,
        keep_rgb=spec.holds_rgb,
        streamtype=stream_type,
    )
    stream = target.getvalue()
    if not spec.drops_markers or stream[2:4] not in {_APP0, _APP14}:
        return stream
    return stream[:2] + stream[4 + int.from_bytes(stream[4:6], "big") :]


def _up_to_16(side_px: int) -> int:
    """Return the next multiple of 16, which is all that tifffile writes; what counts is patched in afterwards."""
    return -(-side_px // 16) * 16
