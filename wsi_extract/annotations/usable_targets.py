"""Refuse an input without a single usable object to detect, and say which of the possible reasons it is.

Without this a wrong class map or misspelt slide names give a complete, valid, useless data set.
"""

from __future__ import annotations

from collections.abc import Sequence

from wsi_extract.annotations.classes import N_CLASSES_SHOWN, ClassDecision, list_classes
from wsi_extract.annotations.reconcile import Reason, Reconciliation
from wsi_extract.annotations.source import SourceFile, shortened
from wsi_extract.errors import AnnotationError
from wsi_extract.model import Role

N_SHOWN = 3


def _class_table(classes: tuple[ClassDecision, ...]) -> str:
    lines = [
        f"  {item.class_id} = {shortened(item.name)}: {item.n_annotations} annotations, "
        f"{'no role' if item.role is None else item.role.label} ({item.decided_by})"
        for item in classes[:N_CLASSES_SHOWN]
    ]
    if len(classes) > N_CLASSES_SHOWN:
        lines.append(f"  and {len(classes) - N_CLASSES_SHOWN} more")
    return "\n".join(lines) if lines else "  (the file lists no class)"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(shortened(name) for name in names[:N_SHOWN])
    return shown + (f" and {len(names) - N_SHOWN} more" if len(names) > N_SHOWN else "") if names else "none"


def _remedy(reason: Reason) -> str:
    match reason:
        case Reason.UNMATCHED_SLIDE:
            return "Check the slide folder, or map the names with --slide_aliases_csv."
        case Reason.NOT_SELECTED_TYPE:
            return "Choose the types with --annotation_types."
        case Reason.OUT_OF_SLIDE | Reason.DEGENERATE:
            return "Check that the slides are the annotated ones, uncropped; for COCO files also --bbox_format."
        case Reason.UNREADABLE_SLIDE:
            return "Replace the slides that cannot be opened."
        case _:
            return "Check that this is the right annotation file."


def refuse_without_targets(
    source: SourceFile,
    *,
    classes: tuple[ClassDecision, ...],
    reconciliation: Reconciliation,
    slide_names: Sequence[str],
) -> None:
    """Raise unless at least one annotation of a target class was kept.

    Parameters
    ----------
    slide_names
        File names of the slides that were found, for the message.

    Raises
    ------
    AnnotationError
        Naming the classes when none is a target; else telling where the target annotations went.
    """
    if reconciliation.count(Reason.KEPT_TARGET):
        return
    targets = {item.class_id for item in classes if item.role is Role.TARGET}
    if not targets:
        raise AnnotationError(
            f"{source.path}: no class is mapped to target. Its classes:\n{_class_table(classes)}\n",
            "Say what they mean, by id or name from this table: --category_map ID=target,ID=hard_negative",
        )
    lost: dict[Reason, int] = {}
    for count in reconciliation.classes:
        if count.class_id in targets:
            for reason, n in count.n_by_reason.items():
                lost[reason] = lost.get(reason, 0) + n
    if not lost:
        raise AnnotationError(
            f"{source.path}: the target classes have no annotations; classes: {list_classes(source)}.",
            "Check that this is the right annotation file.",
        )
    where = ", ".join(f"{reason.value}: {n}" for reason, n in sorted(lost.items(), key=lambda item: -item[1]))
    main_reason = max(lost, key=lambda reason: lost[reason])
    sides = (
        f" Slides in the file without a match: {_names(reconciliation.unmatched_slides)}; "
        f"slides found: {_names(slide_names)}."
        if Reason.UNMATCHED_SLIDE in lost
        else ""
    )
    raise AnnotationError(
        f"{source.path}: none of the {sum(lost.values())} annotations of target classes can be used ({where}).{sides}",
        _remedy(main_reason),
    )
