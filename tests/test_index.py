"""The index of a split: the content of the COCO document as arrays."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from wsi_extract.coco import write_coco
from wsi_extract.errors import IntegrityError
from wsi_extract.index import IndexedSlide, IndexWriter, SplitIndex, coco_dict, read_index, write_root
from wsi_extract.model import PatchKind, Split
from wsi_extract.state.layout import index_folder
from wsi_extract.state.records import BlockDocument, LabelEntry, PatchEntry
from wsi_extract.stores.arrays import write_array
from wsi_extract.stores.zarr_json import group_document, own_attributes, read_document, sealed, write_document

CATEGORIES = {1: "mitotic figure", 2: "mitotic figure look-alike"}


def label(bbox: tuple[float, ...], *, category: int = 1, crowd: int = 0, source: str = "7") -> LabelEntry:
    return {"bbox": list(bbox), "category_id": category, "iscrowd": crowd, "source_id": source}


def patch(row: int, labels: list[LabelEntry], *, slide_id: str = "s1", kind: str = "mitosis") -> PatchEntry:
    return {
        "row": row,
        "file_name": f"{slide_id}/{slide_id}_x{row * 256}_y{row}.png",
        "bytes": 10,
        "sha256": "0",
        "x_l0": row * 256,
        "y_l0": row,
        "kind": kind,
        "requested_kind": "mitosis",
        "anchor": None,
        "tissue_fraction": round(1 / (row + 1), 6),
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
        "level": 1,
        "l0_per_px_xy": [4.0, 4.00012],
        "um_per_px_xy": None if slide_id == "s1" else [0.25, 0.5],
        "patches": patches,
        "label_counts": {},
    }


def three_blocks() -> list[BlockDocument]:
    """Two blocks of one slide, whose first rows belong to another split, and one of another."""
    first = [
        patch(5, [label((10.5, 20.25, 50, 49.5)), label((0, 0, 25, 50.1234), crowd=1, source="17.2")]),
        patch(6, [], kind="random"),
    ]
    second = [patch(7, [label((200, 100, 56, 28), category=2, source="9000000000")], kind="hard_negative")]
    third = [patch(0, [], slide_id="sé", kind="grid"), patch(1, [label((1, 2, 3.3333, 4.1))], slide_id="sé")]
    return [block(first), block(second, index=1), block(third, slide_id="sé")]


def write(output_dir: Path, documents: list[BlockDocument], *, rows_per_chunk: int = 4) -> None:
    writer = IndexWriter(
        output_dir,
        split=Split.TRAIN,
        category_names=CATEGORIES,
        patch_wh_px=(256, 128),
        rows_per_chunk=rows_per_chunk,
    )
    for document in documents:
        writer.add(document)
    writer.finish()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written_coco(folder: Path, documents: list[BlockDocument]) -> dict[str, Any]:
    write_coco(folder / "a.json", documents, category_names=CATEGORIES, description="")
    document: dict[str, Any] = json.loads((folder / "a.json").read_bytes())
    return document


@pytest.fixture
def index(tmp_path: Path) -> SplitIndex:
    write(tmp_path, three_blocks())
    return read_index(tmp_path, Split.TRAIN)


# --- content -------------------------------------------------------------------------------------------------------


def test_patches_come_back_in_plan_order(index: SplitIndex) -> None:
    assert len(index) == 5
    assert (index.split, index.patch_wh_px, index.category_names) == (Split.TRAIN, (256, 128), CATEGORIES)
    assert index.slide.tolist() == [0, 0, 0, 1, 1]
    assert index.row.tolist() == [0, 1, 2, 0, 1]  # counted within slide and split, not within the slide's plan
    kinds = [PatchKind.MITOSIS, PatchKind.RANDOM, PatchKind.HARD_NEGATIVE, PatchKind.GRID, PatchKind.MITOSIS]
    assert index.kind.tolist() == kinds
    assert index.origins_l0.tolist() == [[1280, 5], [1536, 6], [1792, 7], [0, 0], [256, 1]]
    assert index.tissue_fraction.tolist() == [0.166667, 0.142857, 0.125, 1.0, 0.5]


def test_boxes_come_back_with_their_patch(index: SplitIndex) -> None:
    assert index.box_offsets.tolist() == [0, 2, 2, 3, 3, 4]
    assert index.boxes_xywh[index.labels_of(0)].tolist() == [[10.5, 20.25, 50, 49.5], [0, 0, 25, 50.1234]]
    assert index.boxes_xywh[index.labels_of(1)].tolist() == []
    assert index.boxes_xywh[index.labels_of(4)].tolist() == [[1, 2, 3.3333, 4.1]]
    assert index.category_id.tolist() == [1, 1, 2, 1]
    assert index.is_crowd.tolist() == [0, 1, 0, 0]
    assert index.source_id.tolist() == [7, 17, 9_000_000_000, 7]
    assert index.source_part.tolist() == [0, 2, 0, 0]


def test_slides_state_their_scale(index: SplitIndex) -> None:
    assert index.slides == (
        IndexedSlide(slide_id="s1", n_patches=3, level=1, l0_per_px_xy=(4.0, 4.00012), um_per_px_xy=None),
        IndexedSlide(slide_id="sé", n_patches=2, level=1, l0_per_px_xy=(4.0, 4.00012), um_per_px_xy=(0.25, 0.5)),
    )


def test_names_and_ids_are_those_of_the_coco_document(tmp_path: Path, index: SplitIndex) -> None:
    images = written_coco(tmp_path, three_blocks())["images"]
    assert [index.file_name(i) for i in range(len(index))] == [image["file_name"] for image in images]
    assert [index.image_id(i) for i in range(len(index))] == [image["id"] for image in images]


def test_an_empty_split_is_an_index(tmp_path: Path) -> None:
    write(tmp_path / "a", [])
    write(tmp_path / "b", [block([])])
    for name, n_slides in (("a", 0), ("b", 1)):
        index = read_index(tmp_path / name, Split.TRAIN)
        assert (len(index), len(index.slides), index.boxes_xywh.shape) == (0, n_slides, (0, 4))
        assert coco_dict(index)["images"] == []


# --- COCO ----------------------------------------------------------------------------------------------------------

sides = st.floats(0.0001, 128).map(lambda value: round(value, 4))
label_entries = st.builds(
    lambda box, category, crowd, source, part: label(
        box, category=category, crowd=crowd, source=f"{source}.{part}" if part else str(source)
    ),
    st.tuples(sides, sides, sides, sides),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 1]),
    st.integers(0, 2**63 - 1),
    st.integers(0, 3),
)
data_sets = st.lists(st.lists(st.lists(label_entries, max_size=3), max_size=4), max_size=4)


@settings(max_examples=30)  # each writes some forty files, durably
@given(per_slide=data_sets, cut=st.integers(1, 3), rows_per_chunk=st.integers(1, 6))
def test_the_index_equals_the_coco_document(
    tmp_path_factory: pytest.TempPathFactory,
    per_slide: list[list[list[LabelEntry]]],
    cut: int,
    rows_per_chunk: int,
) -> None:
    folder = tmp_path_factory.mktemp("index")
    documents = []
    for number, per_patch in enumerate(per_slide):
        name = f"slide{number}"
        patches = [patch(row, labels, slide_id=name) for row, labels in enumerate(per_patch)]
        documents += [
            block(patches[start : start + cut], slide_id=name, index=start) for start in range(0, len(patches), cut)
        ]
    write(folder, documents, rows_per_chunk=rows_per_chunk)
    index = read_index(folder, Split.TRAIN)
    document: Any = coco_dict(index)
    expected = written_coco(folder, documents)
    for section, keys in (
        ("categories", ("id", "name", "supercategory")),
        ("images", ("id", "file_name", "width", "height")),
        ("annotations", ("id", "image_id", "category_id", "bbox", "area", "iscrowd")),
    ):
        assert document[section] == [{key: entry[key] for key in keys} for entry in expected[section]]
    names = [
        f"{source}.{part}" if part else str(source)
        for source, part in zip(index.source_id.tolist(), index.source_part.tolist(), strict=True)
    ]
    assert names == [entry["source_id"] for entry in expected["annotations"]]


def test_pycocotools_takes_the_value(index: SplitIndex) -> None:
    coco = COCO()
    coco.dataset = coco_dict(index)
    coco.createIndex()
    assert [len(coco.getAnnIds(imgIds=image_id)) for image_id in (1, 2, 3, 4, 5)] == [2, 0, 1, 0, 1]


# --- bytes ---------------------------------------------------------------------------------------------------------


def test_the_same_records_give_the_same_bytes_however_they_are_cut(tmp_path: Path) -> None:
    documents = three_blocks()
    write(tmp_path / "a", documents)
    entries = [(entry, each["slide_id"]) for each in documents for entry in each["patches"]]
    single = [block([entry], slide_id=slide_id, index=number) for number, (entry, slide_id) in enumerate(entries)]
    write(tmp_path / "b", single)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_writing_again_leaves_nothing_of_the_old_index(tmp_path: Path) -> None:
    write(tmp_path / "a", three_blocks(), rows_per_chunk=1)
    write(tmp_path / "a", three_blocks()[:1], rows_per_chunk=4)
    write(tmp_path / "b", three_blocks()[:1], rows_per_chunk=4)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_zarr_walks_through_the_groups(tmp_path: Path) -> None:
    write(tmp_path, three_blocks())
    write_root(tmp_path)
    group: Any = zarr.open_group(tmp_path / "index.zarr", mode="r")
    assert list(group.group_keys()) == ["train"]
    assert len(list(group["train"].array_keys())) == 11
    assert group["train/origins_l0"][...].tolist() == read_index(tmp_path, Split.TRAIN).origins_l0.tolist()


# --- refusals ------------------------------------------------------------------------------------------------------


def test_an_unfinished_index_does_not_open(tmp_path: Path) -> None:
    write(tmp_path, three_blocks())
    IndexWriter(tmp_path, split=Split.TRAIN, category_names=CATEGORIES, patch_wh_px=(256, 128))
    with pytest.raises(IntegrityError, match="not finished"):
        read_index(tmp_path, Split.TRAIN)
    with pytest.raises(IntegrityError, match="not finished"):
        read_index(tmp_path, Split.VAL)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        pytest.param([1, 0], "block 0 of slide s1 comes out of plan order", id="blocks swapped"),
        pytest.param([0, 0], "block 0 of slide s1 comes out of plan order", id="block twice"),
        pytest.param([0, 2, 1], "block 1 of slide s1 comes out of plan order", id="slide torn apart"),
    ],
)
def test_blocks_out_of_order_are_refused(tmp_path: Path, order: list[int], reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        write(tmp_path, [three_blocks()[i] for i in order])


def test_records_of_another_run_are_refused(tmp_path: Path) -> None:
    other_split, other_size, other_name, other_source = (block([patch(0, [label((1, 1, 2, 2))])]) for _ in range(4))
    other_split["split"] = "val"
    other_size["patch_wh_px"] = [128, 256]
    other_name["patches"][0]["file_name"] = "s1/a.png"
    other_source["patches"][0]["labels"][0]["source_id"] = "7.x"
    for document, reason in (
        (other_split, "for val, not of"),
        (other_size, r"\[128, 256\] px"),
        (other_name, r"s1/a.png should be named s1/s1_x0_y0.png"),
        (other_source, r"s1/s1_x0_y0.png names an object '7.x'"),
    ):
        with pytest.raises(IntegrityError, match=reason):
            write(tmp_path, [document])


def change_slides(folder: Path, **values: object) -> None:
    document = read_document(folder)
    own: dict[str, Any] = {key: value for key, value in own_attributes(document).items() if key != "sha256"}
    own["slides"][0].update(values)
    write_document(folder, sealed(group_document(own)))


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        pytest.param("row", np.arange(4), "row must be int64 of shape", id="too few rows"),
        pytest.param("kind", np.zeros(5, dtype=np.int16), "kind must be int8", id="type"),
        pytest.param("kind", np.full(5, 9, dtype=np.int8), "kind must be a kind", id="unknown kind"),
        pytest.param("slide", np.zeros(5, dtype=np.int32), "slide must number", id="slides"),
        pytest.param("row", np.arange(5), "row must count", id="rows"),
        pytest.param("box_offsets", np.array([0, 3, 2, 3, 3, 4]), "box_offsets must rise", id="falling"),
        pytest.param("box_offsets", np.array([0, 2, 2, 3, 3, 3]), "box_offsets must rise", id="box without patch"),
        pytest.param("box_offsets", np.array([1, 2, 2, 3, 3, 4]), "box_offsets must rise", id="not from 0"),
        pytest.param("boxes_xywh", np.ones((3, 4)), "category_id must be", id="too few boxes"),
        pytest.param("category_id", np.array([1, 1, 3, 1], dtype=np.int16), "known category", id="category"),
        pytest.param("is_crowd", np.array([0, 2, 0, 0], dtype=np.uint8), "is_crowd must be 0 or 1", id="crowd"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, name: str, values: np.ndarray, reason: str) -> None:
    write(tmp_path, three_blocks())
    folder = index_folder(tmp_path, split=Split.TRAIN)
    write_array(folder / name, values)
    with pytest.raises(IntegrityError, match=reason) as caught:
        read_index(tmp_path, Split.TRAIN)
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("values", [{"n_patches": 4}, {"n_patches": "x"}, {"um_per_px_xy": [1]}, {"level": None}])
def test_slides_that_do_not_fit_are_refused(tmp_path: Path, values: dict[str, object]) -> None:
    write(tmp_path, three_blocks())
    change_slides(index_folder(tmp_path, split=Split.TRAIN), **values)
    with pytest.raises(IntegrityError, match="is inconsistent"):
        read_index(tmp_path, Split.TRAIN)


def test_damage_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, three_blocks())
    path = index_folder(tmp_path, split=Split.TRAIN) / "boxes_xywh" / "c" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="boxes_xywh/c/0/0 is damaged"):
        read_index(tmp_path, Split.TRAIN)


def test_the_root_of_the_index_comes_after_what_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    replace = os.replace

    def note(source: str, target: str) -> None:
        replace(source, target)
        renamed.append(str(Path(target).relative_to(tmp_path)))

    monkeypatch.setattr(os, "replace", note)
    (tmp_path / "index.zarr" / "slides").mkdir(parents=True)
    write_root(tmp_path)
    assert renamed == ["index.zarr/slides/zarr.json", "index.zarr/zarr.json"]
