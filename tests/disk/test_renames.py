"""Replacing a file where the file system refuses to: SMB shares and some FUSE mounts."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wsi_extract.disk.files import atomic_writer, is_temporary, open_batch, write_atomically
from wsi_extract.disk.renames import PAUSES_S, REFUSALS, remove_quietly, replace_file


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_extract.disk.renames.PAUSES_S", tuple(0.0 for _ in PAUSES_S))


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, *, n_times: int = 1000) -> list[str]:
    """Let the system refuse to rename onto a file that is there; return the list of the refusals to come."""
    refused: list[str] = []

    def refusing(rename: Callable[..., None]) -> Callable[[str | Path, str | Path], None]:
        def call(source: str | Path, target: str | Path) -> None:
            if os.path.lexists(target) and len(refused) < n_times:
                refused.append(str(target))
                raise OSError(code, os.strerror(code), str(target))
            rename(source, target)

        return call

    monkeypatch.setattr(os, "replace", refusing(os.replace))
    monkeypatch.setattr(os, "rename", refusing(os.rename))
    return refused


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


REFUSED = pytest.mark.parametrize("code", sorted(REFUSALS), ids=errno.errorcode.get)


@REFUSED
def test_a_share_that_refuses_for_a_moment_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    refused = refuse(monkeypatch, code, n_times=2)
    write_atomically(path, b"new")
    assert (path.read_bytes(), names_in(tmp_path), len(refused)) == (b"new", ["file"], 2)


@REFUSED
def test_a_share_that_replaces_nothing_gets_the_new_content_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    refuse(monkeypatch, code)
    write_atomically(path, b"new")
    assert (path.read_bytes(), names_in(tmp_path)) == (b"new", ["file"])


def test_files_of_a_batch_are_replaced_on_such_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_atomically(tmp_path / name, b"old")
    refuse(monkeypatch, errno.EACCES)
    with open_batch() as batch:
        for name in "abcd":
            batch.add(f"{tmp_path}/{name}", b"new")
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == dict.fromkeys("abcd", b"new")


def test_a_file_of_the_same_content_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"same")
    inode = path.stat().st_ino
    refuse(monkeypatch, errno.EACCES)
    write_atomically(path, b"same")
    assert (path.stat().st_ino, names_in(tmp_path)) == (inode, ["file"])


def test_a_file_that_cannot_be_renamed_either_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def locked(_source: str | Path, target: str | Path) -> None:
        raise PermissionError(errno.EACCES, "in use", str(target))

    monkeypatch.setattr(os, "replace", locked)
    monkeypatch.setattr(os, "rename", locked)
    with pytest.raises(PermissionError, match="in use"):
        write_atomically(path, b"new")
    assert (path.read_bytes(), names_in(tmp_path)) == (b"old", ["file"])


def test_the_old_file_comes_back_when_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    refuse(monkeypatch, errno.EEXIST)
    rename, n_calls = os.rename, [0]

    def fails_once(source: str | Path, target: str | Path) -> None:
        n_calls[0] += 1
        if n_calls[0] == 2:
            raise OSError(errno.EIO, "broken", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(OSError, match="broken"):
        write_atomically(path, b"new")
    assert (path.read_bytes(), names_in(tmp_path)) == (b"old", ["file"])


def test_what_is_moved_aside_is_collected_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    refuse(monkeypatch, errno.EEXIST)
    renamed: list[str] = []
    rename = os.rename

    def noted(source: str | Path, target: str | Path) -> None:
        renamed.append(Path(target).name)
        rename(source, target)

    monkeypatch.setattr(os, "rename", noted)
    write_atomically(path, b"new")
    assert len(renamed) == 2
    assert is_temporary(renamed[0])
    assert renamed[1] == "file"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_other_errors_are_not_argued_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    refused = refuse(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_atomically(path, b"new")
    assert (path.read_bytes(), names_in(tmp_path), len(refused)) == (b"old", ["file"], 1)


def test_a_refusal_without_a_file_in_the_way_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_calls = [0]

    def forbidden(_source: str, target: str) -> None:
        n_calls[0] += 1
        raise PermissionError(errno.EPERM, "forbidden", target)

    monkeypatch.setattr(os, "replace", forbidden)
    (tmp_path / "temporary").write_bytes(b"new")
    with pytest.raises(PermissionError, match="forbidden"):
        replace_file(str(tmp_path / "temporary"), str(tmp_path / "file"))
    assert n_calls == [1]


def test_what_cannot_be_removed_does_not_hide_the_error_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_path: str | Path, **_: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    def write() -> None:
        with atomic_writer(tmp_path / "file"):
            raise ValueError("the error that counts")

    def write_batch() -> None:
        with open_batch() as batch:
            batch.add(f"{tmp_path}/a", b"x")
            raise ValueError("the error that counts")

    monkeypatch.setattr(os, "unlink", fails)
    for failing in (write, write_batch):
        with pytest.raises(ValueError, match="the error that counts"):
            failing()
    assert [is_temporary(name) for name in names_in(tmp_path)] == [True, True]


def test_all_that_can_be_removed_is(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"")
    remove_quietly(str(tmp_path / name) for name in ("a", "b"))
    assert names_in(tmp_path) == []
