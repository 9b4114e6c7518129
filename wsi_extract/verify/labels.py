"""Boxes and anchors of one slide across its overlapping patches.

A patch that shows an object whole tells where the object lies on the slide; every other patch must then agree.
That finds boxes that were moved, scaled, swapped, left whole at an edge or forgotten, without the annotation file.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_extract.arrays import BoolArray, FloatArray, IntArray
from wsi_extract.model import AnnotationTable, PatchKind, Role
from wsi_extract.verify.findings import Check
from wsi_extract.verify.recorded import RecordedSlide

AGREEMENT_L0_PX = 0.5
"""Boxes of one object, taken back to level 0, differ by no more."""
EDGE_PX = 0.01
"""Boxes and centres nearer to the edge of a patch count as on it: boxes are rounded."""
ANCHOR_CATEGORIES = {PatchKind.MITOSIS: 1, PatchKind.HARD_NEGATIVE: 2}


def find_label_problems(slide: RecordedSlide, *, is_centre_rule: bool) -> Iterator[tuple[Check, str]]:
    """Yield what is wrong with the boxes of one slide.

    Parameters
    ----------
    is_centre_rule
        Whether objects are labelled where their centre is shown; with another visibility rule, only positions and
        classes are checked.
    """
    sightings = slide.sightings
    if len(sightings):
        names, code = np.unique(np.array(sightings.name), return_inverse=True)
        yield from _class_problems(slide, names=names, code=code)
        boxes_l0, is_known = _places_l0(slide, code=code, n_names=len(names))
        yield from _place_problems(slide, code=code, boxes_l0=boxes_l0, is_known=is_known)
        if is_centre_rule:
            yield from _centre_problems(slide, names=names, code=code, boxes_l0=boxes_l0, is_known=is_known)
    yield from _anchor_problems(slide, is_centre_rule=is_centre_rule)


def find_annotation_problems(
    slide: RecordedSlide, annotations: AnnotationTable, *, is_centre_rule: bool
) -> Iterator[tuple[Check, str]]:
    """Yield where the recorded boxes are not those that the slide's annotations ask for."""
    names = np.array([annotations.name_of(row) for row in range(len(annotations))], dtype=np.str_)
    row_of = {name: row for row, name in enumerate(names.tolist())}
    sightings = slide.sightings
    unknown = sorted(set(sightings.name) - row_of.keys())
    if unknown:
        yield Check.SCENES, f"{len(unknown)} objects of the records are no annotations: {', '.join(unknown[:5])}"
        return
    code = np.array([row_of[name] for name in sightings.name], dtype=np.int64)
    role = annotations.role[code]
    category = np.where(role == Role.HARD_NEGATIVE, ANCHOR_CATEGORIES[PatchKind.HARD_NEGATIVE], 1)
    is_wrong = (sightings.category_id != category) | ((role == Role.IGNORE) & (sightings.is_crowd == 0))
    for index in np.flatnonzero(is_wrong).tolist():
        yield Check.SCENES, f"object {sightings.name[index]} has a category that is not that of its annotation"
    boxes_l0 = annotations.boxes_l0
    has_area: BoolArray = np.all(boxes_l0[:, 2:] - boxes_l0[:, :2] > AGREEMENT_L0_PX, axis=1)
    problems = list(_place_problems(slide, code=code, boxes_l0=boxes_l0, is_known=has_area))
    if is_centre_rule:
        problems += _centre_problems(slide, names=names, code=code, boxes_l0=boxes_l0, is_known=has_area)
    for _, message in problems:
        yield Check.SCENES, message


def _class_problems(
    slide: RecordedSlide, *, names: np.ndarray[tuple[int], np.dtype[np.str_]], code: IntArray
) -> Iterator[tuple[Check, str]]:
    """Yield objects with several categories on the slide, or listed twice in one patch."""
    pairs = np.unique(np.stack([code, slide.sightings.category_id], axis=1), axis=0)
    for index in np.flatnonzero(np.bincount(pairs[:, 0]) > 1).tolist():
        yield Check.LABELS, f"object {names[index]} has different categories in different patches"
    _, first, n_times = np.unique(slide.sightings.row * len(names) + code, return_index=True, return_counts=True)
    for index in first[n_times > 1].tolist():
        yield Check.LABELS, f"patch {slide.sightings.row[index]} lists object {slide.sightings.name[index]} twice"


def _places_l0(slide: RecordedSlide, *, code: IntArray, n_names: int) -> tuple[FloatArray, BoolArray]:
    """Return the level-0 box of each object that some patch shows whole, and which objects those are."""
    boxes = slide.sightings.boxes_px
    size = np.array(slide.frame.patch_wh_px, dtype=np.float64)
    is_whole = (boxes[:, :2] > EDGE_PX).all(axis=1) & (boxes[:, 2:] < size - EDGE_PX).all(axis=1)
    known, first = np.unique(code[is_whole], return_index=True)
    rows = np.flatnonzero(is_whole)[first]
    places = np.zeros((n_names, 4), dtype=np.float64)
    scale = np.array(slide.frame.l0_per_px_xy * 2, dtype=np.float64)
    places[known] = boxes[rows] * scale + np.tile(slide.origins_l0[slide.sightings.row[rows]], 2)
    is_known = np.zeros(n_names, dtype=np.bool_)
    is_known[known] = True
    return places, is_known


def _place_problems(
    slide: RecordedSlide, *, code: IntArray, boxes_l0: FloatArray, is_known: BoolArray
) -> Iterator[tuple[Check, str]]:
    """Yield boxes, whole or clipped, that are not where the object lies on the slide."""
    sightings = slide.sightings
    scale = np.array(slide.frame.l0_per_px_xy * 2, dtype=np.float64)
    expected = (boxes_l0[code] - np.tile(slide.origins_l0[sightings.row], 2)) / scale
    expected = np.clip(expected, 0, np.array(slide.frame.patch_wh_px * 2, dtype=np.float64))
    off_l0_px = (np.abs(expected - sightings.boxes_px) * scale).max(axis=1)
    for index in np.flatnonzero(is_known[code] & (off_l0_px > AGREEMENT_L0_PX)).tolist():
        where = f"object {sightings.name[index]} in patch {sightings.row[index]}"
        yield Check.LABELS, f"{where} is {off_l0_px[index]:.2f} level-0 px off from where another patch shows it"


def _centre_problems(
    slide: RecordedSlide,
    *,
    names: np.ndarray[tuple[int], np.dtype[np.str_]],
    code: IntArray,
    boxes_l0: FloatArray,
    is_known: BoolArray,
) -> Iterator[tuple[Check, str]]:
    """Yield labels whose centre is outside, and patches that do not list an object whose centre they show."""
    sightings = slide.sightings
    centres_l0 = (boxes_l0[:, :2] + boxes_l0[:, 2:]) / 2
    scale, size = np.array(slide.frame.l0_per_px_xy), np.array(slide.frame.patch_wh_px, dtype=np.float64)
    centres = (centres_l0[code] - slide.origins_l0[sightings.row]) / scale
    is_outside = ((centres < -EDGE_PX) | (centres > size + EDGE_PX)).any(axis=1)
    for index in np.flatnonzero(is_known[code] & is_outside & (sightings.is_crowd == 0)).tolist():
        yield (
            Check.LABELS,
            f"object {sightings.name[index]} is a label of patch {sightings.row[index]}, its centre is outside",
        )
    due = _due_keys(slide, centres_l0=centres_l0, is_known=is_known)
    for key in np.setdiff1d(due, sightings.row * len(names) + code).tolist():
        row, index = divmod(key, len(names))
        yield Check.LABELS, f"patch {row} shows the centre of object {names[index]} but does not list it"


def _due_keys(slide: RecordedSlide, *, centres_l0: FloatArray, is_known: BoolArray) -> IntArray:
    """Return ``patch * number of objects + object`` wherever a patch shows the centre of a known object."""
    order = np.flatnonzero(is_known)[np.argsort(centres_l0[is_known, 0], kind="stable")]
    x_l0, y_l0 = centres_l0[order, 0], centres_l0[order, 1]
    edge_xy = EDGE_PX * np.array(slide.frame.l0_per_px_xy)
    low = slide.origins_l0 + edge_xy
    high = slide.origins_l0 + np.array(slide.frame.footprint_l0_wh) - edge_xy
    starts, stops = np.searchsorted(x_l0, low[:, 0]), np.searchsorted(x_l0, high[:, 0])
    keys = [np.empty(0, dtype=np.int64)]
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        inside = (y_l0[start:stop] >= low[row, 1]) & (y_l0[start:stop] < high[row, 1])
        keys.append(row * len(is_known) + order[start:stop][inside])
    return np.concatenate(keys)


def _anchor_problems(slide: RecordedSlide, *, is_centre_rule: bool) -> Iterator[tuple[Check, str]]:
    """Yield the patches that do not show their anchor, which has its centre in them by plan."""
    sightings = slide.sightings
    labelled = {
        (row, name): category
        for row, name, category, is_crowd in zip(
            sightings.row.tolist(), sightings.name, sightings.category_id.tolist(), sightings.is_crowd.tolist(),
            strict=True,
        )
        if not is_crowd
    }  # fmt: skip
    for row, (code, anchor) in enumerate(zip(slide.kind.tolist(), slide.anchors, strict=True)):
        kind = PatchKind(code)
        wanted = ANCHOR_CATEGORIES.get(kind)
        if (wanted is None) != (anchor is None):
            yield Check.ANCHORS, f"patch {row} is of kind {kind.label}, its anchor is {anchor}"
        elif anchor is not None and is_centre_rule and labelled.get((row, anchor)) != wanted:
            yield (
                Check.ANCHORS,
                f"patch {row} ({kind.label}) does not show its anchor {anchor} as an object of category {wanted}",
            )
