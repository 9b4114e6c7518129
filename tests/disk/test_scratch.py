"""Temporary files lie on a disk of this machine, where there is room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsi_extract.disk.scratch import local_scratch


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("told", "store", "share", "disk", "memory", "out")}
    for folder in found.values():
        folder.mkdir()
    return found


@pytest.fixture
def table(tmp_path: Path, folders: dict[str, Path]) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(
        f"1 1 0:1 / / rw - ext4 /dev/root rw\n"
        f"2 1 0:2 / {folders['store']} rw - fuse blobfuse2 rw\n"
        f"3 1 0:3 / {folders['share']} rw - nfs4 s:/x rw\n"
    )
    return path


def choose(folders: dict[str, Path], table: Path, *candidates: str, told: str = "", avoid: str = "out") -> str:
    return local_scratch(
        avoid=[folders[avoid]],
        environ={"TMPDIR": told},
        candidates=[folders[name] for name in candidates],
        last_resort=folders["memory"],
        table=table,
    ).name


def test_what_the_user_told_comes_first_if_it_is_local(folders: dict[str, Path], table: Path) -> None:
    assert choose(folders, table, "disk", told=str(folders["told"])) == "told"
    for name in ("store", "share"):
        assert choose(folders, table, "disk", told=str(folders[name])) == "disk"
    assert choose(folders, table, "disk", told="/nowhere/at/all") == "disk"


def test_the_output_folder_and_what_is_below_are_never_taken(folders: dict[str, Path], table: Path) -> None:
    below = folders["out"] / "tmp"
    below.mkdir()
    assert choose(folders, table, "disk", told=str(below)) == "disk"
    assert choose(folders, table, "out", "disk") == "disk"


def test_memory_comes_last(folders: dict[str, Path], table: Path) -> None:
    assert choose(folders, table, "store", "share") == "memory"
    assert choose(folders, table, "store", "disk") == "disk"


def test_a_folder_in_memory_comes_after_every_disk(
    folders: dict[str, Path], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with table.open("a") as lines:
        lines.write(f"4 1 0:4 / {folders['told']} rw - tmpfs tmpfs rw\n")
    stat, statvfs = Path.stat, os.statvfs

    def other_device(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        if path != folders["told"]:
            return found
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:]))

    def much_room(path: Path) -> os.statvfs_result:
        found = list(statvfs(path))
        return os.statvfs_result([*found[:4], 2**50 if path == folders["told"] else 2**20, *found[5:]])

    monkeypatch.setattr(Path, "stat", other_device)
    monkeypatch.setattr(os, "statvfs", much_room)
    assert choose(folders, table, "told", "disk") == "disk"
    assert choose(folders, table, "told", "share") == "told"
    assert choose(folders, table, "disk", told=str(folders["told"])) == "told"  # the user may know better


def test_of_one_disk_the_first_folder_is_taken(folders: dict[str, Path], table: Path) -> None:
    assert choose(folders, table, "disk", "told") == "disk"
    assert choose(folders, table, "told", "disk") == "told"


def test_this_machine_has_one(tmp_path: Path) -> None:
    folder = local_scratch(avoid=[tmp_path])
    assert folder.is_dir()
    assert not folder.is_relative_to(tmp_path)
