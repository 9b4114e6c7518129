"""Pixels of the slides of `benchmarks.scanned_slides`: drawn band by band in several processes, and written as a TIFF.

The grain is cut from one field of noise at a place that depends on seed, band and block alone, so the same spec gives
the same bytes whatever the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import tifffile

from benchmarks.texture import (
    COLOUR_BLUR_PX,
    COLOUR_GRAIN,
    GLASS_GREY,
    GRAIN_OF_GLASS,
    LUMINANCE_BLUR_PX,
    LUMINANCE_GRAIN,
    TISSUE_GREY,
    Noise,
)
from wsi_extract.arrays import RgbImage
from wsi_extract.disk.files import atomic_writer
from wsi_extract.synthetic import HeSlideSpec, compose_scene
from wsi_extract.synthetic.bands import draw_band
from wsi_extract.synthetic.scene import Scene
from wsi_extract.synthetic.slide import DOWNSAMPLES, encode_tile

GRAIN_GAIN = 1.1
"""Grain relative to `benchmarks.texture`: chroma subsampling swallows some, and the bytes are to come out alike."""
_NOISE_PX = 2048
"""Side of the field the grain is cut from."""
_BANDS_PER_SHARE = 3
"""What one task draws; a process that draws less starts up for longer than it helps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Band:
    """One band of the slide: four rows of tiles, one row of the next level, pixels of the last level."""

    tiles_0: tuple[bytes, ...]
    tiles_4: tuple[bytes, ...]
    rows_16: RgbImage


def _noise_field(seed: int) -> Noise:
    """Return the grain of dense tissue, ``(2048, 2048, 3)`` float32, grey levels, as `benchmarks.texture` makes it."""
    rng = np.random.default_rng(seed)
    parts = []
    for n_channels, blur_px, strength in (
        (1, LUMINANCE_BLUR_PX, LUMINANCE_GRAIN),
        (3, COLOUR_BLUR_PX, COLOUR_GRAIN),
    ):
        white = rng.standard_normal((_NOISE_PX, _NOISE_PX, n_channels), dtype=np.float32)
        blurred = cv2.GaussianBlur(white, (0, 0), blur_px).reshape(white.shape)
        parts.append(GRAIN_GAIN * strength * blurred / blurred.std())
    return np.asarray(parts[0] + parts[1], dtype=np.float32)


def _add_grain(rgb: RgbImage, *, noise: Noise, key: tuple[int, int, int]) -> None:
    """Add grain to one block of a band, in place: full on tissue, hardly any on glass."""
    side = rgb.shape[0]
    x, y = np.random.default_rng(key).integers(0, _NOISE_PX - side, 2).tolist()
    grey = cv2.GaussianBlur(rgb.mean(axis=2, dtype=np.float32), (0, 0), 2)
    share = np.clip((GLASS_GREY - grey) / (GLASS_GREY - TISSUE_GREY), GRAIN_OF_GLASS, 1)
    rgb[:] = np.clip(np.rint(rgb + share[..., None] * noise[y : y + side, x : x + side]), 0, 255)


def _encode_tiles(rgb: RgbImage, *, spec: HeSlideSpec) -> Iterator[bytes]:
    """Yield the tiles of a picture row by row; what they reach beyond its edge repeats the last pixel."""
    t = spec.tile_px
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % t), (0, -width % t), (0, 0)), mode="edge")
    for y in range(0, height, t):
        for x in range(0, width, t):
            yield encode_tile(padded[y : y + t, x : x + t], spec=spec)


def _shrink(rgb: RgbImage) -> RgbImage:
    """Return every 4 x 4 px averaged to one."""
    size = (rgb.shape[1] // 4, rgb.shape[0] // 4)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw(scene: Scene, *, band: int, noise: Noise) -> _Band:
    spec, side = scene.spec, scene.spec.band_px
    rgb = draw_band(scene, band)
    for block in range(spec.n_blocks):
        _add_grain(rgb[:, block * side : (block + 1) * side], noise=noise, key=(spec.seed, band, block))
    quarter = _shrink(rgb)
    # Blocks reach over the slide's right edge by less than a block, bands over its lower edge: tiles there are dropped.
    n_columns, n_columns_4 = (-(-spec.width_px // (d * spec.tile_px)) for d in (1, 4))
    n_rows = min(4, -(-spec.height_px // spec.tile_px) - 4 * band)
    inside = rgb[: n_rows * spec.tile_px, : n_columns * spec.tile_px]
    return _Band(
        tiles_0=tuple(_encode_tiles(inside, spec=spec)),
        tiles_4=tuple(_encode_tiles(quarter[:, : n_columns_4 * spec.tile_px], spec=spec)),
        rows_16=_shrink(quarter),
    )


def _draw_share(bands: Sequence[int], *, spec: HeSlideSpec) -> list[_Band]:
    cv2.setNumThreads(1)  # the processes are the parallelism
    scene, noise = compose_scene(spec), _noise_field(spec.seed)
    return [_draw(scene, band=band, noise=noise) for band in bands]


@contextmanager
def _mapper(n_processes: int) -> Iterator[Callable[..., Iterable[list[_Band]]]]:
    """Yield a ``map`` that works in this process, or in several."""
    if n_processes < 2:
        yield map
        return
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        yield pool.map


def write_scanned_slide(path: Path, *, spec: HeSlideSpec, n_processes: int | None = None) -> None:
    """Write a slide, whole or not at all.

    Parameters
    ----------
    n_processes
        How many draw at the same time; ``None``: one per core, and no more than there is work for.
    """
    if n_processes is None:
        n_processes = min(len(os.sched_getaffinity(0)), spec.n_bands // _BANDS_PER_SHARE)
    # Each share composes the scene anew: alone, one process draws all.
    step = spec.n_bands if n_processes < 2 else _BANDS_PER_SHARE
    shares = [range(start, min(start + step, spec.n_bands)) for start in range(0, spec.n_bands, step)]
    is_big = 3 * spec.width_px * spec.height_px >= 2**32
    with (
        _mapper(n_processes) as drawn,
        atomic_writer(path) as stream,
        tifffile.TiffWriter(stream, bigtiff=is_big, byteorder="<") as tiff,
    ):
        shares_drawn = drawn(partial(_draw_share, spec=spec), shares)
        _write_pages(tiff, (band for share in shares_drawn for band in share), spec=spec)


def _write_pages(tiff: tifffile.TiffWriter, bands: Iterator[_Band], *, spec: HeSlideSpec) -> None:
    """Write level 0, thumbnail, level 1 and level 2 in the order of Aperio."""
    (w_0, h_0), (w_4, h_4), (w_16, h_16) = ((spec.width_px // d, spec.height_px // d) for d in DOWNSAMPLES)
    tiles_4: list[bytes] = []
    rows_16: list[RgbImage] = []

    def tiles_0() -> Iterator[bytes]:
        for band in bands:
            tiles_4.extend(band.tiles_4)
            rows_16.append(band.rows_16)
            yield from band.tiles_0

    source = f"{w_0}x{h_0} [0,0 {w_0}x{h_0}] ({spec.tile_px}x{spec.tile_px})"
    coding, properties = f"JPEG/YCC Q={spec.quality}", f"|AppMag = 40|MPP = {spec.um_per_px:.6g}"
    _write_page(tiff, tiles_0(), size_wh_px=(w_0, h_0), note=f"{source} {coding}{properties}", spec=spec)
    level_16 = np.concatenate(rows_16)[:h_16, :w_16]
    note = f"{w_0}x{h_0} -> {w_16}x{h_16} - {properties}"
    thumbnail = iter([encode_tile(level_16, spec=spec)])
    _write_page(tiff, thumbnail, size_wh_px=(w_16, h_16), note=note, spec=spec, is_tiled=False)
    n_tiles_4 = -(-w_4 // spec.tile_px) * -(-h_4 // spec.tile_px)
    note = f"{source} -> {w_4}x{h_4} {coding}"
    _write_page(tiff, iter(tiles_4[:n_tiles_4]), size_wh_px=(w_4, h_4), note=note, spec=spec)
    note = f"{source} -> {w_16}x{h_16} {coding}"
    _write_page(tiff, _encode_tiles(level_16, spec=spec), size_wh_px=(w_16, h_16), note=note, spec=spec)


def _write_page(
    tiff: tifffile.TiffWriter,
    segments: Iterator[bytes],
    *,
    size_wh_px: tuple[int, int],
    note: str,
    spec: HeSlideSpec,
    is_tiled: bool = True,
) -> None:
    tiff.write(
        segments,
        shape=(size_wh_px[1], size_wh_px[0], 3),
        dtype=np.uint8,
        tile=(spec.tile_px, spec.tile_px) if is_tiled else None,
        rowsperstrip=None if is_tiled else size_wh_px[1],
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(2, 1),
        description=f"Aperio Image Library v12.0.15\r\n{note}",
        metadata=None,
        software=False,
    )
