"""Small annotation files and slides for the tests of the readers; holds no tests of its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from wsi_extract.annotations import AnnotationOptions, LoadedAnnotations, load_annotations
from wsi_extract.model import SlideInfo, SlideLevel

MITOSIS, LOOK_ALIKE = 1, 2
TWO_CLASSES: tuple[tuple[int, str], ...] = ((MITOSIS, "mitotic figure"), (LOOK_ALIKE, "not mitotic figure"))

SLIDES_DDL = {
    "A": "uid INTEGER PRIMARY KEY, filename TEXT, width INTEGER, height INTEGER",
    "B": "uid INTEGER PRIMARY KEY, filename TEXT, width INTEGER, height INTEGER, directory TEXT",
    "C": "uid INTEGER PRIMARY KEY, filename TEXT, width INTEGER, height INTEGER, directory TEXT, uuid TEXT, "
    "exactImageID TEXT, EXACTUSER INTEGER DEFAULT 0",
}
ANNOTATIONS_DDL = {
    "A": "uid INTEGER PRIMARY KEY, slide INTEGER, type INTEGER, agreedClass INTEGER",
    "C": "uid INTEGER PRIMARY KEY, slide INTEGER, guid TEXT, lastModified REAL DEFAULT 1616148830.5, "
    "deleted INTEGER DEFAULT 0, type INTEGER, agreedClass INTEGER, description TEXT",
    "E": "uid INTEGER PRIMARY KEY, slide INTEGER, guid TEXT, lastModified REAL DEFAULT 1616148830.5, "
    "deleted INTEGER DEFAULT 0, type INTEGER, agreedClass INTEGER, description TEXT, clickable INTEGER DEFAULT 1",
}
COORDINATES_DDL = {
    "A": "uid INTEGER PRIMARY KEY, coordinateX INTEGER, coordinateY INTEGER, slide INTEGER, annoId INTEGER, "
    "orderIdx INTEGER",
    "D": "uid INTEGER PRIMARY KEY, coordinateX INTEGER, coordinateY INTEGER, coordinateZ INTEGER DEFAULT 0, "
    "slide INTEGER, annoId INTEGER, orderIdx INTEGER",
}
TRIGGER = (
    "CREATE TRIGGER updateAnnotation_UPDATE AFTER UPDATE ON Annotations BEGIN "
    "UPDATE Annotations SET lastModified=pycurrent_time() where uid==new.uid; END"
)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One annotation of a generated database."""

    uid: int
    slide: int | None = 1
    type: int | None = 1
    agreed_class: object = MITOSIS
    points: Sequence[tuple[object, object]] = ((100, 200),)
    orders: Sequence[int | None] | None = None
    """orderIdx of each point; 1, 2, ... when not given."""
    deleted: object = 0


@dataclass(frozen=True, kw_only=True)
class Database:
    """Content of a generated SlideRunner database."""

    marks: Sequence[Mark] = (Mark(uid=1),)
    slides: Sequence[tuple[int, str | None, str | None]] = ((1, "001.tiff", None),)
    """uid, filename, directory."""
    classes: Sequence[tuple[int, str]] = TWO_CLASSES
    generation: str = "E"
    ddl: Mapping[str, str] = field(default_factory=dict)
    """Column definitions of single tables, instead of the generation's."""


def _ddl(generation: str, choices: Mapping[str, str]) -> str:
    return choices[max(key for key in choices if key <= generation)]


def create_tables(connection: sqlite3.Connection, database: Database) -> None:
    generation = database.generation
    tables = {
        "Slides": _ddl(generation, SLIDES_DDL),
        "Classes": "uid INTEGER PRIMARY KEY, name TEXT" + (", color TEXT" if generation >= "C" else ""),
        "Annotations": _ddl(generation, ANNOTATIONS_DDL),
        "Annotations_coordinates": _ddl(generation, COORDINATES_DDL),
        "Annotations_label": "uid INTEGER PRIMARY KEY, person INTEGER, class INTEGER, annoId INTEGER",
        "Persons": "uid INTEGER PRIMARY KEY, name TEXT",
        **({"Log": "uid INTEGER PRIMARY KEY, dateTime FLOAT, labelId INTEGER"} if generation >= "B" else {}),
        **database.ddl,
    }
    for name, columns in tables.items():
        connection.execute(f"CREATE TABLE {name} ({columns})")


def insert_marks(connection: sqlite3.Connection, marks: Sequence[Mark], *, has_deleted: bool) -> None:
    for mark in marks:
        connection.execute(
            "INSERT INTO Annotations (uid, slide, type, agreedClass) VALUES (?, ?, ?, ?)",
            (mark.uid, mark.slide, mark.type, mark.agreed_class),
        )
        if has_deleted:
            connection.execute("UPDATE Annotations SET deleted = ? WHERE uid = ?", (mark.deleted, mark.uid))
        orders = mark.orders if mark.orders is not None else range(1, len(mark.points) + 1)
        connection.executemany(
            "INSERT INTO Annotations_coordinates (coordinateX, coordinateY, slide, annoId, orderIdx) "
            "VALUES (?, ?, ?, ?, ?)",
            [(x, y, mark.slide, mark.uid, order) for (x, y), order in zip(mark.points, orders, strict=True)],
        )


def write_database(path: Path, database: Database | None = None) -> Path:
    database = Database() if database is None else database
    with closing(sqlite3.connect(path)) as connection, connection:
        create_tables(connection, database)
        has_directory = "directory" in database.ddl.get("Slides", _ddl(database.generation, SLIDES_DDL))
        for uid, name, directory in database.slides:
            connection.execute("INSERT INTO Slides (uid, filename) VALUES (?, ?)", (uid, name))
            if has_directory:
                connection.execute("UPDATE Slides SET directory = ? WHERE uid = ?", (directory, uid))
        connection.executemany("INSERT INTO Classes (uid, name) VALUES (?, ?)", database.classes)
        insert_marks(connection, database.marks, has_deleted=database.generation >= "C")
        if database.generation >= "C":
            connection.execute(TRIGGER)
        connection.execute(f"PRAGMA user_version = {({'A': 0, 'B': 0, 'C': 1}).get(database.generation, 3)}")
    return path


def coco_document(
    annotations: Sequence[Mapping[str, object]],
    *,
    images: Sequence[Mapping[str, object]] = ({"id": 1, "file_name": "001.tiff"},),
    classes: Sequence[tuple[int, str]] = TWO_CLASSES,
    **more: object,
) -> dict[str, object]:
    categories = [{"id": class_id, "name": name} for class_id, name in classes]
    return {"images": list(images), "categories": categories, "annotations": list(annotations), **more}


def box(source_id: int, bbox: object, **more: object) -> dict[str, object]:
    return {"id": source_id, "image_id": 1, "category_id": MITOSIS, "bbox": bbox, **more}


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def make_slide(
    name: str = "001.tiff",
    *,
    width_px: int = 4000,
    height_px: int = 3000,
    um_per_px_xy: tuple[float, float] | None = (0.25, 0.25),
    slide_id: str | None = None,
) -> SlideInfo:
    path = Path("WSI") / name
    return SlideInfo(
        slide_id=slide_id or path.relative_to("WSI").with_suffix("").as_posix().replace("/", "__"),
        path=path,
        vendor="generic-tiff",
        levels=(SlideLevel(width_px=width_px, height_px=height_px, downsample=1.0),),
        um_per_px_xy=um_per_px_xy,
        um_per_px_source="property" if um_per_px_xy else "missing",
        bounds_l0=None,
        objective_power=None,
        fingerprint="0" * 64,
    )


def load(
    path: Path, *, slides: Sequence[SlideInfo] | None = None, options: AnnotationOptions | None = None
) -> LoadedAnnotations:
    return load_annotations(
        path,
        options=AnnotationOptions() if options is None else options,
        slides=(make_slide(),) if slides is None else slides,
    )
