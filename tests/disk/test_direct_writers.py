"""Several writers of the same files, where files are written directly: late workers, dead ones, those of other runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsi_extract.disk import direct_files
from wsi_extract.disk.direct_files import write_staged
from wsi_extract.disk.files import open_batch, write_atomically
from wsi_extract.disk.kernel_names import hold_name, is_name_held, name_for, turn_at
from wsi_extract.disk.mounts import COMMIT_VARIABLE
from wsi_extract.disk.staging import Stage
from wsi_extract.errors import EnvironmentFaultError

ROOT = Path(__file__).resolve().parents[2]
HALF = """
import os, sys, time
from pathlib import Path
from wsi_extract.disk import direct_files
from wsi_extract.disk.files import open_batch

def half(descriptor, chunks, synchroniser):
    os.write(descriptor, next(iter(chunks))[:10])
    print("half", flush=True)
    time.sleep(600)

direct_files.write_and_hand_over = half
with open_batch(record=Path(sys.argv[1]) / "record") as batch:
    batch.add(f"{sys.argv[1]}/a", b"x" * 1000)
"""


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "direct")


def write_block(folder: Path) -> None:
    with open_batch(record=folder / "record") as batch:
        for name in "abc":
            batch.add(f"{folder}/{name}", name.encode() * 1000)


def facts(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_late_writer_leaves_alone_what_is_whole_already(tmp_path: Path) -> None:
    write_block(tmp_path)
    before = facts(tmp_path)
    write_block(tmp_path)
    assert facts(tmp_path) == before
    (tmp_path / "b").write_bytes(b"b" * 999)
    write_block(tmp_path)
    after = facts(tmp_path)
    assert [name for name in after if after[name] != before[name]] == ["b"]
    assert (tmp_path / "b").read_bytes() == b"b" * 1000


def test_two_writers_of_one_block_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_half, may_go_on, is_second_done = threading.Event(), threading.Event(), threading.Event()
    write = direct_files.write_and_hand_over

    def stopped(descriptor: int, chunks: Iterator[bytes], *rest: object) -> None:
        def slow() -> Iterator[bytes]:
            for chunk in chunks:
                yield chunk[:10]
                is_half.set()
                assert may_go_on.wait(60)
                yield chunk[10:]

        write(descriptor, slow(), *rest)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(direct_files, "write_and_hand_over", stopped)
    first = threading.Thread(target=write_block, args=(tmp_path,))
    first.start()
    assert is_half.wait(60)
    monkeypatch.setattr(direct_files, "write_and_hand_over", write)

    def write_second() -> None:
        write_block(tmp_path)
        is_second_done.set()

    second = threading.Thread(target=write_second)
    second.start()
    assert not is_second_done.wait(0.2)
    may_go_on.set()
    for thread in (first, second):
        thread.join(60)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {n: n.encode() * 1000 for n in "abc"}


def test_the_turn_of_a_dead_writer_is_over_and_its_half_file_is_mended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HALF, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            record = str(tmp_path / "record")
            with pytest.raises(TimeoutError, match="too long"), turn_at(record, patience_s=0.05):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    assert (tmp_path / "a").read_bytes() == b"x" * 10
    with open_batch(record=tmp_path / "record") as batch:
        batch.add(f"{tmp_path}/a", b"x" * 1000)
    assert (tmp_path / "a").read_bytes() == b"x" * 1000


def test_blocks_and_documents_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with turn_at(str(tmp_path / "record")):
        write_atomically(tmp_path / "other", b"1")
        with turn_at(str(tmp_path / "sub" / "record")):
            write_atomically(tmp_path / "another", b"1")


def stop(folder: Path, *, record: Path | None = None, **given: bytes) -> None:
    """Write files for a run that has lost the folder."""

    def lost() -> None:
        raise EnvironmentFaultError("taken over by another run", "")

    with Stage() as stage:
        for name, data in given.items():
            stage.add(str(folder / name), data)
        with pytest.raises(EnvironmentFaultError, match="another run"):
            write_staged(stage.files, record=record, still_ours=lost)


def test_nothing_of_another_run_is_written_over_or_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").write_bytes(b"of the run that took the folder over")
    stop(tmp_path, a=b"1", b=b"2", c=b"3")
    assert (tmp_path / "b").read_bytes() == b"of the run that took the folder over"
    assert not (tmp_path / "c").exists()
    monkeypatch.setattr(direct_files, "LOOK_EVERY_S", 0.0)
    stop(tmp_path / "new", a=b"1")  # also noticed when nothing is in the way
    assert not (tmp_path / "new" / "a").exists()


def test_the_record_of_another_run_stays(tmp_path: Path) -> None:
    """A late worker may have waited for its turn just while that run wrote the block."""
    record = tmp_path / "record"
    (tmp_path / "a").write_bytes(b"of the run that took the folder over")
    record.write_bytes(b"of that run, too")
    stop(tmp_path, record=record, a=b"1")
    assert record.read_bytes() == b"of that run, too"
    assert (tmp_path / "a").read_bytes() == b"of the run that took the folder over"


def test_names_are_those_of_places(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    name = name_for(tmp_path / "a", purpose="file")
    assert name == name_for(tmp_path / "link" / "a", purpose="file")
    assert len({name, name_for(tmp_path / "a", purpose="folder"), name_for(tmp_path / "b", purpose="file")}) == 3
    assert not is_name_held(name)
    holder = hold_name(name)
    assert holder is not None
    with holder:
        assert is_name_held(name)
        assert hold_name(name) is None
    assert not is_name_held(name)
