"""The audit names every kind of damage, finds nothing wrong with an untouched data set, and never raises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.verify.helpers import (
    BROKEN_NAME,
    Json,
    edit_coco,
    edit_json,
    edit_record,
    edit_survey,
    make_dataset,
    patch_paths,
    write_inputs,
)
from tests.verify.helpers_damage import (
    RECORD,
    TRAIN,
    Damage,
    change_class,
    change_one_pixel,
    coco,
    first_annotation,
    first_image,
    flip_byte,
    forget_anchor,
    forget_box,
    manifest,
    patch_file,
    record,
    repeat_box,
    replace_text,
    rewrite_mask,
    rewrite_plan,
    set_ids_equal,
    shift_box,
    slide,
    swap_image_ids,
    truncate,
    write_image,
    write_xyxy,
)
from wsi_extract.state.layout import (
    ERRORS,
    MANIFEST,
    SLIDES_TABLE,
    STATE,
    plan_path,
    record_path,
    run_path,
    survey_path,
)
from wsi_extract.verify import Check, audit


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def finished(inputs: Path) -> Path:
    return make_dataset(inputs)


@pytest.fixture
def dataset(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_untouched_data_set_is_sound(finished: Path) -> None:
    report = audit(finished)
    assert report.problems == ()
    assert report.is_sound
    assert report.n_images == len(patch_paths(finished)) == 24
    assert report.n_boxes > 10
    assert set(report.checks) == {check.value for check in Check} - {"arrays", "pixels", "scenes", "comparison"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"split_mode": "half", "patches_per_slide": 8}, id="halves share a slide on purpose"),
        pytest.param({"sampling": "grid", "overlap": 0.2, "patch_size": 200}, id="grid: many overlaps"),
        pytest.param({"label_hard_negatives": True, "level": 1, "patch_size": 64}, id="two classes, level 1"),
        pytest.param({"label_visible_fraction": 0.6, "mpp": 0.31}, id="other visibility rule, resampled"),
        pytest.param({"crowd_visible_fraction": 0.01, "jitter": 0.5}, id="many crowd boxes"),
    ],
)
def test_every_mode_is_sound(inputs: Path, tmp_path: Path, options: Json) -> None:
    output_dir = make_dataset(inputs, name=str(tmp_path / "out"), **options)
    assert audit(output_dir).problems == ()


def put_in(out: Path, name: str) -> None:
    (out / name).parent.mkdir(parents=True)
    (out / name).touch()


CASES = [
    # COCO: boxes
    ("xyxy boxes", coco(write_xyxy), Check.BOXES, "leaves its image"),
    ("zero width", first_annotation(bbox=[1, 1, 0, 5], area=0), Check.BOXES, "is empty"),
    ("negative height", first_annotation(bbox=[1, 9, 5, -5], area=-25), Check.BOXES, "is empty"),
    ("box outside", first_annotation(bbox=[120, 1, 9, 5], area=45), Check.BOXES, "leaves its image"),
    ("negative x", first_annotation(bbox=[-1, 1, 9, 5], area=45), Check.BOXES, "leaves its image"),
    ("box is not finite", first_annotation(bbox=[1, 1, float("nan"), 5]), Check.BOXES, "finite"),
    ("box of three", first_annotation(bbox=[1, 1, 5]), Check.BOXES, "bbox"),
    ("wrong area", first_annotation(area=7.0), Check.BOXES, "area 7.0"),
    # COCO: ids and references
    ("annotation id 0", first_annotation(id=0), Check.COCO, "greater than or equal to 1"),
    ("all annotation ids equal", coco(set_ids_equal), Check.COCO, "annotation id 1 occurs more than once"),
    ("all ids equal lowers the precision", coco(set_ids_equal), Check.EVALUATION, "average precision"),
    ("duplicate image id", first_image(id=2), Check.COCO, "image id 2 occurs more than once"),
    ("text as id", first_image(id="1"), Check.COCO, "valid integer"),
    ("orphan annotation", first_annotation(image_id=4711), Check.COCO, "image 4711, which does not exist"),
    ("category not listed", first_annotation(category_id=3), Check.COCO, "category 3, which is not listed"),
    ("iscrowd 2", first_annotation(iscrowd=2), Check.COCO, "iscrowd"),
    ("iscrowd missing", coco(lambda c: c["annotations"][0].pop("iscrowd")), Check.COCO, "iscrowd: Field required"),
    ("area missing", coco(lambda c: c["annotations"][0].pop("area")), Check.BOXES, "area: Field required"),
    ("categories missing", coco(lambda c: c.pop("categories")), Check.COCO, "categories is missing"),
    ("info missing", coco(lambda c: c.pop("info")), Check.COCO, "info is missing"),
    ("a second category", coco(lambda c: c["categories"].append({"id": 2, "name": "x"})), Check.COCO, "category ids"),
    # COCO: images
    ("absolute file name", first_image(file_name="/a.png"), Check.COCO, "leaves the folder"),
    ("file name upwards", first_image(file_name="../a.png"), Check.COCO, "leaves the folder"),
    ("wrong width", first_image(width=64), Check.PATCHES, "128 x 128 px"),
    ("wrong origin", first_image(x_l0=7), Check.COCO, "x_l0 is 7"),
    ("image left out", coco(lambda c: c["images"].pop()), Check.COCO, "n_images"),
    ("image left out, seen from the disk", coco(lambda c: c["images"].pop()), Check.PATCHES, "is not an image of"),
    ("images renumbered", coco(swap_image_ids), Check.COCO, "id is 2, recorded 1"),
    ("label left out", coco(lambda c: c["annotations"].pop()), Check.COCO, "not the"),
    ("same image twice", coco(lambda c: c["images"].append({**c["images"][0], "id": 99})), Check.COCO, "file_name"),
    # Files
    ("annotations absent", lambda out: (out / TRAIN).unlink(), Check.FOLDER, "missing"),
    ("annotations truncated", lambda out: truncate(out / TRAIN), Check.COCO, "cannot be read"),
    ("annotations not an object", lambda out: (out / TRAIN).write_text("[]"), Check.COCO, "not a JSON object"),
    ("another document", lambda out: shutil.copy(out / TRAIN, out / f"{TRAIN}.json"), Check.FOLDER, "belongs to no"),
    ("leftover beside", lambda out: (out / "manifest.json.7.partial").touch(), Check.FOLDER, "interrupted write"),
    ("leftover below", lambda out: (out / "train2017" / "a.1.partial").touch(), Check.FOLDER, "interrupted write"),
    ("slides.csv absent", lambda out: (out / SLIDES_TABLE).unlink(), Check.FOLDER, "missing"),
    ("run.json absent", lambda out: run_path(out).unlink(), Check.FOLDER, "missing"),
    ("patch absent", patch_file(Path.unlink), Check.PATCHES, "missing"),
    ("a shard", lambda out: put_in(out, "patches.zarr/train/a/c/0/0/0/0"), Check.FOLDER, "no part of a data set"),
    ("patch truncated", patch_file(truncate), Check.PATCHES, "is truncated"),
    ("patch empty", patch_file(lambda path: truncate(path, share=0)), Check.PATCHES, "not a PNG file"),
    ("flipped byte", patch_file(lambda path: flip_byte(path, position=0.5)), Check.PATCHES, ""),
    ("changed pixel", patch_file(change_one_pixel), Check.PATCHES, "digest"),
    ("grey patch", patch_file(write_image((128, 128))), Check.PATCHES, "8-bit RGB"),
    ("16-bit patch", patch_file(write_image((128, 128, 3), dtype=np.uint16)), Check.PATCHES, "8-bit RGB"),
    ("small patch", patch_file(write_image((64, 128, 3))), Check.PATCHES, "is 128 x 64 px"),
    ("a further patch", patch_file(lambda p: shutil.copy(p, p.with_name("x.png"))), Check.PATCHES, "not an image of"),
    # Records and plans
    ("record absent", lambda out: (out / RECORD).unlink(), Check.RECORDS, "missing"),
    ("record edited", replace_text(str(RECORD), old='"y_l0":', new='"y_l0":1'), Check.RECORDS, "own digest"),
    ("record not JSON", lambda out: truncate(out / RECORD), Check.RECORDS, "damaged"),
    ("record moved", record(lambda b: b["patches"][0].update(x_l0=3)), Check.RECORDS, "must be a/a_x3"),
    ("record of another plan", record(lambda b: b.update(plan_digest="0")), Check.RECORDS, "plan_digest"),
    ("record with another kind", record(lambda b: b["patches"][0].update(kind="grid")), Check.RECORDS, "kind"),
    ("record without patches", record(lambda b: b.update(patches=[])), Check.RECORDS, "recorded"),
    ("record without labels", record(lambda b: b["patches"][0].pop("labels")), Check.RECORDS, "KeyError"),
    ("record with wrong counts", record(lambda b: b["label_counts"].update(target_label=99)), Check.RECORDS, "99"),
    ("record of nobody", lambda out: shutil.copy(out / RECORD, out / RECORD.with_name("000077.json")),
     Check.FOLDER, "belongs to no"),
    ("box shifted", record(shift_box), Check.LABELS, "3.00 level-0 px off"),
    ("box forgotten", record(forget_box), Check.LABELS, "but does not list it"),
    ("box twice", record(repeat_box), Check.LABELS, "twice"),
    ("box of another class", record(change_class), Check.LABELS, "different categories"),
    ("anchor not labelled", record(forget_anchor), Check.ANCHORS, "does not show its anchor"),
    ("plan absent", lambda out: plan_path(out, slide_id="a").unlink(), Check.PLANS, "cannot be read"),
    ("plan truncated", lambda out: truncate(plan_path(out, slide_id="a")), Check.PLANS, "cannot be read"),
    ("plan edited", rewrite_plan, Check.PLANS, "not the one that was recorded"),
    ("survey absent", lambda out: survey_path(out, slide_id="a").unlink(), Check.PLANS, "missing"),
    ("survey edited", lambda out: edit_survey(out, lambda s: s.update(n_patches=3)),
     Check.PLANS, "n_patches"),
    ("survey malformed", lambda out: survey_path(out, slide_id="a").write_text('{"accounts": 1}'), Check.PLANS, ""),
    ("survey edited by hand", replace_text(".wsi_extract/plans/a.json", old='"n_patches":', new='"n_patches":1'),
     Check.PLANS, "own digest"),
    ("mask emptied", rewrite_mask, Check.TISSUE, "less than 0.1"),
    # Manifest and tables
    ("manifest not JSON", lambda out: truncate(out / MANIFEST), Check.MANIFEST, "cannot be read"),
    ("unknown schema", manifest(lambda m: m.update(schema=99)), Check.MANIFEST, "schema 99"),
    ("manifest without settings", manifest(lambda m: m.pop("settings")), Check.MANIFEST, "settings: Field required"),
    ("manifest, total off", manifest(lambda m: m["counts"].update(patches_written=7)), Check.MANIFEST, "s_written"),
    ("manifest, status", manifest(lambda m: m.update(status="complete")), Check.MANIFEST, "status"),
    ("manifest, images off", manifest(lambda m: m["splits"]["val"].update(n_images=7)), Check.COCO, "n_images"),
    ("manifest, digest off", manifest(lambda m: m["splits"]["val"].update(sha256="0")), Check.COCO, "sha256"),
    ("manifest, crowd off", manifest(lambda m: m["splits"]["val"].update(n_crowd=7)), Check.COCO, "n_crowd"),
    ("manifest, empty off", manifest(lambda m: m["splits"]["val"].update(n_empty_images=0)), Check.COCO, "n_empty"),
    ("manifest, no val", manifest(lambda m: m["splits"].pop("val")), Check.MANIFEST, "the val split is missing"),
    ("slide, lost patches", slide(0, n_failed=3), Check.MANIFEST, "8 planned, but 8 written + 3 failed"),
    ("slide, kinds off", slide(0, patches_by_kind={"random": 8}), Check.RECORDS, "patches_by_kind"),
    ("slide, labels off", slide(0, label_counts={}), Check.RECORDS, "label_counts"),
    ("slide, pixels off", slide(0, pixels_sha256="0"), Check.RECORDS, "pixels_sha256"),
    ("slide, smaller", slide(0, width_l0_px=200), Check.PLANS, "reaches over the slide's edge"),
    ("slide in another split", slide(0, splits=["test"]), Check.RECORDS, "splits"),
    ("group in two splits", manifest(lambda m: [s.update(group="g") for s in m["slides"]]), Check.LEAKAGE, "group g"),
    ("same content", manifest(lambda m: [s.update(fingerprint="f") for s in m["slides"]]), Check.LEAKAGE, "content"),
    ("errors absent", lambda out: (out / ERRORS).unlink(), Check.TABLES, "missing, although slides failed: broken"),
    ("errors twice", lambda out: (out / ERRORS).write_bytes((out / ERRORS).read_bytes() * 2), Check.TABLES, "failed"),
    ("errors not JSON", lambda out: (out / ERRORS).write_text("{"), Check.TABLES, "cannot be read"),
    ("slides.csv edited", replace_text(SLIDES_TABLE, old=",complete,", new=",skipped,"), Check.TABLES, "status"),
    ("slides.csv, column lost", replace_text(SLIDES_TABLE, old="slide_id,", new="slide,"), Check.TABLES, "columns"),
    ("run.json, other settings", lambda out: edit_json(run_path(out), lambda r: r["settings"].update(seed=1)),
     Check.TABLES, "settings differ"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "check", "fragment"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_damage_is_named(dataset: Path, damage: Damage, check: Check, fragment: str) -> None:
    damage(dataset)
    report = audit(dataset)
    found = [problem.message for problem in report.problems if problem.check is check]
    assert any(fragment in message for message in found), report.problems
    assert report.n_problems >= len(report.problems) > 0
    assert not report.is_sound


@pytest.mark.parametrize("name", ["nothing there", "empty", "file", "other files"])
def test_a_folder_of_something_else_is_one_clear_problem(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    if name == "file":
        folder.write_text("x")
    elif name != "nothing there":
        folder.mkdir()
    if name == "other files":
        (folder / "picture.png").write_bytes(b"x")
    (problem,) = audit(folder).problems
    assert problem.check is Check.FOLDER
    assert "no such folder" in problem.message or "not an output folder" in problem.message


def test_an_unfinished_run_is_one_clear_problem(dataset: Path) -> None:
    (dataset / MANIFEST).unlink()
    (problem,) = audit(dataset).problems
    assert "did not finish" in problem.message


def test_files_of_a_failed_slide_are_tolerated(dataset: Path) -> None:
    name = Path(BROKEN_NAME).stem
    (dataset / "train2017" / name).mkdir()
    shutil.copy(patch_paths(dataset)[0], dataset / "train2017" / name / "half.png")
    path = record_path(dataset, slide_id=name, index=0)
    path.parent.mkdir()
    path.write_text("{}")
    assert audit(dataset).is_sound


def test_what_is_not_of_the_contract_is_the_users_own(dataset: Path) -> None:
    (dataset / "notes.txt").write_text("mine")
    (dataset / "qc").mkdir()
    (dataset / "qc" / "overlay.png").write_bytes(b"x")
    assert audit(dataset).is_sound


def test_many_problems_are_counted_but_not_all_listed(dataset: Path) -> None:
    for path in patch_paths(dataset):
        path.unlink()
    report = audit(dataset)
    assert report.n_problems == 24
    assert len(report.problems) == 20


def digested_files(folder: Path) -> list[Path]:
    """Return the files in which no byte can change without a trace."""
    state = [path for path in sorted((folder / STATE / "records").rglob("*")) if path.is_file()]
    return [*sorted((folder / "annotations").iterdir()), *patch_paths(folder)[::8], *state]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_stays_unseen(finished: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(digested_files(finished)), label="file")
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before) - 1), label="position")
    flip = data.draw(st.integers(1, 255), label="flip")
    try:
        path.write_bytes(before[:position] + bytes([before[position] ^ flip]) + before[position + 1 :])
        assert not audit(finished).is_sound
    finally:
        path.write_bytes(before)


def refuse_abort(folder: Path) -> None:
    """Audit a folder; neither may an error come out, nor may one cut the audit short."""
    assert not [p for p in audit(folder).problems if p.check is Check.FOLDER and "cannot be read" in p.message]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_raises(finished: Path, data: st.DataObject) -> None:
    files = sorted(p for p in finished.rglob("*") if p.is_file() and p.suffix != ".png" and p.stat().st_size)
    path = data.draw(st.sampled_from(files), label="file")
    before = path.read_bytes()
    start = data.draw(st.integers(0, max(len(before) - 1, 0)), label="start")
    stop = data.draw(st.integers(start, min(len(before), start + 40)), label="stop")
    put = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"null", b"-1", b"[]", b'"x"', b"1e999"])))
    try:
        path.write_bytes(before[:start] + put + before[stop:])
        refuse_abort(finished)
    finally:
        path.write_bytes(before)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_malformed_json_raises(finished: Path, data: st.DataObject) -> None:
    """Replace one value, anywhere in a document, by one of another type; digests are made to fit."""
    junk: st.SearchStrategy[Any] = st.sampled_from([None, True, -1, 10**30, 0.5, "x", "", [], {}, [[]], {"a": None}])
    value = data.draw(junk, label="value")

    def replace_somewhere(document: Any) -> None:
        while isinstance(document, dict | list) and document:
            keys = sorted(document) if isinstance(document, dict) else range(len(document))
            key = data.draw(st.sampled_from(list(keys)), label="key")
            inner = document[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans(), label="stop"):
                document[key] = value
                return
            document = inner

    which = data.draw(st.sampled_from(["manifest", "record", "coco", "survey"]), label="file")
    touched = [finished / MANIFEST, finished / TRAIN, finished / RECORD, survey_path(finished, slide_id="a")]
    before = [path.read_bytes() for path in touched]
    try:
        match which:
            case "manifest":
                edit_json(finished / MANIFEST, replace_somewhere)
            case "record":
                edit_record(finished, replace_somewhere)
            case "coco":
                edit_coco(finished, replace_somewhere)
            case _:
                edit_survey(finished, replace_somewhere)
        refuse_abort(finished)
    finally:
        for path, content in zip(touched, before, strict=True):
            path.write_bytes(content)
