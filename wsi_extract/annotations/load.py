"""From an annotation file and the slides on disk to one annotation table per slide.

The steps: read the file whole; match slide names; decide classes; decide the box convention; give every annotation
either a place in a table or a reason why not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_extract.annotations.bbox_convention import FEW_SHARE, BboxDecision, decide_bbox_format
from wsi_extract.annotations.boxes import boxes_of_rows, raw_boxes
from wsi_extract.annotations.classes import ClassDecision, class_notes, decide_classes
from wsi_extract.annotations.names import match_slides
from wsi_extract.annotations.options import DEFAULT_POINT_BOX_PX, AnnotationOptions
from wsi_extract.annotations.read import read_source
from wsi_extract.annotations.reconcile import (
    UNSETTLED,
    Reason,
    Reconciliation,
    count_classes,
    find_reasons_in_file,
    roles_of_rows,
    settle,
    settle_by_geometry,
    settle_kept,
)
from wsi_extract.annotations.source import NO_SLIDE, SourceFile, SourceKind
from wsi_extract.annotations.usable_targets import refuse_without_targets
from wsi_extract.arrays import BoolArray, CodeArray, FloatArray, IntArray
from wsi_extract.errors import AnnotationError
from wsi_extract.model import AnnotationTable, Role, SlideFile, SlideInfo

N_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What was read and how it was understood, for the manifest."""

    path: Path
    format: str
    sha256: str
    """Digest of the content, a non-empty ``-wal`` or ``-journal`` included."""
    n_slides: int
    bbox_convention: BboxDecision | None
    """``None`` for files whose format says what a box is."""
    notes: tuple[str, ...]
    """What people should know: warnings and decisions."""

    def to_json(self) -> dict[str, object]:
        """Return the report ready for JSON; of the path only the name."""
        return {
            "file": self.path.name,
            "format": self.format,
            "sha256": self.sha256,
            "n_slides": self.n_slides,
            "bbox_convention": None if self.bbox_convention is None else self.bbox_convention.to_json(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedAnnotations:
    """The annotations of a run's slides and the account of how they came about."""

    tables: Mapping[str, AnnotationTable]
    """By slide id, sorted; exactly the readable slides that the file lists, also with empty tables."""
    annotated: frozenset[str]
    """Slides with at least one annotation that is neither deleted nor a navigation marker, of any class. A slide that
    is listed but not annotated was not reviewed: it is unlabelled, not negative."""
    targets_in_file: Mapping[str, int]
    """Number of targets that the file gives each slide it annotates, readable or not, wherever they lie: the place of
    a slide in the splits must not change when the slide is mended, damaged or cropped."""
    classes: tuple[ClassDecision, ...]
    reconciliation: Reconciliation
    source: SourceReport

    @property
    def listed(self) -> frozenset[str]:
        """Ids of the readable slides that the file lists."""
        return frozenset(self.tables)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Match:
    """Which slide on disk each row of the source lies on."""

    slide_of_source: tuple[int | None, ...]
    """Per slide of the file: index into readable slides followed by unreadable ones."""
    found_row: IntArray
    """(N,) int64 per annotation: the same index, `NO_SLIDE` without."""
    sizes_wh: FloatArray
    """(N, 2) float64 per annotation: size of its slide, or the file's hint when the slide is not there; NaN unknown."""


def _match_rows(
    source: SourceFile,
    *,
    slides: Sequence[SlideInfo],
    unreadable: Sequence[SlideFile],
    aliases: Mapping[str, str] | None,
) -> _Match:
    found = [(s.path, *s.companions) for s in slides] + [(s.path, *s.companions) for s in unreadable]
    slide_of_source = match_slides(source.slides, found=found, aliases=aliases, path=source.path)
    row_of_source = np.array([NO_SLIDE if row is None else row for row in slide_of_source] + [NO_SLIDE], dtype=np.int64)
    hints = [(slide.width_px or np.nan, slide.height_px or np.nan) for slide in source.slides]
    for number, row in enumerate(slide_of_source):
        if row is not None and row < len(slides):
            hints[number] = (slides[row].width_l0_px, slides[row].height_l0_px)
    sizes = np.array([*hints, (np.nan, np.nan)], dtype=np.float64)
    # Row NO_SLIDE = -1 is the last one: unmatched, of unknown size.
    slide_row = source.rows.slide_row
    return _Match(slide_of_source=slide_of_source, found_row=row_of_source[slide_row], sizes_wh=sizes[slide_row])


def _decide_boxes(source: SourceFile, *, match: _Match, setting: str) -> BboxDecision | None:
    if source.format != "coco":
        return None
    rows = source.rows
    given = rows.n_points > 0
    return decide_bbox_format(
        raw_boxes(rows, chosen=given),
        sizes_wh=match.sizes_wh[given],
        witnesses=rows.witness[given],
        setting=setting,
        path=source.path,
    )


def _spot_sizes(slides: Sequence[SlideInfo], *, options: AnnotationOptions) -> FloatArray:
    """Return (n_slides, 2) sizes of the boxes of spots, columns (w, h), level-0 px; NaN for unknown resolutions."""
    sizes = np.full((len(slides), 2), options.point_box_px, dtype=np.float64)
    if options.point_box_um is not None:
        for row, slide in enumerate(slides):
            um_per_px = slide.um_per_px_xy or (np.nan, np.nan)
            sizes[row] = options.point_box_um / um_per_px[0], options.point_box_um / um_per_px[1]
    return sizes


def _refuse_unknown_sizes(
    sizes: FloatArray, *, found_row: IntArray, slides: Sequence[SlideInfo], source: SourceFile
) -> None:
    unknown = np.unique(found_row[np.isnan(sizes).any(axis=1)])
    if len(unknown):
        slide = slides[int(unknown[0])]
        raise AnnotationError(
            f"{source.path}: the box of point annotations was asked for in um, but the resolution of {len(unknown)} "
            f"slides is unknown, first {slide.slide_id} ({slide.path}): {slide.um_per_px_source}.",
            "Give the resolution with --slide_mpp or --slide_mpp_csv, or the box in pixels with --point_box_px.",
        )


def _build_boxes(
    source: SourceFile,
    *,
    match: _Match,
    live: BoolArray,
    slides: Sequence[SlideInfo],
    options: AnnotationOptions,
    decision: BboxDecision | None,
) -> FloatArray:
    """Return the boxes of all rows; only those of ``live`` rows, which lie on readable slides, mean anything."""
    spots = live & (source.rows.kind == SourceKind.SPOT)
    sizes = np.zeros((len(source.rows), 2), dtype=np.float64)
    sizes[spots] = _spot_sizes(slides, options=options)[match.found_row[spots]]
    _refuse_unknown_sizes(sizes[spots], found_row=match.found_row[spots], slides=slides, source=source)
    return boxes_of_rows(source.rows, spot_sizes_wh=sizes, bbox_format=None if decision is None else decision.format)


def _build_tables(
    source: SourceFile,
    *,
    kept: BoolArray,
    boxes_l0: FloatArray,
    roles: CodeArray,
    match: _Match,
    slides: Sequence[SlideInfo],
) -> dict[str, AnnotationTable]:
    """Return the kept rows per slide, sorted by (source_id, part), for every readable slide that the file lists."""
    rows = source.rows
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.lexsort((rows.part[chosen], rows.source_id[chosen], match.found_row[chosen]))]
    everything = AnnotationTable(
        source_id=rows.source_id[chosen],
        part=rows.part[chosen],
        role=roles[chosen],
        class_id=rows.class_id[chosen],
        boxes_l0=boxes_l0[chosen],
    )
    found_row = match.found_row[chosen]
    listed = sorted(
        (slides[row].slide_id, row) for row in match.slide_of_source if row is not None and row < len(slides)
    )
    return {
        slide_id: everything.take(np.arange(*np.searchsorted(found_row, [row, row + 1]), dtype=np.int64))
        for slide_id, row in listed
    }


def _live_rows(source: SourceFile) -> BoolArray:
    """Return the annotations that show that somebody looked at their slide."""
    live: BoolArray = ~source.rows.is_deleted & (source.rows.kind != SourceKind.SPECIAL_SPOT)
    return live


def _find_annotated(source: SourceFile, *, match: _Match, slides: Sequence[SlideInfo]) -> frozenset[str]:
    found = np.unique(match.found_row[_live_rows(source)]).tolist()
    return frozenset(slides[row].slide_id for row in found if NO_SLIDE < row < len(slides))


def _count_targets(
    source: SourceFile, *, match: _Match, is_target: BoolArray, slide_ids: Sequence[str]
) -> dict[str, int]:
    """Return the number of targets of each slide that has any live annotation; ids are in the order of `_Match`."""
    is_found = match.found_row != NO_SLIDE
    n_live, n_targets = (
        np.bincount(match.found_row[is_found & chosen], minlength=len(slide_ids)).tolist()
        for chosen in (_live_rows(source), is_target)
    )
    return {slide_ids[row]: n_targets[row] for row in range(len(slide_ids)) if n_live[row]}


def _reconcile(
    source: SourceFile,
    *,
    reasons: CodeArray,
    match: _Match,
    slides: Sequence[SlideInfo],
    unreadable: Sequence[SlideFile],
) -> Reconciliation:
    present = {row for row in match.slide_of_source if row is not None}
    pairs = zip(source.slides, match.slide_of_source, strict=True)
    return Reconciliation(
        classes=count_classes(source, reasons=reasons),
        unmatched_slides=tuple(sorted(slide.label for slide, row in pairs if row is None)),
        unreadable_slides=tuple(
            sorted(slide.slide_id for row, slide in enumerate(unreadable, len(slides)) if row in present)
        ),
        unlisted_slides=tuple(sorted(slide.slide_id for row, slide in enumerate(slides) if row not in present)),
    )


def _size_notes(source: SourceFile, *, match: _Match, slides: Sequence[SlideInfo]) -> list[str]:
    different = [
        f"{hint.label} ({hint.width_px} x {hint.height_px} px, the slide has "
        f"{slides[row].width_l0_px} x {slides[row].height_l0_px})"
        for hint, row in zip(source.slides, match.slide_of_source, strict=True)
        if row is not None
        and row < len(slides)
        and hint.width_px is not None
        and hint.height_px is not None
        and (hint.width_px, hint.height_px) != (slides[row].width_l0_px, slides[row].height_l0_px)
    ]
    if not different:
        return []
    shown = ", ".join(different[:N_SHOWN])
    return [f"the file gives another size than the slide has for {len(different)} slides; the slide wins: {shown}."]


def _box_notes(decision: BboxDecision | None, *, options: AnnotationOptions) -> list[str]:
    if decision is None:
        return []
    notes = []
    share = decision.evidence.vx if decision.format == "xyxy" else decision.evidence.vw
    if share is not None and share > FEW_SHARE:
        notes.append(
            f"{share:.1%} of the boxes are impossible as {decision.format}, which was decided by {decision.step}."
        )
    if options.point_box_um is not None or options.point_box_px != DEFAULT_POINT_BOX_PX:
        notes.append("the file holds boxes, no points: the size asked for point annotations has no effect.")
    return notes


def _report(source: SourceFile, *, decision: BboxDecision | None, notes: tuple[str, ...]) -> SourceReport:
    return SourceReport(
        path=source.path,
        format=source.format,
        sha256=source.sha256,
        n_slides=len(source.slides),
        bbox_convention=decision,
        notes=notes,
    )


def load_annotations(
    path: Path, *, options: AnnotationOptions, slides: Sequence[SlideInfo], unreadable: Sequence[SlideFile] = ()
) -> LoadedAnnotations:
    """Read a SlideRunner database or COCO file and give every annotation to its slide, or a reason why not.

    Parameters
    ----------
    unreadable
        Slides that were found and cannot be opened: their annotations are counted as such, not as unmatched.

    Returns
    -------
    The same data as database and as COCO file give identical tables. Boxes are not clipped.

    Raises
    ------
    AnnotationError
        When the file cannot be read without guessing (damage, slide names, classes, box convention); when point
        boxes in um meet a slide of unknown resolution; when no annotation of a target class can be used.
    """
    source = read_source(path)
    match = _match_rows(source, slides=slides, unreadable=unreadable, aliases=options.slide_aliases)
    classes = decide_classes(source, category_map=options.category_map)
    decision = _decide_boxes(source, match=match, setting=options.bbox_format)
    roles = roles_of_rows(source, classes=classes)
    reasons = find_reasons_in_file(source, roles=roles, kinds=options.kinds)
    is_target = (reasons == UNSETTLED) & (roles == Role.TARGET)
    settle(reasons, rows=match.found_row == NO_SLIDE, reason=Reason.UNMATCHED_SLIDE)
    settle(reasons, rows=match.found_row >= len(slides), reason=Reason.UNREADABLE_SLIDE)
    boxes_l0 = _build_boxes(
        source, match=match, live=reasons == UNSETTLED, slides=slides, options=options, decision=decision
    )
    settle_by_geometry(reasons, boxes_l0=boxes_l0, sizes_wh=match.sizes_wh)
    kept = reasons == UNSETTLED
    settle_kept(reasons, roles=roles)
    reconciliation = _reconcile(source, reasons=reasons, match=match, slides=slides, unreadable=unreadable)
    names = sorted([slide.path.name for slide in slides] + [slide.path.name for slide in unreadable])
    refuse_without_targets(source, classes=classes, reconciliation=reconciliation, slide_names=names)
    notes = (
        *source.notes,
        *class_notes(classes),
        *_size_notes(source, match=match, slides=slides),
        *_box_notes(decision, options=options),
    )
    return LoadedAnnotations(
        tables=_build_tables(source, kept=kept, boxes_l0=boxes_l0, roles=roles, match=match, slides=slides),
        annotated=_find_annotated(source, match=match, slides=slides),
        targets_in_file=_count_targets(
            source,
            match=match,
            is_target=is_target,
            slide_ids=[slide.slide_id for slide in slides] + [slide.slide_id for slide in unreadable],
        ),
        classes=classes,
        reconciliation=reconciliation,
        source=_report(source, decision=decision, notes=notes),
    )
