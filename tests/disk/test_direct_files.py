"""Files written under their own names: refused before anything is touched, and never vouched for while torn."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_extract.disk import direct_files, staging
from wsi_extract.disk.durable import remove_tree
from wsi_extract.disk.files import atomic_writer, open_batch, scratch_for, write_atomically
from wsi_extract.disk.mounts import COMMIT_VARIABLE


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "direct")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def facts(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def write_batch(folder: Path, *, n_files: int) -> None:
    with open_batch() as batch:
        for i in range(n_files):
            batch.add(f"{folder}/{i}", b"x")


@pytest.mark.parametrize("memory_bytes", [0, 100, 2**24])
@pytest.mark.parametrize("n_files", [0, 1, 2, 40, 300])
def test_a_batch_appears_at_its_end_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_files: int, memory_bytes: int
) -> None:
    monkeypatch.setattr(staging, "MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr(staging, "COPY_STEP_BYTES", 1000)
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    expected = {f"{i % 3}/file{i}": b"%d" % i * (i * 37) for i in range(n_files)}  # the first one is empty
    expected["long"] = bytes(range(256)) * 20
    with open_batch() as batch:
        with batch.open_file(f"{tmp_path}/long") as stream:
            for name, data in expected.items():
                if name != "long":
                    batch.add(f"{tmp_path}/{name}", data)
            stream.write(expected["long"][:3000])
            stream.write(expected["long"][3000:])
        batch.make_durable()
        assert contents(tmp_path) == {}
    assert contents(tmp_path) == expected
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit()])
def test_what_is_refused_touches_nothing(tmp_path: Path, error: BaseException) -> None:
    path, record = tmp_path / "a", tmp_path / "record"
    path.write_bytes(b"old")
    record.write_bytes(b"vouches for a")

    def fail() -> None:
        with open_batch(record=record) as batch:
            batch.add(str(path), b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert contents(tmp_path) == {"a": b"old", "record": b"vouches for a"}


def test_the_record_goes_before_a_file_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, record = tmp_path / "a", tmp_path / "records" / "0"
    write_atomically(path, b"damaged")
    write_atomically(record, b"vouches for a")
    was_there = []
    write = direct_files.write_and_hand_over

    def look(descriptor: int, *arguments: object) -> None:
        was_there.append(record.exists())
        write(descriptor, *arguments)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(direct_files, "write_and_hand_over", look)
    with open_batch(record=record) as batch:
        batch.add(str(path), b"whole")
    assert was_there == [False]
    assert contents(tmp_path) == {"a": b"whole"}


def test_what_is_there_already_stays_and_so_does_its_record(tmp_path: Path) -> None:
    record = tmp_path / "record"
    files = {f"{tmp_path}/{i}": b"%d" % i for i in range(5)}
    record.write_bytes(b"vouches for them")
    for path, data in files.items():
        Path(path).write_bytes(data)
    before = [facts(path) for path in sorted(tmp_path.iterdir())]
    with open_batch(record=record) as batch:
        for path, data in files.items():
            batch.add(path, data)
    assert [facts(path) for path in sorted(tmp_path.iterdir())] == before
    (tmp_path / "3").write_bytes(b"4")  # of the same size
    with open_batch(record=record) as batch:
        for path, data in files.items():
            batch.add(path, data)
    assert not record.exists()
    assert (tmp_path / "3").read_bytes() == b"3"
    assert facts(tmp_path / "0") == before[0]


def test_a_small_document_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"{}")
    before = facts(path)
    write_atomically(path, b"{}")
    assert facts(path) == before
    write_atomically(path, b"[]")
    assert path.read_bytes() == b"[]"


def test_an_error_while_a_document_is_made_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    write_atomically(path, b"old")

    def fail() -> None:
        with atomic_writer(path) as stream:
            stream.write(b"half")
            raise ValueError("NaN")

    with pytest.raises(ValueError, match="NaN"):
        fail()
    assert contents(tmp_path) == {"coco.json": b"old"}


def test_a_failure_while_writing_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, n_left = os.write, [3]

    def scarce(descriptor: int, data: bytes) -> int:
        n_left[0] -= 1
        if not n_left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", scarce)
    with pytest.raises(OSError, match="No space left") as caught:
        write_batch(tmp_path, n_files=5)
    assert contents(tmp_path) == {}
    assert caught.value.filename == str(tmp_path)


def test_a_full_scratch_is_named_and_not_the_output(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from wsi_extract.disk import staging
from wsi_extract.disk.files import open_batch, write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
staging.MEMORY_BYTES = 1000
out = Path(sys.argv[1])
def add():
    with open_batch() as batch:
        for i in range(100):
            batch.add(f"{out}/{i}", b"x" * 1000)
def add_long():
    with open_batch() as batch, batch.open_file(f"{out}/a") as stream:
        for _ in range(100):
            stream.write(b"x" * 1000)
for write in (add, add_long, lambda: write_atomically(out / "a", b"x" * 100_000)):
    try:
        write()
    except OSError as error:
        print(error.errno, error.filename)
"""
    (tmp_path / "scratch").mkdir()
    end = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        env={"PATH": "", "TMPDIR": str(tmp_path / "scratch"), COMMIT_VARIABLE: "direct"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert end.stdout.splitlines() == [f"{errno.EFBIG} {tmp_path / 'scratch'}"] * 3, end.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_store_that_cannot_be_asked_to_make_durable_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "a", b"1")
    assert contents(tmp_path) == {"a": b"1"}


def test_a_store_that_fails_when_a_file_is_closed_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.close

    def fail(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        real(descriptor)
        if name == "7":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "close", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_batch(tmp_path, n_files=40)
    monkeypatch.undo()
    assert contents(tmp_path) == {}


def test_a_path_twice_and_a_link_are_refused(tmp_path: Path) -> None:
    with open_batch() as batch:
        batch.add(f"{tmp_path}/a", b"1")
        with pytest.raises(FileExistsError):
            batch.add(f"{tmp_path}/a", b"2")
    (tmp_path / "precious").write_bytes(b"keep")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="link"):
        write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "precious").read_bytes() == b"keep"
    assert (tmp_path / "link").is_symlink()


def test_scratch_lies_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MEMORY_BYTES", 1)
    with scratch_for(tmp_path / "a") as spool:
        spool.write(b"x" * 100)
        spool.seek(0)
        assert spool.read() == b"x" * 100
        assert not Path(f"/proc/self/fd/{spool.fileno()}").readlink().is_relative_to(tmp_path)


def test_folders_that_vanish_with_their_last_file_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/b/1", "a/b/2", "a/3"):
        write_atomically(tmp_path / "tree" / name, b"")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "tree" / "a" / "link").symlink_to(tmp_path / "precious")
    unlink = Path.unlink

    def vanishing(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()

    monkeypatch.setattr(Path, "unlink", vanishing)
    remove_tree(tmp_path / "tree")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "precious"]
    remove_tree(tmp_path / "tree")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "link")
    assert (tmp_path / "precious" / "file").exists()
