"""Annotations x patch -> boxes in patch pixels, by one visibility rule. Pure.

Let B be an annotation's box in patch pixels and V the share of B's area inside the patch.

* centre of B inside the patch (or, with ``label_visible_fraction`` set, V at least that): a label, B clipped;
* else V at least ``crowd_visible_fraction``: iscrowd = 1, B clipped: evaluation ignores it, training drops it;
* else, when B meets the patch, or when its centre is inside but it has no area: nothing, but counted.

Annotations of role ignore become iscrowd = 1 wherever they would be seen by these rules. Look-alikes that are not to
be labelled are kept as a side field of the patch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import BoolArray, FloatArray, IntArray
from wsi_extract.geometry import Scale, out_from_l0_boxes
from wsi_extract.model import AnnotationTable, Role

CATEGORY_IDS = {Role.TARGET: 1, Role.HARD_NEGATIVE: 2}
CATEGORY_NAMES = {1: "mitotic figure", 2: "mitotic figure look-alike"}
BOX_DECIMALS = 4
"""Boxes are stored to a ten-thousandth of a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRules:
    """Options of the visibility rule; see `wsi_extract.config.RunConfig`."""

    label_hard_negatives: bool
    label_visible_fraction: float | None
    crowd_visible_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchLabel:
    """One box in a patch."""

    xywh_out: tuple[float, float, float, float]
    category_id: int
    is_crowd: bool
    annotation: str
    """Stable name of the annotation, see `AnnotationTable.name_of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchLabels:
    """Everything visible in one patch."""

    labels: tuple[PatchLabel, ...]
    look_alikes: tuple[PatchLabel, ...]
    """Hard negatives that are not labelled by choice."""
    counts: Counter[str]
    """How many annotations each rule met, keys ``<role>_<rule>``."""


def clip_boxes(boxes_out: FloatArray, *, patch_wh_out: tuple[int, int]) -> FloatArray:
    """Clip boxes ``(N, 4)`` (x0, y0, x1, y1) to the patch; boxes outside end up without area."""
    width, height = patch_wh_out
    return np.clip(boxes_out, 0, np.array([width, height, width, height], dtype=np.float64))


def label_patch(
    annotations: AnnotationTable,
    *,
    origin_l0_xy: tuple[int, int],
    scale: Scale,
    patch_wh_out: tuple[int, int],
    rules: LabelRules,
) -> PatchLabels:
    """Return the boxes of all annotations that the patch shows, in the order of the table.

    Parameters
    ----------
    annotations
        The slide's annotations, or those near the patch.
    origin_l0_xy
        Level-0 pixel the patch is read from; the same one as for its pixels.
    scale
        Level-0 pixels per patch pixel.
    patch_wh_out
        Size of the patch.
    rules
        Options of the visibility rule.
    """
    boxes = out_from_l0_boxes(annotations.boxes_l0, origin_l0_xy=origin_l0_xy, scale=scale)
    clipped = clip_boxes(boxes, patch_wh_out=patch_wh_out)
    is_label, is_crowd, is_dropped = _apply_rule(boxes, clipped, patch_wh_out=patch_wh_out, rules=rules)
    is_ignore = annotations.role == Role.IGNORE
    is_crowd |= is_label & is_ignore
    is_label &= ~is_ignore
    is_side = (annotations.role == Role.HARD_NEGATIVE) & (not rules.label_hard_negatives)
    counts: Counter[str] = Counter()
    for name, chosen in (("label", is_label), ("crowd", is_crowd), ("dropped", is_dropped)):
        for role in Role:
            n = int(np.count_nonzero(chosen & (annotations.role == int(role))))
            if n:
                counts[f"{role.label}_{name}"] = n
    shown = np.flatnonzero((is_label | is_crowd) & ~is_side).astype(np.int64)
    side = np.flatnonzero(is_label & is_side).astype(np.int64)
    return PatchLabels(
        labels=_labels(annotations, shown, clipped=clipped, is_crowd=is_crowd),
        look_alikes=_labels(annotations, side, clipped=clipped, is_crowd=is_crowd),
        counts=counts,
    )


def _apply_rule(
    boxes: FloatArray, clipped: FloatArray, *, patch_wh_out: tuple[int, int], rules: LabelRules
) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Return which boxes are labels, which are crowd, and which are seen but neither."""
    rounded = np.round(clipped, BOX_DECIMALS)
    has_area = (rounded[:, 2] > rounded[:, 0]) & (rounded[:, 3] > rounded[:, 1])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    shown_area = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    # Nine decimals, so that a box showing exactly the threshold passes it at every scale.
    visible = np.round(np.divide(shown_area, area, out=np.zeros_like(area), where=area > 0), 9)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.all((centres >= 0) & (centres < np.array(patch_wh_out, dtype=np.float64)), axis=1)
    wanted = inside if rules.label_visible_fraction is None else visible >= rules.label_visible_fraction
    is_label = has_area & wanted
    is_crowd = has_area & ~wanted & (visible >= rules.crowd_visible_fraction)
    return is_label, is_crowd, (has_area | inside) & ~is_label & ~is_crowd


def _labels(
    annotations: AnnotationTable, rows: IntArray, *, clipped: FloatArray, is_crowd: BoolArray
) -> tuple[PatchLabel, ...]:
    labels = []
    for row in rows.tolist():
        x0, y0, x1, y1 = np.round(clipped[row], BOX_DECIMALS).tolist()
        labels.append(
            PatchLabel(
                xywh_out=(x0, y0, round(x1 - x0, BOX_DECIMALS), round(y1 - y0, BOX_DECIMALS)),
                category_id=CATEGORY_IDS.get(Role(int(annotations.role[row])), CATEGORY_IDS[Role.TARGET]),
                is_crowd=bool(is_crowd[row]),
                annotation=annotations.name_of(row),
            )
        )
    return tuple(labels)
