"""Open a SQLite database that belongs to someone else without changing it or its folder.

Knows nothing of annotations. A database with a non-empty ``-wal`` or ``-journal`` beside it holds rows, or half a
transaction, that only SQLite can sort out, and sorting out means writing: that is done on a copy.

Nothing the database itself defines is carried out: neither views and virtual tables nor generated columns and checks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from wsi_extract.annotations.source import SUPPORTED, shortened
from wsi_extract.disk.scratch import local_scratch
from wsi_extract.errors import AnnotationError, EnvironmentFaultError

SQLITE_MAGIC = b"SQLite format 3\x00"
LARGEST_VALUE_BYTES = 1 << 24
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
"""Begins a journal; at its end it says that the journal names a super-journal (sqlite.org/fileformat2.html)."""

LONGEST_START_S = 120.0
SLOWEST_BYTES_PER_S = 1e6
"""A hundredth of what is usual; a database that takes longer never ends."""
STEPS_BETWEEN_LOOKS = 100_000
"""Of SQLite's machine, before it looks at the clock: about a millisecond."""

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: LARGEST_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}
PRAGMAS = (
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "query_only=ON",
    "ignore_check_constraints=ON",  # quick_check would evaluate them
    "temp_store=MEMORY",
    "mmap_size=0",
)
DEFINITIONS = {
    "table": ("CREATE TABLE ",),
    "view": ("CREATE VIEW ",),
    "trigger": ("CREATE TRIGGER ",),
    "index": ("CREATE INDEX ", "CREATE UNIQUE INDEX "),
}
"""How SQLite stores what each kind of thing in a schema was made with."""

RESTORE = "Restore it from a backup or export it again."


def sidecars_of(path: Path) -> tuple[Path, ...]:
    """Return the non-empty ``-wal`` and ``-journal`` files beside the database."""
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    return tuple(file for file in beside if _is_filled(file))


def _is_filled(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_size > 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the database's own name is just short enough
            return False
        raise


def sha256_with_sidecars(path: Path) -> str:
    """Return the SHA-256 of the database's content, followed by that of its sidecars."""
    digest = hashlib.sha256()
    for file in (path, *sidecars_of(path)):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    stats = [(file.name, file.stat()) for file in (path, *sidecars_of(path))]
    return tuple((name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Refuse what was read inside the block when the database changed meanwhile.

    Raises
    ------
    AnnotationError
        When size, time of change, sidecars or the file itself differ between start and end.
    OSError
        When it is there no more.
    """
    before = _stamp(path)
    yield
    if _stamp(path) != before:
        raise AnnotationError(
            f"{path} was changed while it was read.", "Close the program that writes to it and start again."
        )


def _connect(path: Path, *, query: str) -> sqlite3.Connection:
    # Percent-encoding keeps '#', '?' and '%' of the path from ending it.
    uri = f"file:{urllib.parse.quote(os.fsencode(path))}?{query}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _copy_to_scratch(files: Sequence[Path], *, resources: ExitStack) -> Path:
    """Copy the database and its sidecars, under the same names, and return the database's copy."""
    scratch = local_scratch()
    try:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="wsi_extract_", dir=scratch)))
        for file in files:
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise EnvironmentFaultError(
            f"cannot copy {files[0]} to a scratch folder in {scratch}: {error}.",
            "Free some space there, or set TMPDIR to another folder.",
        ) from error
    _refuse_super_journal(folder, path=files[0])
    return folder / files[0].name


def _refuse_super_journal(folder: Path, *, path: Path) -> None:
    """Rolling back deletes the super-journal that a journal names, which can be any file of this machine."""
    for journal in folder.glob("*-journal"):
        with journal.open("rb") as stream:
            stream.seek(max(0, journal.stat().st_size - len(JOURNAL_MAGIC)))
            if stream.read() == JOURNAL_MAGIC:
                raise AnnotationError(
                    f"{path}: the journal beside it belongs to a transaction over several databases.",
                    "Open the database with the program that wrote it, close it, and start again.",
                )


def longest_s(n_bytes: int) -> float:
    """Return how long reading a database of this size may take."""
    return LONGEST_START_S + n_bytes / SLOWEST_BYTES_PER_S


@contextmanager
def open_database(path: Path, *, allowed_s: float | None = None) -> Iterator[sqlite3.Connection]:
    """Open the database for reading only; see the module for what happens to sidecars.

    Parameters
    ----------
    path
        The database, with symbolic links resolved: SQLite keeps its sidecars beside the real file.
    allowed_s
        How long reading may take; `longest_s` of its size where not given.

    Raises
    ------
    AnnotationError
        When it is damaged or is no database, also when that shows only while it is read; when its schema would run
        code; when reading takes too long.
    EnvironmentFaultError
        When a copy is needed and cannot be made.
    """
    sidecars = sidecars_of(path)
    n_bytes = sum(file.stat().st_size for file in (path, *sidecars))
    allowed_s = longest_s(n_bytes) if allowed_s is None else allowed_s
    ends_s = time.monotonic() + allowed_s

    def is_late() -> bool:
        return time.monotonic() > ends_s

    try:
        with ExitStack() as resources:
            if sidecars:
                copy = _copy_to_scratch((path, *sidecars), resources=resources)
                connection = resources.enter_context(closing(_connect(copy, query="mode=rw")))
            else:
                connection = resources.enter_context(closing(_connect(path, query="mode=ro&immutable=1")))
            connection.set_progress_handler(is_late, STEPS_BETWEEN_LOOKS)
            _refuse_code(connection, path=path)
            _refuse_damage(connection, n_bytes=n_bytes, path=path)
            yield connection
    except (sqlite3.Error, UnicodeDecodeError) as error:  # what SQLite quotes in its messages may be damaged, too
        if is_late():
            raise AnnotationError(f"{path}: reading took more than {allowed_s:.0f} s.", RESTORE) from error
        raise AnnotationError(f"{path} cannot be read as a SQLite database: {_reason(str(error))}.", RESTORE) from error


def _reason(text: str) -> str:
    """Return what SQLite says, on one line and in few words; it quotes the database."""
    return text if text.isprintable() and len(text) <= 200 else f"{text[:200]!a}..."


def _refuse_code(connection: sqlite3.Connection, *, path: Path) -> None:
    """Refuse virtual tables, generated columns, and definitions of another kind than they say: checking runs them."""
    schema = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    for kind, name, sql in schema:
        is_implied = sql is None and kind == "index"
        if not is_implied and (not isinstance(sql, str) or not sql.startswith(DEFINITIONS.get(kind, ()))):
            raise AnnotationError(
                f"{path} is a SQLite database but not one of SlideRunner: {shortened(name)} is no plain "
                f"{kind if kind in DEFINITIONS else 'table'}.",
                SUPPORTED,
            )
    for name in (name for kind, name, _ in schema if kind == "table"):
        hidden = connection.execute("SELECT name FROM pragma_table_xinfo(?) WHERE hidden != 0", (name,)).fetchone()
        if hidden is not None:
            raise AnnotationError(
                f"{path} is a SQLite database but not one of SlideRunner: column {shortened(hidden[0])} of "
                f"{shortened(name)} is a formula.",
                SUPPORTED,
            )


def _refuse_damage(connection: sqlite3.Connection, *, n_bytes: int, path: Path) -> None:
    """Damaged pages can lose rows in silence, so the whole file is checked first."""
    page_bytes, n_pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
    if n_pages * page_bytes > n_bytes:
        finding = f"it says that it has {n_pages} pages of {page_bytes} bytes"
    else:
        finding = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if finding != "ok":
        raise AnnotationError(f"{path} is a damaged SQLite database: {_reason(finding)}.", RESTORE)
