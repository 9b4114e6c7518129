"""Write annotations as a SlideRunner database and as COCO-like JSON. Coordinates are level-0 px."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal, TypeAlias

from wsi_extract.disk.files import write_atomically

SPOT_RADIUS_PX = 25
"""Half side of the box that the published data sets put around a spot."""
BboxFormatName: TypeAlias = Literal["xyxy", "xywh"]


class AnnotationShape(IntEnum):
    """Types of SlideRunner; the number of points of each."""

    SPOT = 1
    """One point, the centre."""
    AREA = 2
    """Two opposite corners."""
    POLYGON = 3
    """Vertices, the last one equal to the first."""
    SPECIAL_SPOT = 4
    """One point: a navigation mark of unknown class, without label."""
    CIRCLE = 5
    """Two opposite corners of the bounding square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedSlide:
    """A slide as annotation files list it."""

    uid: int
    file_name: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationRow:
    """One annotation to write."""

    uid: int
    slide_uid: int
    class_id: int
    """The agreed class, 0 = unknown."""
    points_l0: tuple[tuple[float, float], ...]
    """(x, y), level-0 px, as many as the shape has."""
    shape: AnnotationShape = AnnotationShape.SPOT
    is_deleted: bool = False


_SLIDERUNNER_SCHEMA = """
CREATE TABLE Slides (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, filename TEXT, width INTEGER, height INTEGER,
    directory TEXT, uuid TEXT, exactImageID TEXT, EXACTUSER INTEGER DEFAULT 0);
CREATE TABLE Annotations (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, slide INTEGER, guid TEXT, lastModified REAL,
    deleted INTEGER DEFAULT 0, type INTEGER, agreedClass INTEGER, description TEXT, clickable INTEGER DEFAULT 1);
CREATE TABLE Annotations_coordinates (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, coordinateX INTEGER,
    coordinateY INTEGER, coordinateZ INTEGER DEFAULT 0, slide INTEGER, annoId INTEGER, orderIdx INTEGER);
CREATE TABLE Annotations_label (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, person INTEGER, class INTEGER,
    exact_id INTEGER, annoId INTEGER);
CREATE TABLE Classes (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, name TEXT, color TEXT);
CREATE TABLE Persons (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, name TEXT, isExactUser INTEGER DEFAULT 0);
CREATE TABLE Log (uid INTEGER PRIMARY KEY AUTOINCREMENT, dateTime FLOAT, labelId INTEGER);
PRAGMA user_version = 3;
"""
"""Generation E of the format, 2021, without the triggers, which call functions of the SlideRunner program."""


def _insert(database: sqlite3.Connection, into: str, rows: Iterable[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * (into.count(",") + 1))
    database.executemany(f"INSERT INTO {into} VALUES ({marks})", rows)


def write_sliderunner(
    path: Path,
    *,
    slides: Sequence[AnnotatedSlide],
    classes: Mapping[int, str],
    annotations: Sequence[AnnotationRow],
) -> None:
    """Write a SlideRunner database (schema of 2021) with two raters, who agree on every class that is known."""
    namespace = uuid.UUID(int=0)
    labelled = [row for row in annotations if row.class_id != 0]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_SLIDERUNNER_SCHEMA)
        _insert(database, "Slides(uid, filename, width, height)", map(astuple, slides))
        _insert(database, "Classes(uid, name, color)", ((*entry, "#1f77b4") for entry in classes.items()))
        _insert(database, "Persons(uid, name)", ((1, "Rater 1"), (2, "Rater 2")))
        _insert(
            database,
            "Annotations(uid, slide, guid, lastModified, deleted, type, agreedClass)",
            (
                (a.uid, a.slide_uid, str(uuid.uuid5(namespace, str(a.uid))), 0.0, a.is_deleted, a.shape, a.class_id)
                for a in annotations
            ),
        )
        _insert(
            database,
            "Annotations_coordinates(coordinateX, coordinateY, slide, annoId, orderIdx)",
            (
                (x, y, a.slide_uid, a.uid, order)
                for a in annotations
                for order, (x, y) in enumerate(a.points_l0, start=1)
            ),
        )
        labels = ((person, a.class_id, a.uid) for a in labelled for person in (1, 2))
        _insert(database, "Annotations_label(person, class, annoId)", labels)
        database.commit()
        write_atomically(path, database.serialize())


def _bbox(row: AnnotationRow, *, bbox_format: BboxFormatName) -> list[float]:
    (x, y), r = row.points_l0[0], SPOT_RADIUS_PX
    return [x - r, y - r, x + r, y + r] if bbox_format == "xyxy" else [x - r, y - r, 2 * r, 2 * r]


def write_coco(
    path: Path,
    *,
    slides: Sequence[AnnotatedSlide],
    classes: Mapping[int, str],
    annotations: Sequence[AnnotationRow],
    bbox_format: BboxFormatName = "xyxy",
) -> None:
    """Write the spots that are not deleted as COCO-like JSON, boxes of 50 x 50 px around the centres.

    As in the published mitosis data sets, boxes are corners (``xyxy``) by default, and ``area`` and ``iscrowd`` absent.
    """
    spots = [row for row in annotations if row.shape is AnnotationShape.SPOT and not row.is_deleted]
    document = {
        "info": {"description": "Generated slides with generated cells", "version": "1.0"},
        "licenses": [],
        "images": [
            {"id": slide.uid, "file_name": slide.file_name, "width": slide.width_px, "height": slide.height_px}
            for slide in slides
        ],
        "categories": [{"id": class_id, "name": name} for class_id, name in classes.items()],
        "annotations": [
            {
                "id": row.uid,
                "image_id": row.slide_uid,
                "category_id": row.class_id,
                "bbox": _bbox(row, bbox_format=bbox_format),
            }
            for row in spots
        ],
    }
    write_atomically(path, (json.dumps(document, allow_nan=False) + "\n").encode())
