"""What becomes durable, in which order, and what happens when the system refuses."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.injector import Injector
from tests.faults.plans import Action, Plan, Strike
from tests.faults.power_loss import Disk, Loss
from tests.faults.recorder import read_recording
from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import (
    commit_together,
    is_temporary,
    open_batch,
    temporary_beside,
    write_atomically,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def n_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def n_synchronisers() -> int:
    return sum(thread.name == "synchroniser" for thread in threading.enumerate())


def write_one(folder: Path) -> None:
    write_atomically(folder / "b" / "0", b"new")


def write_batch(folder: Path) -> None:
    with open_batch() as batch:
        for i in range(40):
            batch.add(f"{folder}/b/{i}", b"new")


def write_stream(folder: Path) -> None:
    with open_batch() as batch, batch.open_file(f"{folder}/b/0") as stream:
        stream.write(b"new")


def write_and_commit(folder: Path) -> None:
    path = folder / "b" / "0"
    make_folder(path.parent)
    temporary = temporary_beside(path)
    temporary.write_bytes(b"new")
    try:
        commit_together([(temporary, path)])
    except OSError:
        temporary.unlink()
        raise


WRITERS = pytest.mark.parametrize(
    "write", [write_one, write_batch, write_stream, write_and_commit], ids=lambda each: each.__name__
)


def trace(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that fills with what is asked of the system from here on, and of which inode."""
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(("sync", os.fstat(descriptor).st_ino))

    def traced_replace(source: str, target: str) -> None:
        calls.append(("rename", Path(source).stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    return calls


@WRITERS
@pytest.mark.parametrize("is_there", [False, True])
def test_every_file_is_durable_before_it_is_renamed_and_every_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], is_there: bool
) -> None:
    folder = tmp_path / "a"
    if is_there:  # made by another process, which died before it was durable
        (folder / "b").mkdir(parents=True)
    calls = trace(monkeypatch)
    write(folder)
    files = [path.stat().st_ino for path in (folder / "b").iterdir()]
    last_rename = max(i for i, (kind, _) in enumerate(calls) if kind == "rename")
    assert {inode for kind, inode in calls if kind == "rename"} == set(files)
    for inode in files:
        assert calls.index(("sync", inode)) < calls.index(("rename", inode))
    for path in (folder, folder / "b"):
        assert ("sync", path.stat().st_ino) in calls[last_rename + 1 :]
    if not is_there:  # the entry of the folder made first
        assert ("sync", tmp_path.stat().st_ino) in calls


@pytest.mark.parametrize("number", range(1, 8))
def test_a_folder_of_a_process_that_died_is_not_lost_with_what_its_successor_puts_there(
    tmp_path: Path, number: int
) -> None:
    """One stops at the n-th thing it does, another one goes on below what is there, and the power goes."""
    out, events = tmp_path / "out", tmp_path / "events"
    out.mkdir()
    stop = Strike(action=Action.ERROR, operation="mkdir: sync:", number=number, errno=errno.ENOSPC)
    injector = Injector(Plan(output_dir=str(out), strikes=(stop,), events_path=str(events)))
    with injector.installed():
        with pytest.raises(OSError, match="No space left"):
            write_atomically(out / "a" / "b" / "c" / "0", b"first")
        write_atomically(out / "a" / "b" / "d" / "0", b"second")
    injector.finish()
    recording = read_recording(events)
    disk = Disk(recording)
    disk.play(recording.events)
    assert disk.state(Loss.EVERYTHING)[1].get("a/b/d/0") == b"second"


def fail_at(monkeypatch: pytest.MonkeyPatch, code: int, *, folders: bool) -> None:
    """Let the system refuse to make files durable, or folders."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir() == folders:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


@WRITERS
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINVAL])
def test_a_file_that_is_not_durable_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], code: int
) -> None:
    write_atomically(tmp_path / "b" / "0", b"old")
    n_open = n_open_files()
    fail_at(monkeypatch, code, folders=False)
    with pytest.raises(OSError, match=os.strerror(code)):
        write(tmp_path)
    assert names_in(tmp_path / "b") == ["0"]
    assert (tmp_path / "b" / "0").read_bytes() == b"old"
    assert (n_open_files(), n_synchronisers()) == (n_open, 0)


@WRITERS
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_mount_without_durable_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], code: int
) -> None:
    fail_at(monkeypatch, code, folders=True)
    write(tmp_path / "a")
    assert (tmp_path / "a" / "b" / "0").read_bytes() == b"new"


@WRITERS
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_a_folder_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], code: int
) -> None:
    n_open = n_open_files()
    fail_at(monkeypatch, code, folders=True)
    with pytest.raises(OSError, match=os.strerror(code)):
        write(tmp_path / "a")
    assert n_open_files() == n_open


def test_a_folder_that_may_not_be_listed_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = os.open

    def closed(path: Path | str, flags: int, *args: int) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "not yours", str(path))
        return open_file(path, flags, *args)

    monkeypatch.setattr(os, "open", closed)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7])))
    data = bytes(range(100))
    with open_batch() as batch:
        batch.add(f"{tmp_path}/file", data)
    assert (tmp_path / "file").read_bytes() == data


def test_a_batch_is_durable_when_it_says_so_and_can_still_be_refused(tmp_path: Path) -> None:
    write_atomically(tmp_path / "0", b"old")
    n_open = n_open_files()

    def refused() -> None:
        with open_batch() as batch:
            for i in range(40):
                batch.add(f"{tmp_path}/{i}", b"new")
            batch.make_durable()
            assert (n_open_files(), n_synchronisers()) == (n_open, 0)  # nothing is left to be done
            assert sum(is_temporary(name) for name in names_in(tmp_path)) == 40
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refused()
    assert (names_in(tmp_path), (tmp_path / "0").read_bytes()) == (["0"], b"old")


@pytest.mark.parametrize("n_files", [1, 40])
def test_a_batch_does_not_say_that_it_is_durable_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_files: int
) -> None:
    fail_at(monkeypatch, errno.EIO, folders=False)
    reached: list[str] = []

    def run() -> None:
        with open_batch() as batch:
            for i in range(n_files):
                batch.add(f"{tmp_path}/{i}", b"new")
            batch.make_durable()
            reached.append("what may only be done with durable files")

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        run()
    assert (reached, names_in(tmp_path)) == ([], [])


def test_files_may_follow_after_others_became_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = trace(monkeypatch)
    with open_batch() as batch:
        for start in (0, 20):
            for i in range(start, start + 20):
                batch.add(f"{tmp_path}/{i}", b"new")
            batch.make_durable()
            batch.make_durable()
    files = {path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(files) == 40
    assert {inode for kind, inode in calls[:40] if kind == "sync"} == files


def test_a_file_that_breaks_while_it_is_written_leaves_no_other(tmp_path: Path) -> None:
    def run() -> None:
        with open_batch() as batch:
            batch.add(f"{tmp_path}/a", b"new")
            with batch.open_file(f"{tmp_path}/b") as stream:
                stream.write(b"half")
                raise ValueError("broken")

    n_open = n_open_files()
    with pytest.raises(ValueError, match="broken"):
        run()
    assert (names_in(tmp_path), n_open_files()) == ([], n_open)


@WRITERS
@pytest.mark.parametrize("folders", [False, True])
def test_an_error_of_the_disk_names_a_place(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: bool
) -> None:
    fail_at(monkeypatch, errno.ENOSPC, folders=folders)
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path)
    assert str(tmp_path.parent if folders else tmp_path) in str(caught.value)


@pytest.mark.timeout(200)
def test_a_signal_while_a_thread_starts_stops_nobody_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread runs already, but whoever started it does not know."""
    start = threading.Thread.start
    n_started = 0

    def interrupted(thread: threading.Thread) -> None:
        nonlocal n_started
        start(thread)
        n_started += 1
        if n_started == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    n_open = n_open_files()
    with pytest.raises(KeyboardInterrupt):
        write_batch(tmp_path)
    assert names_in(tmp_path / "b") == []
    deadline_s = time.monotonic() + 100
    while (n_open_files(), n_synchronisers()) != (n_open, 0):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
