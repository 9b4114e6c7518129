"""Files are whole or absent, and values have one JSON form."""

import hashlib
import json
import math
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.disk.durable import Synchroniser
from wsi_extract.disk.files import (
    TEMPORARY_SUFFIX,
    atomic_writer,
    canonical_json,
    commit_together,
    is_temporary,
    open_batch,
    pretty_json,
    sha256_of,
    sha256_of_file,
    temporary_beside,
    write_atomically,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folders_are_made_and_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.json"
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"
    assert names_in(path.parent) == ["file.json"]


def test_a_longer_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"x" * 1000)
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert names_in(tmp_path) == ["file"]


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with atomic_writer(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
        assert [name.endswith(TEMPORARY_SUFFIX) for name in names_in(tmp_path)] == [False, True]
    assert path.read_bytes() == b"new"


def write_and_fail(path: Path, error: BaseException) -> None:
    with atomic_writer(path) as stream:
        stream.write(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bad"), KeyboardInterrupt(), SystemExit()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: BaseException, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        write_atomically(path, old)
    with pytest.raises(type(error)):
        write_and_fail(path, error)
    assert names_in(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_a_folder_in_the_way_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match="file"):
        write_atomically(path, b"content")
    assert names_in(tmp_path) == ["file"]
    assert path.is_dir()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "below", b"content")


def test_a_link_is_replaced_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"keep")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "precious").read_bytes() == b"keep"
    assert not (tmp_path / "link").is_symlink()


# --- many files at once --------------------------------------------------------------------------------------------


def n_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def n_synchronisers() -> int:
    return sum(thread.name == "synchroniser" for thread in threading.enumerate())


@pytest.mark.parametrize("n_files", [0, 1, 15, 16, 17, 400])
def test_files_of_a_batch_appear_together_and_whole(tmp_path: Path, n_files: int) -> None:
    contents = {f"{i % 3}/file{i}": b"%d" % i * (i * 37) for i in range(n_files)}  # the first one is empty
    n_open = n_open_files()
    with open_batch() as batch:
        for name, data in contents.items():
            batch.add(f"{tmp_path}/{name}", data)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) == n_files
        assert all(is_temporary(path.name) for path in files)
    assert {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == (
        contents
    )
    assert (n_open_files(), n_synchronisers()) == (n_open, 0)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit()])
def test_a_failure_leaves_no_file_descriptor_or_thread_of_a_batch(tmp_path: Path, error: BaseException) -> None:
    n_open = n_open_files()

    def fail() -> None:
        with open_batch() as batch:
            for i in range(100):
                batch.add(f"{tmp_path}/{i}", b"x")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names_in(tmp_path) == []
    assert (n_open_files(), n_synchronisers()) == (n_open, 0)


def unsynchronisable() -> int:
    """Return an open file that fsync refuses: the end of a pipe."""
    other, descriptor = os.pipe()
    os.close(other)
    return descriptor


@pytest.mark.parametrize("n_before", [0, 40])
def test_what_could_not_be_made_durable_is_an_error(tmp_path: Path, n_before: int) -> None:
    n_open = n_open_files()

    def run() -> None:
        with Synchroniser() as synchroniser:
            synchroniser.add(unsynchronisable())
            for i in range(n_before):
                synchroniser.add(os.open(tmp_path / str(i), os.O_WRONLY | os.O_CREAT))

    with pytest.raises(OSError, match="Invalid argument"):
        run()
    assert (n_open_files(), n_synchronisers()) == (n_open, 0)


@pytest.mark.parametrize("n_granted", [0, 1, 3])
def test_the_writer_synchronises_itself_where_no_thread_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_granted: int
) -> None:
    started = list[threading.Thread]()

    class ScarceThread(threading.Thread):
        def start(self) -> None:
            if len(started) >= n_granted:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    monkeypatch.setattr("wsi_extract.disk.durable.Thread", ScarceThread)
    n_open = n_open_files()
    with open_batch() as batch:
        for i in range(400):
            batch.add(f"{tmp_path}/{i}", b"x")
    assert len(names_in(tmp_path)) == 400
    assert not any(is_temporary(name) for name in names_in(tmp_path))
    assert (n_open_files(), n_synchronisers()) == (n_open, 0)


def test_a_file_that_cannot_be_closed_is_an_error_and_the_others_are_closed() -> None:
    n_open = n_open_files()

    def run() -> None:
        with Synchroniser(n_threads=1, n_files=1) as synchroniser:
            synchroniser.add(10**6)  # no file has this number
            for _ in range(3):
                synchroniser.add(unsynchronisable())

    with pytest.raises(OSError, match="Bad file descriptor"):
        run()
    assert (n_open_files(), n_synchronisers()) == (n_open, 0)


def test_few_files_wait_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_extract.disk.durable.MAX_WAITING_BATCHES", 2)
    n_open = n_open_files()
    with Synchroniser(n_threads=2, n_files=4) as synchroniser:
        for i in range(300):
            synchroniser.add(os.open(tmp_path / str(i), os.O_WRONLY | os.O_CREAT))
            assert n_open_files() <= n_open + (2 + 2 + 1) * 4  # waiting, being synchronised, being collected
    assert n_open_files() == n_open


def test_what_others_wrote_is_committed_together(tmp_path: Path) -> None:
    pending = []
    for i in range(20):
        path = tmp_path / f"file{i}"
        temporary = temporary_beside(path)
        temporary.write_bytes(b"%d" % i)
        pending.append((temporary, path))
    commit_together(pending)
    assert names_in(tmp_path) == sorted(path.name for _, path in pending)
    assert (tmp_path / "file7").read_bytes() == b"7"


# --- JSON and digests ----------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=12,
)


def reversed_keys(value: object) -> object:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return [reversed_keys(item) for item in value]
    return value


@given(value=values)
def test_json_round_trips_in_both_forms(value: object) -> None:
    assert json.loads(canonical_json(value)) == value
    assert json.loads(pretty_json(value)) == value


@given(value=values)
def test_canonical_json_has_one_form_whatever_the_order_of_keys(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(reversed_keys(value)) == data
    assert canonical_json(json.loads(data)) == data


def test_the_forms_themselves() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    assert pretty_json({"b": 1, "a": 2}) == b'{\n  "b": 1,\n  "a": 2\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_json_cannot_hold_are_refused(value: float) -> None:
    for encode in (canonical_json, pretty_json):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode({"a": [value]})


def test_digests_of_bytes_and_of_files_agree(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(data) == sha256_of_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
