"""Databases are opened without a trace: sidecars recovered on a copy, damage refused, odd paths accepted."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.annotations.test_builders import Database, Mark, insert_marks, write_database
from wsi_extract.annotations import read_source
from wsi_extract.annotations.sqlite_file import unchanged
from wsi_extract.errors import AnnotationError


def state_of(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def copy_with_sidecar(live: Path, folder: Path, suffix: str) -> Path:
    """Copy a database that is open for writing, as a crash would leave it."""
    folder.mkdir()
    for file in (live, live.with_name(live.name + suffix)):
        assert file.stat().st_size > 0
        shutil.copyfile(file, folder / file.name)
    return folder / live.name


def add_marks(connection: sqlite3.Connection, n: int) -> None:
    connection.create_function("pycurrent_time", 0, lambda: 0.0)
    insert_marks(connection, [Mark(uid=uid) for uid in range(2, 2 + n)], has_deleted=True)


def test_rows_in_a_write_ahead_log_are_read_and_nothing_changes(tmp_path: Path) -> None:
    live = write_database(tmp_path / "live.sqlite")
    plain_sha256 = read_source(live).sha256
    with closing(sqlite3.connect(live)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        with writer:
            add_marks(writer, 11)
        path = copy_with_sidecar(live, tmp_path / "left", "-wal")
        before = state_of(path.parent)
        source = read_source(path)
        after = state_of(path.parent)
    assert source.rows.source_id.tolist() == list(range(1, 13))
    assert after == before
    assert source.sha256 != plain_sha256
    both = path.read_bytes() + path.with_name("live.sqlite-wal").read_bytes()
    assert source.sha256 == hashlib.sha256(both).hexdigest()
    assert any("live.sqlite-wal" in note for note in source.notes)


def test_a_half_done_transaction_is_rolled_back(tmp_path: Path) -> None:
    live = write_database(tmp_path / "live.sqlite")
    with closing(sqlite3.connect(live)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        add_marks(writer, 2000)
        path = copy_with_sidecar(live, tmp_path / "left", "-journal")
        writer.rollback()
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as naive:
        half_done = naive.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok" or (
            naive.execute("SELECT count(*) FROM Annotations").fetchone()[0] != 1
        )
    assert half_done, "the journal of this test must be hot"
    before = state_of(path.parent)
    assert read_source(path).rows.source_id.tolist() == [1]
    assert state_of(path.parent) == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_closed_database_in_a_read_only_folder_is_read_without_side_files(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir()
    path = write_database(folder / "a.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    before = state_of(folder)
    folder.chmod(0o555)
    try:
        assert len(read_source(path).rows) == 1
        assert state_of(folder) == before
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("name", ["a #1.sqlite", "a?mode=rwc&b.sqlite", "100%41.sqlite", "ä ö.sqlite", "x"])
def test_any_path_is_accepted(tmp_path: Path, name: str) -> None:
    path = write_database(tmp_path / name)
    assert len(read_source(path).rows) == 1
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208  the raw names, as the system gives them


def test_a_link_is_followed_to_the_log_beside_the_real_file(tmp_path: Path) -> None:
    live = write_database(tmp_path / "live.sqlite")
    with closing(sqlite3.connect(live)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        with writer:
            add_marks(writer, 3)
        path = copy_with_sidecar(live, tmp_path / "left", "-wal")
        link = tmp_path / "link.sqlite"
        link.symlink_to(path)
        assert len(read_source(link).rows) == 4


def test_truncated_and_scrambled_databases_are_refused(tmp_path: Path) -> None:
    marks = [Mark(uid=uid) for uid in range(1, 2000)]
    data = write_database(tmp_path / "a.sqlite", Database(marks=marks)).read_bytes()
    path = tmp_path / "b.sqlite"
    for damaged in (data[:100], data[: len(data) // 2], data[:8192] + bytes(len(data) - 8192)):
        path.write_bytes(damaged)
        with pytest.raises(AnnotationError, match=r"b\.sqlite"):
            read_source(path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite")
    with pytest.raises(AnnotationError, match="was changed while it was read"), unchanged(path):
        path.with_name("a.sqlite-wal").write_bytes(b"new")


def test_another_kind_of_sqlite_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tiles.mbtiles"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE tiles (uid INTEGER)")
    with pytest.raises(AnnotationError, match="not one of SlideRunner"):
        read_source(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"<xml/>", "neither SQLite nor JSON"), (b"\x1f\x8b\x08", "neither SQLite nor JSON")],
)
def test_unknown_content_names_what_is_supported(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match=rf"{message}.*Supported are SlideRunner"):
        read_source(path)


def test_a_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no\.sqlite"):
        read_source(tmp_path / "no.sqlite")
