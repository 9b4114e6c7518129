"""Open a SQLite database that belongs to someone else without changing it or its folder.

Knows nothing of annotations. A database with a non-empty ``-wal`` or ``-journal`` beside it holds rows, or half a
transaction, that only SQLite can sort out, and sorting out means writing: that is done on a copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from wsi_extract.errors import AnnotationError, EnvironmentFaultError

SQLITE_MAGIC = b"SQLite format 3\x00"
LARGEST_VALUE_BYTES = 1 << 24


def sidecars_of(path: Path) -> tuple[Path, ...]:
    """Return the non-empty ``-wal`` and ``-journal`` files beside the database."""
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    return tuple(file for file in beside if file.is_file() and file.stat().st_size > 0)


def sha256_with_sidecars(path: Path) -> str:
    """Return the SHA-256 of the database's content, followed by that of its sidecars."""
    digest = hashlib.sha256()
    for file in (path, *sidecars_of(path)):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    files = (path, *sidecars_of(path))
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Refuse what was read inside the block when the database changed meanwhile.

    Raises
    ------
    AnnotationError
        When size, time of change or sidecars differ between start and end.
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
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE_BYTES)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "temp_store=MEMORY", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _copy_beside(files: Sequence[Path], *, folder: Path) -> Path:
    """Copy the database and its sidecars, under the same names, and return the database's copy."""
    try:
        for file in files:
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise EnvironmentFaultError(
            f"cannot copy {files[0]} to the scratch folder {folder}: {error}.",
            "Free some space there, or set TMPDIR to another folder.",
        ) from error
    return folder / files[0].name


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for reading only; see the module for what happens to sidecars.

    Parameters
    ----------
    path
        The database, with symbolic links resolved: SQLite keeps its sidecars beside the real file.

    Raises
    ------
    AnnotationError
        When it is damaged or is no database, also when that shows only while it is read.
    EnvironmentFaultError
        When a copy is needed and cannot be made.
    """
    sidecars = sidecars_of(path)
    try:
        with tempfile.TemporaryDirectory(prefix="wsi_extract_") as scratch:
            if sidecars:
                connection = _connect(_copy_beside((path, *sidecars), folder=Path(scratch)), query="mode=rw")
            else:
                connection = _connect(path, query="mode=ro&immutable=1")
            with closing(connection):
                _refuse_damage(connection, path=path)
                yield connection
    except sqlite3.Error as error:
        raise AnnotationError(
            f"{path} cannot be read as a SQLite database: {error}.", "Restore it from a backup or export it again."
        ) from error


def _refuse_damage(connection: sqlite3.Connection, *, path: Path) -> None:
    """Damaged pages can lose rows in silence, so the whole file is checked first."""
    finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise AnnotationError(
            f"{path} is a damaged SQLite database: {finding}.", "Restore it from a backup or export it again."
        )
