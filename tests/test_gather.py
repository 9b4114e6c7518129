"""What becomes of each slide: taking part, skipped, unlabelled, failed, and in which split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers_run import CLASSES, Inputs, extract, make_inputs, read_coco, read_manifest
from tests.helpers_slides import write_blank_slide, write_pen_slide, write_ramp_slide
from wsi_extract.errors import AnnotationError, InputError, SplitError
from wsi_extract.geometry import Rect
from wsi_extract.synthetic import AnnotatedSlide, AnnotationRow, write_sliderunner
from wsi_extract.verify import audit


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Five slides; nobody annotated the fifth."""
    return make_inputs(
        tmp_path_factory.mktemp("input"), n_slides=5, counts=lambda uid: {} if uid == 5 else {2: 3 * uid, 7: 2}
    )


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["slide_id"]: row for row in read_manifest(out)["slides"]}


def test_a_list_may_name_a_slide_that_does_not_take_part(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out", test_slides=["slide_5.svs", "slide_1"], train_val_split=0.5)
    rows = rows_of(tmp_path / "out")
    assert (rows["slide_5"]["status"], rows["slide_5"]["splits"]) == ("unlabelled", [])
    assert rows["slide_1"]["splits"] == ["test"]
    assert {image["slide_id"] for image in read_coco(tmp_path / "out", "test")["images"]} == {"slide_1"}


def test_b17_test_slides_by_number_are_really_excluded(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="1 is no slide"):
        extract(inputs, tmp_path / "out", test_slides=[1])


def test_ccmct_preset_without_the_official_slides_is_an_error(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"c91a842257ed2add5134\.svs is no slide"):
        extract(inputs, tmp_path / "out", test_slides=["ccmct"])


@pytest.mark.parametrize("is_small_first", [True, False], ids=["damaged", "mended"])
def test_a_small_slide_that_becomes_unreadable_moves_no_other(tmp_path: Path, is_small_first: bool) -> None:
    inputs, out = make_inputs(tmp_path, n_slides=6), tmp_path / "out"
    path = inputs.wsi_dir / "slide_5.svs"
    path.unlink()
    tissue = (Rect(x0=0, y0=0, x1=100, y1=100),)
    write_ramp_slide(path, width_px=100, height_px=100, tissue_l0=tissue, um_per_px=0.25, vendor="aperio")
    contents = [path.read_bytes(), b"II*\0 and nothing else"]
    seen = []
    for content in contents if is_small_first else reversed(contents):
        path.write_bytes(content)
        extract(inputs, out)  # refused when a slide is to be in another split than before
        rows = rows_of(out)
        assert audit(out).is_sound
        seen.append({slide_id: (row["splits"], row["n_targets"]) for slide_id, row in rows.items()})
        assert rows["slide_5"]["status"] == ("skipped" if content == contents[0] else "failed")
    assert seen[0] == seen[1]
    assert seen[0]["slide_5"][1] == 25  # in the file; none lies on the slide


def test_groups_from_a_table_stay_together(inputs: Inputs, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("slide,group\nslide_1,A\nslide_2.svs,A\nslide_3,B\nslide_4,B\nslide_5,B\n")
    extract(inputs, tmp_path / "out", group_csv=str(table), train_val_split=0.5)
    rows = rows_of(tmp_path / "out")
    assert rows["slide_1"]["splits"] == rows["slide_2"]["splits"]
    assert rows["slide_3"]["splits"] == rows["slide_4"]["splits"] != rows["slide_1"]["splits"]


def test_b10_a_map_that_leaves_no_target_is_an_error(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="target"):
        extract(inputs, tmp_path / "out", category_map={"Mitotic figure": "ignore"})
    assert not (tmp_path / "out").exists()


def test_other_names_of_slides_come_from_a_table(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=2)
    for number in (1, 2):
        (inputs.wsi_dir / f"slide_{number}.svs").rename(inputs.wsi_dir / f"scan_{number}.svs")
    with pytest.raises(InputError):
        extract(inputs, tmp_path / "out", train_val_split=0.5)
    table = tmp_path / "names.csv"
    table.write_text("annotation_name,slide\nslide_1.svs,scan_1.svs\nslide_2.svs,scan_2.svs\n")
    extract(inputs, tmp_path / "out", slide_aliases_csv=str(table), train_val_split=0.5)
    assert {row["status"] for row in rows_of(tmp_path / "out").values()} == {"complete"}


def test_blank_and_fully_marked_slides_yield_what_they_can(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=2)
    write_blank_slide(inputs.wsi_dir / "blank.svs")
    write_pen_slide(inputs.wsi_dir / "pen.svs")
    slides = [*inputs.slides]
    rows = [*inputs.annotations]
    for uid, name in ((11, "blank.svs"), (12, "pen.svs")):
        slides.append(AnnotatedSlide(uid=uid, file_name=name, width_px=2001, height_px=1503))
        rows.append(AnnotationRow(uid=900 + uid, slide_uid=uid, class_id=7, points_l0=((500, 500),)))
    write_sliderunner(inputs.sqlite, slides=slides, classes=CLASSES, annotations=rows)
    for sampling, by_kind in (("anchored", {"hard_negative": 8}), ("grid", {})):
        extract(inputs, tmp_path / sampling, train_val_split=0.5, sampling=sampling)
        found = rows_of(tmp_path / sampling)
        for slide_id in ("blank", "pen"):
            row = found[slide_id]
            assert (row["status"], row["patches_by_kind"]) == ("complete", by_kind)
            assert "tissue" in row["reason"]
        assert found["slide_1"]["reason"] == ""


def test_points_of_a_size_in_micrometres(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out", point_box_um=10.0, mpp=0.5)
    sizes = {tuple(a["bbox"][2:]) for a in read_coco(tmp_path / "out", "train")["annotations"] if not a["iscrowd"]}
    assert (20.0, 20.0) in sizes
    assert max(max(size) for size in sizes) == 20.0


def test_resolutions_from_a_table_win(inputs: Inputs, tmp_path: Path) -> None:
    table = tmp_path / "mpp.csv"
    table.write_text("slide,um_per_px_x,um_per_px_y\nslide_1.svs,0.5,0.4\n")
    extract(inputs, tmp_path / "out", mpp=1.0, slide_mpp_csv=str(table))
    rows = rows_of(tmp_path / "out")
    assert rows["slide_1"]["l0_per_px_xy"] == [2.0, 2.5]
    assert rows["slide_1"]["um_per_px_source"] == "slide override"
    assert rows["slide_2"]["l0_per_px_xy"] == [4.0, 4.0]


def test_nothing_to_extract_is_an_error_that_says_why(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="slide_smaller_than_patch"):
        extract(inputs, tmp_path / "out", patch_size=4096)
    assert not (tmp_path / "out").exists()
