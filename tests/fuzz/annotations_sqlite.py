"""Any bytes as a SlideRunner database: read and matched, or refused; SQLite itself must survive, too."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from contextlib import closing

from tests.annotations.test_builders import Database, Mark, create_tables, insert_marks, load
from tests.fuzz.runner import fuzz
from tests.fuzz.scratch import scratch
from wsi_extract.annotations import AnnotationOptions, LoadedAnnotations
from wsi_extract.annotations.options import SELECTABLE_TYPES
from wsi_extract.errors import AnnotationError

PAGE_BYTES = 512


def check(data: bytes) -> LoadedAnnotations | None:
    """Return what was loaded, ``None`` when it was refused; every other error is a finding."""
    path = scratch() / "a.sqlite"
    path.write_bytes(data)
    with contextlib.suppress(AnnotationError):
        loaded = load(path, options=AnnotationOptions(annotation_types=SELECTABLE_TYPES))
        json.dumps([loaded.source.to_json(), loaded.reconciliation.to_json()], allow_nan=False).encode()
        return loaded
    return None


def small_database(*, generation: str = "E", n_marks: int = 30) -> bytes:
    """Return a database of many small pages: every kind of page occurs, also of overflow."""
    path = scratch() / f"seed_{generation}.sqlite"
    path.unlink(missing_ok=True)
    marks = [Mark(uid=uid, type=uid % 7, points=((uid, 2 * uid), (3 * uid, uid))) for uid in range(1, n_marks)]
    database = Database(marks=marks, slides=((1, "001.tiff", None), (2, "x" * 900, None)), generation=generation)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        create_tables(connection, database)
        connection.executemany("INSERT INTO Slides (uid, filename) VALUES (?, ?)", [row[:2] for row in database.slides])
        connection.executemany("INSERT INTO Classes (uid, name) VALUES (?, ?)", database.classes)
        insert_marks(connection, database.marks, has_deleted=generation >= "C")
    return path.read_bytes()


if __name__ == "__main__":
    fuzz("tests.fuzz.annotations_sqlite", seeds=[small_database(generation=name) for name in "ABE"])
