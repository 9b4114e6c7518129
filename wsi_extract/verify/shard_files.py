"""The shards of Zarr stores: each is there, whole, as recorded, and every chunk in it can be decoded.

Chunks are read one at a time, whatever the size of a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.disk.files import sha256_of_file
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.shards import ChunkPlace, ShardReader, read_place
from wsi_extract.verify.findings import DAMAGE
from wsi_extract.verify.threads import map_in_threads

PixelCheck: TypeAlias = Callable[[int, RgbImage], str]
"""Takes a chunk's number and its pixels, and returns what is wrong with them, an empty text when nothing is."""
PLACE_BYTES = 16
"""Of one chunk in the index of a shard: its offset and its length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedShard:
    """What a shard must be."""

    path: Path
    n_bytes: int
    sha256: str
    n_chunks: int
    """Chunks the shard has room for."""
    chunks: Mapping[int, str]
    """The chunks it must hold, no more and no fewer: what each number is called in messages."""
    chunk_wh_px: tuple[int, int]
    codec: PixelCodec
    check_pixels: PixelCheck


def inspect_shards(shards: Iterator[ExpectedShard]) -> Iterator[tuple[Path, list[str]]]:
    """Yield the path of every shard and what is wrong with it, in order.

    Threads read, hash and decode; the codecs and hashlib release the interpreter lock.
    """
    return map_in_threads(lambda shard: (shard.path, inspect_shard(shard)), shards)


def inspect_shard(shard: ExpectedShard) -> list[str]:
    """Return what is wrong with a shard, nothing when it is as expected."""
    problems: list[str] = []
    try:
        problems.extend(_file_problems(shard))
        # Chunks are counted only where they can be: a record may claim any number of them.
        if shard.path.stat().st_size >= shard.n_chunks * PLACE_BYTES:
            problems.extend(_chunk_problems(shard))
    except FileNotFoundError:
        problems.append("missing, although a record tells of it")
    except DAMAGE as error:
        problems.append(f"cannot be read: {error}")
    return problems


def _file_problems(shard: ExpectedShard) -> Iterator[str]:
    n_bytes = shard.path.stat().st_size
    if n_bytes != shard.n_bytes:
        yield f"has {n_bytes:,} bytes, recorded are {shard.n_bytes:,}"
    elif sha256_of_file(shard.path) != shard.sha256:
        yield "differs from what was written: its digest is not the recorded one"
    if n_bytes < shard.n_chunks * PLACE_BYTES:
        yield f"cannot be read: {n_bytes:,} bytes are too few for {shard.n_chunks:,} chunks"


def _chunk_problems(shard: ExpectedShard) -> Iterator[str]:
    path = str(shard.path)
    with ShardReader(max_open=1) as reader:
        places = {number: reader.locate(path, number, n_chunks=shard.n_chunks) for number in range(shard.n_chunks)}
        present = {number: place for number, place in places.items() if place is not None}
        for number in sorted(shard.chunks.keys() - present.keys()):
            yield f"does not hold {shard.chunks[number]}"
        for number in sorted(present.keys() - shard.chunks.keys()):
            yield f"holds chunk {number}, which belongs to nothing"
        if not _is_gapless(list(present.values())):
            yield "its chunks overlap, or leave gaps between them"
        for number in sorted(shard.chunks.keys() & present.keys()):
            if problem := _decoding_problem(shard, number, present[number]):
                yield f"{shard.chunks[number]} {problem}"


def _is_gapless(places: list[ChunkPlace]) -> bool:
    """Tell whether chunks follow each other from the start of the file on, each byte in one of them."""
    end = 0
    for offset, n_bytes in sorted((place.offset, place.n_bytes) for place in places):
        if offset != end:
            return False
        end += n_bytes
    return True


def _decoding_problem(shard: ExpectedShard, number: int, place: ChunkPlace) -> str:
    width, height = shard.chunk_wh_px
    pixels: RgbImage = np.empty((height, width, 3), dtype=np.uint8)
    try:
        shard.codec.decode_into(read_place(place, path=str(shard.path)), pixels)
    except DAMAGE as error:
        return f"cannot be decoded: {error}"
    return shard.check_pixels(number, pixels)
