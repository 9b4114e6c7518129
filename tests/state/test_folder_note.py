"""One writer per folder where nothing can be locked: refused on this machine, warned of on others."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsi_extract.disk.mounts import COMMIT_VARIABLE
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.state import folder_note
from wsi_extract.state.folder_lock import ended_hard, locked, refuse_locked
from wsi_extract.state.folder_note import describe_holder, describe_self, name_held
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


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "direct")


@contextmanager
def holder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield another process that writes there."""
    command = [sys.executable, "-c", HOLDER, str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("held")
            yield process
        finally:
            process.kill()


def test_a_second_process_of_this_machine_is_refused_and_told_who(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        for _ in range(50):  # whoever only asks disturbs nobody
            with pytest.raises(
                EnvironmentFaultError, match=f"written by process {process.pid} on .* since 20.*extract"
            ):
                refuse_locked(tmp_path)
        with pytest.raises(EnvironmentFaultError, match=f"process {process.pid} "), locked(tmp_path, command="x"):
            pass
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(EnvironmentFaultError, match=f"process {process.pid} "):
            refuse_locked(tmp_path / "link")
        assert not ended_hard(tmp_path)
        refuse_locked(tmp_path / "other")


@pytest.mark.parametrize(("number", "hard"), [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGKILL, True)])
def test_only_a_hard_end_leaves_a_note(tmp_path: Path, number: signal.Signals, *, hard: bool) -> None:
    with holder(tmp_path / "out") as process:
        process.send_signal(number)
        process.wait(timeout=120)
    out = tmp_path / "out"
    assert (lock_path(out).exists(), ended_hard(out)) == (hard, hard)
    refuse_locked(out)
    with locked(out, command="again") as lock:
        assert (lock.is_exclusive, lock.rival) == (False, "")  # it has died, as this machine can tell
    assert not ended_hard(out)
    assert out.exists() is hard  # what another made stays


def write_and_fail(out: Path, *, rival: str) -> None:
    with locked(out, command="x") as lock:
        assert rival in lock.rival
        assert bool(rival) is bool(lock.rival)
        assert json.loads(lock_path(out).read_bytes())["command"] == "x"
        raise KeyError


@pytest.mark.parametrize(("theirs", "ours"), [("rename", "direct"), ("direct", "rename")])
def test_whoever_writes_in_another_way_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str, ours: str
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, theirs)
    with holder(tmp_path) as process:
        monkeypatch.setenv(COMMIT_VARIABLE, ours)
        before = lock_path(tmp_path).read_bytes()
        with pytest.raises(EnvironmentFaultError, match=f"process {process.pid} "):
            refuse_locked(tmp_path)
        with pytest.raises(EnvironmentFaultError, match=f"process {process.pid} "), locked(tmp_path, command="x"):
            pass
        assert not ended_hard(tmp_path)
        assert lock_path(tmp_path).read_bytes() == before
        process.kill()
        process.wait(timeout=120)
    assert ended_hard(tmp_path)
    with locked(tmp_path, command="x"):
        pass
    assert not ended_hard(tmp_path)


@pytest.mark.parametrize("form", ["rename", "direct"])
def test_a_name_that_is_about_to_be_free_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, form)
    monkeypatch.setattr(folder_note, "PATIENCE_S", 120.0)  # of a busy machine, whose threads may stand still
    is_held, is_left = threading.Event(), threading.Event()

    def leave_soon() -> None:
        with name_held(tmp_path):
            is_held.set()
            time.sleep(0.1)
            is_left.set()

    leaving = threading.Thread(target=leave_soon)
    leaving.start()
    assert is_held.wait(60)
    with locked(tmp_path, command="x"):
        assert is_left.is_set()
    leaving.join()


def test_a_note_of_another_machine_is_passed_on(tmp_path: Path) -> None:
    lock_path(tmp_path).parent.mkdir()
    run_path(tmp_path).touch()
    theirs = {**json.loads(describe_self("extract")), "host": "node-7", "pid": 12, "machine": "another"}
    lock_path(tmp_path).write_text(json.dumps(theirs))
    refuse_locked(tmp_path)
    assert ended_hard(tmp_path)
    with pytest.raises(KeyError):
        write_and_fail(tmp_path, rival="process 12 on node-7 since 20")
    assert json.loads(lock_path(tmp_path).read_bytes()) == theirs  # nobody has succeeded since
    with locked(tmp_path, command="x"):
        pass
    assert [path.name for path in run_path(tmp_path).parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff"])
def test_half_a_note_names_nobody(content: bytes) -> None:
    assert describe_holder(content) == "another process"


def test_whoever_puts_nothing_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_and_fail(tmp_path / "out", rival="")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyError):
        write_and_fail(tmp_path / "out", rival="")
    assert list((tmp_path / "out").iterdir()) == []
