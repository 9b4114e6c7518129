"""Account for every annotation that was read: kept in which role, or left out for which reason.

Each row gets the first reason that applies, in the order of `Reason` after the kept ones. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from wsi_extract.annotations.classes import ClassDecision
from wsi_extract.annotations.source import NO_SLIDE, SourceFile, SourceKind
from wsi_extract.arrays import BoolArray, CodeArray, FloatArray, IntArray
from wsi_extract.model import Role

N_UNLISTED = 100
NO_ROLE = 0
"""Stands for a class without a role in arrays of roles."""


class Reason(StrEnum):
    """Where an annotation went."""

    KEPT_TARGET = "kept_target"
    KEPT_HARD_NEGATIVE = "kept_hard_negative"
    KEPT_IGNORE = "kept_ignore"
    DELETED = "deleted"
    NAVIGATION_MARKER = "navigation_marker"
    """A special spot of SlideRunner."""
    NOT_SELECTED_TYPE = "not_selected_type"
    ORPHAN = "orphan"
    """Its slide is not listed in the file."""
    UNKNOWN_CLASS = "unknown_class"
    """It has no class, or one that the file does not list."""
    UNMAPPED_CLASS = "unmapped_class"
    """Nothing says what its class means."""
    CONTEXT = "context"
    UNMATCHED_SLIDE = "unmatched_slide"
    """Its slide was not found."""
    UNREADABLE_SLIDE = "unreadable_slide"
    NO_COORDINATES = "no_coordinates"
    DEGENERATE = "degenerate"
    """Its box has no area."""
    OUT_OF_SLIDE = "out_of_slide"
    """Its centre lies outside the slide."""


REASONS = tuple(Reason)
"""Numbered by `settle`."""
UNSETTLED = -1
KEPT = {
    Role.TARGET: Reason.KEPT_TARGET,
    Role.HARD_NEGATIVE: Reason.KEPT_HARD_NEGATIVE,
    Role.IGNORE: Reason.KEPT_IGNORE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """The account of one class of the file; ``sum(n_by_reason) == n_read`` always."""

    class_id: int | None
    """``None`` for annotations without a class."""
    name: str
    n_read: int
    n_by_reason: Mapping[Reason, int]
    """Only reasons that occur, in the order of `Reason`."""

    def __post_init__(self) -> None:
        if sum(self.n_by_reason.values()) != self.n_read:
            raise ValueError(f"class {self.name!r}: {self.n_read} annotations read, {dict(self.n_by_reason)} accounted")

    @property
    def label(self) -> str:
        """The class for people: name and id."""
        return self.name if self.class_id is None else f"{self.name} ({self.class_id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The account of a whole annotation file against the slides that were found."""

    classes: tuple[ClassCount, ...]
    """Every class of the file, also without annotations, and those that annotations name but the file does not list."""
    unmatched_slides: tuple[str, ...]
    """Names in the file without a slide, sorted."""
    unreadable_slides: tuple[str, ...]
    """Ids of slides that the file lists but that cannot be opened, sorted."""
    unlisted_slides: tuple[str, ...]
    """Ids of slides that the file does not list, sorted."""

    @property
    def n_read(self) -> int:
        """All annotations of the file."""
        return sum(count.n_read for count in self.classes)

    def count(self, reason: Reason) -> int:
        """Return how many annotations went there."""
        return sum(count.n_by_reason.get(reason, 0) for count in self.classes)

    def to_rows(self) -> tuple[tuple[str, ...], ...]:
        """Return a table of texts, header first: one row per class, one column per reason that occurs, and a sum."""
        used = [reason for reason in REASONS if self.count(reason)]
        header = ("class", "read", *(reason.value for reason in used))
        body = [
            (count.label, str(count.n_read), *(str(count.n_by_reason.get(reason, 0)) for reason in used))
            for count in self.classes
        ]
        return (header, *body, ("all", str(self.n_read), *(str(self.count(reason)) for reason in used)))

    def to_json(self) -> dict[str, object]:
        """Return the account ready for JSON."""
        return {
            "classes": [
                {
                    "class_id": count.class_id,
                    "name": count.name,
                    "read": count.n_read,
                    **{reason.value: n for reason, n in count.n_by_reason.items()},
                }
                for count in self.classes
            ],
            "unmatched_slides": list(self.unmatched_slides),
            "unreadable_slides": list(self.unreadable_slides),
            "unlisted_slides": list(self.unlisted_slides),
        }


def settle(reasons: CodeArray, *, rows: BoolArray, reason: Reason) -> None:
    """Give ``reason`` to those of ``rows`` that have none yet, in place."""
    reasons[(reasons == UNSETTLED) & rows] = REASONS.index(reason)


def roles_of_rows(source: SourceFile, *, classes: tuple[ClassDecision, ...]) -> CodeArray:
    """Return the role of each row, (N,) int8, `NO_ROLE` where its class has none; crowd regions are to be ignored."""
    rows = source.rows
    ids = np.array([item.class_id for item in classes], dtype=np.int64)
    roles = np.array([NO_ROLE if item.role is None else item.role for item in classes] + [NO_ROLE], dtype=np.int8)
    role = roles[np.where(rows.has_class, np.searchsorted(ids, rows.class_id), len(ids))]
    used = (role == Role.TARGET) | (role == Role.HARD_NEGATIVE)
    role[used & rows.is_crowd] = Role.IGNORE
    return role


def find_reasons_in_file(source: SourceFile, *, roles: CodeArray, kinds: tuple[SourceKind, ...]) -> CodeArray:
    """Return the index into `REASONS` of rows the file alone rules out, (N,) int8, `UNSETTLED` for the others."""
    rows = source.rows
    reasons = np.full(len(rows), UNSETTLED, dtype=np.int8)
    settle(reasons, rows=rows.is_deleted, reason=Reason.DELETED)
    settle(reasons, rows=rows.kind == SourceKind.SPECIAL_SPOT, reason=Reason.NAVIGATION_MARKER)
    settle(reasons, rows=~np.isin(rows.kind, kinds), reason=Reason.NOT_SELECTED_TYPE)
    settle(reasons, rows=rows.slide_row == NO_SLIDE, reason=Reason.ORPHAN)
    settle(reasons, rows=~rows.has_class, reason=Reason.UNKNOWN_CLASS)
    settle(reasons, rows=roles == NO_ROLE, reason=Reason.UNMAPPED_CLASS)
    settle(reasons, rows=roles == Role.CONTEXT, reason=Reason.CONTEXT)
    return reasons


def settle_by_geometry(reasons: CodeArray, *, boxes_l0: FloatArray, sizes_wh: FloatArray) -> None:
    """Settle rows without coordinates, without area, or with their centre outside the slide, in place.

    Parameters
    ----------
    boxes_l0
        ``(N, 4)`` float64, columns (x0, y0, x1, y1), NaN without coordinates.
    sizes_wh
        ``(N, 2)`` float64, width and height of each row's slide, level-0 px.
    """
    x0, y0, x1, y1 = boxes_l0.T
    settle(reasons, rows=np.isnan(x0 + y0 + x1 + y1), reason=Reason.NO_COORDINATES)
    settle(reasons, rows=(x1 <= x0) | (y1 <= y0), reason=Reason.DEGENERATE)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    inside = (x >= 0) & (y >= 0) & (x < sizes_wh[:, 0]) & (y < sizes_wh[:, 1])
    settle(reasons, rows=~inside, reason=Reason.OUT_OF_SLIDE)


def settle_kept(reasons: CodeArray, *, roles: CodeArray) -> None:
    """Settle the rows that nothing ruled out, by their role, in place."""
    for role, reason in KEPT.items():
        settle(reasons, rows=roles == role, reason=reason)


def _count_by_id(reasons: CodeArray, *, ids: IntArray, known: IntArray) -> IntArray:
    """Return (len(known), len(REASONS)) counts; every id is in ``known``, which is sorted."""
    cells = np.searchsorted(known, ids) * len(REASONS) + reasons
    return np.bincount(cells, minlength=len(known) * len(REASONS)).reshape(-1, len(REASONS)).astype(np.int64)


def _class_count(counts: IntArray, *, class_id: int | None, name: str) -> ClassCount:
    return ClassCount(
        class_id=class_id,
        name=name,
        n_read=int(counts.sum()),
        n_by_reason={reason: n for reason, n in zip(REASONS, counts.tolist(), strict=True) if n},
    )


def count_classes(source: SourceFile, *, reasons: CodeArray) -> tuple[ClassCount, ...]:
    """Count reasons per class, classes of the file first, then no class at all and ids the file does not list.

    Of more than `N_UNLISTED` ids that are not listed, the further ones are counted together.
    """
    rows, listed = source.rows, source.rows.has_class
    known = np.array(sorted(source.classes), dtype=np.int64)
    of_known = _count_by_id(reasons[listed], ids=rows.class_id[listed], known=known)
    counts = [
        _class_count(n, class_id=class_id, name=source.classes[class_id])
        for class_id, n in zip(known.tolist(), of_known, strict=True)
    ]
    others = unlisted_class_ids(source)
    of_others = _count_by_id(reasons[~listed], ids=rows.class_id[~listed], known=others)
    for class_id, n in zip(others[:N_UNLISTED].tolist(), of_others, strict=False):
        known_as = (None, "no class") if class_id == 0 else (class_id, "class not listed in the file")
        counts.append(_class_count(n, class_id=known_as[0], name=known_as[1]))
    if len(others) > N_UNLISTED:
        name = f"{len(others) - N_UNLISTED} further classes not listed in the file"
        counts.append(_class_count(of_others[N_UNLISTED:].sum(axis=0), class_id=None, name=name))
    return tuple(counts)


def unlisted_class_ids(source: SourceFile) -> IntArray:
    """Return the class ids that annotations name but the file does not list, sorted; 0 stands for none."""
    ids: IntArray = np.unique(source.rows.class_id[~source.rows.has_class])
    return ids
