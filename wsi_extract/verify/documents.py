"""COCO documents as a trainer meets them: keys and types, ids, references, boxes.

Loaders accept most damage without a word: boxes given as xyxy, annotation id 0, duplicate ids, categories that are not
listed. Each of these is a check of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_extract.arrays import FloatArray
from wsi_extract.verify.findings import Check, Findings

EDGE_TOLERANCE_PX = 1e-3
AREA_TOLERANCE = 1e-3
"""Boxes and areas are stored to four decimals."""
MIN_BOXES_TO_SUSPECT = 8
SUSPICIOUS_CORRELATION = 0.9

Item = dict[str, Any]
"""An image, annotation or category as JSON gives it, after its shape was checked."""


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class ImageShape(_Shape):
    """What an entry of ``images`` must hold."""

    id: int = Field(ge=1)
    file_name: str = Field(min_length=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class AnnotationShape(_Shape):
    """What an entry of ``annotations`` must hold."""

    id: int = Field(ge=1)
    image_id: int
    category_id: int = Field(ge=1)
    bbox: list[float] = Field(min_length=4, max_length=4)
    area: float
    iscrowd: int = Field(ge=0, le=1)


class CategoryShape(_Shape):
    """What an entry of ``categories`` must hold."""

    id: int = Field(ge=1)
    name: str = Field(min_length=1)


SHAPES: Mapping[str, type[_Shape]] = {
    "images": ImageShape,
    "annotations": AnnotationShape,
    "categories": CategoryShape,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoDocument:
    """A COCO document without the entries whose shape is wrong."""

    raw: Item
    images: list[Item]
    annotations: list[Item]
    categories: list[Item]
    is_whole: bool
    """Whether every entry has the right shape."""

    def annotations_by_image(self) -> dict[int, list[Item]]:
        """Return the annotations of each image that has some, in file order."""
        grouped: dict[int, list[Item]] = {}
        for annotation in self.annotations:
            grouped.setdefault(annotation["image_id"], []).append(annotation)
        return grouped


def parse_document(data: bytes, *, path: Path, findings: Findings) -> CocoDocument:
    """Return the document and report every entry whose keys or types are wrong.

    Raises
    ------
    ValueError
        When the data is not JSON, or not an object.
    """
    raw = json.loads(data)
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    if not isinstance(raw.get("info"), dict):
        findings.add(Check.COCO, path, "info is missing: pycocotools needs it to load results")
    lists = {key: _sound_items(raw.get(key), key=key, path=path, findings=findings) for key in SHAPES}
    is_whole = all(isinstance(raw.get(key), list) and len(items) == len(raw[key]) for key, items in lists.items())
    return CocoDocument(raw=raw, **lists, is_whole=is_whole)


def _sound_items(items: object, *, key: str, path: Path, findings: Findings) -> list[Item]:
    if not isinstance(items, list):
        findings.add(Check.COCO, path, f"{key} is missing or not a list")
        return []
    sound = []
    for index, item in enumerate(items):
        try:
            SHAPES[key].model_validate(item)
        except ValidationError as error:
            _report_item(error, name=f"{key}[{index}]", path=path, findings=findings)
        else:
            sound.append(item)
    return sound


def _report_item(error: ValidationError, *, name: str, path: Path, findings: Findings) -> None:
    for problem in error.errors(include_url=False):
        where = [str(step) for step in problem["loc"]]
        check = Check.BOXES if where and where[0] in {"bbox", "area"} else Check.COCO
        got = "" if problem["type"] == "missing" else f", got {_short(problem['input'])}"
        findings.add(check, path, f"{name} {'.'.join(where)}: {problem['msg']}{got}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_references(document: CocoDocument, *, path: Path, findings: Findings) -> None:
    """Check that ids are unique, references exist, and file names are unique, relative and inside the folder."""
    for key, items in (
        ("image", document.images),
        ("annotation", document.annotations),
        ("category", document.categories),
    ):
        for number in _repeated(item["id"] for item in items):
            findings.add(Check.COCO, path, f"{key} id {number} occurs more than once")
    image_ids = {image["id"] for image in document.images}
    category_ids = {category["id"] for category in document.categories}
    for annotation in document.annotations:
        if annotation["image_id"] not in image_ids:
            message = f"annotation {annotation['id']} belongs to image {annotation['image_id']}, which does not exist"
            findings.add(Check.COCO, path, message)
        if annotation["category_id"] not in category_ids:
            message = f"annotation {annotation['id']} has category {annotation['category_id']}, which is not listed"
            findings.add(Check.COCO, path, message)
    for name in _repeated(image["file_name"] for image in document.images):
        findings.add(Check.COCO, path, f"file_name {name} occurs more than once")
    for image in document.images:
        if not is_inside(image["file_name"]):
            findings.add(Check.COCO, path, f"image {image['id']}: file_name {image['file_name']!r} leaves the folder")


def is_inside(file_name: str) -> bool:
    r"""Tell whether a file name is relative, stays below its folder, and means the same on every system.

    >>> is_inside("a/b.png"), is_inside("../b.png"), is_inside("/b.png"), is_inside("a\\b.png")
    (True, False, False, False)
    """
    path = PurePosixPath(file_name)
    is_plain = "\\" not in file_name and "\0" not in file_name and path.as_posix() == file_name
    return is_plain and not path.is_absolute() and ".." not in path.parts


def _repeated(values: Iterator[object]) -> list[object]:
    return [value for value, n in Counter(values).items() if n > 1]


def check_boxes(document: CocoDocument, *, path: Path, findings: Findings) -> None:
    """Check that boxes are not empty, lie inside their image, have their area, and are xywh."""
    findings.done.add(Check.BOXES)
    if not document.annotations:
        return
    size_of = {image["id"]: (image["width"], image["height"]) for image in document.images}
    xywh = np.array([annotation["bbox"] for annotation in document.annotations], dtype=np.float64)
    areas = np.array([annotation["area"] for annotation in document.annotations], dtype=np.float64)
    is_crowd = np.array([annotation["iscrowd"] for annotation in document.annotations], dtype=np.bool_)
    unbounded = (np.inf, np.inf)  # orphans are reported elsewhere
    sizes = np.array([size_of.get(annotation["image_id"], unbounded) for annotation in document.annotations])
    far, wh = xywh[:, :2] + xywh[:, 2:], xywh[:, 2:]
    for what, is_wrong in (
        ("is empty: width and height must be above 0", (wh <= 0).any(axis=1)),
        (
            "leaves its image",
            (xywh[:, :2] < -EDGE_TOLERANCE_PX).any(axis=1) | (far > sizes + EDGE_TOLERANCE_PX).any(axis=1),
        ),
    ):
        for index in np.flatnonzero(is_wrong).tolist():
            annotation = document.annotations[index]
            findings.add(Check.BOXES, path, f"annotation {annotation['id']}: box {annotation['bbox']} {what}")
    for index in np.flatnonzero(np.abs(wh.prod(axis=1) - areas) > AREA_TOLERANCE).tolist():
        annotation = document.annotations[index]
        message = f"annotation {annotation['id']}: area {annotation['area']}, its box has {wh[index].prod():.4f}"
        findings.add(Check.BOXES, path, message)
    if looks_like_xyxy(xywh[~is_crowd]):
        findings.add(Check.BOXES, path, "boxes look like x0, y0, x1, y1: their width grows with x, their height with y")


def looks_like_xyxy(boxes: FloatArray) -> bool:
    """Tell whether boxes ``(N, 4)`` that claim to be xywh behave like corners.

    The far corner of a box lies beyond the near one and moves with it; the size of an object does neither.
    """
    if len(boxes) < MIN_BOXES_TO_SUSPECT or not (boxes[:, 2:] > boxes[:, :2]).all():
        return False
    if (np.ptp(boxes, axis=0) == 0).any():
        return False
    correlations = [np.corrcoef(boxes[:, axis], boxes[:, axis + 2])[0, 1] for axis in (0, 1)]
    return bool(min(correlations) > SUSPICIOUS_CORRELATION)


def largest_group(values: Sequence[int]) -> int:
    """Return how often the most frequent value occurs, 0 when there is none."""
    return max(Counter(values).values(), default=0)
