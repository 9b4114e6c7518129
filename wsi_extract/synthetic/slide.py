"""Write a generated slide as an Aperio-style pyramid of JPEG tiles. The same spec gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

from wsi_extract.arrays import RgbImage
from wsi_extract.disk.files import atomic_writer
from wsi_extract.synthetic.bands import draw_band
from wsi_extract.synthetic.scene import Scene, compose_scene
from wsi_extract.synthetic.spec import BAND_TILES, HeSlideSpec, PlacedCell

DOWNSAMPLES = (1, 4, 16)
"""Levels of a generated slide; a level has ``floor(size / downsample)`` pixels, as Aperio writes it."""
_LIBRARY = "Aperio Image Library v12.0.15"
_SUBSAMPLING_FACTORS = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}


@dataclass(slots=True)
class _LowerLevels:
    """What is kept of the bands already drawn: the next level encoded, the one after it as pixels."""

    tiles_4: list[bytes]
    rows_16: list[RgbImage]


def encode_tile(rgb: RgbImage, *, spec: HeSlideSpec) -> bytes:
    """Return ``rgb`` as a JPEG stream of the slide's quality and subsampling."""
    return bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(rgb),
            level=spec.quality,
            colorspace="rgb",
            outcolorspace="ycbcr",
            subsampling=spec.chroma_subsampling,
        )
    )


def _encode_tile_row(rgb: RgbImage, *, n_tiles: int, spec: HeSlideSpec) -> Iterator[bytes]:
    t = spec.tile_px
    for column in range(n_tiles):
        yield encode_tile(rgb[:, column * t : (column + 1) * t], spec=spec)


def _shrink(rgb: RgbImage) -> RgbImage:
    """Return every 4 x 4 px averaged to one."""
    size = (rgb.shape[1] // BAND_TILES, rgb.shape[0] // BAND_TILES)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _draw_tiles(scene: Scene, *, lower: _LowerLevels) -> Iterator[bytes]:
    """Yield the encoded tiles of level 0 row by row, and collect the lower levels on the way."""
    spec, t = scene.spec, scene.spec.tile_px
    n_columns, n_rows = -(-spec.width_px // t), -(-spec.height_px // t)
    n_columns_4 = -(-(spec.width_px // 4) // t)
    for band in range(spec.n_bands):
        rgb = draw_band(scene, band)
        quarter = _shrink(rgb)
        # Before the tiles are handed out: nobody asks for more after the last one.
        lower.tiles_4.extend(_encode_tile_row(quarter, n_tiles=n_columns_4, spec=spec))
        lower.rows_16.append(_shrink(quarter))
        for row in range(min(BAND_TILES, n_rows - band * BAND_TILES)):
            yield from _encode_tile_row(rgb[row * t : (row + 1) * t], n_tiles=n_columns, spec=spec)
        del rgb  # one band at a time


def _tiles_of(rgb: RgbImage, *, spec: HeSlideSpec) -> Iterator[bytes]:
    t = spec.tile_px
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % t), (0, -width % t), (0, 0)), mode="edge")
    for y in range(0, height, t):
        yield from _encode_tile_row(padded[y : y + t], n_tiles=-(-width // t), spec=spec)


def _write_page(
    tiff: tifffile.TiffWriter,
    segments: Iterator[bytes],
    *,
    size_wh_px: tuple[int, int],
    note: str,
    tile_wh_px: tuple[int, int] | None,
    spec: HeSlideSpec,
) -> None:
    """Write one encoded image: in tiles, or as a single strip as Aperio writes thumbnails."""
    tiff.write(
        segments,
        shape=(size_wh_px[1], size_wh_px[0], 3),
        dtype=np.uint8,
        tile=tile_wh_px,
        rowsperstrip=None if tile_wh_px else size_wh_px[1],
        photometric="ycbcr",
        compression="jpeg",
        subsampling=_SUBSAMPLING_FACTORS[spec.chroma_subsampling],
        description=f"{_LIBRARY}\r\n{note}",
        metadata=None,
        software=False,
    )


def _write_pages(tiff: tifffile.TiffWriter, scene: Scene) -> None:
    spec, lower = scene.spec, _LowerLevels(tiles_4=[], rows_16=[])
    (w_0, h_0), (w_4, h_4), (w_16, h_16) = ((spec.width_px // d, spec.height_px // d) for d in DOWNSAMPLES)
    tile = (spec.tile_px, spec.tile_px)
    source = f"{w_0}x{h_0} [0,0 {w_0}x{h_0}] ({spec.tile_px}x{spec.tile_px})"
    properties = f"|AppMag = 40|MPP = {spec.um_per_px:.6g}"
    note = f"{source} JPEG/RGB Q={spec.quality}{properties}"
    tiles = _draw_tiles(scene, lower=lower)
    _write_page(tiff, tiles, size_wh_px=(w_0, h_0), note=note, tile_wh_px=tile, spec=spec)
    level_16 = np.concatenate(lower.rows_16)[:h_16, :w_16]
    note = f"{w_0}x{h_0} -> {w_16}x{h_16} - {properties}"
    thumbnail = iter([encode_tile(level_16, spec=spec)])
    _write_page(tiff, thumbnail, size_wh_px=(w_16, h_16), note=note, tile_wh_px=None, spec=spec)
    n_tiles_4 = -(-w_4 // spec.tile_px) * -(-h_4 // spec.tile_px)
    note = f"{source} -> {w_4}x{h_4} JPEG/RGB Q={spec.quality}"
    _write_page(tiff, iter(lower.tiles_4[:n_tiles_4]), size_wh_px=(w_4, h_4), note=note, tile_wh_px=tile, spec=spec)
    note = f"{source} -> {w_16}x{h_16} JPEG/RGB Q={spec.quality}"
    tiles = _tiles_of(level_16, spec=spec)
    _write_page(tiff, tiles, size_wh_px=(w_16, h_16), note=note, tile_wh_px=tile, spec=spec)


def write_he_slide(path: Path, spec: HeSlideSpec) -> tuple[PlacedCell, ...]:
    """Write a generated slide as an Aperio-style pyramid of JPEG tiles, and return where its cells are.

    Levels are 1, 4 and 16 times smaller, sizes rounded down, so that OpenSlide's downsamples are whole numbers only
    where the size divides. Memory holds one band of level 0 (four tile rows), the encoded second level and the third.

    Parameters
    ----------
    path
        The file to write, whole or not at all; a name ending in ``.svs`` is customary.
    spec
        What the slide looks like. The same spec gives the same bytes.

    Returns
    -------
    The placed cells in the order of ``spec.n_cells``, centres in level-0 px.

    Raises
    ------
    InputError
        When the cells do not fit into the tissue.
    """
    scene = compose_scene(spec)
    # A classic TIFF ends at 4 GiB; a JPEG of this quality is smaller than its pixels.
    is_big = 3 * spec.width_px * spec.height_px >= 2**32
    with atomic_writer(path) as stream, tifffile.TiffWriter(stream, bigtiff=is_big, byteorder="<") as tiff:
        _write_pages(tiff, scene)
    return scene.cells
