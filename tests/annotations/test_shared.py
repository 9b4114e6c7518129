"""The readers on real published files: counts, equality of formats, and no trace left."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.annotations.test_builders import load, make_slide, write_json
from wsi_extract.annotations import AnnotationOptions, Reason, SourceFile, SourceKind, load_annotations, read_source
from wsi_extract.annotations.bbox_convention import decide_bbox_format
from wsi_extract.annotations.source import Witness
from wsi_extract.errors import AnnotationError
from wsi_extract.model import SlideInfo

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DATABASES = (
    "CCMCT_HighMCAreas",
    "CCMCT_Tumorzone",
    "MIDOG",
    "SR_MITOS2012",
    "SR_MITOS2012_old",
    "SR_Slides",
    "SR_TUPAC",
    "SR_TUPAC_old1",
    "SR_demo",
)
pytestmark = pytest.mark.shared


def slides_of(source: SourceFile) -> list[SlideInfo]:
    return [
        make_slide(slide.file_name, width_px=slide.width_px or 8000, height_px=slide.height_px or 8000)
        for slide in source.slides
    ]


def by_type_and_class(source: SourceFile) -> dict[str, int]:
    names = {SourceKind.SPECIAL_SPOT: "special"}
    pairs = zip(source.rows.kind.tolist(), source.rows.class_id.tolist(), strict=True)
    counts = Counter(
        f"{names.get(SourceKind(kind), SourceKind(kind).name.lower())}/{source.classes.get(class_id, '?')}({class_id})"
        for kind, class_id in pairs
    )
    return dict(counts)


@pytest.mark.parametrize("name", DATABASES)
def test_databases_hold_what_was_counted(name: str) -> None:
    with (DATA / "sqlite" / "COUNTS.csv").open(newline="", encoding="utf-8") as stream:
        expected = next(row for row in csv.DictReader(stream) if row["file"] == f"{name}.sqlite")
    source = read_source(DATA / "sqlite" / f"{name}.sqlite")
    rows = source.rows
    stated = dict(re.findall(r"([^;=]+?)=(\d+)", expected["by_type_class"]))
    assert len(source.slides) == int(expected["slides"])
    assert len(rows) == int(expected["annotations"])
    assert by_type_and_class(source) == {key.strip(): int(n) for key, n in stated.items()}
    assert len(rows.points_xy) == int(rows.n_points.sum()) == int(expected["coords"])
    assert int(np.count_nonzero(rows.is_deleted)) == 0
    n_negative = sum(bool((rows.points_of(row) < 0).any()) for row in range(len(rows)))
    assert n_negative == int(expected["neg"])
    if expected["real_coords"]:
        n_real = int(np.count_nonzero((rows.points_xy % 1 != 0).any(axis=1)))
        assert n_real == int(expected["real_coords"])
    n_empty = len(source.slides) - len(np.unique(rows.slide_row))
    assert n_empty == int(expected["slides_without_annotations"])
    assert source.notes == ()


@pytest.mark.parametrize("path", ["sqlite/MIDOG.sqlite", "sqlite/SR_demo.sqlite", "coco/MIDOG.json"])
def test_reading_leaves_no_trace(path: str) -> None:
    file = DATA / path
    before = (hashlib.sha256(file.read_bytes()).hexdigest(), sorted(p.name for p in file.parent.iterdir()))
    assert read_source(file).sha256 == before[0]
    assert (hashlib.sha256(file.read_bytes()).hexdigest(), sorted(p.name for p in file.parent.iterdir())) == before


def test_b21_midog_is_the_same_as_database_corners_and_standard_file(tmp_path: Path) -> None:
    path = DATA / "coco" / "MIDOG.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    for item in document["annotations"]:
        x0, y0, x1, y1 = item["bbox"]
        item["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    slides = slides_of(read_source(path))
    database = load(DATA / "sqlite" / "MIDOG.sqlite", slides=slides)
    corners = load(path, slides=slides)
    standard = load(write_json(tmp_path / "twin.json", document), slides=slides)
    assert database.reconciliation.to_rows()[-1] == ("all", "4435", "1721", "2714")
    assert (len(database.listed), len(database.annotated)) == (200, 150)
    for other in (corners, standard):
        assert other.reconciliation == database.reconciliation
        assert other.annotated == database.annotated
        for slide_id, table in database.tables.items():
            twin = other.tables[slide_id]
            for column in ("source_id", "part", "role", "class_id", "boxes_l0"):
                np.testing.assert_array_equal(getattr(twin, column), getattr(table, column))
    decisions = [other.source.bbox_convention for other in (corners, standard)]
    assert [(d.format, d.step) for d in decisions if d] == [("xyxy", "bounds"), ("xywh", "bounds")]
    assert [f"{d.evidence.vx:.3f} {d.evidence.vw:.3f}" for d in decisions if d] == ["0.000 0.528", "1.000 0.000"]
    boxes = np.concatenate([table.boxes_l0 for table in database.tables.values()])
    assert (int((boxes[:, :2] < 0).any(axis=1).sum()), len(boxes)) == (32, 4435)


def test_every_midog_slide_alone_is_decided_rightly() -> None:
    source = read_source(DATA / "coco" / "MIDOG.json")
    steps: Counter[str] = Counter()
    for number, slide in enumerate(source.slides):
        chosen = source.rows.slide_row == number
        first = source.rows.first_point[chosen]
        if len(first):
            boxes = np.concatenate((source.rows.points_xy[first], source.rows.points_xy[first + 1]), axis=1)
            sizes = np.full((len(boxes), 2), (slide.width_px, slide.height_px), dtype=np.float64)
            none = np.zeros(len(boxes), dtype=np.int8)
            decision = decide_bbox_format(boxes, sizes_wh=sizes, witnesses=none, setting="auto", path=slide.file_name)
            assert decision.format == "xyxy"
            steps[decision.step] += 1
    assert steps == {"bounds": 147, "dispersion": 3}


def test_aperio_file_with_other_class_names() -> None:
    path = DATA / "coco" / "MIDOG_AperioCS2.json"
    loaded = load(path, slides=slides_of(read_source(path)))
    assert loaded.reconciliation.to_rows()[-1] == ("all", "1612", "688", "924")


ANSWERS = (
    "ambiguous",
    ("xywh", "equal"),
    ("xywh", "bounds"),
    ("xyxy", "bounds"),
    ("xyxy", "dispersion"),
    ("xywh", "dispersion"),
    "ambiguous",
    "conflict",
    "neither",
    ("xyxy", "witness"),
    "conflict",
    "conflict",
)


@pytest.mark.parametrize("number", range(12))
def test_counterexamples_of_the_box_convention(number: int) -> None:
    document = json.loads((DATA / "formats" / "handmade" / "bbox_conventions.json").read_text(encoding="utf-8"))
    case = document["cases"][number]
    boxes = np.array(case["boxes"], dtype=np.float64)
    witness = Witness.XYXY if "area" in case else Witness.NONE
    answer: object
    try:
        decision = decide_bbox_format(
            boxes,
            sizes_wh=np.full((len(boxes), 2), 1000.0),
            witnesses=np.full(len(boxes), witness, dtype=np.int8),
            setting="auto",
            path=case["name"],
        )
        answer = (decision.format, decision.step)
    except AnnotationError as error:
        answer = next(word for word in ("ambiguous", "conflict", "neither") if word in error.message)
    assert answer == ANSWERS[number]


def test_the_standard_file_is_read_by_its_outlines() -> None:
    path = DATA / "formats" / "coco_std" / "sahi_terrain1_coco.json"
    slide = make_slide("terrain1.jpg", width_px=2048, height_px=1365)
    loaded = load_annotations(path, options=AnnotationOptions(category_map={"human": "target"}), slides=[slide])
    decision = loaded.source.bbox_convention
    assert decision is not None
    assert (decision.format, decision.step) == ("xywh", "witness")
    assert loaded.tables[slide.slide_id].boxes_l0[0].tolist() == [491, 1035, 644, 1217]
    assert loaded.reconciliation.count(Reason.KEPT_TARGET) == 7


def test_tumour_zones_keep_their_drawing_order_and_markers_are_counted() -> None:
    source = read_source(DATA / "sqlite" / "CCMCT_Tumorzone.sqlite")
    assert source.rows.points_of(0)[:2].tolist() == [[42300, 59786], [43577, 60012]]
    slides = [make_slide(slide.file_name, width_px=200_000, height_px=200_000) for slide in source.slides]
    options = AnnotationOptions(category_map={"Tumorzone": "target"}, annotation_types=("polygon",))
    loaded = load_annotations(source.path, options=options, slides=slides)
    counts = {reason: loaded.reconciliation.count(reason) for reason in Reason}
    assert counts[Reason.NAVIGATION_MARKER] == 466
    assert (counts[Reason.KEPT_TARGET], counts[Reason.UNMAPPED_CLASS], counts[Reason.NOT_SELECTED_TYPE]) == (41, 72, 2)
    assert sum(counts.values()) == loaded.reconciliation.n_read == 581


def test_a_rectangle_without_height_is_dropped_with_its_reason() -> None:
    source = read_source(DATA / "sqlite" / "CCMCT_HighMCAreas.sqlite")
    slides = [make_slide(slide.file_name, width_px=200_000, height_px=200_000) for slide in source.slides]
    options = AnnotationOptions(category_map={"1": "target"}, annotation_types=("area",))
    loaded = load_annotations(source.path, options=options, slides=slides)
    assert loaded.reconciliation.to_rows()[-1] == ("all", "33", "32", "1")
    assert loaded.reconciliation.count(Reason.DEGENERATE) == 1


def test_all_shapes_of_the_demo_database() -> None:
    options = AnnotationOptions(category_map={"1": "target"}, annotation_types=("spot", "area", "polygon", "circle"))
    slide = make_slide("9374efe6ac06388cc877.svs", width_px=52199, height_px=40646)
    loaded = load_annotations(DATA / "sqlite" / "SR_demo.sqlite", options=options, slides=[slide])
    assert loaded.reconciliation.count(Reason.KEPT_TARGET) == 2
    assert loaded.reconciliation.count(Reason.UNMAPPED_CLASS) == 3


def test_tupac_slides_are_told_apart_by_their_directories() -> None:
    path = DATA / "sqlite" / "SR_TUPAC.sqlite"
    source = read_source(path)
    found = [
        make_slide(f"{slide.directory}/{slide.file_name}", width_px=8000, height_px=8000) for slide in source.slides
    ]
    loaded = load_annotations(path, options=AnnotationOptions(), slides=found)
    assert loaded.reconciliation.count(Reason.KEPT_TARGET) == 1552
    assert len(loaded.listed) == 656
    some = load_annotations(path, options=AnnotationOptions(), slides=found[:9])
    assert some.listed == {slide.slide_id for slide in found[:9]}
    with pytest.raises(AnnotationError, match=r"73 slides of the annotation file match.*directory '\d+'"):
        load_annotations(path, options=AnnotationOptions(), slides=[make_slide("01.tif")])


def test_old_tupac_slides_cannot_be_told_apart() -> None:
    path = DATA / "sqlite" / "SR_TUPAC_old1.sqlite"
    with pytest.raises(AnnotationError, match=r"match the one slide.*no directory"):
        load_annotations(path, options=AnnotationOptions(), slides=[make_slide("01.tif")])
