"""Write COCO documents exactly as the official Deformable-DETR loader and pycocotools need them, as a stream.

Ids start at 1 and follow plan order; boxes are absolute xywh inside the patch with their area and iscrowd; patches
without boxes stay in ``images``. Extra keys carry the provenance and are ignored by every known reader.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from wsi_extract.files import atomic_writer
from wsi_extract.records import BlockDocument, LabelEntry, PatchEntry

AREA_DECIMALS = 8
"""All the digits of the product of two sides of four decimals: the area is exactly w * h, and never zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoCounts:
    """What one document holds."""

    n_images: int = 0
    n_empty_images: int = 0
    n_crowd: int = 0
    labels_by_category: Counter[int] = field(default_factory=Counter)
    images_by_kind: Counter[str] = field(default_factory=Counter)


def write_coco(
    path: Path, documents: Iterable[BlockDocument], *, category_names: dict[int, str], description: str
) -> CocoCounts:
    """Write the COCO document of one split from its block records, taken in plan order; memory stays flat.

    Parameters
    ----------
    path
        The JSON file; written whole or not at all.
    documents
        Block records of this split, ordered by slide and block.
    category_names
        Name of each category id; ids are 1-based.
    description
        Text of ``info.description``.
    """
    n_images = n_empty = n_annotations = n_crowd = 0
    by_category: Counter[int] = Counter()
    by_kind: Counter[str] = Counter()
    with atomic_writer(path) as stream, tempfile.TemporaryFile(dir=path.parent) as spool:
        head = {
            "info": {"description": description, "version": "1.0"},
            "licenses": [],
            "categories": [
                {"id": key, "name": name, "supercategory": "cell"} for key, name in sorted(category_names.items())
            ],
        }
        stream.write(_json(head)[:-1] + b',\n"images":[')
        for document in documents:
            for patch in document["patches"]:
                n_images += 1
                n_empty += not patch["labels"]
                by_kind[patch["kind"]] += 1
                _write_item(stream, _image(document, patch, image_id=n_images), is_first=n_images == 1)
                for label in patch["labels"]:
                    n_annotations += 1
                    n_crowd += label["iscrowd"]
                    by_category[label["category_id"]] += 1 - label["iscrowd"]
                    annotation = _annotation(label, annotation_id=n_annotations, image_id=n_images)
                    _write_item(spool, annotation, is_first=n_annotations == 1)
        stream.write(b'\n],\n"annotations":[')
        spool.seek(0)
        shutil.copyfileobj(spool, stream)
        stream.write(b"\n]}\n")
    return CocoCounts(
        n_images=n_images,
        n_empty_images=n_empty,
        n_crowd=n_crowd,
        labels_by_category=by_category,
        images_by_kind=by_kind,
    )


def _write_item(stream: IO[bytes], item: dict[str, object], *, is_first: bool) -> None:
    stream.write((b"\n" if is_first else b",\n") + _json(item))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def _image(document: BlockDocument, patch: PatchEntry, *, image_id: int) -> dict[str, object]:
    width, height = document["patch_wh_px"]
    image: dict[str, object] = {
        "id": image_id,
        "file_name": patch["file_name"],
        "width": width,
        "height": height,
        "slide_id": document["slide_id"],
        "split": document["split"],
        "kind": patch["kind"],
        "requested_kind": patch["requested_kind"],
        "anchor": patch["anchor"],
        "x_l0": patch["x_l0"],
        "y_l0": patch["y_l0"],
        "l0_per_px_xy": document["l0_per_px_xy"],
        "um_per_px_xy": document["um_per_px_xy"],
        "level": document["level"],
        "tissue_fraction": patch["tissue_fraction"],
    }
    if "look_alikes" in patch:
        image["look_alikes"] = [
            {"bbox": entry["bbox"], "source_id": entry["source_id"]} for entry in patch["look_alikes"]
        ]
    return image


def _annotation(label: LabelEntry, *, annotation_id: int, image_id: int) -> dict[str, object]:
    _, _, width, height = label["bbox"]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": label["category_id"],
        "bbox": label["bbox"],
        "area": round(width * height, AREA_DECIMALS),
        "iscrowd": label["iscrowd"],
        "source_id": label["source_id"],
    }
