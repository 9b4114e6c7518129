"""Deformable DETR: our items equal those of the official loader, tensor by tensor, and a clone can use the stores.

The official behaviour is written down here a second time, from its description: pycocotools reads the exported JSON,
Pillow the PNG file; objects of iscrowd 1 are left out; corners are x + w and y + h in float32, limited to the image.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from tests.helpers_dataset import SETTING_OF, STORES, flip_byte, own_dataset, shared_dataset
from tests.helpers_run import read_coco
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.storage import Store
from wsi_extract.torch_dataset import DetectionDataset, store_backed

each_store = pytest.mark.parametrize("store", STORES)
KEYS = ["boxes", "labels", "image_id", "area", "iscrowd", "orig_size", "size"]
Item = tuple[Image.Image, dict[str, torch.Tensor]]


class ReferenceDataset:
    """A plain data set over the exported folder, with the constructor and the methods of the official one."""

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable[..., Any] | None,
        return_masks: bool,
        cache_mode: bool = False,
    ) -> None:
        assert not return_masks
        assert not cache_mode
        self.root = img_folder
        self.coco = COCO(str(ann_file))
        self.ids = sorted(self.coco.imgs)
        self._transforms = transforms

    def get_image(self, path: str) -> Image.Image:
        return Image.open(os.path.join(self.root, path)).convert("RGB")  # noqa: PTH118  # as it is there

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, idx: int) -> tuple[Any, dict[str, torch.Tensor]]:
        image_id = self.ids[idx]
        image = self.get_image(self.coco.loadImgs(image_id)[0]["file_name"])
        width, height = image.size
        objects = [
            entry for entry in self.coco.loadAnns(self.coco.getAnnIds(imgIds=image_id)) if entry.get("iscrowd", 0) == 0
        ]
        corners = []
        for entry in objects:
            x, y, w, h = (np.float32(value) for value in entry["bbox"])
            x1, y1 = x + w, y + h
            limits = (np.float32(width), np.float32(height)) * 2
            zero = np.float32(0)
            corners.append([min(max(v, zero), m) for v, m in zip((x, y, x1, y1), limits, strict=True)])
        keep = [x1 > x0 and y1 > y0 for x0, y0, x1, y1 in corners]

        def kept(values: list[Any]) -> list[Any]:
            return [value for value, is_kept in zip(values, keep, strict=True) if is_kept]

        target = {
            "boxes": torch.tensor(np.array(kept(corners), dtype=np.float32).reshape(-1, 4)),
            "labels": torch.tensor(kept([entry["category_id"] for entry in objects]), dtype=torch.int64),
            "image_id": torch.tensor([image_id]),
            "area": torch.tensor(kept([entry["area"] for entry in objects])),
            "iscrowd": torch.tensor(kept([entry["iscrowd"] for entry in objects])),
            "orig_size": torch.tensor([height, width]),
            "size": torch.tensor([height, width]),
        }
        return (image, target) if self._transforms is None else self._transforms(image, target)


def reference(out: Path, split: str, transforms: Callable[..., Any] | None = None) -> ReferenceDataset:
    return ReferenceDataset(
        out / f"{split}2017", out / "annotations" / f"instances_{split}2017.json", transforms, return_masks=False
    )


def assert_same(item: tuple[Any, dict[str, torch.Tensor]], expected: tuple[Any, dict[str, torch.Tensor]]) -> None:
    (image, target), (wanted_image, wanted) = item, expected
    assert np.array_equal(np.asarray(image), np.asarray(wanted_image))
    assert list(target) == list(wanted) == KEYS
    for key, value in wanted.items():
        assert (target[key].dtype, target[key].shape) == (value.dtype, value.shape), key
        assert torch.equal(target[key], value), key


@each_store
@pytest.mark.parametrize("split", ["train", "val"])
def test_items_equal_those_of_the_official_loader(tmp_path: Path, store: Store, split: str) -> None:
    expected = reference(shared_dataset(tmp_path), split)
    dataset = DetectionDataset(shared_dataset(tmp_path, setting=SETTING_OF[store]), split, store=store.value)
    assert len(dataset) == len(expected)
    assert dataset.ids == expected.ids
    for i in range(len(dataset)):
        image, target = dataset[i]
        assert isinstance(image, Image.Image)
        assert image.mode == "RGB"
        assert_same((image, target), expected[i])
    batch = dataset.__getitems__([3, 0, 3])
    for item, i in zip(batch, [3, 0, 3], strict=True):
        assert_same(item, expected[i])


def test_the_data_set_holds_every_case(tmp_path: Path) -> None:
    # Else the comparison above would prove less than it seems to.
    document = read_coco(shared_dataset(tmp_path), "train")
    crowded = {entry["image_id"] for entry in document["annotations"] if entry["iscrowd"]}
    labelled = {entry["image_id"] for entry in document["annotations"] if not entry["iscrowd"]}
    images = {image["id"] for image in document["images"]}
    assert crowded & labelled
    assert crowded - labelled, "an image whose only object is to be ignored"
    assert images - crowded - labelled, "an image without objects"
    assert {entry["category_id"] for entry in document["annotations"]} == {1, 2}


def _as_tensors(image: Image.Image, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return pixels, {**target, "boxes": target["boxes"] / torch.tensor([*image.size, *image.size])}


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


N_PROCESSES = {"none": 0, "fork": 2, "spawn": 1}
"""A process that is spawned takes seconds to import torch."""


@pytest.mark.parametrize(
    ("store", "method"),
    [*((store, method) for store in STORES for method in ("none", "fork")), (Store.ZARR, "spawn")],
)
def test_transforms_run_in_the_loaders_processes(tmp_path: Path, store: Store, method: str) -> None:
    expected = reference(shared_dataset(tmp_path), "train", _as_tensors)
    out = shared_dataset(tmp_path, setting=SETTING_OF[store])
    dataset = DetectionDataset(out, "train", _as_tensors, store.value)
    assert dataset.coco is not None, "made before the processes are"
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=5,
        collate_fn=_as_list,
        num_workers=N_PROCESSES[method],
        multiprocessing_context=None if method == "none" else method,
    )
    items = [item for batch in loader for item in batch]
    assert len(items) == len(expected)
    for i, item in enumerate(items):
        assert_same(item, expected[i])


def test_pycocotools_gets_the_annotations_of_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shared_dataset(tmp_path)
    dataset = DetectionDataset(out, "val")
    coco = dataset.coco
    assert capsys.readouterr().out == ""
    assert dataset.coco is coco
    expected = COCO(str(out / "annotations" / "instances_val2017.json"))
    assert list(coco.anns) == list(expected.anns)
    for key, entry in coco.anns.items():
        assert entry == {name: expected.anns[key][name] for name in entry}
    assert [(image["id"], image["file_name"], image["width"], image["height"]) for image in coco.imgs.values()] == [
        (image["id"], image["file_name"], image["width"], image["height"]) for image in expected.imgs.values()
    ]
    assert coco.cats == expected.cats
    assert coco.getImgIds() == dataset.ids


def test_there_is_no_item_after_the_last(tmp_path: Path) -> None:
    dataset = DetectionDataset(shared_dataset(tmp_path), "val")
    for i in (-1, len(dataset)):
        with pytest.raises(IndexError, match=f"there is no patch {i}"):
            dataset[i]


def backed(out: Path, split: str, store: str | None = None) -> Any:
    return store_backed(ReferenceDataset, store=store)(
        out / f"{split}2017", out / "annotations" / f"instances_{split}2017.json", None, return_masks=False
    )


@each_store
def test_a_clone_takes_its_images_from_the_store(tmp_path: Path, store: Store) -> None:
    expected = reference(shared_dataset(tmp_path), "train")
    dataset = backed(shared_dataset(tmp_path, setting=SETTING_OF[store]), "train", store.value)
    assert isinstance(dataset, ReferenceDataset), "evaluation accepts nothing else"
    for i in range(len(dataset)):
        assert_same(dataset[i], expected[i])


def test_a_clone_needs_no_png_files(tmp_path: Path) -> None:
    dataset = backed(shared_dataset(tmp_path, setting="pixels"), "val")
    assert not Path(dataset.root).exists()
    assert dataset[0][0].size == (128, 128)


def _item(dataset: Any, i: int) -> Any:
    return dataset[i]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_clone_may_load_in_several_processes(tmp_path: Path, method: str) -> None:
    dataset = backed(shared_dataset(tmp_path), "val")
    assert pickle.loads(pickle.dumps(dataset)).ids == dataset.ids
    first = dataset[0]
    with multiprocessing.get_context(method).Pool(1) as pool:
        image, target = pool.apply(_item, (dataset, 0))
    assert_same((image, target), first)


def test_a_clone_hears_of_lost_patches_and_of_foreign_documents(tmp_path: Path) -> None:
    out = own_dataset(tmp_path)
    dataset = backed(out, "train")
    for path in (out / "patches.zarr" / "train").rglob("0"):
        if path.is_file():
            flip_byte(path, at=-1)
    with pytest.raises(IntegrityError, match=r"patch slide_\d/slide_\d_x\d+_y\d+\.png of slide slide_\d \(train\)"):
        dataset[0]
    with pytest.raises(InputError, match=r"the split train has no patch 'other\.png'"):
        dataset.get_image("other.png")
