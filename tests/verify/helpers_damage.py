"""Kinds of damage to a finished data set; each is a function of the output folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.verify.helpers import Json, edit_coco, edit_json, edit_record, patch_paths, rewrite_columns
from wsi_extract.model import Split
from wsi_extract.state.layout import MANIFEST, instances_name, record_path

Damage = Callable[[Path], object]

TRAIN = instances_name(Split.TRAIN)
RECORD = record_path(Path(), slide_id="a", index=0)


def first_annotation(**values: object) -> Damage:
    return lambda out: edit_coco(out, lambda coco: coco["annotations"][0].update(values))


def first_image(**values: object) -> Damage:
    return lambda out: edit_coco(out, lambda coco: coco["images"][0].update(values))


def coco(change: Callable[[Json], object]) -> Damage:
    return lambda out: edit_coco(out, change)


def manifest(change: Callable[[Json], object]) -> Damage:
    return lambda out: edit_json(out / MANIFEST, change)


def slide(number: int, **values: object) -> Damage:
    return manifest(lambda document: document["slides"][number].update(values))


def record(change: Callable[[Json], object]) -> Damage:
    return lambda out: edit_record(out, change)


def write_xyxy(document: Json) -> None:
    for annotation in document["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation.update(bbox=[x, y, x + w, y + h], area=(x + w) * (y + h))


def set_ids_equal(document: Json) -> None:
    for annotation in document["annotations"]:
        annotation["id"] = 1


def swap_image_ids(document: Json) -> None:
    swapped = {1: 2, 2: 1}
    for image in document["images"]:
        image["id"] = swapped.get(image["id"], image["id"])
    for annotation in document["annotations"]:
        annotation["image_id"] = swapped.get(annotation["image_id"], annotation["image_id"])


def seen_twice(block: Json) -> tuple[list[Json], Json]:
    """Return the second box of an object that two patches show whole, and the list that holds it."""
    seen = set()
    for patch in block["patches"]:
        for boxes in (patch["labels"], patch.get("look_alikes", [])):
            for box in boxes:
                x, y, w, h = box["bbox"]
                if min(x, y) > 4 and max(x + w, y + h) < 124:
                    if box["source_id"] in seen:
                        return boxes, box
                    seen.add(box["source_id"])
    raise AssertionError("no object is seen twice")


def shift_box(block: Json) -> None:
    seen_twice(block)[1]["bbox"][0] += 3.0


def forget_box(block: Json) -> None:
    boxes, box = seen_twice(block)
    boxes.remove(box)


def repeat_box(block: Json) -> None:
    boxes, box = seen_twice(block)
    boxes.append(box)


def change_class(block: Json) -> None:
    seen_twice(block)[1]["category_id"] = 7


def forget_anchor(block: Json) -> None:
    patch = next(patch for patch in block["patches"] if patch["anchor"] is not None)
    patch["labels"] = []
    patch.pop("look_alikes", None)


def flip_byte(path: Path, *, position: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 0x40
    path.write_bytes(data)


def truncate(path: Path, *, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def change_one_pixel(path: Path) -> None:
    image = cv2.imread(str(path))
    assert image is not None
    image[3, 4] ^= 1
    cv2.imwrite(str(path), image)


def write_image(shape: tuple[int, ...], *, dtype: Any = np.uint8) -> Callable[[Path], object]:
    return lambda path: cv2.imwrite(str(path), np.zeros(shape, dtype=dtype))


def patch_file(damage: Callable[[Path], object]) -> Damage:
    return lambda out: damage(patch_paths(out)[5])


def rewrite_mask(out: Path) -> None:
    rewrite_columns(out, lambda columns: columns.update(mask_bits=np.zeros_like(columns["mask_bits"])))


def rewrite_plan(out: Path) -> None:
    rewrite_columns(out, lambda columns: columns.update(origins_l0=columns["origins_l0"] + 1))


def replace_text(name: str, *, old: str, new: str) -> Damage:
    def damage(out: Path) -> None:
        text = (out / name).read_text()
        assert old in text
        (out / name).write_text(text.replace(old, new, 1))

    return damage
