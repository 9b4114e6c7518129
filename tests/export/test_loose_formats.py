"""Formats of many small files: coco-png, imagefolder, yolo."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.export.helpers import (
    PATCH_WH_PX,
    SLIDES,
    decoded,
    expected_patches,
    export,
    make_source,
    package,
    read_json,
    same_pixels,
)
from wsi_extract.dataset import open_dataset
from wsi_extract.export.options import Classes, ExportFormat
from wsi_extract.model import Split
from wsi_extract.state.layout import STATE
from wsi_extract.storage import Store
from wsi_extract.stores.png import decode_png

STORES = (Store.PNG, Store.ZARR, Store.BOTH)


@pytest.mark.parametrize("store", STORES)
def test_coco_png_is_the_data_set_with_the_store_png(tmp_path: Path, store: Store) -> None:
    out, png = make_source(tmp_path / "out", store=store), make_source(tmp_path / "png", store=Store.PNG)
    export(out, tmp_path / "dest", ExportFormat.COCO_PNG)
    for part in ("train2017", "val2017", "test2017", "annotations"):
        expected = {path.relative_to(png): path for path in (png / part).rglob("*") if path.is_file()}
        found = {
            path.relative_to(tmp_path / "dest"): path
            for path in (tmp_path / "dest" / part).rglob("*")
            if path.is_file()
        }
        assert found.keys() == expected.keys()
        for name, path in found.items():
            assert path.read_bytes() == expected[name].read_bytes(), name


def test_png_files_are_copied_as_they_are(tmp_path: Path) -> None:
    """Another encoder's bytes for the same pixels must come through: the files are not made again."""
    out = make_source(tmp_path / "out", store=Store.PNG)
    path = sorted((out / "train2017" / "a").iterdir())[0]
    rgb = decode_png(path.read_bytes())
    _, stored = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert stored.tobytes() != path.read_bytes()
    path.write_bytes(stored.tobytes())
    shutil.rmtree(out / STATE)  # the records know the bytes of the first encoder
    export(out, tmp_path / "dest", ExportFormat.COCO_PNG)
    assert (tmp_path / "dest" / path.relative_to(out)).read_bytes() == stored.tobytes()


@pytest.mark.parametrize("store", STORES)
def test_imagefolder_holds_every_patch_in_its_class(tmp_path: Path, store: Store) -> None:
    out = make_source(tmp_path / "out", store=store)
    export(out, tmp_path / "dest", ExportFormat.IMAGEFOLDER)
    for split in SLIDES:
        folder = tmp_path / "dest" / split
        assert sorted(path.name for path in folder.iterdir()) == ["mitosis", "non_mitosis"]
        found = decoded(sorted(folder.glob("*/*.png"), key=lambda path: path.name))
        assert same_pixels(found, expected_patches(split))
        # The data set's patches take turns: mitosis, nothing, mitoses and a crowd, a crowd only, a look-alike.
        expected = {name for name in expected_patches(split) if int(name[-6:]) % 5 in (0, 2)}
        assert {path.stem for path in folder.glob("mitosis/*")} == expected


def test_imagefolder_of_three_classes(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    export(out, tmp_path / "dest", ExportFormat.IMAGEFOLDER, classes=Classes.THREE, splits=(Split.TRAIN,))
    found = {path.name: {file.stem for file in path.iterdir()} for path in (tmp_path / "dest" / "train").iterdir()}
    names = expected_patches(Split.TRAIN)
    assert found == {
        "mitosis": {name for name in names if int(name[-6:]) % 5 in (0, 2)},
        "hard_negative": {name for name in names if int(name[-6:]) % 5 == 3},
        "other": {name for name in names if int(name[-6:]) % 5 in (1, 4)},
    }


@pytest.mark.parametrize("store", STORES)
def test_yolo_holds_images_and_boxes(tmp_path: Path, store: Store) -> None:
    out = make_source(tmp_path / "out", store=store)
    dest = tmp_path / "dest"
    export(out, dest, ExportFormat.YOLO)
    width_px, height_px = PATCH_WH_PX
    for split in SLIDES:
        found = decoded(sorted((dest / "images" / split).iterdir()))
        assert same_pixels(found, expected_patches(split))
        index = open_dataset(out, split).index
        labels = sorted((dest / "labels" / split).iterdir())
        assert [path.stem for path in labels] == list(found)
        for i, path in enumerate(labels):
            rows = np.array([line.split() for line in path.read_text().splitlines()], dtype=float).reshape(-1, 5)
            kept = index.is_crowd[index.labels_of(i)] == 0
            boxes = rows[:, 1:] * (width_px, height_px, width_px, height_px)
            boxes[:, :2] -= boxes[:, 2:] / 2
            np.testing.assert_allclose(boxes, index.boxes_xywh[index.labels_of(i)][kept], atol=1e-5)
            assert rows[:, 0].tolist() == (index.category_id[index.labels_of(i)][kept] - 1).tolist()
    assert package("yaml").safe_load((dest / "data.yaml").read_text()) == {
        "train": "images/train",
        "val": "images/val",
        "test": "images/test",
        "names": {0: "mitotic figure", 1: "mitotic figure look-alike"},
    }


def test_counts_are_those_of_the_coco_document(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    result = export(out, tmp_path / "dest", ExportFormat.YOLO)
    written = read_json(tmp_path / "dest" / "export.json")["counts"]
    for split, counts in result.counts.items():
        document = read_json(out / "annotations" / f"instances_{split}2017.json")
        crowds = [entry for entry in document["annotations"] if entry["iscrowd"]]
        certain = {
            entry["image_id"] for entry in document["annotations"] if not entry["iscrowd"] and entry["category_id"] == 1
        }
        assert written[split] == {
            "n_patches": len(document["images"]),
            "n_with_mitosis": len(certain),
            "n_unclear": len({entry["image_id"] for entry in crowds} - certain),
            "n_boxes": len(document["annotations"]) - len(crowds),
            "n_crowd": len(crowds),
        }
        assert counts.n_patches == len(document["images"])
