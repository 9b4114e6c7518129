"""Read SlideRunner databases of every schema generation (2017 to 2021).

Columns are found by name, because their order and number differ between generations; ``user_version`` tells nothing.
Whole tables are read once: no generation has an index. ``agreedClass`` is taken as it is and never recomputed from the
raters' labels, which published files have overruled. Raters' names are never read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_extract.annotations.source import (
    LARGEST_COORDINATE_PX,
    LONGEST_NAME,
    NO_SLIDE,
    SUPPORTED,
    SourceFile,
    SourceKind,
    SourceRows,
    SourceSlide,
    Witness,
    refuse_too_large,
    shortened,
    slide_rows_of,
)
from wsi_extract.annotations.sqlite_file import open_database, sha256_with_sidecars, sidecars_of, unchanged
from wsi_extract.arrays import BoolArray, FloatArray, IntArray
from wsi_extract.errors import AnnotationError
from wsi_extract.machine import memory_bytes

NUMBER = ("integer", "real")
ANNOTATION_BYTES, POINT_BYTES = 250, 200
"""Of memory, while tables are read, sorted and joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """What a column may hold; SQLite itself lets every cell hold anything."""

    types: tuple[str, ...]
    required: bool = True


ID = _Column(types=("integer",))
OPTIONAL_ID = _Column(types=("integer", "null"))
COORDINATE = _Column(types=(*NUMBER, "null"))
NAME = _Column(types=("text", "null"))
OPTIONAL_NAME = _Column(types=NAME.types, required=False)
HINT = _Column(types=("integer", "real", "text", "blob", "null"), required=False)

SCHEMA: Mapping[str, Mapping[str, _Column]] = {
    "Slides": {
        "uid": ID,
        "filename": NAME,
        "directory": OPTIONAL_NAME,
        "width": HINT,
        "height": HINT,
    },
    "Classes": {"uid": ID, "name": NAME},
    "Annotations": {
        "uid": ID,
        "slide": OPTIONAL_ID,
        "type": OPTIONAL_ID,
        "agreedClass": OPTIONAL_ID,
        "deleted": _Column(types=("integer", "null"), required=False),
    },
    "Annotations_coordinates": {
        "uid": ID,
        "annoId": OPTIONAL_ID,
        "coordinateX": COORDINATE,
        "coordinateY": COORDINATE,
        "orderIdx": _Column(types=("integer", "null"), required=False),
    },
}
"""The tables and columns that are read; a column that is not required counts as NULL where it is absent."""

FIRST = np.iinfo(np.int64).min
"""Stands for a NULL orderIdx: SQLite, too, sorts NULL first."""


def _present_columns(connection: sqlite3.Connection, *, table: str) -> frozenset[str]:
    """Names in lower case, none without such a table. Views and virtual tables run code, so they do not count."""
    found = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name = ? COLLATE NOCASE", (table,)
    ).fetchone()[0]
    if not found:
        return frozenset()
    return frozenset(str(row[1]).lower() for row in connection.execute(f"PRAGMA table_info({table})"))


def _expressions(connection: sqlite3.Connection, *, table: str, path: Path) -> dict[str, str]:
    """Return the SQL expression of each column of the schema, ``NULL`` for those an old generation lacks."""
    present = _present_columns(connection, table=table)
    missing = [name for name, column in SCHEMA[table].items() if column.required and name.lower() not in present]
    if missing:
        what = f"its table {table} lacks {', '.join(missing)}" if present else f"it has no table {table}"
        raise AnnotationError(
            f"{path} is a SQLite database but not one of SlideRunner: {what}.",
            SUPPORTED,
        )
    expressions = {name: name if name.lower() in present else "NULL" for name in SCHEMA[table]}
    for name, column in SCHEMA[table].items():
        if expressions[name] != "NULL" and column is not HINT:
            _refuse_wrong_values(connection, table=table, name=name, path=path)
    return expressions


def _refuse_wrong_values(connection: sqlite3.Connection, *, table: str, name: str, path: Path) -> None:
    column = SCHEMA[table][name]
    allowed = ", ".join(f"'{kind}'" for kind in column.types)
    forbidden, rule = f"typeof({name}) NOT IN ({allowed})", ""
    if column is COORDINATE:
        limit = LARGEST_COORDINATE_PX
        forbidden, rule = f"{forbidden} OR {name} NOT BETWEEN {-limit} AND {limit}", f" within +-{limit:g}"
    elif "text" in column.types:
        too_long = f"length(CAST({name} AS BLOB)) > {LONGEST_NAME}"
        forbidden = f"{forbidden} OR {too_long} OR instr({name}, char(0)) > 0"
        rule = f" of no more than {LONGEST_NAME} bytes without NUL"
    shown = f"quote(CASE WHEN typeof({name}) IN ('text', 'blob') THEN substr({name}, 1, 20) ELSE {name} END)"
    bad = connection.execute(f"SELECT uid, typeof({name}), {shown} FROM {table} WHERE {forbidden} LIMIT 1").fetchone()
    if bad is not None:
        raise AnnotationError(
            f"{path}: table {table}, uid {shortened(bad[0])}: {name} is {bad[2]} ({bad[1]}); "
            f"{' or '.join(column.types)}{rule} is allowed.",
            "Correct the row in SlideRunner or remove it.",
        )


def _refuse_repeated_uids(uids: IntArray, *, table: str, path: Path) -> None:
    values, counts = np.unique(uids, return_counts=True)
    if np.any(counts > 1):
        repeated = int(values[counts > 1][0])
        raise AnnotationError(f"{path}: table {table} holds uid {repeated} more than once.", "Export the file again.")


def _positive_whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value <= LARGEST_COORDINATE_PX else None


def _refuse_too_many_rows(connection: sqlite3.Connection, *, table: str, row_bytes: int, path: Path) -> None:
    n_rows = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    refuse_too_large(path, needed_bytes=n_rows * row_bytes, memory_bytes=memory_bytes())


def _number_or_null(expression: str) -> str:
    """Text and blobs in columns of hints stay where they are: they can be large."""
    return f"CASE WHEN typeof({expression}) IN ('integer', 'real') THEN {expression} END"


def _read_slides(connection: sqlite3.Connection, *, path: Path) -> tuple[SourceSlide, ...]:
    column = _expressions(connection, table="Slides", path=path)
    width, height = _number_or_null(column["width"]), _number_or_null(column["height"])
    query = f"SELECT uid, filename, {column['directory']}, {width}, {height} FROM Slides"
    slides = tuple(
        SourceSlide(
            uid=uid,
            file_name=name or "",
            directory=directory,
            width_px=_positive_whole(width),
            height_px=_positive_whole(height),
        )
        for uid, name, directory, width, height in connection.execute(f"{query} ORDER BY uid")
    )
    _refuse_repeated_uids(np.array([slide.uid for slide in slides], dtype=np.int64), table="Slides", path=path)
    return slides


def _read_classes(connection: sqlite3.Connection, *, path: Path) -> dict[int, str]:
    _expressions(connection, table="Classes", path=path)
    rows = connection.execute("SELECT uid, name FROM Classes ORDER BY uid").fetchall()
    _refuse_repeated_uids(np.array([uid for uid, _ in rows], dtype=np.int64), table="Classes", path=path)
    # 0 means "no agreed class" in Annotations, whatever the table of classes says.
    return {uid: name or "" for uid, name in rows if uid != 0}


def _read_annotations(connection: sqlite3.Connection, *, path: Path) -> npt.NDArray[np.void]:
    column = _expressions(connection, table="Annotations", path=path)
    _refuse_too_many_rows(connection, table="Annotations", row_bytes=ANNOTATION_BYTES, path=path)
    query = (
        "SELECT uid, ifnull(slide, 0), slide IS NULL, ifnull(type, 0), ifnull(agreedClass, 0), "
        f"ifnull({column['deleted']}, 0) != 0 FROM Annotations ORDER BY uid"
    )
    dtype = np.dtype(
        [("uid", "i8"), ("slide", "i8"), ("no_slide", "?"), ("type", "i8"), ("class", "i8"), ("deleted", "?")]
    )
    annotations = np.fromiter(connection.execute(query), dtype=dtype)
    _refuse_repeated_uids(annotations["uid"], table="Annotations", path=path)
    return annotations


def _read_points(connection: sqlite3.Connection, *, path: Path) -> tuple[IntArray, FloatArray]:
    """Return (M,) annotation uids, sorted, and (M, 2) coordinates x, y in drawing order within each annotation.

    ``orderIdx`` alone is no order: published files hold the same number, or NULL, in all rows.
    """
    column = _expressions(connection, table="Annotations_coordinates", path=path)
    _refuse_too_many_rows(connection, table="Annotations_coordinates", row_bytes=POINT_BYTES, path=path)
    # Infinity marks NULL on the way; real infinities have been refused.
    query = (
        f"SELECT annoId, ifnull({column['orderIdx']}, {FIRST + 1} - 1), uid, ifnull(coordinateX, 9e999), "
        "ifnull(coordinateY, 9e999) FROM Annotations_coordinates WHERE annoId IS NOT NULL"
    )
    dtype = np.dtype([("annotation", "i8"), ("order", "i8"), ("uid", "i8"), ("x", "f8"), ("y", "f8")])
    rows = np.fromiter(connection.execute(query), dtype=dtype)
    rows = rows[np.lexsort((rows["uid"], rows["order"], rows["annotation"]))]
    points = np.column_stack((rows["x"], rows["y"]))
    points[np.isinf(points)] = np.nan
    return rows["annotation"].astype(np.int64), points


def _kinds(types: IntArray) -> npt.NDArray[np.int8]:
    known = (types >= SourceKind.SPOT) & (types <= SourceKind.IMAGE)
    return np.where(known, types, SourceKind.OTHER).astype(np.int8)


def _is_listed(ids: IntArray, *, classes: Mapping[int, str]) -> BoolArray:
    return np.isin(ids, np.array(list(classes), dtype=np.int64))


def _build_rows(
    annotations: npt.NDArray[np.void],
    *,
    owners: IntArray,
    points_xy: FloatArray,
    slides: tuple[SourceSlide, ...],
    classes: Mapping[int, str],
) -> SourceRows:
    """Join the tables; a spot with several coordinates becomes several parts, as in the authors' COCO export."""
    first = np.searchsorted(owners, annotations["uid"], side="left")
    n_points = np.searchsorted(owners, annotations["uid"], side="right") - first
    kind = _kinds(annotations["type"])
    n_parts = np.where(kind == SourceKind.SPOT, np.maximum(n_points, 1), 1)
    rows = np.repeat(np.arange(len(annotations)), n_parts)
    part = np.arange(len(rows)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    taken, n = annotations[rows], len(rows)
    slide_row = slide_rows_of(taken["slide"], uids=np.array([slide.uid for slide in slides], dtype=np.int64))
    return SourceRows(
        source_id=taken["uid"].astype(np.int64),
        part=part.astype(np.int64),
        slide_row=np.where(taken["no_slide"], NO_SLIDE, slide_row).astype(np.int64),
        class_id=taken["class"].astype(np.int64),
        has_class=_is_listed(taken["class"], classes=classes),
        kind=kind[rows],
        is_deleted=taken["deleted"].astype(np.bool_),
        is_crowd=np.zeros(n, dtype=np.bool_),
        witness=np.full(n, Witness.NONE, dtype=np.int8),
        first_point=(first[rows] + part).astype(np.int64),
        n_points=np.where(kind[rows] == SourceKind.SPOT, np.minimum(n_points[rows], 1), n_points[rows]).astype(
            np.int64
        ),
        points_xy=points_xy,
    )


def _notes(rows: SourceRows, *, owners: IntArray, path: Path) -> tuple[str, ...]:
    notes = [f"{file.name} lies beside {path.name}: its rows were read from a copy." for file in sidecars_of(path)]
    n_stray = int(np.count_nonzero(~np.isin(owners, rows.source_id)))
    if n_stray:
        notes.append(f"{n_stray} coordinates belong to no annotation and were left out.")
    n_parts = int(np.count_nonzero(rows.part))
    if n_parts:
        notes.append(f"{n_parts} spots have more than one coordinate; each coordinate counts as one part.")
    return tuple(notes)


def read_sliderunner(path: Path) -> SourceFile:
    """Read a SlideRunner database whole, without changing it or its folder.

    Raises
    ------
    AnnotationError
        When it is damaged, is no SlideRunner database, holds values of a wrong type (naming table, uid and column), or
        changes meanwhile.
    """
    path = path.resolve()
    with unchanged(path):
        sha256 = sha256_with_sidecars(path)
        with open_database(path) as connection:
            slides = _read_slides(connection, path=path)
            classes = _read_classes(connection, path=path)
            annotations = _read_annotations(connection, path=path)
            owners, points_xy = _read_points(connection, path=path)
        rows = _build_rows(annotations, owners=owners, points_xy=points_xy, slides=slides, classes=classes)
        notes = _notes(rows, owners=owners, path=path)
    return SourceFile(
        path=path,
        format="sliderunner",
        sha256=sha256,
        description="",
        slides=slides,
        classes=classes,
        rows=rows,
        notes=notes,
    )
