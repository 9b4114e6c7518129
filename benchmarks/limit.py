"""What nobody can go below: each touched JPEG tile decoded once from memory, each patch encoded once, nothing else.

No file is opened or written while the clock runs, no pixel copied; libjpeg-turbo through simplejpeg in its accurate
mode, encoders as the stores use them. Before anything is timed, patches cut from the decoded tiles are compared with
OpenSlide's. Only slides whose level 0 is baseline JPEG in tiles.

    python -m benchmarks.limit --patches patches.json --out limit.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
import simplejpeg
import tifffile

from benchmarks.patch_list import PatchList, SlidePatches, read_patch_list
from wsi_extract.arrays import IntArray, RgbImage
from wsi_extract.disk.files import write_atomically
from wsi_extract.errors import ConfigError, InputError
from wsi_extract.storage import CodecName, PngEncoder
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.png import check_encoder, encode_png

Encode = Callable[[RgbImage], bytes]
ZSTD = "zstd"
"""Name of the encoder of Zarr chunks among `encoders`; the others are those of `PngEncoder`."""
_JPEG_COMPRESSION = 7
_N_COMPARED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """CPU seconds of the work that cannot be avoided."""

    n_patches: int
    n_tiles: int
    decode_s: float
    encode_s: Mapping[str, float]
    """By name of the encoder; each encodes all patches."""
    encoded_bytes: Mapping[str, int]

    def cpu_s(self, encoder: str) -> float:
        """Return decoding plus encoding."""
        return self.decode_s + self.encode_s[encoder]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tiles:
    """The touched tiles of one slide's level 0, compressed, in memory."""

    tile_wh_px: tuple[int, int]
    n_columns: int
    data: Mapping[int, bytes]
    """By tile number, row by row."""


def encoders() -> dict[str, Encode]:
    """Return the encoders of the stores that are installed, by name."""
    found: dict[str, Encode] = {}
    for encoder in PngEncoder:
        try:
            check_encoder(encoder)
        except ConfigError:
            continue
        found[encoder.value] = _png(encoder)
    found[ZSTD] = PixelCodec.of(CodecName.ZSTD).encode
    return found


def _png(encoder: PngEncoder) -> Encode:
    return lambda rgb: encode_png(rgb, encoder=encoder)


def measure_limit(patches: PatchList, *, seed: int) -> Limit:
    """Decode and encode everything once, and return the CPU time that took.

    Raises
    ------
    InputError
        When level 0 of a slide is not tiles of baseline JPEG.
    RuntimeError
        When the decoded pixels are not those that OpenSlide gives.
    """
    by_name = encoders()
    decode_s, n_tiles = 0.0, 0
    encode_s, n_bytes = dict.fromkeys(by_name, 0.0), dict.fromkeys(by_name, 0)
    for slide in patches.slides:
        tiles = _read_tiles(slide, patch_px=patches.patch_px)
        _check_pixels(slide, tiles, patch_px=patches.patch_px, seed=seed)
        decode_s += _timed_decode(tiles)
        n_tiles += len(tiles.data)
        for batch in _rows_of_patches(slide.origins_l0, tiles, patch_px=patches.patch_px):
            for name, encode in by_name.items():
                start = time.process_time()
                sizes = [len(encode(rgb)) for rgb in batch]
                encode_s[name] += time.process_time() - start
                n_bytes[name] += sum(sizes)
    return Limit(n_patches=len(patches), n_tiles=n_tiles, decode_s=decode_s, encode_s=encode_s, encoded_bytes=n_bytes)


def _read_tiles(slide: SlidePatches, *, patch_px: int) -> _Tiles:
    with tifffile.TiffFile(slide.path) as tiff:
        page = tiff.pages.first
        if not page.is_tiled or int(page.compression) != _JPEG_COMPRESSION:
            raise InputError(f"level 0 of {slide.path} is not JPEG tiles.", "The limit is known for such slides only.")
        n_columns = -(-page.imagewidth // page.tilewidth)
        numbers = touched_tiles(
            slide.origins_l0, patch_px=patch_px, tile_wh_px=(page.tilewidth, page.tilelength), n_columns=n_columns
        )
        tables = page.jpegtables
        data = {}
        for number in numbers.tolist():
            tiff.filehandle.seek(page.dataoffsets[number])
            tile = tiff.filehandle.read(page.databytecounts[number])
            # An abbreviated stream needs the tables of the page after its first marker.
            data[number] = tile if tables is None else tile[:2] + tables[2:-2] + tile[2:]
        return _Tiles(tile_wh_px=(page.tilewidth, page.tilelength), n_columns=n_columns, data=data)


def touched_tiles(origins_l0: IntArray, *, patch_px: int, tile_wh_px: tuple[int, int], n_columns: int) -> IntArray:
    """Return the numbers of the tiles that hold a pixel of any patch, ascending; tiles count row by row."""
    first, last = origins_l0 // tile_wh_px, (origins_l0 + patch_px - 1) // tile_wh_px
    n_x, n_y = ((last - first).max(axis=0) + 1).tolist()
    numbers = []
    for dx in range(n_x):
        for dy in range(n_y):
            tile = np.minimum(first + np.array((dx, dy)), last)
            numbers.append(tile[:, 1] * n_columns + tile[:, 0])
    return np.unique(np.concatenate(numbers))


def _timed_decode(tiles: _Tiles) -> float:
    width, height = tiles.tile_wh_px
    buffer = np.empty((height, width, 3), dtype=np.uint8)
    start = time.process_time()
    for data in tiles.data.values():
        simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=buffer)
    return time.process_time() - start


def _rows_of_patches(origins_l0: IntArray, tiles: _Tiles, *, patch_px: int) -> Iterator[list[RgbImage]]:
    """Yield the pixels of patches that begin in the same row, C-contiguous; memory holds a few rows of tiles."""
    tile_h = tiles.tile_wh_px[1]
    decoded: dict[int, RgbImage] = {}
    edges = np.flatnonzero(np.diff(origins_l0[:, 1])) + 1
    for start, stop in pairwise([0, *edges.tolist(), len(origins_l0)]):
        y = int(origins_l0[start, 1])
        wanted = range(y // tile_h, (y + patch_px - 1) // tile_h + 1)
        decoded = {row: decoded[row] if row in decoded else _decode_row(tiles, row) for row in wanted}
        rows = np.concatenate([decoded[row] for row in wanted])
        strip = rows[y - wanted.start * tile_h :][:patch_px]
        yield [np.ascontiguousarray(strip[:, x : x + patch_px]) for x in origins_l0[start:stop, 0].tolist()]


def _decode_row(tiles: _Tiles, row: int) -> RgbImage:
    """Return one row of tiles, those that no patch touches white."""
    width, height = tiles.tile_wh_px
    out = np.full((height, tiles.n_columns * width, 3), 255, dtype=np.uint8)
    for column in range(tiles.n_columns):
        data = tiles.data.get(row * tiles.n_columns + column)
        if data is not None:
            out[:, column * width : (column + 1) * width] = simplejpeg.decode_jpeg(
                data, "RGB", fastdct=False, fastupsample=False
            )
    return out


def _check_pixels(slide: SlidePatches, tiles: _Tiles, *, patch_px: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.permutation(len(slide.origins_l0))[:_N_COMPARED])
    origins = slide.origins_l0[numbers]
    ours = (rgb for batch in _rows_of_patches(origins, tiles, patch_px=patch_px) for rgb in batch)
    with openslide.OpenSlide(slide.path) as reference:
        for (x, y), rgb in zip(origins.tolist(), ours, strict=True):
            expected = np.asarray(reference.read_region((x, y), 0, (patch_px, patch_px)).convert("RGB"))
            if not np.array_equal(rgb, expected):
                raise RuntimeError(f"{slide.path}: the patch at ({x}, {y}) differs from OpenSlide's")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure once and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description="Decode and encode once.")
    parser.add_argument("--patches", type=Path, required=True, help="list of patches, JSON")
    parser.add_argument("--out", type=Path, required=True, help="file for the figures, JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the patches that are compared with OpenSlide")
    options = parser.parse_args(arguments)
    limit = measure_limit(read_patch_list(options.patches), seed=options.seed)
    write_atomically(options.out, json.dumps(asdict(limit)).encode())
    return 0


def read_limit(path: Path) -> Limit:
    """Return what `main` wrote."""
    return Limit(**json.loads(path.read_bytes()))


if __name__ == "__main__":
    raise SystemExit(main())
