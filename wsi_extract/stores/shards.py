"""Shards of Zarr v3: files that hold many chunks and, at their end, an index of where each of them lies.

    chunk | chunk | ... | index: n pairs of uint64 (offset, length), 2**64 - 1 twice where a chunk is absent | crc32c

One call writes one whole shard: two writers of one shard would silently lose chunks. Knows nothing of pixels.
The format is that of the codec ``sharding_indexed`` with ``index_location`` "end".
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from wsi_extract.disk.direct_files import accept_folder
from wsi_extract.disk.files import FileBatch, Writes, accept, open_batch
from wsi_extract.errors import IntegrityError
from wsi_extract.stores.codecs import CRC_BYTES, checksum_of

ABSENT = 2**64 - 1
ENTRY_BYTES = 16
MAX_OPEN_SHARDS = 128
"""Files kept open by one reader; the usual limit of a process is 1,024."""

IndexArray = npt.NDArray[np.uint64]
"""(n, 2) uint64, columns (offset, length), bytes."""


class DamagedShardError(IntegrityError):
    """A shard is missing, truncated, or its index does not fit its checksum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShard:
    """One written shard."""

    n_bytes: int
    sha256: str


class ShardWriter:
    """Takes the chunks of one shard in any order; the file keeps that order. Made by `open_shard`."""

    def __init__(self, stream: Writes, *, n_chunks: int) -> None:
        self._stream = stream
        self._index: IndexArray = np.full((n_chunks, 2), ABSENT, dtype=np.uint64)
        self._digest = hashlib.sha256()
        self._n_bytes = 0

    def add(self, number: int, data: bytes) -> None:
        """Append one chunk.

        Raises
        ------
        ValueError
            When the chunk was added before or does not belong to the shard.
        """
        n_chunks = len(self._index)
        if not 0 <= number < n_chunks or self._index[number, 0] != ABSENT:
            raise ValueError(f"chunk {number} is given twice, or is none of the {n_chunks} of its shard")
        self._index[number] = self._n_bytes, len(data)
        self._append(data)

    def finish(self, *, n_expected: int) -> StoredShard:
        """Append the index.

        Raises
        ------
        ValueError
            When the number of chunks added is not the expected one.
        """
        n_added = int(np.count_nonzero(self._index[:, 0] != ABSENT))
        if n_added != n_expected:
            raise ValueError(f"a shard was to hold {n_expected} chunks, but {n_added} were added")
        body = self._index.astype("<u8").tobytes()
        self._append(body + checksum_of(body))
        return StoredShard(n_bytes=self._n_bytes, sha256=self._digest.hexdigest())

    def _append(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._n_bytes += len(data)


@contextmanager
def open_shard(batch: FileBatch, path: Path, *, n_chunks: int) -> Iterator[ShardWriter]:
    """Open a shard for writing, to be ended with `ShardWriter.finish`. It appears with the other files of the batch.

    Parameters
    ----------
    n_chunks
        Chunks the shard has room for. Those that are never added are absent.
    """
    with batch.open_file(str(path)) as stream:
        yield ShardWriter(stream, n_chunks=n_chunks)


def write_shard(
    path: Path,
    chunks: Iterable[tuple[int, bytes]],
    *,
    n_chunks: int,
    check: Callable[[StoredShard], None] = accept,
    record: Path | None = None,
    still_ours: Callable[[], None] = accept_folder,
) -> StoredShard:
    """Write one whole shard from pairs of a chunk's number and its bytes; memory holds one chunk at a time.

    Parameters
    ----------
    check
        Raises when the shard, which is durable by then, must not appear; nothing is replaced in that case.
    record, still_ours
        What vouches for the shard, and what raises when the folder is somebody else's by now; see `open_batch`.
    """
    with open_batch(record=record, still_ours=still_ours) as batch:
        with open_shard(batch, path, n_chunks=n_chunks) as shard:
            n_given = 0
            for number, data in chunks:
                shard.add(number, data)
                n_given += 1
            stored = shard.finish(n_expected=n_given)
        batch.make_durable()
        check(stored)
    return stored


class ChunkPlace(NamedTuple):
    """Where a chunk lies: an open file and a range of it."""

    descriptor: int
    offset: int
    n_bytes: int


class ShardReader:
    """Reads chunks by position, without reading an index twice.

    Safe in processes made by fork and by spawn, because nothing is shared: positional reads have no file pointer, a
    pickled reader is an empty one, and a forked one opens its files again. Not safe in several threads.

    Parameters
    ----------
    max_open
        Files kept open at a time, least recently used closed first.
    """

    def __init__(self, *, max_open: int = MAX_OPEN_SHARDS) -> None:
        self.max_open = max_open
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._indexes: dict[str, tuple[tuple[int, int, int], IndexArray]] = {}

    def __getstate__(self) -> dict[str, int]:
        return {"max_open": self.max_open}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.max_open = state["max_open"]
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; the reader can be used again."""
        for descriptor in self._descriptors.values():  # in a forked child these are its own copies
            os.close(descriptor)
        self._forget()

    def locate(self, path: str, chunk: int, *, n_chunks: int) -> ChunkPlace | None:
        """Return where a chunk lies, ``None`` when the shard does not hold it.

        Parameters
        ----------
        n_chunks
            Chunks the shard has room for.

        Raises
        ------
        DamagedShardError
            When the file is missing, truncated, or its index is damaged.
        """
        if self._pid != os.getpid():
            self.close()
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            descriptor = self._open(path, n_chunks=n_chunks)
        else:
            self._descriptors.move_to_end(path)
        offset, n_bytes = self._indexes[path][1][chunk].tolist()
        return None if offset == ABSENT else ChunkPlace(descriptor, offset, n_bytes)

    def read(self, path: str, chunk: int, *, n_chunks: int) -> bytes | None:
        """Return the bytes of a chunk, ``None`` when the shard does not hold it; see `locate`."""
        place = self.locate(path, chunk, n_chunks=n_chunks)
        return None if place is None else read_place(place, path=path)

    def _open(self, path: str, *, n_chunks: int) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DamagedShardError(f"the shard {path} is missing.") from error
        try:
            facts = os.fstat(descriptor)
            identity = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            known = self._indexes.get(path)
            if known is None or known[0] != identity:
                index = _read_index(descriptor, size=facts.st_size, n_chunks=n_chunks, path=path)
                self._indexes[path] = identity, index
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptors[path] = descriptor
        if len(self._descriptors) > self.max_open:
            os.close(self._descriptors.popitem(last=False)[1])
        return descriptor


def read_place(place: ChunkPlace, *, path: str) -> bytes:
    """Return the bytes of a located chunk.

    Raises
    ------
    DamagedShardError
        When the file ends before the chunk does.
    """
    data = os.pread(place.descriptor, place.n_bytes, place.offset)
    if len(data) != place.n_bytes:
        raise DamagedShardError(f"the shard {path} is truncated.")
    return data


def _read_index(descriptor: int, *, size: int, n_chunks: int, path: str) -> IndexArray:
    n_bytes = n_chunks * ENTRY_BYTES + CRC_BYTES
    data = os.pread(descriptor, n_bytes, max(0, size - n_bytes))
    body, stated = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(data) != n_bytes or checksum_of(body) != stated:
        raise DamagedShardError(f"the shard {path} is truncated, or its index is damaged.")
    index: IndexArray = np.frombuffer(body, dtype="<u8").reshape(n_chunks, 2).astype(np.uint64)
    present = index[index[:, 0] != ABSENT]
    limit = np.uint64(size - n_bytes)
    if ((present > limit).any()) or (present.sum(axis=1) > limit).any():
        raise DamagedShardError(f"the index of shard {path} points outside the file.")
    return index
