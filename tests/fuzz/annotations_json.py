"""Any bytes as a COCO file: read and matched, or refused."""

from __future__ import annotations

import contextlib
import json

from tests.annotations.test_builders import MITOSIS, box, coco_document, load
from tests.fuzz.runner import fuzz
from tests.fuzz.scratch import scratch
from wsi_extract.annotations import AnnotationOptions, LoadedAnnotations
from wsi_extract.errors import AnnotationError


def check(data: bytes) -> LoadedAnnotations | None:
    """Return what was loaded, ``None`` when it was refused; every other error is a finding."""
    path = scratch() / "a.json"
    path.write_bytes(data)
    with contextlib.suppress(AnnotationError):
        load(path)  # most boxes that chance makes are ambiguous
    with contextlib.suppress(AnnotationError):
        loaded = load(path, options=AnnotationOptions(bbox_format="xywh"))
        account = loaded.reconciliation
        assert account.n_read == sum(sum(count.n_by_reason.values()) for count in account.classes)
        json.dumps([loaded.source.to_json(), account.to_json()], allow_nan=False).encode()
        return loaded
    return None


def seeds() -> list[bytes]:
    """Return documents of every shape that is read."""
    many = [box(i, [90 * i, 70 * i, 90 * i + 50, 70 * i + 50], area=2500, iscrowd=i % 2) for i in range(1, 9)]
    outline = [box(1, [10, 10, 20, 20], segmentation=[[10, 10, 30, 10, 30, 30, 10, 30]], image_id=None)]
    documents = [
        coco_document(many),
        coco_document(outline, info={"description": "MITOS_WSI_CCMCT"}),
        coco_document([{"id": 1, "bbox": [], "category_id": MITOSIS}], images=()),
        coco_document([], images=({"id": 2, "file_name": "a/b\\c.svs", "width": 1.5, "height": None},)),
    ]
    return [json.dumps(document).encode() for document in documents]


if __name__ == "__main__":
    fuzz("tests.fuzz.annotations_json", seeds=seeds())
