"""COCO documents in the hands of pycocotools: the ground truth as predictions must score an average precision of 1.

Whatever is wrong with ids, references or empty boxes lowers it, also what no other check foresees.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsi_extract.verify.documents import CocoDocument, Item, largest_group

MAX_IMAGES = 2000
"""Labelled images that are evaluated; more take minutes and tell nothing new."""
USUAL_MAX_DETECTIONS = 100
LEAST_PRECISION = 1 - 1e-6
ALL_AREAS = [0.0, 1e10]


def precision_against_itself(document: CocoDocument) -> float | None:
    """Return the average precision of the labels as predictions of themselves, ``None`` without labels.

    Raises
    ------
    Exception
        Whatever pycocotools raises on a document it cannot use; see `wsi_extract.verify.findings.DAMAGE`.
    """
    known = {image["id"] for image in document.images}
    labels = [label for label in document.annotations if not label["iscrowd"] and label["image_id"] in known]
    # pycocotools reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document.raw
        truth.createIndex()
        if not labels:
            return None
        image_ids = sorted({label["image_id"] for label in labels})[:MAX_IMAGES]
        chosen = set(image_ids)
        predictions = [_prediction(label) for label in labels if label["image_id"] in chosen]
        return _average_precision(truth, predictions, image_ids=image_ids)


def _prediction(label: Item) -> Item:
    return {**{key: label[key] for key in ("image_id", "category_id", "bbox")}, "score": 1.0}


def _average_precision(truth: COCO, predictions: Sequence[Item], *, image_ids: Sequence[int]) -> float | None:
    # An image with more labels than detections are counted would score below 1 without any fault.
    most = largest_group([prediction["image_id"] for prediction in predictions])
    evaluation = COCOeval(truth, truth.loadRes(list(predictions)), "bbox")
    evaluation.params.imgIds = list(image_ids)
    evaluation.params.maxDets = [1, 10, max(USUAL_MAX_DETECTIONS, most)]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [ALL_AREAS], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]  # (IoU thresholds, recalls, categories)
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else None
