"""From file to tables: the account adds up, the order is fixed, both formats agree, nothing usable is an error."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.annotations.test_builders import (
    LOOK_ALIKE,
    MITOSIS,
    Database,
    Mark,
    box,
    coco_document,
    load,
    make_slide,
    write_database,
    write_json,
)
from wsi_extract.annotations import AnnotationOptions, ClassCount, Reason, load_annotations
from wsi_extract.errors import AnnotationError
from wsi_extract.model import AnnotationTable, SlideFile

SLIDES = ((1, "001.tiff", None), (2, "002.tiff", None))


def columns(table: AnnotationTable) -> list[object]:
    return [getattr(table, name).tolist() for name in ("source_id", "part", "role", "class_id", "boxes_l0")]


def test_b10_no_target_class_lists_the_classes_and_the_remedy(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite", Database(classes=((1, "cell"), (2, "Hard negative"))))
    with pytest.raises(AnnotationError) as caught:
        load(path)
    text = str(caught.value)
    assert "no class is mapped to target" in text
    assert "1 = 'cell': 1 annotations, no role (unknown)" in text
    assert "2 = 'Hard negative': 0 annotations, hard_negative (alias)" in text
    assert "--category_map ID=target" in text


def test_b10_a_wrong_map_is_an_error_not_a_data_set_without_objects(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite", Database(classes=((1, "cell a"), (2, "cell b"))))
    with pytest.raises(AnnotationError, match="the target classes have no annotations; classes: 1 = 'cell a'"):
        load(path, options=AnnotationOptions(category_map={"2": "target"}))


UNUSABLE = {
    "other slides": (
        Mark(uid=1, slide=2),
        r"unmatched_slide: 1\)\. Slides in the file.*'002.tiff'; slides found: '001.tiff'",
    ),
    "outside": (Mark(uid=1, points=((9000, 1),)), r"out_of_slide: 1\).*uncropped"),
    "other type": (Mark(uid=1, type=2, points=((1, 1), (9, 9))), r"not_selected_type: 1\).*--annotation_types"),
    "deleted": (Mark(uid=1, deleted=1), r"deleted: 1\)"),
}


@pytest.mark.parametrize(("mark", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_b10_targets_that_cannot_be_used_are_told_from_a_wrong_map(tmp_path: Path, mark: Mark, message: str) -> None:
    path = write_database(tmp_path / "a.sqlite", Database(marks=(mark,), slides=SLIDES))
    with pytest.raises(AnnotationError, match=f"none of the 1 annotations of target classes can be used.*{message}"):
        load(path)


def test_a_single_usable_target_is_enough(tmp_path: Path) -> None:
    marks = (Mark(uid=1, slide=2), Mark(uid=2))
    loaded = load(write_database(tmp_path / "a.sqlite", Database(marks=marks, slides=SLIDES)))
    assert loaded.reconciliation.unmatched_slides == ("002.tiff",)
    assert loaded.reconciliation.count(Reason.UNMATCHED_SLIDE) == 1


def test_b24_the_order_of_rows_in_the_file_changes_nothing(tmp_path: Path) -> None:
    marks = [
        Mark(uid=uid, slide=1 + uid % 2, agreed_class=1 + uid % 2, points=((uid, 2 * uid),)) for uid in range(1, 60)
    ]
    slides = [make_slide("002.tiff"), make_slide("001.tiff")]
    first = load(write_database(tmp_path / "a.sqlite", Database(marks=marks, slides=SLIDES)), slides=slides)
    shuffled = random.Random(5).sample(marks, len(marks))
    ddl = {"Annotations": "uid INTEGER, slide INTEGER, type INTEGER, agreedClass INTEGER, deleted INTEGER"}
    database = Database(marks=shuffled, slides=SLIDES[::-1], ddl=ddl)
    second = load(write_database(tmp_path / "b.sqlite", database), slides=slides[::-1])
    assert list(first.tables) == list(second.tables) == ["001", "002"]
    for slide_id, table in first.tables.items():
        assert columns(table) == columns(second.tables[slide_id])
        assert table.source_id.tolist() == sorted(table.source_id.tolist())
    assert first.reconciliation == second.reconciliation


def test_the_account_names_every_class_and_adds_up(tmp_path: Path) -> None:
    marks = (
        Mark(uid=1),
        Mark(uid=2, agreed_class=LOOK_ALIKE),
        Mark(uid=3, agreed_class=0),
        Mark(uid=4, agreed_class=None),
        Mark(uid=5, agreed_class=8),
        Mark(uid=6, slide=2),
        Mark(uid=7, deleted=1),
    )
    loaded = load(write_database(tmp_path / "a.sqlite", Database(marks=marks, slides=SLIDES)))
    header, *body = loaded.reconciliation.to_rows()
    assert header == (
        "class",
        "read",
        "kept_target",
        "kept_hard_negative",
        "deleted",
        "unknown_class",
        "unmatched_slide",
    )
    assert body == [
        ("mitotic figure (1)", "3", "1", "0", "1", "0", "1"),
        ("not mitotic figure (2)", "1", "0", "1", "0", "0", "0"),
        ("no class", "2", "0", "0", "0", "2", "0"),
        ("class not listed in the file (8)", "1", "0", "0", "0", "1", "0"),
        ("all", "7", "1", "1", "1", "3", "1"),
    ]
    document = loaded.reconciliation.to_json()
    assert document["unmatched_slides"] == ["002.tiff"]
    assert document["classes"][0]["kept_target"] == 1  # type: ignore[index]  # object: JSON is untyped


def test_an_account_that_does_not_add_up_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="3 annotations read"):
        ClassCount(class_id=1, name="a", n_read=3, n_by_reason={Reason.DELETED: 2})


def test_unreadable_slides_are_told_from_unmatched_ones(tmp_path: Path) -> None:
    marks = (Mark(uid=1), Mark(uid=2, slide=2))
    path = write_database(tmp_path / "a.sqlite", Database(marks=marks, slides=SLIDES))
    broken = SlideFile(slide_id="002", path=Path("WSI/002.tiff"))
    loaded = load_annotations(path, options=AnnotationOptions(), slides=[make_slide()], unreadable=[broken])
    assert loaded.reconciliation.unreadable_slides == ("002",)
    assert loaded.reconciliation.unmatched_slides == ()
    assert loaded.reconciliation.count(Reason.UNREADABLE_SLIDE) == 1
    assert loaded.listed == {"001"}


def test_targets_are_counted_by_the_file_whatever_the_slides_are(tmp_path: Path) -> None:
    marks = (
        Mark(uid=1),
        Mark(uid=2, slide=2),
        Mark(uid=3, slide=2, points=((10**6, 10**6),)),
        Mark(uid=4, slide=3, agreed_class=0),
        Mark(uid=5, slide=1, deleted=1),
        Mark(uid=6, slide=4, deleted=1),
    )
    names = [(uid, f"{uid:03}.tiff", None) for uid in range(1, 5)]
    path = write_database(tmp_path / "a.sqlite", Database(marks=marks, slides=names))
    infos = [make_slide(name) for _, name, _ in names]
    whole = load_annotations(path, options=AnnotationOptions(), slides=infos)
    assert whole.targets_in_file == {"001": 1, "002": 2, "003": 0}
    broken = SlideFile(slide_id="002", path=Path("WSI/002.tiff"))
    others = [info for info in infos if info.slide_id != "002"]
    torn = load_annotations(path, options=AnnotationOptions(), slides=others, unreadable=[broken])
    assert torn.targets_in_file == whole.targets_in_file


def test_annotated_means_any_row_that_is_neither_deleted_nor_a_marker(tmp_path: Path) -> None:
    marks = (
        Mark(uid=1, slide=1),
        Mark(uid=2, slide=2, agreed_class=0),
        Mark(uid=3, slide=3, deleted=1),
        Mark(uid=4, slide=4, type=4, agreed_class=0),
        Mark(uid=5, slide=5, type=3, points=((1, 1), (5, 5), (1, 5))),
    )
    names = [(uid, f"{uid:03}.tiff", None) for uid in range(1, 7)]
    path = write_database(tmp_path / "a.sqlite", Database(marks=marks, slides=names))
    loaded = load(path, slides=[make_slide(name) for _, name, _ in names])
    assert loaded.annotated == {"001", "002", "005"}
    assert loaded.listed == {f"{uid:03}" for uid in range(1, 7)}


def test_point_boxes_follow_the_resolution_of_each_axis(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite")
    slide = make_slide(um_per_px_xy=(0.25, 0.5))
    assert load(path, options=AnnotationOptions(point_box_px=30)).tables["001"].boxes_l0.tolist() == [
        [85, 185, 115, 215]
    ]
    loaded = load(path, slides=[slide], options=AnnotationOptions(point_box_um=12.5))
    assert loaded.tables["001"].boxes_l0.tolist() == [[75, 187.5, 125, 212.5]]


def test_boxes_in_um_need_the_resolution_of_slides_with_points(tmp_path: Path) -> None:
    path = write_database(tmp_path / "a.sqlite", Database(slides=SLIDES))
    options = AnnotationOptions(point_box_um=12.5)
    empty = make_slide("002.tiff", um_per_px_xy=None)
    assert len(load(path, slides=[make_slide(), empty], options=options).tables["001"]) == 1
    with pytest.raises(AnnotationError, match=r"first 001 \(WSI/001.tiff\).*--slide_mpp"):
        load(path, slides=[make_slide(um_per_px_xy=None)], options=options)


def test_a_size_of_points_without_effect_is_reported(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", coco_document([box(1, [5, 5, 9, 9])]))
    loaded = load(path, options=AnnotationOptions(bbox_format="xyxy", point_box_px=20))
    assert "has no effect" in loaded.source.notes[0]


spots = st.lists(
    st.tuples(
        st.integers(1, 10**6),
        st.integers(1, 3),
        st.sampled_from([MITOSIS, LOOK_ALIKE, 0, 9]),
        st.integers(-80, 8000).map(lambda n: n / 2),
        st.integers(-80, 6000).map(lambda n: n / 2),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda spot: spot[0],
)


@given(spots=spots)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_database_corner_file_and_standard_file_of_the_same_data_agree(
    tmp_path: Path, spots: list[tuple[int, int, int, float, float]]
) -> None:
    spots = [*spots, (10**6 + 1, 1, MITOSIS, 100.0, 100.0)]
    marks = [Mark(uid=uid, slide=s, agreed_class=c, points=((x, y),)) for uid, s, c, x, y in spots]
    items = [
        {"id": uid, "image_id": s, "category_id": c, "bbox": [x - 25, y - 25, x + 25, y + 25]}
        for uid, s, c, x, y in spots
    ]
    twins = [{**item, "bbox": [x - 25, y - 25, 50, 50]} for item, (*_, x, y) in zip(items, spots, strict=True)]
    images = [{"id": uid, "file_name": name} for uid, name, _ in SLIDES]
    slides = [make_slide("001.tiff"), make_slide("002.tiff")]
    database = tmp_path / "a.sqlite"
    database.unlink(missing_ok=True)
    results = [load(write_database(database, Database(marks=marks, slides=SLIDES)), slides=slides)]
    for name, rows, convention in (("xyxy", items, "xyxy"), ("xywh", twins, "xywh")):
        path = write_json(tmp_path / f"{name}.json", coco_document(rows, images=images))
        options = AnnotationOptions(bbox_format=convention)  # type: ignore[arg-type]  # a Literal, by its value
        results.append(load(path, slides=slides, options=options))
    for other in results[1:]:
        assert other.reconciliation == results[0].reconciliation
        assert other.annotated == results[0].annotated
        for slide_id, table in results[0].tables.items():
            assert columns(other.tables[slide_id]) == columns(table)


def test_two_hundred_thousand_annotations_load_in_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(0, 3000, (200_000, 2)).tolist()
    marks = [Mark(uid=uid, points=((x, y),), deleted=0) for uid, (x, y) in enumerate(points, 1)]
    path = write_database(tmp_path / "a.sqlite", Database(marks=marks, generation="B"))
    start = time.process_time()
    loaded = load(path)
    assert time.process_time() - start < 10  # of the processor, which others may be using
    assert len(loaded.tables["001"]) == 200_000
