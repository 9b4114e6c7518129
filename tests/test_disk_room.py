"""A run stops before it takes the last room of a disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from wsi_extract import disk_room
from wsi_extract.disk_room import DiskRoom
from wsi_extract.errors import EnvironmentFaultError


def room_of(folder: Path) -> DiskRoom:
    return DiskRoom(output_dir=folder, written_bytes=0, free_bytes=0)


def test_a_disk_with_room_is_fine_even_where_the_folder_is_not_there_yet(tmp_path: Path) -> None:
    room_of(tmp_path / "not" / "there").check_reserve(reserve_bytes=1)


def test_the_last_room_is_left_to_others(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFaultError, match=rf"the disk of {tmp_path} has \d+ MB free") as caught:
        room_of(tmp_path).check_reserve(reserve_bytes=1 << 60)
    assert "Make room" in caught.value.remedy
    assert caught.value.exit_code == 5


def test_the_disk_is_asked_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = room_of(tmp_path)
    monkeypatch.setattr(disk_room, "LOOK_EVERY_S", 1e9)
    room.check_reserve()
    started_s = time.thread_time()
    for _ in range(10_000):
        room.check_reserve(reserve_bytes=1 << 60)
    assert (time.thread_time() - started_s) / 10_000 < 20e-6
    monkeypatch.setattr(disk_room, "LOOK_EVERY_S", 0.0)
    for _ in range(2):
        with pytest.raises(EnvironmentFaultError):
            room_of(tmp_path).check_reserve(reserve_bytes=1 << 60)


def test_a_file_system_that_does_not_tell_is_believed_to_have_room() -> None:
    proc = Path("/proc")
    if not proc.is_dir() or os.statvfs(proc).f_blocks:
        pytest.skip("no file system without blocks here")
    room_of(proc).check_reserve(reserve_bytes=1 << 60)


def test_a_file_system_that_does_not_tell_has_room_for_every_plan() -> None:
    proc = Path("/proc")
    if not proc.is_dir() or os.statvfs(proc).f_blocks:
        pytest.skip("no file system without blocks here")
    room = DiskRoom.measure(proc / "out")
    room.check(1 << 60)
    assert room.needed_bytes(1 << 60) <= room.free_bytes


def test_a_folder_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    far = tmp_path / ("x" * 300)  # a name that no file system takes
    with pytest.raises(EnvironmentFaultError, match="cannot be reached: File name too long"):
        room_of(far).check_reserve()


def test_what_is_there_already_needs_no_room(tmp_path: Path) -> None:
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "a.png").write_bytes(bytes(1000))
    room = DiskRoom.measure(tmp_path)
    assert room.written_bytes == 1000
    assert room.needed_bytes(3000) == pytest.approx(2200)
    with pytest.raises(EnvironmentFaultError, match="GB free"):
        room.check(1 << 60)
