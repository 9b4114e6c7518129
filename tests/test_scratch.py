"""Temporary files lie on a disk of this machine, where there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_extract.scratch import local_scratch


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


def test_of_one_disk_the_first_folder_is_taken(folders: dict[str, Path], table: Path) -> None:
    assert choose(folders, table, "disk", "told") == "disk"
    assert choose(folders, table, "told", "disk") == "told"


def test_this_machine_has_one(tmp_path: Path) -> None:
    folder = local_scratch(avoid=[tmp_path])
    assert folder.is_dir()
    assert not folder.is_relative_to(tmp_path)
