"""Decide by evidence whether the boxes of a COCO file are corners (xyxy) or corner and size (xywh).

COCO says xywh; the published mitosis data sets write xyxy. One writer wrote the file, so one answer holds for all of
it. Undecidable files are refused with the evidence, never guessed. Pure: knows nothing of files or slides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from wsi_extract.annotations.source import Witness
from wsi_extract.arrays import BoolArray, CodeArray, FloatArray
from wsi_extract.errors import AnnotationError

FEW_SHARE = 0.05
"""Boxes impossible under the right convention: damage, or centres just outside the slide."""
MANY_SHARE = 0.20
"""Boxes impossible under the wrong convention, at least."""
CONSTANT_DISPERSION = 0.05
VARIED_DISPERSION = 0.20
DISPERSION_MIN_BOXES = 3
NORMALISED_MAX = 1.5

REMEDY = "Look at a few boxes and say what they are with --bbox_format xyxy or --bbox_format xywh."


class BboxFormat(StrEnum):
    """What the four numbers of a box mean."""

    XYXY = "xyxy"
    """Left, top, right, bottom."""
    XYWH = "xywh"
    """Left, top, width, height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BboxEvidence:
    """What the boxes of a file say about their convention; ``None`` where nothing can be said."""

    n_boxes: int
    n_voting: int
    """Boxes that are not the same under both conventions."""
    n_witness_xyxy: int
    """Boxes whose area or outline fits xyxy only."""
    n_witness_xywh: int
    vx: float | None
    """Share of the voting boxes on slides of known size that are impossible as xyxy."""
    vw: float | None
    """The same for xywh."""
    dispersion_xyxy: float | None
    """Sum of the coefficients of variation of width and height, read as xyxy."""
    dispersion_xywh: float | None
    dispersion_positions: float | None
    """The same for the left and top edges."""
    is_positive_xyxy: bool
    """Whether all voting boxes have positive width and height, read as xyxy."""
    is_positive_xywh: bool

    def __str__(self) -> str:
        numbers = {
            "vx": self.vx,
            "vw": self.vw,
            "dispersion as xyxy": self.dispersion_xyxy,
            "dispersion as xywh": self.dispersion_xywh,
            "of positions": self.dispersion_positions,
        }
        shown = ", ".join(
            f"{name} = {'unknown' if value is None else f'{value:.3f}'}" for name, value in numbers.items()
        )
        return (
            f"{self.n_boxes} boxes, {self.n_voting} of them differ between the conventions; {shown}; "
            f"area or outline fits xyxy for {self.n_witness_xyxy}, xywh for {self.n_witness_xywh}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BboxDecision:
    """The convention of a file's boxes, and why."""

    format: BboxFormat
    step: str
    """``explicit``, ``equal`` (no box differs), ``witness``, ``bounds`` or ``dispersion``."""
    evidence: BboxEvidence

    def to_json(self) -> dict[str, object]:
        """Return the decision ready for JSON."""
        evidence = self.evidence
        return {
            "format": str(self.format),
            "step": self.step,
            "n_boxes": evidence.n_boxes,
            "n_voting": evidence.n_voting,
            "n_witness_xyxy": evidence.n_witness_xyxy,
            "n_witness_xywh": evidence.n_witness_xywh,
            "vx": evidence.vx,
            "vw": evidence.vw,
            "dispersion_xyxy": evidence.dispersion_xyxy,
            "dispersion_xywh": evidence.dispersion_xywh,
            "dispersion_positions": evidence.dispersion_positions,
        }


def _is_outside(x: FloatArray, y: FloatArray, *, sizes_wh: FloatArray) -> BoolArray:
    result: BoolArray = (x < 0) | (y < 0) | (x >= sizes_wh[:, 0]) | (y >= sizes_wh[:, 1])
    return result


def _share_impossible_xyxy(boxes: FloatArray, *, sizes_wh: FloatArray) -> float:
    b0, b1, b2, b3 = boxes.T
    outside = _is_outside((b0 + b2) / 2, (b1 + b3) / 2, sizes_wh=sizes_wh)
    return float(np.mean((b2 <= b0) | (b3 <= b1) | outside))


def _share_impossible_xywh(boxes: FloatArray, *, sizes_wh: FloatArray) -> float:
    b0, b1, b2, b3 = boxes.T
    outside = _is_outside(b0 + b2 / 2, b1 + b3 / 2, sizes_wh=sizes_wh)
    too_large = (b2 > sizes_wh[:, 0]) | (b3 > sizes_wh[:, 1])
    return float(np.mean((b2 <= 0) | (b3 <= 0) | too_large | outside))


def _dispersion(first: FloatArray, second: FloatArray) -> float | None:
    """Sum of standard deviation over mean of two columns; ``None`` where a mean is 0."""
    means = np.abs([first.mean(), second.mean()])
    return None if np.any(means == 0) else float(first.std() / means[0] + second.std() / means[1])


def weigh_boxes(boxes: FloatArray, *, sizes_wh: FloatArray, witnesses: CodeArray) -> BboxEvidence:
    """Collect the evidence.

    Parameters
    ----------
    boxes
        ``(N, 4)`` float64, the numbers as the file holds them.
    sizes_wh
        ``(N, 2)`` float64, width and height of each box's slide at level 0, px; NaN where unknown.
    witnesses
        ``(N,)`` int8, values of `Witness`.
    """
    votes = (boxes[:, 0] != 0) | (boxes[:, 1] != 0)
    voting, is_sized = boxes[votes], votes & np.isfinite(sizes_wh).all(axis=1)
    has_bounds, has_spread = bool(is_sized.any()), len(voting) >= DISPERSION_MIN_BOXES
    sizes_xyxy = voting[:, 2:] - voting[:, :2]
    sized, sizes = boxes[is_sized], sizes_wh[is_sized]
    return BboxEvidence(
        n_boxes=len(boxes),
        n_voting=len(voting),
        n_witness_xyxy=int(np.count_nonzero(witnesses == Witness.XYXY)),
        n_witness_xywh=int(np.count_nonzero(witnesses == Witness.XYWH)),
        vx=_share_impossible_xyxy(sized, sizes_wh=sizes) if has_bounds else None,
        vw=_share_impossible_xywh(sized, sizes_wh=sizes) if has_bounds else None,
        dispersion_xyxy=_dispersion(sizes_xyxy[:, 0], sizes_xyxy[:, 1]) if has_spread else None,
        dispersion_xywh=_dispersion(voting[:, 2], voting[:, 3]) if has_spread else None,
        dispersion_positions=_dispersion(voting[:, 0], voting[:, 1]) if has_spread else None,
        is_positive_xyxy=bool((sizes_xyxy > 0).all()),
        is_positive_xywh=bool((voting[:, 2:] > 0).all()),
    )


def _refuse(reason: str, *, evidence: BboxEvidence, path: object, remedy: str = REMEDY) -> AnnotationError:
    return AnnotationError(f"{path}: the convention of the boxes is {reason} ({evidence}).", remedy)


def _by_witness(evidence: BboxEvidence, *, path: object) -> BboxFormat | None:
    n_xyxy, n_xywh = evidence.n_witness_xyxy, evidence.n_witness_xywh
    if n_xyxy and n_xywh:
        raise _refuse("contradictory: areas or outlines speak for both", evidence=evidence, path=path)
    if not (n_xyxy or n_xywh):
        return None
    answer = BboxFormat.XYXY if n_xyxy else BboxFormat.XYWH
    impossible, other = (evidence.vx, evidence.vw) if n_xyxy else (evidence.vw, evidence.vx)
    if impossible is not None and other is not None and impossible > FEW_SHARE and impossible > other:
        raise _refuse(
            f"contradictory: areas or outlines speak for {answer}, positions against it", evidence=evidence, path=path
        )
    return answer


def _by_bounds(evidence: BboxEvidence, *, path: object) -> BboxFormat | None:
    if evidence.vx is None or evidence.vw is None:
        return None
    if evidence.vx > FEW_SHARE and evidence.vw > FEW_SHARE:
        raise _refuse(
            "in conflict with the slides: neither xyxy nor xywh keeps the boxes inside them",
            evidence=evidence,
            path=path,
        )
    if evidence.vw >= MANY_SHARE:
        return BboxFormat.XYXY
    return BboxFormat.XYWH if evidence.vx >= MANY_SHARE else None


def _by_dispersion(evidence: BboxEvidence) -> BboxFormat | None:
    """One writer with boxes of one size: the right reading is the one under which sizes hardly vary.

    Equal numbers prove equal sizes only where positions vary: corners of boxes that lie close together far from the
    origin hardly vary either.
    """
    as_xyxy, as_xywh, positions = evidence.dispersion_xyxy, evidence.dispersion_xywh, evidence.dispersion_positions
    if as_xyxy is None or as_xywh is None or positions is None or positions <= VARIED_DISPERSION:
        return None
    if as_xyxy < CONSTANT_DISPERSION and as_xywh > VARIED_DISPERSION and evidence.is_positive_xyxy:
        return BboxFormat.XYXY
    is_xywh = as_xywh < CONSTANT_DISPERSION and as_xyxy > VARIED_DISPERSION and evidence.is_positive_xywh
    return BboxFormat.XYWH if is_xywh else None


def decide_bbox_format(
    boxes: FloatArray, *, sizes_wh: FloatArray, witnesses: CodeArray, setting: str, path: object
) -> BboxDecision:
    """Decide the convention of a file's boxes; parameters as in `weigh_boxes`.

    Parameters
    ----------
    setting
        ``xyxy`` or ``xywh`` wins over all evidence; ``auto`` leaves it to the evidence.
    path
        The file, for messages.

    Raises
    ------
    AnnotationError
        When the evidence is contradictory or not enough, with its numbers; when all boxes are fractions of the image.
    """
    evidence = weigh_boxes(boxes, sizes_wh=sizes_wh, witnesses=witnesses)
    if len(boxes) and boxes.min() >= 0 and boxes.max() <= NORMALISED_MAX:
        remedy = "Convert them to level-0 pixels first; --bbox_format cannot help."
        raise _refuse("neither: all numbers lie within 0 and 1.5", evidence=evidence, path=path, remedy=remedy)
    if setting != "auto":
        return BboxDecision(format=BboxFormat(setting), step="explicit", evidence=evidence)
    if evidence.n_voting == 0:
        return BboxDecision(format=BboxFormat.XYWH, step="equal", evidence=evidence)
    if answer := _by_witness(evidence, path=path):
        return BboxDecision(format=answer, step="witness", evidence=evidence)
    if answer := _by_bounds(evidence, path=path):
        return BboxDecision(format=answer, step="bounds", evidence=evidence)
    if answer := _by_dispersion(evidence):
        return BboxDecision(format=answer, step="dispersion", evidence=evidence)
    raise _refuse("ambiguous: both xyxy and xywh are possible", evidence=evidence, path=path)
