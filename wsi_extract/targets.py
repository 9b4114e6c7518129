"""Annotations x patch -> boxes in patch pixels, by one visibility rule. Pure.

Let B be an annotation's box in patch pixels and V the share of B's area inside the patch.

* centre of B inside the patch (or, with ``label_visible_fraction`` set, V at least that): a label, B clipped;
* else V at least ``crowd_visible_fraction``: iscrowd = 1, B clipped: evaluation ignores it, training drops it;
* else, when B meets the patch, or when its centre is inside but it has no area: nothing, but counted.

Annotations of role ignore become iscrowd = 1 wherever they would be seen by these rules. Look-alikes that are not to
be labelled are kept as a side field of the patch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from wsi_extract.arrays import BoolArray, CodeArray, FloatArray, IntArray
from wsi_extract.geometry import Scale, out_from_l0_boxes
from wsi_extract.model import AnnotationTable, Role

CATEGORY_IDS = {Role.TARGET: 1, Role.HARD_NEGATIVE: 2}
CATEGORY_NAMES = {1: "mitotic figure", 2: "mitotic figure look-alike"}
BOX_DECIMALS = 4
"""Boxes are stored to a ten-thousandth of a pixel."""
PAIRS_AT_ONCE = 1 << 20
"""Pairs of a patch and a box that are looked at together: some 50 MB."""
SLACK_L0_PX = 1.0
"""Boxes this far outside a patch are still looked at: far more than rounding can move them."""


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
    """How many annotations each rule met, keys ``<role>_<rule>``; to be read only, patches may share one."""


class _Verdict(IntEnum):
    """What the rule says of a box in a patch."""

    UNSEEN = 0
    LABEL = 1
    CROWD = 2
    DROPPED = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """Patches and the boxes that may be seen in them, sorted by patch, then by row."""

    patch: IntArray
    """(K,) number of the patch."""
    row: IntArray
    """(K,) row of the annotations."""


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
    rows = np.arange(len(annotations), dtype=np.int64)
    origins_l0 = np.array([origin_l0_xy], dtype=np.int64)
    pairs = _Pairs(patch=np.zeros_like(rows), row=rows)
    return _judge(annotations, pairs, origins_l0=origins_l0, scale=scale, patch_wh_out=patch_wh_out, rules=rules)[0]


def label_patches(
    annotations: AnnotationTable,
    *,
    origins_l0: IntArray,
    scale: Scale,
    patch_wh_out: tuple[int, int],
    rules: LabelRules,
) -> list[PatchLabels]:
    """Return what `label_patch` returns for each of many patches, at a cost that grows with what they show.

    Parameters
    ----------
    annotations
        The slide's annotations, or those near the patches.
    origins_l0
        ``(N, 2)`` int64, columns (x, y): level-0 pixels the patches are read from.
    scale, patch_wh_out, rules
        As for `label_patch`; the same for all patches.
    """
    size_l0 = np.array([patch_wh_out[0] * scale.x, patch_wh_out[1] * scale.y], dtype=np.float64)
    pairs = _find_pairs(annotations.boxes_l0, origins_l0=origins_l0, size_l0=size_l0)
    return _judge(annotations, pairs, origins_l0=origins_l0, scale=scale, patch_wh_out=patch_wh_out, rules=rules)


def _find_pairs(boxes_l0: FloatArray, *, origins_l0: IntArray, size_l0: FloatArray) -> _Pairs:
    """Return the pairs of patch and box that meet or nearly do.

    Patches are sorted along the axis on which they spread more: the partners of a box on it stand in one row.
    """
    if len(boxes_l0) == 0 or len(origins_l0) == 0:
        return _Pairs(patch=np.empty(0, dtype=np.int64), row=np.empty(0, dtype=np.int64))
    axis = int(np.argmax(np.ptp(origins_l0, axis=0) / size_l0))
    order = np.argsort(origins_l0[:, axis], kind="stable")
    lowest = boxes_l0[:, :2] - size_l0 - SLACK_L0_PX
    highest = boxes_l0[:, 2:] + SLACK_L0_PX
    begin = np.searchsorted(origins_l0[order, axis], lowest[:, axis], side="left")
    n_near = np.searchsorted(origins_l0[order, axis], highest[:, axis], side="right") - begin
    ends = np.cumsum(n_near)
    cuts = np.searchsorted(ends, np.arange(PAIRS_AT_ONCE, int(ends[-1]), PAIRS_AT_ONCE))
    patches, rows = [], []
    for some in np.split(np.arange(len(boxes_l0), dtype=np.int64), cuts):
        row = np.repeat(some, n_near[some])
        within = np.arange(len(row)) - np.repeat(np.cumsum(n_near[some]) - n_near[some], n_near[some])
        patch = order[begin[row] + within]
        across = origins_l0[patch, 1 - axis]
        meets = (across >= lowest[row, 1 - axis]) & (across <= highest[row, 1 - axis])
        patches.append(patch[meets])
        rows.append(row[meets])
    patch, row = np.concatenate(patches), np.concatenate(rows)
    by_patch = np.argsort(patch, kind="stable")  # rows rise already
    return _Pairs(patch=patch[by_patch], row=row[by_patch])


def _judge(
    annotations: AnnotationTable,
    pairs: _Pairs,
    *,
    origins_l0: IntArray,
    scale: Scale,
    patch_wh_out: tuple[int, int],
    rules: LabelRules,
) -> list[PatchLabels]:
    """Apply the visibility rule to pairs of patch and box; patches without a pair show nothing."""
    shifted = annotations.boxes_l0[pairs.row] - np.tile(origins_l0[pairs.patch], 2)
    boxes = out_from_l0_boxes(shifted, origin_l0_xy=(0, 0), scale=scale)
    clipped = clip_boxes(boxes, patch_wh_out=patch_wh_out)
    is_label, is_crowd, is_dropped = _apply_rule(boxes, clipped, patch_wh_out=patch_wh_out, rules=rules)
    is_ignore = annotations.role[pairs.row] == Role.IGNORE
    verdicts = np.zeros(len(boxes), dtype=np.int8)
    verdicts[is_label] = _Verdict.LABEL
    verdicts[is_crowd | (is_label & is_ignore)] = _Verdict.CROWD
    verdicts[is_dropped] = _Verdict.DROPPED
    seen = np.flatnonzero(verdicts)
    pairs = _Pairs(patch=pairs.patch[seen], row=pairs.row[seen])
    nothing = PatchLabels(labels=(), look_alikes=(), counts=Counter())
    labels = [nothing] * len(origins_l0)
    corners = np.round(clipped[seen], BOX_DECIMALS)
    bounds = [0, *(np.flatnonzero(np.diff(pairs.patch)) + 1).tolist(), len(seen)] if len(seen) else []
    for start, stop in itertools.pairwise(bounds):
        part = slice(start, stop)
        labels[int(pairs.patch[start])] = _labels_of_patch(
            annotations, pairs.row[part], corners=corners[part], verdicts=verdicts[seen[part]], rules=rules
        )
    return labels


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


def _labels_of_patch(
    annotations: AnnotationTable, rows: IntArray, *, corners: FloatArray, verdicts: CodeArray, rules: LabelRules
) -> PatchLabels:
    """Return the labels of one patch from the rows of the annotations it shows."""
    labels: list[PatchLabel] = []
    look_alikes: list[PatchLabel] = []
    counts: Counter[str] = Counter()
    for row, (x0, y0, x1, y1), code in zip(rows.tolist(), corners.tolist(), verdicts.tolist(), strict=True):
        role, verdict = Role(int(annotations.role[row])), _Verdict(code)
        counts[f"{role.label}_{verdict.name.lower()}"] += 1
        is_side = role is Role.HARD_NEGATIVE and not rules.label_hard_negatives
        if verdict is _Verdict.DROPPED or (is_side and verdict is _Verdict.CROWD):
            continue
        label = PatchLabel(
            xywh_out=(x0, y0, round(x1 - x0, BOX_DECIMALS), round(y1 - y0, BOX_DECIMALS)),
            category_id=CATEGORY_IDS.get(role, CATEGORY_IDS[Role.TARGET]),
            is_crowd=verdict is _Verdict.CROWD,
            annotation=annotations.name_of(row),
        )
        (look_alikes if is_side else labels).append(label)
    return PatchLabels(labels=tuple(labels), look_alikes=tuple(look_alikes), counts=counts)
