"""Read COCO-like JSON: standard files and the published ones whose boxes are corners.

The four numbers of a box are kept as they are; `bbox_convention` decides what they mean. Extra keys are ignored.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsi_extract.annotations.json_file import read_json
from wsi_extract.annotations.source import (
    LARGEST_COORDINATE_PX,
    LONGEST_NAME,
    NO_SLIDE,
    SUPPORTED,
    SourceFile,
    SourceKind,
    SourceRows,
    SourceSlide,
    Witness,
    number_parts,
    shortened,
    slide_rows_of,
)
from wsi_extract.errors import AnnotationError

OUTLINE_TOLERANCE_PX = 1.0
"""Exporters round boxes and outlines differently, by at most a pixel."""

NUMBERS = (int, float)
"""Of JSON. A tuple: a union is built anew at every check."""
AREA_TOLERANCE = 1e-6

Box = tuple[float, float, float, float]


@dataclass(slots=True, kw_only=True)
class _Columns:
    """Grows row by row while the file is read; a tenth of the memory of lists."""

    source_id: array[int] = field(default_factory=lambda: array("q"))
    image_id: array[int] = field(default_factory=lambda: array("q"))
    has_image: array[int] = field(default_factory=lambda: array("b"))
    class_id: array[int] = field(default_factory=lambda: array("q"))
    has_class: array[int] = field(default_factory=lambda: array("b"))
    has_box: array[int] = field(default_factory=lambda: array("b"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    """Four numbers of each row that has a box."""
    is_crowd: array[int] = field(default_factory=lambda: array("b"))
    witness: array[int] = field(default_factory=lambda: array("b"))


def _objects(document: Mapping[str, object], *, key: str, path: Path) -> list[dict[str, object]]:
    items = document[key]
    if not isinstance(items, list):
        raise AnnotationError(f"{path}: {key!r} is {type(items).__name__}, a list is needed.", "Export it again.")
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise AnnotationError(
                f"{path}: {key}[{position}] is {type(item).__name__}, an object is needed.", "Export it again."
            )
    return items


def _optional_id(item: Mapping[str, object], key: str) -> int | None:
    value = item.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ValueError(f"{key} is {shortened(value)}, a whole number is needed")
    return value


def _id(item: Mapping[str, object], key: str = "id") -> int:
    value = _optional_id(item, key)
    if value is None:
        raise ValueError(f"{key} is missing")
    return value


def _text(item: Mapping[str, object], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is {shortened(value)}, a text is needed")
    n_bytes = len(value.encode())  # JSON can hold halves of characters, which no file name and no log can.
    if n_bytes > LONGEST_NAME or "\0" in value:
        raise ValueError(f"{key} is {shortened(value)}: no more than {LONGEST_NAME} bytes, and no NUL, are allowed")
    return value


def _is_coordinate(value: object) -> bool:
    return isinstance(value, NUMBERS) and not isinstance(value, bool) and abs(value) <= LARGEST_COORDINATE_PX


def _box(item: Mapping[str, object]) -> Box | None:
    """Return the four numbers, ``None`` when the annotation has no box."""
    value = item.get("bbox")
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(_is_coordinate(number) for number in value):
        raise ValueError(f"bbox is {shortened(value)}, four numbers within +-{LARGEST_COORDINATE_PX:g} are needed")
    x, y, third, fourth = value
    return float(x), float(y), float(third), float(fourth)


def _flat_outline(segmentation: object) -> list[float] | None:
    """Return x, y, x, y, ... of a list of rings or of the flat list some exporters write; else ``None``."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    rings = segmentation if all(isinstance(ring, list) for ring in segmentation) else [segmentation]
    numbers = [number for ring in rings for number in ring]
    whole = all(len(ring) % 2 == 0 for ring in rings) and len(numbers) >= 6
    return numbers if whole and all(_is_coordinate(number) for number in numbers) else None


def _witness_of_outline(outline: Sequence[float], *, box: Box) -> Witness:
    xs, ys = outline[0::2], outline[1::2]
    bounds = (min(xs), min(ys), max(xs), max(ys))

    def fits(corners: Box) -> bool:
        return all(abs(a - b) <= OUTLINE_TOLERANCE_PX for a, b in zip(bounds, corners, strict=True))

    return _verdict(xyxy=fits(box), xywh=fits((box[0], box[1], box[0] + box[2], box[1] + box[3])))


def _witness_of_area(area: float, *, box: Box) -> Witness:
    x, y, third, fourth = box
    is_xyxy = third > x and fourth > y and math.isclose(area, (third - x) * (fourth - y), rel_tol=AREA_TOLERANCE)
    is_xywh = third > 0 and fourth > 0 and math.isclose(area, third * fourth, rel_tol=AREA_TOLERANCE)
    return _verdict(xyxy=is_xyxy, xywh=is_xywh)


def _verdict(*, xyxy: bool, xywh: bool) -> Witness:
    if xyxy == xywh:
        return Witness.NONE
    return Witness.XYXY if xyxy else Witness.XYWH


def _witness(item: Mapping[str, object], *, box: Box | None) -> Witness:
    """Ask the outline first: its four bounds cannot agree by chance as one area can."""
    if box is None:
        return Witness.NONE
    outline = _flat_outline(item.get("segmentation"))
    verdict = Witness.NONE if outline is None else _witness_of_outline(outline, box=box)
    area = item.get("area")
    if verdict is Witness.NONE and isinstance(area, NUMBERS) and 0 < area <= LARGEST_COORDINATE_PX**2:
        verdict = _witness_of_area(area, box=box)
    return verdict


def _append_annotation(item: Mapping[str, object], *, columns: _Columns, classes: Mapping[int, str]) -> None:
    box = _box(item)
    image_id, class_id = _optional_id(item, "image_id"), _optional_id(item, "category_id")
    columns.source_id.append(_id(item))
    columns.image_id.append(image_id or 0)
    columns.has_image.append(image_id is not None)
    columns.class_id.append(class_id or 0)
    columns.has_class.append(class_id in classes)
    columns.has_box.append(box is not None)
    columns.boxes.extend(box or ())
    columns.witness.append(_witness(item, box=box))
    crowd = item.get("iscrowd", 0)
    if crowd not in (0, 1, None):  # a tuple: a set would trip over a list
        raise ValueError(f"iscrowd is {shortened(crowd)}, 0 or 1 is needed")
    columns.is_crowd.append(crowd == 1)


def _size_hint(value: object) -> int | None:
    return int(value) if isinstance(value, NUMBERS) and 0 < value <= LARGEST_COORDINATE_PX else None


def _slide(item: Mapping[str, object]) -> SourceSlide:
    return SourceSlide(
        uid=_id(item),
        file_name=_text(item, "file_name"),
        width_px=_size_hint(item.get("width")),
        height_px=_size_hint(item.get("height")),
    )


def _read_slides(document: Mapping[str, object], *, path: Path) -> tuple[SourceSlide, ...]:
    slides: dict[int, SourceSlide] = {}
    for position, item in enumerate(_objects(document, key="images", path=path)):
        try:
            slide = _slide(item)
            if slide.uid in slides:
                raise ValueError(f"id {slide.uid} occurs more than once")
        except ValueError as error:
            raise AnnotationError(f"{path}: images[{position}]: {error}.", "Export the file again.") from error
        slides[slide.uid] = slide
    return tuple(slides[uid] for uid in sorted(slides))


def _read_classes(document: Mapping[str, object], *, path: Path) -> dict[int, str]:
    classes: dict[int, str] = {}
    for position, item in enumerate(_objects(document, key="categories", path=path)):
        try:
            class_id, name = _id(item), _text(item, "name")
            if class_id in classes:
                raise ValueError(f"id {class_id} occurs more than once")
        except ValueError as error:
            raise AnnotationError(f"{path}: categories[{position}]: {error}.", "Export the file again.") from error
        classes[class_id] = name
    return dict(sorted(classes.items()))


def _read_columns(document: Mapping[str, object], *, classes: Mapping[int, str], path: Path) -> _Columns:
    columns = _Columns()
    for position, item in enumerate(_objects(document, key="annotations", path=path)):
        try:
            _append_annotation(item, columns=columns, classes=classes)
        except (ValueError, TypeError) as error:
            raise AnnotationError(
                f"{path}: annotations[{position}]: {error}.", "Correct the annotation or export the file again."
            ) from error
    return columns


def _build_rows(columns: _Columns, *, slides: tuple[SourceSlide, ...]) -> SourceRows:
    n = len(columns.source_id)
    source_id = np.array(columns.source_id, dtype=np.int64)
    image_id = np.array(columns.image_id, dtype=np.int64)
    has_image = np.array(columns.has_image, dtype=np.bool_)
    slide_row = slide_rows_of(image_id, uids=np.array([slide.uid for slide in slides], dtype=np.int64))
    n_points = np.array(columns.has_box, dtype=np.int64) * 2
    return SourceRows(
        source_id=source_id,
        part=number_parts(source_id),
        slide_row=np.where(has_image, slide_row, NO_SLIDE).astype(np.int64),
        class_id=np.array(columns.class_id, dtype=np.int64),
        has_class=np.array(columns.has_class, dtype=np.bool_),
        kind=np.full(n, SourceKind.BOX, dtype=np.int8),
        is_deleted=np.zeros(n, dtype=np.bool_),
        is_crowd=np.array(columns.is_crowd, dtype=np.bool_),
        witness=np.array(columns.witness, dtype=np.int8),
        first_point=(np.cumsum(n_points) - n_points).astype(np.int64),
        n_points=n_points,
        points_xy=np.array(columns.boxes, dtype=np.float64).reshape(-1, 2),
    )


def _notes(rows: SourceRows) -> tuple[str, ...]:
    notes = []
    n_parts = int(np.count_nonzero(rows.part))
    if n_parts:
        notes.append(f"{n_parts} boxes repeat the id of an earlier annotation; they are kept as further parts.")
    n_crowd = int(np.count_nonzero(rows.is_crowd))
    if n_crowd:
        notes.append(f"{n_crowd} annotations have iscrowd = 1; those of used classes get the role ignore.")
    return tuple(notes)


def _description(document: Mapping[str, object]) -> str:
    info = document.get("info")
    text = info.get("description") if isinstance(info, dict) else None
    return text if isinstance(text, str) else ""


def read_coco(path: Path) -> SourceFile:
    """Read a COCO file whole.

    Raises
    ------
    AnnotationError
        When it is not JSON (NaN and Infinity are not), not COCO, or holds a value of a wrong type, naming its place;
        when it does not fit into the memory.
    OSError
        When it cannot be read, or changes meanwhile.
    """
    path = path.resolve()
    document, sha256 = read_json(path)
    if not isinstance(document, dict):
        raise AnnotationError(f"{path} is JSON but not COCO: its top level is no object.", SUPPORTED)
    missing = [key for key in ("images", "annotations", "categories") if key not in document]
    if missing:
        raise AnnotationError(f"{path} is JSON but not COCO: it lacks {', '.join(missing)}.", SUPPORTED)
    slides, classes = _read_slides(document, path=path), _read_classes(document, path=path)
    rows = _build_rows(_read_columns(document, classes=classes, path=path), slides=slides)
    return SourceFile(
        path=path,
        format="coco",
        sha256=sha256,
        description=_description(document),
        slides=slides,
        classes=classes,
        rows=rows,
        notes=_notes(rows),
    )
