"""SlideRunner databases of all schema generations, and what can be wrong with their rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.annotations.test_builders import LOOK_ALIKE, Database, Mark, load, write_database
from wsi_extract.annotations import AnnotationOptions, Reason, SourceKind, read_source
from wsi_extract.errors import AnnotationError

ALL_TYPES = AnnotationOptions(annotation_types=("spot", "area", "polygon", "circle"))


def execute(path: Path, statement: str) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    return path


@pytest.mark.parametrize("generation", list("ABCDE"))
def test_every_generation_gives_the_same_table(tmp_path: Path, generation: str) -> None:
    marks = (Mark(uid=3, points=((100.5, 200),)), Mark(uid=2, agreed_class=LOOK_ALIKE, points=((0, 2999),)))
    loaded = load(write_database(tmp_path / "a.sqlite", Database(marks=marks, generation=generation)))
    table = loaded.tables["001"]
    assert table.source_id.tolist() == [2, 3]
    assert table.class_id.tolist() == [2, 1]
    assert table.role.tolist() == [2, 1]
    assert table.boxes_l0.tolist() == [[-25, 2974, 25, 3024], [75.5, 175, 125.5, 225]]


def test_columns_are_found_by_name_in_any_order_and_case(tmp_path: Path) -> None:
    ddl = {
        "Slides": "directory TEXT, FILENAME TEXT, uid INTEGER",
        "Annotations": "AGREEDCLASS INTEGER, Type INTEGER, deleted INTEGER, slide INTEGER, uid INTEGER",
        "Annotations_coordinates": "orderIdx, annoId, slide, coordinateY, coordinateX, uid INTEGER PRIMARY KEY",
    }
    loaded = load(write_database(tmp_path / "a.sqlite", Database(ddl=ddl)))
    assert loaded.tables["001"].centres_l0.tolist() == [[100, 200]]


@pytest.mark.parametrize("orders", [(1, 1, 1, 1), (None, None, None, None), (1, 2, 3, 4)])
def test_points_keep_their_drawing_order_without_order_index(tmp_path: Path, orders: tuple[int | None, ...]) -> None:
    points = ((50, 60), (10, 80), (70, 20), (30, 30))
    path = write_database(
        tmp_path / "a.sqlite", Database(marks=(Mark(uid=1, type=3, points=points, orders=orders), Mark(uid=2)))
    )
    assert read_source(path).rows.points_of(0).tolist() == [list(point) for point in points]


def test_order_index_wins_over_row_order(tmp_path: Path) -> None:
    mark = Mark(uid=1, type=3, points=((1, 1), (2, 2), (3, 3)), orders=(3, 1, 2))
    rows = read_source(write_database(tmp_path / "a.sqlite", Database(marks=(mark,)))).rows
    assert rows.points_of(0)[:, 0].tolist() == [2, 3, 1]


SHAPES = {
    # type, points, expected box
    "area": (2, ((30, 50), (90, 70)), [30, 50, 90, 70]),
    "area with swapped corners": (2, ((90, 50), (30, 70)), [30, 50, 90, 70]),
    "unclosed polygon": (3, ((10, 10), (50, 20), (30, 60)), [10, 10, 50, 60]),
    "closed polygon": (3, ((10, 10), (50, 20), (30, 60), (10, 10)), [10, 10, 50, 60]),
    "circle": (5, ((10, 10), (50, 50)), [10, 10, 50, 50]),
    "circle has the radius of its width": (5, ((10, 10), (50, 70)), [10, 20, 50, 60]),
}


@pytest.mark.parametrize(("kind", "points", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes_become_bounding_boxes(
    tmp_path: Path, kind: int, points: tuple[tuple[int, int], ...], expected: list[float]
) -> None:
    marks = (Mark(uid=1, points=((1, 1),)), Mark(uid=2, type=kind, points=points), Mark(uid=3, points=((2, 2),)))
    loaded = load(write_database(tmp_path / "a.sqlite", Database(marks=marks)), options=ALL_TYPES)
    assert loaded.tables["001"].boxes_l0[1].tolist() == expected


LEFT_OUT = {
    "deleted": (Mark(uid=9, deleted=1), Reason.DELETED),
    "special spot": (Mark(uid=9, type=4, agreed_class=0), Reason.NAVIGATION_MARKER),
    "image annotation": (Mark(uid=9, type=6, points=((None, None),)), Reason.NOT_SELECTED_TYPE),
    "type 255": (Mark(uid=9, type=255), Reason.NOT_SELECTED_TYPE),
    "type beyond a byte": (Mark(uid=9, type=257), Reason.NOT_SELECTED_TYPE),
    "no type": (Mark(uid=9, type=None), Reason.NOT_SELECTED_TYPE),
    "slide not listed": (Mark(uid=9, slide=77), Reason.ORPHAN),
    "slide NULL": (Mark(uid=9, slide=None), Reason.ORPHAN),
    "agreedClass 0": (Mark(uid=9, agreed_class=0), Reason.UNKNOWN_CLASS),
    "agreedClass NULL": (Mark(uid=9, agreed_class=None), Reason.UNKNOWN_CLASS),
    "agreedClass not listed": (Mark(uid=9, agreed_class=12), Reason.UNKNOWN_CLASS),
    "class of unknown meaning": (Mark(uid=9, agreed_class=3), Reason.UNMAPPED_CLASS),
    "class of context": (Mark(uid=9, agreed_class=4), Reason.CONTEXT),
    "no coordinates": (Mark(uid=9, points=()), Reason.NO_COORDINATES),
    "coordinate NULL": (Mark(uid=9, points=((5, None),)), Reason.NO_COORDINATES),
    "polygon with a NULL": (Mark(uid=9, type=3, points=((5, 5), (9, None), (7, 9))), Reason.NO_COORDINATES),
    "area without height": (Mark(uid=9, type=2, points=((5, 5), (12, 5))), Reason.DEGENERATE),
    "area with one corner": (Mark(uid=9, type=2, points=((5, 5),)), Reason.DEGENERATE),
    "circle without width": (Mark(uid=9, type=5, points=((5, 5), (5, 9))), Reason.DEGENERATE),
    "polygon of two points": (Mark(uid=9, type=3, points=((5, 5), (9, 9))), Reason.DEGENERATE),
    "right of the slide": (Mark(uid=9, points=((4000, 5),)), Reason.OUT_OF_SLIDE),
    "above the slide": (Mark(uid=9, points=((5, -0.5),)), Reason.OUT_OF_SLIDE),
}


@pytest.mark.parametrize(("mark", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_rows_left_out_are_counted_with_their_reason(tmp_path: Path, mark: Mark, reason: Reason) -> None:
    classes = ((1, "Mitosis"), (3, "something"), (4, "Granulocytes"))
    path = write_database(tmp_path / "a.sqlite", Database(marks=(Mark(uid=1), mark), classes=classes))
    loaded = load(path, options=ALL_TYPES)
    assert loaded.reconciliation.count(reason) == 1
    assert loaded.reconciliation.count(Reason.KEPT_TARGET) == 1
    assert loaded.reconciliation.n_read == 2
    assert loaded.tables["001"].source_id.tolist() == [1]


def test_b11_only_spots_that_are_not_deleted_are_used_by_default(tmp_path: Path) -> None:
    marks = (
        Mark(uid=1),
        Mark(uid=2, deleted=1),
        Mark(uid=3, type=2, points=((5, 5), (9, 9))),
        Mark(uid=4, type=3, points=((5, 5), (9, 9), (5, 9))),
        Mark(uid=5, type=5, points=((5, 5), (9, 9))),
        Mark(uid=6, type=4, agreed_class=0),
    )
    loaded = load(write_database(tmp_path / "a.sqlite", Database(marks=marks)))
    assert loaded.tables["001"].source_id.tolist() == [1]
    reasons = (Reason.DELETED, Reason.NOT_SELECTED_TYPE, Reason.NAVIGATION_MARKER)
    assert [loaded.reconciliation.count(reason) for reason in reasons] == [1, 3, 1]


def test_a_spot_with_several_coordinates_becomes_parts(tmp_path: Path) -> None:
    marks = (Mark(uid=4, points=((30, 30), (10, 10))), Mark(uid=5, points=((7, 7),)))
    loaded = load(write_database(tmp_path / "a.sqlite", Database(marks=marks)))
    table = loaded.tables["001"]
    assert [table.name_of(row) for row in range(3)] == ["4", "4.1", "5"]
    assert table.centres_l0.tolist() == [[30, 30], [10, 10], [7, 7]]
    assert any("more than one coordinate" in note for note in loaded.source.notes)


def test_labels_never_change_the_agreed_class(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite")
    execute(path, "INSERT INTO Annotations_label (person, class, annoId) VALUES (1, 2, 1), (1, 2, 1), (2, 0, 99)")
    assert load(path).tables["001"].class_id.tolist() == [1]


def test_coordinates_without_annotation_are_reported(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite")
    execute(path, "INSERT INTO Annotations_coordinates (coordinateX, coordinateY, annoId) VALUES (1, 1, 55)")
    loaded = load(path)
    assert len(loaded.tables["001"]) == 1
    assert loaded.source.notes == ("1 coordinates belong to no annotation and were left out.",)


REFUSED = {
    "text": "UPDATE Annotations_coordinates SET coordinateX = 'left'",
    "blob": "UPDATE Annotations_coordinates SET coordinateY = x'00'",
    "infinity": "UPDATE Annotations_coordinates SET coordinateX = 9e999",
    "minus infinity": "UPDATE Annotations_coordinates SET coordinateX = -9e999",
    "huge": "UPDATE Annotations_coordinates SET coordinateX = -9223372036854775808",
    "class": "UPDATE Annotations SET agreedClass = 'mitosis'",
    "deleted": "UPDATE Annotations SET deleted = 'no'",
    "file name": "UPDATE Slides SET filename = x'ff'",
    "missing table": "DROP TABLE Annotations_coordinates",
    "missing column": "ALTER TABLE Annotations DROP COLUMN agreedClass",
}


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED)
def test_values_of_a_wrong_type_are_refused_with_their_place(tmp_path: Path, statement: str) -> None:
    path = write_database(tmp_path / "a.sqlite", Database(generation="A" if "DROP COLUMN" in statement else "E"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER IF EXISTS updateAnnotation_UPDATE")
        connection.execute(statement)
    with pytest.raises(AnnotationError, match=str(path)) as caught:
        read_source(path)
    if statement.startswith("UPDATE"):
        table, column = statement.split()[1], statement.split()[3]
        assert f"table {table}, uid 1: {column} is " in str(caught.value)


def test_repeated_uids_are_refused(tmp_path: Path) -> None:
    ddl = {"Annotations": "uid INTEGER, slide INTEGER, type INTEGER, agreedClass INTEGER, deleted INTEGER"}
    path = write_database(tmp_path / "a.sqlite", Database(marks=(Mark(uid=1), Mark(uid=1)), ddl=ddl))
    with pytest.raises(AnnotationError, match="table Annotations holds uid 1 more than once"):
        read_source(path)


def test_a_view_in_place_of_a_table_is_refused(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite")
    execute(path, "ALTER TABLE Classes RENAME TO Real_classes")
    execute(path, "CREATE VIEW Classes AS SELECT * FROM Real_classes")
    with pytest.raises(AnnotationError, match="no table Classes"):
        read_source(path)


def test_rows_of_all_kinds_survive_reading(tmp_path: Path) -> None:
    kinds = (1, 2, 3, 4, 5, 6, 255, None)
    marks = [Mark(uid=uid, type=kind) for uid, kind in enumerate(kinds, 1)]
    rows = read_source(write_database(tmp_path / "a.sqlite", Database(marks=marks))).rows
    assert rows.kind.tolist() == [1, 2, 3, 4, 5, 6, SourceKind.OTHER, SourceKind.OTHER]
    assert np.all(rows.n_points == 1)


def test_an_empty_database_is_read(tmp_path: Path) -> None:
    source = read_source(write_database(tmp_path / "a.sqlite", Database(marks=(), slides=(), classes=())))
    assert (len(source.rows), source.slides, source.classes) == (0, (), {})


def test_rater_names_appear_nowhere(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite")
    execute(path, "INSERT INTO Persons (name) VALUES ('Dr. Secret')")
    execute(path, "INSERT INTO Annotations_label (person, class, annoId) VALUES (1, 1, 1)")
    loaded = load(path)
    assert "Secret" not in repr((loaded, loaded.reconciliation.to_json(), loaded.source.to_json()))
