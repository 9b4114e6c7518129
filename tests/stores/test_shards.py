"""Shards: written whole, read by position, readable by other Zarr libraries, never wrong without an error."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.disk.files import sha256_of_file
from wsi_extract.stores.shards import DamagedShardError, ShardReader, StoredShard, write_shard

FILES = Path("/proc/self/fd")
CHUNKS = {0: b"first", 3: b"", 2: b"third" * 100}


def n_open_files() -> int:
    return sum(1 for _ in FILES.iterdir())


@given(
    chunks=st.dictionaries(st.integers(0, 19), st.binary(max_size=40)),
    n_more=st.integers(1, 5),
    data=st.data(),
)
def test_chunks_come_back_whatever_their_order(
    tmp_path_factory: pytest.TempPathFactory, chunks: dict[int, bytes], n_more: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("shard") / "0"
    order = data.draw(st.permutations(list(chunks)))
    n_chunks = 20 + n_more
    stored = write_shard(path, ((number, chunks[number]) for number in order), n_chunks=n_chunks)
    assert stored.n_bytes == path.stat().st_size
    with ShardReader() as reader:
        found = {number: reader.read(str(path), number, n_chunks=n_chunks) for number in range(n_chunks)}
    assert found == {number: chunks.get(number) for number in range(n_chunks)}


def test_a_shard_that_is_not_finished_does_not_exist(tmp_path: Path) -> None:
    def chunks() -> Iterator[tuple[int, bytes]]:
        yield 0, b"data"
        raise RuntimeError("the slide broke")

    with pytest.raises(RuntimeError, match="the slide broke"):
        write_shard(tmp_path / "0", chunks(), n_chunks=4)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_can_be_refused_when_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0"
    write_shard(path, [(0, b"old")], n_chunks=1)
    durable: set[int] = set()
    fsync = os.fsync

    def traced(descriptor: int) -> None:
        time.sleep(0.01)  # a slow disk
        fsync(descriptor)
        durable.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", traced)

    def refuse(stored: StoredShard) -> None:
        (temporary,) = (file for file in tmp_path.iterdir() if file != path)
        assert temporary.stat().st_ino in durable
        assert (stored.n_bytes, stored.sha256) == (temporary.stat().st_size, sha256_of_file(temporary))
        raise ValueError("not the same")

    with pytest.raises(ValueError, match="not the same"):
        write_shard(path, [(0, b"new")], n_chunks=1, check=refuse)
    assert list(tmp_path.iterdir()) == [path]
    assert ShardReader().read(str(path), 0, n_chunks=1) == b"old"


@pytest.mark.parametrize("n_bytes_per_step", [1, 100, 2**24])
def test_the_file_does_not_depend_on_when_it_is_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes_per_step: int
) -> None:
    chunks = [(number, bytes([number]) * 60) for number in range(20)]
    expected = write_shard(tmp_path / "0", chunks, n_chunks=20)
    monkeypatch.setattr("wsi_extract.disk.files.SYNC_STEP_BYTES", n_bytes_per_step)
    n_open = n_open_files()
    assert write_shard(tmp_path / "1", chunks, n_chunks=20) == expected
    assert (tmp_path / "1").read_bytes() == (tmp_path / "0").read_bytes()
    assert n_open_files() == n_open


@pytest.mark.parametrize("number", [1, 4, -1], ids=["twice", "beyond the shard", "before it"])
def test_chunks_that_would_be_lost_are_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(ValueError, match="twice, or is none"):
        write_shard(tmp_path / "0", [(1, b"a"), (number, b"b")], n_chunks=4)
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_of_the_index_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "0"
    write_shard(path, CHUNKS.items(), n_chunks=4)
    whole = path.read_bytes()
    n_index_bytes = 4 * 16 + 4
    for bit in range(8 * (len(whole) - n_index_bytes), 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedShardError, match="index is damaged"):
            ShardReader().read(str(path), 0, n_chunks=4)
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(DamagedShardError, match="truncated"):
            ShardReader().read(str(path), 0, n_chunks=4)


def test_a_missing_shard_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DamagedShardError, match="missing"):
        ShardReader().read(str(tmp_path / "0"), 0, n_chunks=4)


def test_the_number_of_chunks_must_be_that_of_the_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "0", CHUNKS.items(), n_chunks=4)
    with pytest.raises(DamagedShardError, match="damaged"):
        ShardReader().read(str(tmp_path / "0"), 0, n_chunks=5)


def test_few_files_stay_open(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(10)]
    for number, path in enumerate(paths):
        write_shard(path, [(0, str(number).encode())], n_chunks=1)
    n_open = n_open_files()
    with ShardReader(max_open=3) as reader:
        for _ in range(3):
            assert [reader.read(str(path), 0, n_chunks=1) for path in paths] == [str(n).encode() for n in range(10)]
        assert n_open_files() == n_open + 3
    assert n_open_files() == n_open


def test_a_replaced_shard_is_read_anew_once_its_file_was_closed(tmp_path: Path) -> None:
    path, other = tmp_path / "0", tmp_path / "1"
    write_shard(path, [(0, b"old"), (1, b"rest")], n_chunks=2)
    write_shard(other, [(0, b"x")], n_chunks=2)
    reader = ShardReader(max_open=1)
    assert reader.read(str(path), 1, n_chunks=2) == b"rest"
    write_shard(path, [(0, b"much newer"), (1, b"more")], n_chunks=2)
    assert reader.read(str(path), 1, n_chunks=2) == b"rest"  # the open file is the old one, whole
    reader.read(str(other), 0, n_chunks=2)
    assert reader.read(str(path), 1, n_chunks=2) == b"more"


inherited: list[ShardReader] = []


def _inherit(reader: ShardReader) -> None:
    """Keep the parent's own reader, which a forked child gets without pickling."""
    inherited.append(reader)


def _read_in_child(path: str) -> bytes | None:
    return inherited[0].read(path, 2, n_chunks=4)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_readers_work_in_children(tmp_path: Path, method: str) -> None:
    path = str(tmp_path / "0")
    write_shard(tmp_path / "0", CHUNKS.items(), n_chunks=4)
    with ShardReader() as reader:
        assert reader.read(path, 0, n_chunks=4) == b"first"
        with multiprocessing.get_context(method).Pool(1, initializer=_inherit, initargs=(reader,)) as pool:
            assert pool.apply(_read_in_child, (path,)) == CHUNKS[2]
        assert reader.read(path, 2, n_chunks=4) == CHUNKS[2]


def test_pickled_readers_hold_no_files(tmp_path: Path) -> None:
    write_shard(tmp_path / "0", CHUNKS.items(), n_chunks=4)
    with ShardReader(max_open=7) as reader:
        reader.read(str(tmp_path / "0"), 0, n_chunks=4)
        copy: ShardReader = pickle.loads(pickle.dumps(reader))
    assert copy.max_open == 7
    assert copy.read(str(tmp_path / "0"), 0, n_chunks=4) == b"first"
