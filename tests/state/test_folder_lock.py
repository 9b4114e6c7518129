"""One writer at a time, known by name; how the last one ended is remembered without anything to clear by hand."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from wsi_extract.errors import EnvironmentFaultError, InputError, IntegrityError
from wsi_extract.state import folder_lock, folder_note
from wsi_extract.state.folder_lock import ended_hard, locked, refuse_locked
from wsi_extract.state.layout import lock_path, run_path

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from wsi_extract.state.folder_lock import locked
from wsi_extract.interrupts import stoppable
with stoppable(), locked(Path(sys.argv[1]), command="extract") as lock:
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("held")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_holder_is_named_and_nobody_else_gets_in(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        before = lock_path(tmp_path).read_bytes()
        with pytest.raises(EnvironmentFaultError, match=f"written by process {process.pid} on .* since 20.*extract"):
            refuse_locked(tmp_path)
        with (
            pytest.raises(EnvironmentFaultError, match=f"process {process.pid} ") as caught,
            locked(tmp_path, command="x"),
        ):
            pass
        assert caught.value.exit_code == 5
        assert lock_path(tmp_path).read_bytes() == before
        assert not ended_hard(tmp_path)


@pytest.mark.parametrize(
    ("number", "hard"),
    [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGHUP, False), (signal.SIGKILL, True)],
)
def test_only_a_hard_end_leaves_content_and_never_a_lock(tmp_path: Path, number: signal.Signals, *, hard: bool) -> None:
    with holder(tmp_path) as process:
        process.send_signal(number)
        process.wait(timeout=120)
    assert lock_path(tmp_path).exists() is hard
    assert ended_hard(tmp_path) is hard
    refuse_locked(tmp_path)
    with locked(tmp_path, command="again") as lock:
        assert lock.is_exclusive
    assert not ended_hard(tmp_path)


def test_an_error_is_an_orderly_end(tmp_path: Path) -> None:
    lock_path(tmp_path).parent.mkdir()
    run_path(tmp_path).touch()
    with pytest.raises(OSError, match="disk"), locked(tmp_path, command="x"):
        raise OSError("disk")
    assert lock_path(tmp_path).read_bytes() == b""


def test_whoever_puts_nothing_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "a" / "out", command="x"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with locked(tmp_path / "out", command="x"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_the_mark_of_a_hard_end_outlives_whoever_did_not_succeed_either(tmp_path: Path) -> None:
    lock_path(tmp_path).parent.mkdir()
    lock_path(tmp_path).write_text("died")
    with pytest.raises(KeyError), locked(tmp_path, command="x"):
        raise KeyError
    assert lock_path(tmp_path).read_text() == "died"
    assert ended_hard(tmp_path)
    with locked(tmp_path, command="x"):
        pass
    assert not ended_hard(tmp_path)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lock as long as it takes: threads of a busy machine may stand still for a while."""
    for module in (folder_lock, folder_note):
        monkeypatch.setattr(module, "PATIENCE_S", 120.0)


@pytest.mark.usefixtures("patience")
def test_many_that_leave_nothing_are_still_alone(tmp_path: Path) -> None:
    """Each removes file and folders while others are opening them."""
    n_inside, most = [0], [0]

    def take() -> None:
        for _ in range(30):
            with locked(tmp_path / "out", command="x"):
                n_inside[0] += 1
                most[0] = max(most[0], n_inside[0])
                time.sleep(0.001)
                n_inside[0] -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    left = [path for path in tmp_path.rglob("*") if path.is_file()]  # by one that had to wait for another
    assert left in ([], [lock_path(tmp_path / "out")])
    assert not ended_hard(tmp_path / "out")


def test_a_disk_that_fails_at_the_end_does_not_hide_why_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def work() -> NoReturn:
        monkeypatch.setattr(os, "fsync", failing)
        raise IntegrityError("alarm")

    with pytest.raises(IntegrityError, match="alarm"), locked(tmp_path, command="x"):
        work()


@pytest.mark.parametrize("mark", ["", "died"])
def test_a_full_disk_does_not_hide_how_the_last_one_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    lock_path(tmp_path).parent.mkdir()
    lock_path(tmp_path).write_text(mark)
    write = os.pwrite

    def half(descriptor: int, content: bytes, place: int) -> int:
        if place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:2], place)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="No space left") as caught, locked(tmp_path, command="x"):
        pass
    assert caught.value.filename == str(lock_path(tmp_path))
    assert ended_hard(tmp_path) is bool(mark)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO])
def test_a_lock_that_is_not_granted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    lock_path(tmp_path).parent.mkdir()
    lock_path(tmp_path).write_text("{}")
    monkeypatch.setattr(fcntl, "flock", refusing)
    match = f"lock cannot be locked: .*{errno.errorcode[number]}"
    with pytest.raises(EnvironmentFaultError, match=match), locked(tmp_path, command="x"):
        pass
    with pytest.raises(EnvironmentFaultError, match=match):
        refuse_locked(tmp_path)


def test_who_holds_it_says_so_in_the_file(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "out", command="convert"):
        content = json.loads(lock_path(tmp_path / "new" / "out").read_bytes())
    assert (content["pid"], content["command"]) == (os.getpid(), "convert")
    assert set(content) == {"host", "pid", "started", "command", "machine"}


def test_looking_touches_nothing(tmp_path: Path) -> None:
    refuse_locked(tmp_path / "out")
    assert not ended_hard(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("patience")
def test_who_only_looks_keeps_nobody_out(tmp_path: Path) -> None:
    """Looking takes a shared lock for a moment; whoever wants the lock just then must not be sent away."""
    with locked(tmp_path, command="x"):
        run_path(tmp_path).touch()
    descriptor = os.open(lock_path(tmp_path), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    timer = threading.Timer(0.2, os.close, [descriptor])
    timer.start()
    with locked(tmp_path, command="x") as lock:
        assert lock.is_exclusive
    timer.join()


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    with locked(tmp_path, command="x"):
        os.truncate(lock_path(tmp_path), 0)
        with pytest.raises(EnvironmentFaultError, match="by another process"):
            refuse_locked(tmp_path)


def test_a_file_that_was_deleted_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes it between opening and locking: the lock must be on the file that is there."""
    flock = fcntl.flock
    doomed = [lock_path(tmp_path)]

    def deleting(descriptor: int, operation: int) -> None:
        while doomed:
            doomed.pop().unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", deleting)
    with locked(tmp_path, command="x"), pytest.raises(EnvironmentFaultError):
        refuse_locked(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refusing)
    with locked(tmp_path, command="x") as lock:
        assert not lock.is_exclusive
        refuse_locked(tmp_path)
    assert lock_path(tmp_path).read_bytes() == b""
    lock_path(tmp_path).write_bytes(b"died")
    assert ended_hard(tmp_path)


@pytest.mark.parametrize("of_the_folder", [False, True])
def test_links_are_not_followed(tmp_path: Path, *, of_the_folder: bool) -> None:
    precious = tmp_path / "precious" / "lock"
    precious.parent.mkdir()
    precious.write_text("mine")
    lock = lock_path(tmp_path / "out")
    lock.parent.parent.mkdir()
    if of_the_folder:
        lock.parent.symlink_to(precious.parent)
    else:
        lock.parent.mkdir()
        lock.symlink_to(precious)
    with pytest.raises(InputError, match="is a link"), locked(tmp_path / "out", command="x"):
        pass
    assert precious.read_text() == "mine"


@pytest.mark.timeout(60)
def test_a_pipe_in_its_place_does_not_block(tmp_path: Path) -> None:
    lock_path(tmp_path).parent.mkdir()
    os.mkfifo(lock_path(tmp_path))
    assert not ended_hard(tmp_path)
