"""Databases made to harm: nothing they define is run, nothing outside them is touched, nothing takes for ever."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.annotations.test_builders import Database, Mark, insert_marks, load, write_database
from tests.fuzz import annotations_sqlite as fuzzed
from wsi_extract.annotations import read_source
from wsi_extract.annotations.sqlite_file import JOURNAL_MAGIC, open_database, unchanged
from wsi_extract.errors import AnnotationError

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT"
SEED = fuzzed.small_database()


def write_sql(path: Path, *statements: str) -> Path:
    write_database(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


def with_hot_journal(folder: Path) -> Path:
    """Return a database with the journal of a transaction that a crash has cut off."""
    live = write_database(folder / "live.sqlite")
    left = folder / "left"
    left.mkdir()
    with closing(sqlite3.connect(live)) as writer:
        writer.create_function("pycurrent_time", 0, lambda: 0.0)
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        insert_marks(writer, [Mark(uid=uid) for uid in range(2, 2000)], has_deleted=True)
        for ending in ("", "-journal"):
            shutil.copyfile(f"{live}{ending}", left / f"live.sqlite{ending}")
        writer.rollback()
    return left / "live.sqlite"


# --- files outside the database ------------------------------------------------------------------------------------


def test_a_journal_cannot_have_another_file_deleted(tmp_path: Path) -> None:
    """Rolling back a transaction over several databases ends with deleting the file that its journal names."""
    path = with_hot_journal(tmp_path)
    victim = tmp_path / "precious.txt"
    victim.write_text("years of work")
    name = os.fsencode(victim)
    checksum = sum(struct.unpack(f"{len(name)}b", name)) & 0xFFFFFFFF
    with path.with_name("live.sqlite-journal").open("ab") as journal:
        locked_page = 0x40000000 // 4096 + 1
        journal.write(struct.pack(">I", locked_page) + name + struct.pack(">II", len(name), checksum) + JOURNAL_MAGIC)
    with pytest.raises(AnnotationError, match="over several databases"):
        read_source(path)
    assert victim.read_text() == "years of work"


def test_a_journal_that_speaks_of_a_larger_database_adds_nothing(tmp_path: Path) -> None:
    path = with_hot_journal(tmp_path)
    with path.with_name("live.sqlite-journal").open("r+b") as journal:
        journal.seek(16)
        journal.write(struct.pack(">I", 100_000))  # pages before the transaction
    assert read_source(path).rows.source_id.tolist() == [1]


def test_a_first_page_that_speaks_of_a_larger_database_is_refused(tmp_path: Path) -> None:
    """Checking two thousand million pages, of which only one is there, takes memory and time."""
    path = write_database(tmp_path / "a.sqlite")
    n_pages, start, page_bytes = 2_000_000_000, 5, 4096
    page = bytearray(path.read_bytes()[:page_bytes])
    page[28:32] = struct.pack(">I", n_pages)
    checksum = start + sum(page[i] for i in range(page_bytes - 200, 0, -200))
    header = JOURNAL_MAGIC + struct.pack(">IIIII", 1, start, n_pages, 512, page_bytes)
    record = struct.pack(">I", 1) + page + struct.pack(">I", checksum)
    path.with_name("a.sqlite-journal").write_bytes(header.ljust(512, b"\0") + record)
    with pytest.raises(AnnotationError, match="says that it has 2000000000 pages"):
        read_source(path)


def test_the_longest_name_leaves_no_room_for_a_journal(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite").rename(tmp_path / ("n" * 250))
    assert len(read_source(path).rows) == 1


def test_a_database_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path, other = write_database(tmp_path / "a.sqlite"), write_database(tmp_path / "b.sqlite")
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert other.stat().st_size == stat.st_size
    with pytest.raises(AnnotationError, match="was changed while it was read"), unchanged(path):
        other.replace(path)


# --- what a schema can define --------------------------------------------------------------------------------------

SCHEMAS = {
    "a view instead of a table": (
        "DROP TABLE Annotations",
        f"CREATE VIEW Annotations AS {ENDLESS} x uid, 1 slide, 1 type, 1 agreedClass, 0 deleted FROM n",
    ),
    "a view that says it is a table": (
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = 'CREATE VIEW Annotations AS {ENDLESS} 1 uid' WHERE name = 'Annotations'",
    ),
    "a generated column": (
        "DROP TABLE Classes",
        "CREATE TABLE Classes (uid INTEGER PRIMARY KEY, name TEXT AS (printf('%16000000d', uid)) NOT NULL)",
        "INSERT INTO Classes (uid) VALUES (1)",
    ),
    "a generated column of a table that is not read": (
        "CREATE TABLE Notes (a TEXT, b TEXT AS (instr(zeroblob(9000000), a)) NOT NULL)",
        "INSERT INTO Notes (a) VALUES ('x')",
    ),
    "a virtual table": ("CREATE VIRTUAL TABLE Notes USING fts5 (a)",),
    "no kind at all": ("PRAGMA writable_schema = ON", "UPDATE sqlite_master SET type = 'x' WHERE name = 'Persons'"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("statements", SCHEMAS.values(), ids=SCHEMAS)
def test_schemas_that_would_run_are_refused(tmp_path: Path, statements: tuple[str, ...]) -> None:
    path = write_sql(tmp_path / "a.sqlite", *statements)
    with pytest.raises(AnnotationError, match="SQLite database"):
        read_source(path)


@pytest.mark.timeout(60)
def test_checks_and_triggers_of_the_schema_are_not_run(tmp_path: Path) -> None:
    slow = "a LIKE '" + "%a" * 200 + "%b'"  # exponential in the number of wild cards
    path = write_sql(
        tmp_path / "a.sqlite",
        "PRAGMA ignore_check_constraints = ON",
        f"CREATE TABLE Notes (a TEXT CHECK ({slow}))",
        f"INSERT INTO Notes VALUES ('{'a' * 100_000}')",
        "CREATE TRIGGER more AFTER INSERT ON Slides BEGIN INSERT INTO Slides (filename) VALUES ('x'); END",
    )
    assert len(read_source(path).rows) == 1


def test_reading_ends(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite")
    started_s = time.monotonic()
    with (
        pytest.raises(AnnotationError, match="reading took more than 0 s"),
        open_database(path, allowed_s=0.3) as opened,
    ):
        opened.execute(f"{ENDLESS} max(x) FROM n").fetchall()
    assert time.monotonic() - started_s < 60  # on a loaded machine, too


# --- what cells can hold -------------------------------------------------------------------------------------------

CELLS = {
    "infinity": ("Annotations_coordinates", "coordinateX", float("inf"), "within"),
    "far away": ("Annotations_coordinates", "coordinateY", -2e9, "within"),
    "text for a number": ("Annotations_coordinates", "coordinateX", "1; DROP TABLE x", "'1; DROP"),
    "bytes for a number": ("Annotations_coordinates", "coordinateX", b"\x00" * 1000, "blob"),
    "a number for an id": ("Annotations", "agreedClass", 1.5, "integer or null"),
    "text for an order": ("Annotations_coordinates", "orderIdx", "x" * 9000, "integer or null"),
    "bytes for a name": ("Slides", "filename", b"001.tiff", "text or null"),
    "a long name": ("Slides", "filename", "x" * 5000, "4096 bytes"),
    "a long name with NUL": ("Slides", "directory", "x\0" + "x" * 5000, "4096 bytes"),
    "a name with NUL": ("Slides", "filename", "001\0.tiff", "without NUL"),
    "a long class": ("Classes", "name", "ü" * 3000, "4096 bytes"),
}


@pytest.mark.parametrize(("table", "column", "value", "message"), CELLS.values(), ids=CELLS)
def test_cells_of_a_wrong_kind_are_named(tmp_path: Path, table: str, column: str, value: object, message: str) -> None:
    path = write_database(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        if table == "Annotations":
            connection.execute("DROP TRIGGER updateAnnotation_UPDATE")
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
    with pytest.raises(AnnotationError, match=column) as caught:
        read_source(path)
    assert message in str(caught.value)
    assert len(caught.value.message) < 500 + len(str(path))


def test_cells_that_are_odd_but_right(tmp_path: Path) -> None:
    largest = 2**63 - 1
    marks = (
        Mark(uid=1),
        Mark(uid=largest, slide=largest, type=largest, agreed_class=largest, deleted=largest),
        Mark(uid=-largest - 1, points=((None, 1), (1, None)), orders=(largest, -largest - 1)),
    )
    path = write_database(tmp_path / "a.sqlite", Database(marks=marks))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE Slides SET width = ?, height = ?", (b"\0" * 1_000_000, float("inf")))
    source = read_source(path)
    assert (source.slides[0].width_px, source.slides[0].height_px) == (None, None)
    assert load(path).reconciliation.n_read == 4


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = write_sql(tmp_path / "a.sqlite", "UPDATE Slides SET filename = CAST(x'ff00ff' AS TEXT)")
    with pytest.raises(AnnotationError, match="filename"):
        read_source(path)


def test_more_classes_than_any_table_has_are_refused(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite", Database(classes=[(i, f"c{i}") for i in range(1, 10_003)]))
    with pytest.raises(AnnotationError, match="lists 10002 classes"):
        read_source(path)


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [*range(0, len(SEED), fuzzed.PAGE_BYTES), 1, 15, 16, 17, 99, 100, 101, 700, 5000])
def test_every_truncation_is_refused(n_bytes: int) -> None:
    assert fuzzed.check(SEED[:n_bytes]) is None


def test_flipped_bits_are_refused_or_read(tmp_path: Path) -> None:
    chance = random.Random(7)
    n_refused = 0
    for _ in range(300):
        data = bytearray(SEED)
        for _ in range(chance.choice((1, 1, 3, 20))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        n_refused += fuzzed.check(bytes(data)) is None
    assert 50 < n_refused < 250


@given(st.binary(max_size=600), st.integers(0, len(SEED)), st.booleans())
def test_any_bytes_inside_a_database_are_refused_or_read(data: bytes, place: int, is_inserted: bool) -> None:
    fuzzed.check(SEED[:place] + data + SEED[place if is_inserted else place + len(data) :])


def test_a_message_of_sqlite_that_is_no_text_is_still_an_error_of_ours(tmp_path: Path) -> None:
    """Python cannot decode what SQLite says of a schema whose names are damaged."""
    damaged = SEED.replace(b"CREATE TABLE Classes", b"CREATE TABLE Cl\xa0sses").replace(
        b"uid INTEGER", b"\xa0id INTEGER"
    )
    assert damaged != SEED
    assert fuzzed.check(damaged) is None
    assert fuzzed.check(SEED.replace(b"CREATE TABLE Classes", b"CREATE TABLX Cl\xa0sses")) is None


@pytest.mark.parametrize("place", [2347, 3838, 6043])
def test_damage_that_sqlite_takes_for_a_lack_of_memory_is_refused(place: int) -> None:
    assert fuzzed.check(SEED[:place] + b"\xff" * 26 + SEED[place:]) is None
