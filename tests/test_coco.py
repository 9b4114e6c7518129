"""COCO documents as the official loader and pycocotools see them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsi_extract.coco import CocoCounts, open_coco, write_coco
from wsi_extract.state.records import BlockDocument, LabelEntry, PatchEntry

CATEGORIES = {1: "mitotic figure", 2: "mitotic figure look-alike"}
Bbox = tuple[float, float, float, float]


def label(bbox: Bbox, *, category: int = 1, crowd: int = 0, source: str = "7") -> LabelEntry:
    return {"bbox": list(bbox), "category_id": category, "iscrowd": crowd, "source_id": source}


def patch(row: int, labels: list[LabelEntry], *, kind: str = "mitosis") -> PatchEntry:
    return {
        "row": row,
        "file_name": f"s1/s1_x{row * 256}_y0.png",
        "bytes": 10,
        "sha256": "0",
        "x_l0": row * 256,
        "y_l0": 0,
        "kind": kind,
        "requested_kind": "mitosis",
        "anchor": labels[0]["source_id"] if labels else None,
        "tissue_fraction": 0.5,
        "labels": labels,
    }


def block(patches: list[PatchEntry], *, slide_id: str = "s1", index: int = 0) -> BlockDocument:
    return {
        "schema": 1,
        "slide_id": slide_id,
        "index": index,
        "split": "train",
        "plan_digest": "d",
        "patch_wh_px": [256, 128],
        "level": 0,
        "l0_per_px_xy": [1.0, 2.0],
        "um_per_px_xy": None,
        "patches": patches,
        "label_counts": {},
    }


def two_blocks() -> list[BlockDocument]:
    first = [
        patch(0, [label((10.5, 20.25, 50, 49.5)), label((0, 0, 25, 50), crowd=1)]),
        patch(1, [], kind="random"),
        patch(2, [label((200, 100, 56, 28), category=2)]),
    ]
    return [block(first), block([patch(3, [label((1, 2, 3, 4), source="9.1")])], slide_id="sé", index=1)]


def write(path: Path, blocks: list[BlockDocument]) -> CocoCounts:
    return write_coco(path, blocks, category_names=CATEGORIES, description="tést")


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    write(tmp_path / "a.json", two_blocks())
    parsed: dict[str, Any] = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    return parsed


def test_the_document_has_every_section(document: dict[str, Any]) -> None:
    assert list(document) == ["info", "licenses", "categories", "images", "annotations"]
    assert document["info"] == {"description": "tést", "version": "1.0"}
    assert [(category["id"], category["name"]) for category in document["categories"]] == list(CATEGORIES.items())


def test_ids_start_at_one_and_follow_the_plan(document: dict[str, Any]) -> None:
    assert [image["id"] for image in document["images"]] == [1, 2, 3, 4]
    assert [image["x_l0"] for image in document["images"]] == [0, 256, 512, 768]
    assert [annotation["id"] for annotation in document["annotations"]] == [1, 2, 3, 4]
    assert [annotation["image_id"] for annotation in document["annotations"]] == [1, 1, 3, 4]


def test_images_without_boxes_are_kept(document: dict[str, Any]) -> None:
    assert document["images"][1]["kind"] == "random"
    assert all(annotation["image_id"] != 2 for annotation in document["annotations"])


def test_images_state_their_size_and_provenance(document: dict[str, Any]) -> None:
    image = document["images"][3]
    assert (image["width"], image["height"]) == (256, 128)
    assert (image["slide_id"], image["split"], image["level"]) == ("sé", "train", 0)
    assert (image["l0_per_px_xy"], image["um_per_px_xy"], image["anchor"]) == ([1.0, 2.0], None, "9.1")
    assert "look_alikes" not in image


def test_look_alikes_stay_in_a_side_field(tmp_path: Path) -> None:
    entry = patch(0, [])
    entry["look_alikes"] = [label((1, 2, 3, 4), category=2, source="5")]
    counts = write(tmp_path / "a.json", [block([entry])])
    parsed = json.loads((tmp_path / "a.json").read_bytes())
    assert parsed["annotations"] == []
    assert parsed["images"][0]["look_alikes"] == [{"bbox": [1, 2, 3, 4], "source_id": "5"}]
    assert counts.n_empty_images == 1


def test_annotations_have_every_key_evaluation_needs(document: dict[str, Any]) -> None:
    first = document["annotations"][0]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10.5, 20.25, 50, 49.5],
        "area": 2475.0,
        "iscrowd": 0,
        "source_id": "7",
    }
    assert [annotation["iscrowd"] for annotation in document["annotations"]] == [0, 1, 0, 0]


@pytest.mark.parametrize("side", [0.0001, 0.005, 0.7071, 12.5313])
def test_an_area_is_the_product_of_the_sides_and_never_zero(tmp_path: Path, side: float) -> None:
    write(tmp_path / "a.json", [block([patch(0, [label((1, 1, side, side))])])])
    (annotation,) = json.loads((tmp_path / "a.json").read_bytes())["annotations"]
    assert annotation["area"] > 0
    assert annotation["area"] == pytest.approx(side * side, rel=1e-9)


def test_counts_are_those_of_the_document(tmp_path: Path) -> None:
    counts = write(tmp_path / "a.json", two_blocks())
    assert (counts.n_images, counts.n_empty_images, counts.n_crowd) == (4, 1, 1)
    assert dict(+counts.labels_by_category) == {1: 2, 2: 1}
    assert dict(counts.images_by_kind) == {"mitosis": 3, "random": 1}


def test_an_empty_split_is_a_valid_document(tmp_path: Path) -> None:
    for name, blocks in (("none", []), ("empty", [block([])])):
        counts = write(tmp_path / name, blocks)
        parsed = json.loads((tmp_path / name).read_bytes())
        assert (parsed["images"], parsed["annotations"], counts.n_images) == ([], [], 0)
        assert list(COCO(tmp_path / name).imgs) == []


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.json", two_blocks())
    write(tmp_path / "b.json", two_blocks())
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_cutting_the_plan_differently_gives_the_same_document(tmp_path: Path) -> None:
    patches = [entry for each in two_blocks() for entry in each["patches"]]
    write(tmp_path / "a.json", [block(patches)])
    write(tmp_path / "b.json", [block([entry], index=row) for row, entry in enumerate(patches)])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_failure_in_the_middle_leaves_the_old_document(tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "a.json"
    write(path, two_blocks())
    before = path.read_bytes()

    def broken() -> Iterator[BlockDocument]:
        yield two_blocks()[1]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_coco(path, broken(), category_names=CATEGORIES, description="")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_numbers_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "a.json", [block([patch(0, [label((float("nan"), 0, 1, 1))])])])
    assert list(tmp_path.iterdir()) == []


# --- consumers -----------------------------------------------------------------------------------------------------


def official_target(
    annotations: list[dict[str, Any]], *, width: int, height: int
) -> tuple[list[list[float]], list[int]]:
    """What the loader of Deformable-DETR makes of the annotations of one image (datasets/coco.py, ConvertCoco)."""
    kept = [annotation for annotation in annotations if "iscrowd" not in annotation or annotation["iscrowd"] == 0]
    boxes = np.array([annotation["bbox"] for annotation in kept], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    classes = np.array([annotation["category_id"] for annotation in kept], dtype=np.int64)
    return boxes[keep].tolist(), classes[keep].tolist()


def test_the_official_conversion_gives_the_boxes_meant(tmp_path: Path) -> None:
    write(tmp_path / "a.json", two_blocks())
    coco = COCO(tmp_path / "a.json")
    targets = [
        official_target(coco.loadAnns(coco.getAnnIds(imgIds=[image_id])), width=256, height=128)
        for image_id in sorted(coco.imgs)
    ]
    assert targets == [
        ([[10.5, 20.25, 60.5, 69.75]], [1]),
        ([], []),
        ([[200, 100, 256, 128]], [2]),
        ([[1, 2, 4, 6]], [1]),
    ]


def test_pycocotools_sees_every_image_and_annotation(tmp_path: Path) -> None:
    write(tmp_path / "a.json", two_blocks())
    coco = COCO(tmp_path / "a.json")
    assert sorted(coco.imgs) == [1, 2, 3, 4]
    assert sorted(coco.anns) == [1, 2, 3, 4]
    assert coco.getImgIds(catIds=[2]) == [3]
    assert coco.getAnnIds(iscrowd=True) == [2]


def average_precision(coco: COCO, predictions: list[dict[str, Any]]) -> float:
    evaluation = COCOeval(coco, coco.loadRes(predictions), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_ground_truth_as_prediction_has_average_precision_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    patches = []
    for row in range(12):
        corners = rng.uniform(0, [200, 70], (row % 4, 2)).round(4).tolist()
        labels = [label((x, y, 50, 50), category=1 + i % 2, crowd=int(i == 2)) for i, (x, y) in enumerate(corners)]
        patches.append(patch(row, labels))
    write(tmp_path / "a.json", [block(patches)])
    coco = COCO(tmp_path / "a.json")
    perfect = [
        {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.9}
        for entry in coco.anns.values()
    ]
    assert average_precision(coco, perfect) == pytest.approx(1.0)
    shifted = [{**entry, "bbox": [entry["bbox"][0] + 40, *entry["bbox"][1:]]} for entry in perfect]
    assert average_precision(coco, shifted) < 0.1


# --- properties ----------------------------------------------------------------------------------------------------

sides = st.floats(0.001, 128).map(lambda value: round(value, 4))
label_entries = st.builds(
    lambda box, category, crowd, source: label(box, category=category, crowd=crowd, source=source),
    st.tuples(sides, sides, sides, sides),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1]),
    st.text(max_size=5),
)


@given(per_patch=st.lists(st.lists(label_entries, max_size=4), max_size=8), cut=st.integers(1, 8))
def test_every_label_comes_back_once_with_its_patch(
    tmp_path_factory: pytest.TempPathFactory, per_patch: list[list[LabelEntry]], cut: int
) -> None:
    patches = [patch(row, labels) for row, labels in enumerate(per_patch)]
    blocks = [block(patches[start : start + cut]) for start in range(0, len(patches), cut)]
    path = tmp_path_factory.mktemp("coco") / "a.json"
    counts = write(path, blocks)
    parsed = json.loads(path.read_bytes())
    assert [image["file_name"] for image in parsed["images"]] == [entry["file_name"] for entry in patches]
    found: list[list[LabelEntry]] = [[] for _ in patches]
    for number, annotation in enumerate(parsed["annotations"], start=1):
        assert annotation["id"] == number
        back = label(annotation["bbox"], category=annotation["category_id"], crowd=annotation["iscrowd"])
        found[annotation["image_id"] - 1].append({**back, "source_id": annotation["source_id"]})
    assert found == per_patch
    assert counts.n_crowd + counts.labels_by_category.total() == len(parsed["annotations"])


texts = st.text(max_size=8)
entries = st.builds(
    lambda labels, side, name, anchor, fraction, kind: {
        **patch(0, labels, kind=kind),
        **({"look_alikes": side} if side else {}),
        "file_name": name,
        "anchor": anchor,
        "tissue_fraction": fraction,
    },
    st.lists(label_entries, max_size=2),
    st.lists(label_entries, max_size=2),
    texts,
    st.none() | texts,
    st.floats(0, 1).map(lambda value: round(value, 6)),
    texts,
)


@settings(max_examples=40)
@given(
    per_block=st.lists(st.lists(entries, max_size=4), max_size=4),
    slide_id=texts,
    um_per_px=st.none() | st.tuples(sides, sides).map(list),
)
def test_images_are_what_the_json_encoder_makes_of_them(
    tmp_path_factory: pytest.TempPathFactory,
    per_block: list[list[PatchEntry]],
    slide_id: str,
    um_per_px: list[float] | None,
) -> None:
    blocks: list[BlockDocument] = [
        {**block(patches, slide_id=slide_id), "um_per_px_xy": um_per_px} for patches in per_block
    ]
    path = tmp_path_factory.mktemp("coco") / "a.json"
    write(path, blocks)
    text = path.read_text(encoding="utf-8")
    images = json.loads(text)["images"]
    assert text[text.index('"images":[') : text.index('\n],\n"annotations"')] == '"images":[' + ",".join(
        "\n" + json.dumps(image, separators=(",", ":"), ensure_ascii=False) for image in images
    )
    expected = [
        {
            "id": number,
            "file_name": entry["file_name"],
            "width": 256,
            "height": 128,
            "slide_id": slide_id,
            "split": "train",
            "kind": entry["kind"],
            "requested_kind": entry["requested_kind"],
            "anchor": entry["anchor"],
            "x_l0": entry["x_l0"],
            "y_l0": entry["y_l0"],
            "l0_per_px_xy": [1.0, 2.0],
            "um_per_px_xy": um_per_px,
            "level": 0,
            "tissue_fraction": entry["tissue_fraction"],
            **(
                {"look_alikes": [{key: side[key] for key in ("bbox", "source_id")} for side in entry["look_alikes"]]}
                if "look_alikes" in entry
                else {}
            ),
        }
        for number, entry in enumerate((entry for patches in per_block for entry in patches), start=1)
    ]
    assert images == expected
    assert [list(image) for image in images] == [list(image) for image in expected]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_tissue_fraction_json_cannot_hold_is_refused(tmp_path: Path, number: float) -> None:
    entry = {**patch(0, []), "tissue_fraction": number}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "a.json", [block([entry])])  # type: ignore[list-item]  # a spread TypedDict is a dict
    assert list(tmp_path.iterdir()) == []


def test_documents_of_two_splits_are_written_side_by_side(tmp_path: Path) -> None:
    first, second = two_blocks()
    options: dict[str, Any] = {"category_names": CATEGORIES, "description": "tést"}
    with open_coco(tmp_path / "a.json", **options) as a, open_coco(tmp_path / "b.json", **options) as b:
        b.add(second)
        a.add(first)
        b.add(first)
    for name, blocks, writer in (("a", [first], a), ("b", [second, first], b)):
        assert write(tmp_path / "alone.json", blocks) == writer.counts
        assert (tmp_path / f"{name}.json").read_bytes() == (tmp_path / "alone.json").read_bytes()


@settings(max_examples=40)
@given(name=st.text(st.characters() | st.sampled_from('"\\\n\0\u2028\x1b'), max_size=12))
@example(name='"\n\\udc80/../\0')
def test_any_name_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / "a.json"
    entry: PatchEntry = {**patch(0, [label((1, 2, 3, 4), source=name)]), "file_name": name}
    write_coco(path, [block([entry])], category_names={1: name}, description=name)
    document = json.loads(path.read_bytes())
    image, annotation, category = (document[key][0] for key in ("images", "annotations", "categories"))
    found = [image["file_name"], image["anchor"], annotation["source_id"], category["name"]]
    assert [*found, document["info"]["description"]] == [name] * 5


def test_half_a_character_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    """Strict readers of JSON refuse the whole document."""
    entry: PatchEntry = {**patch(0, []), "file_name": "a\udcff.png"}
    with pytest.raises(ValueError, match="surrogates"):
        write(tmp_path / "a.json", [block([entry])])
    assert list(tmp_path.iterdir()) == []
