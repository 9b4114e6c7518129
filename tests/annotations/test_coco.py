"""COCO files: what is read, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.annotations.test_builders import box, coco_document, load, make_slide, write_json
from wsi_extract.annotations import AnnotationOptions, Reason, read_source
from wsi_extract.annotations.source import Witness
from wsi_extract.errors import AnnotationError

XYXY = AnnotationOptions(bbox_format="xyxy")
XYWH = AnnotationOptions(bbox_format="xywh")
LISTED_TWICE = ({"id": 1, "file_name": "001.tiff"}, {"id": 1, "file_name": "002.tiff"})


def test_b21_corner_boxes_of_the_published_files_are_recognised(tmp_path: Path) -> None:
    boxes = [[2000.5, 1500, 2050.5, 1550], [3000, 2500, 3050, 2550], [-13, -12, 37, 38]]
    path = write_json(tmp_path / "a.json", coco_document([box(i, b) for i, b in enumerate(boxes, 1)]))
    loaded = load(path)
    assert loaded.tables["001"].boxes_l0.tolist() == boxes, "neither clipped nor rounded"
    decision = loaded.source.bbox_convention
    assert decision is not None
    assert (decision.format, decision.step, decision.evidence.vx) == ("xyxy", "bounds", 0.0)
    assert decision.evidence.vw == pytest.approx(1 / 3)


def test_standard_boxes_become_corners(tmp_path: Path) -> None:
    items = [box(i, [x, 900, 50, 60], area=3000, iscrowd=0) for i, x in enumerate((900, 1900), 1)]
    loaded = load(write_json(tmp_path / "a.json", coco_document(items)))
    assert loaded.tables["001"].boxes_l0.tolist() == [[900, 900, 950, 960], [1900, 900, 1950, 960]]


def test_an_explicit_convention_wins_and_says_when_it_looks_wrong(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", coco_document([box(1, [700, 700, 750, 750])]))
    small = [make_slide(width_px=1300, height_px=1300)]
    assert load(path, slides=small, options=XYXY).tables["001"].boxes_l0.tolist() == [[700, 700, 750, 750]]
    loaded = load(path, slides=small, options=XYWH)
    assert loaded.tables["001"].boxes_l0.tolist() == [[700, 700, 1450, 1450]]
    assert load(path, slides=small, options=XYXY).source.notes == ()
    with pytest.raises(AnnotationError, match=r"out_of_slide: 1.*--bbox_format"):
        load(path, slides=[make_slide(width_px=1000, height_px=1000)], options=XYWH)


def test_ids_that_repeat_become_parts_in_file_order(tmp_path: Path) -> None:
    items = [box(i, [100 * k, 100, 100 * k + 50, 150]) for k, i in enumerate((7, 3, 7, 7), 1)]
    loaded = load(write_json(tmp_path / "a.json", coco_document(items)), options=XYXY)
    table = loaded.tables["001"]
    assert [table.name_of(row) for row in range(4)] == ["3", "7", "7.1", "7.2"]
    assert table.boxes_l0[:, 0].tolist() == [200, 100, 300, 400]
    assert "2 boxes repeat the id" in loaded.source.notes[0]


RING = [100, 100, 250, 100, 250, 250, 100, 250]
WITNESSES: dict[str, tuple[dict[str, object], Witness]] = {
    "area of corners": ({"area": 2500}, Witness.XYXY),
    "area of sizes": ({"area": 22500.0}, Witness.XYWH),
    "area of neither": ({"area": 12345}, Witness.NONE),
    "area null": ({"area": None}, Witness.NONE),
    "area huge": ({"area": 10**400}, Witness.NONE),
    "outline": ({"segmentation": [RING], "area": 2500}, Witness.XYWH),
    "flat outline": ({"segmentation": RING}, Witness.XYWH),
    "outline of corners": ({"segmentation": [[100, 100, 150.4, 100, 149.6, 150]]}, Witness.XYXY),
    "outline in two rings": ({"segmentation": [[100, 100, 150, 100, 150, 150], RING]}, Witness.XYWH),
    "outline of odd length": ({"segmentation": [[100, 100, 150]], "area": 2500}, Witness.XYXY),
    "run lengths": ({"segmentation": {"counts": [1], "size": [9, 9]}}, Witness.NONE),
}


@pytest.mark.parametrize(("more", "witness"), WITNESSES.values(), ids=WITNESSES)
def test_area_and_outline_bear_witness(tmp_path: Path, more: dict[str, object], witness: Witness) -> None:
    path = write_json(tmp_path / "a.json", coco_document([box(1, [100, 100, 150, 150], **more)]))
    assert read_source(path).rows.witness.tolist() == [witness]
    if witness is not Witness.NONE:
        decision = load(path).source.bbox_convention
        assert decision is not None
        assert (decision.format.upper(), decision.step) == (witness.name, "witness")


LEFT_OUT = {
    "image_id null": ({"image_id": None}, Reason.ORPHAN),
    "image_id not listed": ({"image_id": 12}, Reason.ORPHAN),
    "category_id null": ({"category_id": None}, Reason.UNKNOWN_CLASS),
    "category 0 not listed": ({"category_id": 0}, Reason.UNKNOWN_CLASS),
    "category not listed": ({"category_id": 5}, Reason.UNKNOWN_CLASS),
    "bbox null": ({"bbox": None}, Reason.NO_COORDINATES),
    "bbox empty": ({"bbox": []}, Reason.NO_COORDINATES),
    "no area": ({"bbox": [5, 5, 5, 9]}, Reason.DEGENERATE),
    "inverted": ({"bbox": [50, 5, 5, 9]}, Reason.DEGENERATE),
    "centre on the right border": ({"bbox": [3900, 5, 4100, 9]}, Reason.OUT_OF_SLIDE),
}


@pytest.mark.parametrize(("change", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_rows_left_out_are_counted_with_their_reason(tmp_path: Path, change: dict[str, object], reason: Reason) -> None:
    items = [box(1, [5, 5, 9, 9]), {**box(2, [5, 5, 9, 9]), **change}]
    loaded = load(write_json(tmp_path / "a.json", coco_document(items)), options=XYXY)
    assert loaded.reconciliation.count(reason) == 1
    assert loaded.reconciliation.n_read == 2
    assert loaded.tables["001"].source_id.tolist() == [1]


def test_category_zero_counts_when_it_is_listed(tmp_path: Path) -> None:
    items = [{**box(1, [5, 5, 9, 9]), "category_id": 0}]
    path = write_json(tmp_path / "a.json", coco_document(items, classes=((0, "mitotic figure"),)))
    assert load(path, options=XYXY).tables["001"].class_id.tolist() == [0]


def test_crowd_regions_are_to_be_ignored(tmp_path: Path) -> None:
    rle = {"counts": "abc", "size": [3000, 4000]}
    items = [box(1, [5, 5, 9, 9], iscrowd=0), box(2, [5, 5, 9, 9], iscrowd=1, segmentation=rle)]
    loaded = load(write_json(tmp_path / "a.json", coco_document(items)), options=XYXY)
    assert loaded.tables["001"].role.tolist() == [1, 4]
    assert loaded.reconciliation.count(Reason.KEPT_IGNORE) == 1


def test_images_without_annotations_are_listed_but_not_annotated(tmp_path: Path) -> None:
    images = [{"id": uid, "file_name": f"{uid:03}.tiff"} for uid in (1, 2)]
    path = write_json(tmp_path / "a.json", coco_document([box(1, [5, 5, 9, 9])], images=images))
    slides = [make_slide(f"{uid:03}.tiff") for uid in (1, 2, 3)]
    loaded = load(path, slides=slides, options=XYXY)
    assert loaded.listed == {"001", "002"}
    assert loaded.annotated == {"001"}
    assert len(loaded.tables["002"]) == 0
    assert loaded.reconciliation.unlisted_slides == ("003",)


def test_the_slide_wins_over_wrong_dimensions_in_the_file(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "001.tiff", "width": 100, "height": 100}]
    boxes = [[2000, 1500, 2050, 1550], [3000, 2500, 3050, 2550]]
    items = [box(i, b) for i, b in enumerate(boxes)]
    loaded = load(write_json(tmp_path / "a.json", coco_document(items, images=images)))
    assert len(loaded.tables["001"]) == 2
    assert "100 x 100 px, the slide has 4000 x 3000" in loaded.source.notes[0]


def test_a_byte_order_mark_and_extra_keys_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document = coco_document([box(1, [5, 5, 9, 9], score=0.5)], licenses=[], info={"contributor": "Dr. Secret"})
    path.write_text("\n " + json.dumps(document), encoding="utf-8")
    assert len(load(path, options=XYXY).tables["001"]) == 1
    path.write_text(json.dumps(document), encoding="utf-8-sig")
    loaded = load(path, options=XYXY)
    assert len(loaded.tables["001"]) == 1
    assert "Secret" not in repr(loaded)


BAD_ANNOTATIONS = {
    "id missing": {"id": None},
    "id text": {"id": "1"},
    "id true": {"id": True},
    "id beyond 64 bits": {"id": 2**63},
    "image_id text": {"image_id": "1"},
    "category_id float": {"category_id": 1.5},
    "bbox of three": {"bbox": [1, 2, 3]},
    "bbox object": {"bbox": {"x": 1}},
    "bbox text": {"bbox": [1, 2, 3, "4"]},
    "bbox true": {"bbox": [1, 2, 3, True]},
    "bbox huge": {"bbox": [1, 2, 3, 10**400]},
    "iscrowd list": {"iscrowd": [1]},
    "iscrowd 2": {"iscrowd": 2},
}


@pytest.mark.parametrize("change", BAD_ANNOTATIONS.values(), ids=BAD_ANNOTATIONS)
def test_wrong_values_are_refused_with_their_place(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_json(tmp_path / "a.json", coco_document([box(1, [5, 5, 9, 9]), {**box(2, [5, 5, 9, 9]), **change}]))
    with pytest.raises(AnnotationError, match=rf"a\.json: annotations\[1\]: {next(iter(change))}"):
        read_source(path)


BAD_DOCUMENTS = {
    "NaN": ('{"images": [], "annotations": [{"bbox": [NaN, 1, 2, 3]}], "categories": []}', "NaN is not JSON"),
    "overflow": (
        '{"images": [], "categories": [], "annotations": [{"id": 1, "bbox": [1e999, 1, 2, 3]}]}',
        r"annotations\[0\]: bbox",
    ),
    "truncated": ('{"images": [', "not valid JSON"),
    "deep": ("[" * 200_000, "not valid JSON"),
    "not UTF-8": ('{"images": "\udcff"}', "not valid JSON"),
    "list": ("[]", "no object.*Supported are"),
    "GeoJSON": ('{"type": "FeatureCollection", "features": []}', "lacks images, annotations, categories.*Supported"),
    "images object": ('{"images": {}, "annotations": [], "categories": []}', "'images' is dict"),
    "image number": ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\] is int"),
    "half a character": (
        '{"images": [{"id": 1, "file_name": "\\ud800"}], "annotations": [], "categories": []}',
        r"images\[0\]",
    ),
    "category without name": ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', r"categories\[0\]: name"),
    "image listed twice": (json.dumps(coco_document([], images=LISTED_TWICE)), r"images\[1\]: id 1 occurs more"),
    "category listed twice": (
        json.dumps(coco_document([], classes=((1, "a"), (1, "b")))),
        r"categories\[1\]: id 1 occurs more",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_documents_that_are_no_coco_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AnnotationError, match=rf"(?s)a\.json.*{message}"):
        read_source(path)
