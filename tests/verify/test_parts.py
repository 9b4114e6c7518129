"""The rules of the audit one by one, and the comparison of two folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verify.helpers import Json, edit_json
from wsi_extract.disk.files import pretty_json
from wsi_extract.state.layout import DASK_REPORT, MANIFEST
from wsi_extract.verify import Check, compare
from wsi_extract.verify.comparison import CHUNK_BYTES, find_difference, find_json_differences
from wsi_extract.verify.documents import CocoDocument, is_inside, looks_like_xyxy
from wsi_extract.verify.evaluation import precision_against_itself
from wsi_extract.verify.leakage import count_shared_pixels

COORDINATES = st.integers(0, 200)


def document_of(boxes: list[list[float]], *, ids: list[int]) -> CocoDocument:
    images = [{"id": number, "file_name": f"{number}.png", "width": 256, "height": 256} for number in (1, 2)]
    annotations: list[Json] = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for number, box in zip(ids, boxes, strict=True)
    ]
    categories = [{"id": 1, "name": "mitotic figure"}]
    raw = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    return CocoDocument(raw=raw, images=images, annotations=annotations, categories=categories, is_whole=True)


FOUR_BOXES = [[60.0 * n, 10.0, 50.0, 50.0] for n in range(4)]


@pytest.mark.parametrize(
    ("ids", "is_perfect"),
    [
        pytest.param([1, 2, 3, 4], True, id="sound"),
        pytest.param([0, 1, 2, 3], False, id="pycocotools takes id 0 for no match"),
        pytest.param([1, 1, 1, 1], False, id="equal ids hide each other"),
    ],
)
def test_labels_as_predictions_of_themselves(ids: list[int], is_perfect: bool) -> None:
    precision = precision_against_itself(document_of(FOUR_BOXES, ids=ids))
    assert precision is not None
    assert (precision > 1 - 1e-6) is is_perfect


def test_more_labels_than_usual_detections_still_score_one(capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [[5.0 * (n % 20), 5.0 * (n // 20), 4.0, 4.0] for n in range(150)]
    precision = precision_against_itself(document_of(boxes, ids=list(range(1, 151))))
    assert precision == pytest.approx(1)
    assert capsys.readouterr().out == ""


def test_no_labels_no_precision() -> None:
    assert precision_against_itself(document_of([], ids=[])) is None


@given(
    origins=st.lists(st.tuples(COORDINATES, COORDINATES), min_size=8, max_size=60, unique=True),
    side=st.integers(20, 60),
)
def test_clipped_boxes_of_one_size_do_not_look_like_corners(origins: list[tuple[int, int]], side: int) -> None:
    near = np.array(origins, dtype=np.float64) - side / 2
    far = np.clip(near + side, 0, 256)
    near = np.clip(near, 0, 256)
    truth = np.concatenate([near, far - near], axis=1)
    # A slide region smaller than an object is no data set: demand boxes on both sides of it.
    if (np.ptp(near, axis=0) > 2 * side).all():
        assert not looks_like_xyxy(truth)
        corners = np.concatenate([near, far], axis=1)
        if len(origins) >= 20 and (np.ptp(near, axis=0) > 150).all():
            assert looks_like_xyxy(corners[(near > 0).all(axis=1)]) or (near > 0).all(axis=1).sum() < 8


def test_few_boxes_are_not_suspected() -> None:
    corners = np.array([[n, n, n + 50.0, n + 50.0] for n in range(7)], dtype=np.float64)
    assert not looks_like_xyxy(corners)


@given(
    places=st.lists(st.tuples(COORDINATES, COORDINATES, st.integers(0, 2)), max_size=40),
    size=st.tuples(st.floats(1, 90), st.floats(1, 90)),
)
def test_shared_pixels_are_counted(places: list[tuple[int, int, int]], size: tuple[float, float]) -> None:
    expected = sum(
        a[2] != b[2] and abs(a[0] - b[0]) < size[0] - 1e-6 and abs(a[1] - b[1]) < size[1] - 1e-6
        for index, a in enumerate(places)
        for b in places[:index]
    )
    columns = np.array(places, dtype=np.int64).reshape(-1, 3)
    assert count_shared_pixels(columns[:, :2], split=columns[:, 2], footprint_l0_wh=size) == expected


def test_patches_that_touch_share_nothing() -> None:
    origins = np.array([[0, 0], [256, 0]], dtype=np.int64)
    assert count_shared_pixels(origins, split=np.array([0, 1]), footprint_l0_wh=(256.0, 256.0)) == 0
    assert count_shared_pixels(origins, split=np.array([0, 1]), footprint_l0_wh=(256.1, 256.0)) == 1


@pytest.mark.parametrize("name", ["/a.png", "../a.png", "a/../b.png", "a\\b.png", "./a.png", "a//b.png", "a\0.png"])
def test_file_names_that_leave_the_folder(name: str) -> None:
    assert not is_inside(name)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal folders that differ only where runs may differ."""
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "train2017" / "a").mkdir(parents=True)
    (first / "train2017" / "a" / "a.png").write_bytes(bytes(range(256)))
    (first / MANIFEST).write_bytes(pretty_json({"schema": 1, "counts": {"a": [1, 2]}, "run": {"seconds": 1}}))
    shutil.copytree(first, second)
    edit_json(second / MANIFEST, lambda manifest: manifest["run"].update(seconds=2))
    (second / DASK_REPORT).write_text("times")
    return first, second


def test_equal_folders(pair: tuple[Path, Path]) -> None:
    report = compare(*pair)
    assert report.problems == ()
    assert report.n_files == 2
    assert report.checks == (Check.COMPARISON.value,)


def test_every_difference_is_listed(pair: tuple[Path, Path]) -> None:
    first, second = pair
    (second / "train2017" / "a" / "a.png").write_bytes(bytes(range(200)) + b"!" + bytes(range(201, 256)))
    (first / "slides.csv").touch()
    (second / "errors.jsonl").touch()
    edit_json(second / MANIFEST, lambda manifest: manifest["counts"].update(a=[1, 3]))
    messages = [f"{problem.path.name}: {problem.message}" for problem in compare(first, second).problems]
    assert [message.split(" ")[0] for message in messages] == [
        "slides.csv:",
        "errors.jsonl:",
        "a.png:",
        "manifest.json:",
    ]
    assert "differs at byte 200 " in messages[2]
    assert "counts.a[1]: 2 against 3" in messages[3]


def test_other_settings_are_named_before_any_file(pair: tuple[Path, Path]) -> None:
    first, second = pair
    (first / "slides.csv").touch()
    edit_json(first / MANIFEST, lambda manifest: manifest.update(settings={"store": "png"}))
    edit_json(second / MANIFEST, lambda manifest: manifest.update(settings={"store": "zarr"}))
    (problem,) = compare(first, second).problems
    assert problem.message == f'the settings differ from those of {second}: store: "png" against "zarr"'


@pytest.mark.parametrize(
    "name",
    [
        "train2017/gone/gone_x0_y0.png",
        "patches.zarr/val/gone/c/0/0/0/0",
        "pixels.zarr/gone/0/c/0/0/0",
        ".wsi_extract/pixels/gone/0_0.json",
        ".wsi_extract/records/gone/000000.json",
    ],
)
def test_what_a_failed_slide_left_behind_is_no_difference(pair: tuple[Path, Path], name: str) -> None:
    path = pair[0] / name
    path.parent.mkdir(parents=True)
    path.touch()
    assert not compare(*pair).is_sound
    for folder in pair:
        edit_json(
            folder / MANIFEST, lambda manifest: manifest.update(slides=[{"slide_id": "gone", "status": "failed"}])
        )
    assert compare(*pair).problems == ()


def test_an_unfinished_folder_cannot_be_compared(pair: tuple[Path, Path]) -> None:
    (pair[1] / MANIFEST).unlink()
    (problem,) = compare(*pair).problems
    assert "not a finished output folder" in problem.message


def test_damaged_manifest_is_a_difference(pair: tuple[Path, Path]) -> None:
    (pair[1] / MANIFEST).write_text("{")
    (problem,) = compare(*pair).problems
    assert "cannot be read" in problem.message


@pytest.mark.parametrize("n_bytes", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 7])
def test_files_are_compared_beyond_a_chunk(tmp_path: Path, n_bytes: int) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(bytes(n_bytes))
    second.write_bytes(bytes(n_bytes))
    assert find_difference(first, second) == ""
    second.write_bytes(bytes(n_bytes) + b"x")
    assert find_difference(first, second) == f"differs at byte {n_bytes}"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(ours=JSON_VALUES, theirs=JSON_VALUES)
def test_json_values_differ_exactly_when_they_are_unequal(ours: object, theirs: object) -> None:
    # repr tells True from 1, which == does not; dictionaries are compared without their order.
    is_same = ours == theirs and (isinstance(ours, dict | list) or repr(ours) == repr(theirs))
    has_differences = bool(list(find_json_differences(ours, theirs, where="")))
    assert has_differences or is_same
    assert not list(find_json_differences(ours, ours, where=""))
