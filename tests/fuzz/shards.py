"""Any bytes as a shard: its chunks as they were written, or `DamagedShardError`."""

from __future__ import annotations

import contextlib

from tests.fuzz.runner import fuzz
from tests.fuzz.scratch import scratch
from wsi_extract.stores.codecs import checksum_of
from wsi_extract.stores.shards import DamagedShardError, ShardReader, write_shard

N_CHUNKS = 6


def check(data: bytes) -> int:
    """Return the number of chunks read; every error but that of a damaged shard is a finding.

    The index is also given a checksum that fits, so that what lies behind that is reached.
    """
    path = scratch() / "shard"
    n_read = 0
    for content in (data, data + checksum_of(data[-16 * N_CHUNKS :])):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        with ShardReader() as reader:
            for number in range(N_CHUNKS):
                with contextlib.suppress(DamagedShardError):
                    chunk = reader.read(str(path), number, n_chunks=N_CHUNKS)
                    assert chunk is None or len(chunk) <= len(content)
                    n_read += chunk is not None
    return n_read


def seeds() -> list[bytes]:
    """Return whole shards, and such without the checksum that `check` appends."""
    path = scratch() / "seed"
    contents = []
    for chunks in (
        [(0, b"abc"), (5, b"x" * 100), (2, b"")],
        [(number, b"%d" % number) for number in range(N_CHUNKS)],
        [],
    ):
        write_shard(path, chunks, n_chunks=N_CHUNKS)
        contents += [path.read_bytes(), path.read_bytes()[:-4]]
    return contents


if __name__ == "__main__":
    fuzz("tests.fuzz.shards", seeds=seeds())
