"""The tables that show a run to a person. Texts in them may come from anybody: a cell is one line of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from wsi_extract.annotations import ClassDecision, Reconciliation
from wsi_extract.coco import CocoCounts
from wsi_extract.config import RunConfig
from wsi_extract.extraction import RunPlan
from wsi_extract.finish import Finished
from wsi_extract.gather import SlideEntry, SlideStatus
from wsi_extract.model import PatchKind, Role, Split
from wsi_extract.printable import as_one_line
from wsi_extract.state.layout import ERRORS
from wsi_extract.storage import CodecName, Store
from wsi_extract.stores.zarr_json import PIXEL_CHUNK_PX
from wsi_extract.targets import CATEGORY_NAMES


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table; columns whose name starts with ``#`` hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        table.add_column(Text(column.removeprefix("#")), justify="right" if column.startswith("#") else "left")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else as_one_line(str(cell))) for cell in row))
    return table


def class_table(classes: Sequence[ClassDecision]) -> Table:
    """Return what the classes of the annotation file mean."""
    columns = ("#id", "name", "role", "decided by", "#annotations")
    rows = [
        (c.class_id, c.name, c.role.label if c.role else "not used", c.decided_by, c.n_annotations) for c in classes
    ]
    return make_table("Classes", columns, rows)


def reconciliation_table(reconciliation: Reconciliation) -> Table:
    """Return what became of the annotations, class by class."""
    (first, *others), *rows = reconciliation.to_rows()
    columns = (first, *(f"#{name.replace('_', ' ')}" for name in others))
    return make_table("Where the annotations went", columns, [(name, *map(int, counts)) for name, *counts in rows])


def slide_table(entries: Sequence[SlideEntry]) -> Table:
    """Return what is done with slides, and why."""
    columns = ("slide", "split", "group", "level-0 px", "um/px", "#targets", "#hard neg.", "reason")
    return make_table("Slides", columns, [_row_of(entry) for entry in entries])


def _row_of(entry: SlideEntry) -> tuple[object, ...]:
    um = entry.info.um_per_px_xy if entry.info is not None else None
    return (
        entry.file.slide_id,
        _place_of(entry),
        "" if entry.decision is None else entry.decision.group,
        f"{entry.info.width_l0_px:,} x {entry.info.height_l0_px:,}" if entry.info is not None else "",
        "unknown" if um is None else f"{um[0]:.4g}" if um[0] == um[1] else f"{um[0]:.4g} x {um[1]:.4g}",
        entry.annotations.count(Role.TARGET),
        entry.annotations.count(Role.HARD_NEGATIVE),
        "see above" if entry.status is SlideStatus.FAILED else entry.reason,
    )


def _place_of(entry: SlideEntry) -> str:
    """Return the splits of a slide that takes part, else why it does not; its place may be kept for it."""
    if entry.decision is None or entry.status is not SlideStatus.PLANNED:
        return entry.status.value
    return "+".join(split.value for split in entry.decision.splits)


def plan_table(plan: RunPlan) -> Table:
    """Return how many slides, groups and patches each split gets."""
    accounts = [account for record in plan.surveys.values() for account in record.accounts]
    splits = [split for split in Split if any(account.split is split for account in accounts)]
    columns = [_count_plan(plan, split=split) for split in splits]
    rows = [(name, *(column[name] for column in columns)) for name in (columns[0] if columns else ())]
    return make_table("Plan", ("", *(f"#{split}" for split in splits)), rows)


def _count_plan(plan: RunPlan, *, split: Split) -> dict[str, int]:
    """Return the numbers of one split, by their names."""
    accounts = [a for record in plan.surveys.values() for a in record.accounts if a.split is split]
    groups = {e.decision.group for e in plan.inputs.planned if e.decision and split in e.decision.splits}
    kinds = {f"{kind.label} patches": sum(a.n_planned.get(kind.label, 0) for a in accounts) for kind in PatchKind}
    return {
        "slides": len(accounts),
        "groups": len(groups),
        **kinds,
        "patches": sum(kinds.values()),
        "moved to random": sum(sum(account.moved_to_random.values()) for account in accounts),
        "not possible": sum(account.n_missing for account in accounts),
        "anchors without room": sum(account.n_infeasible_anchors for account in accounts),
    }


def describe_store(config: RunConfig, plan: RunPlan) -> str:
    """Return what a plan writes, in words."""
    codec, level = config.pixel_codec
    compression = codec.value if codec is CodecName.NONE else f"{codec.value}, level {level}"
    match config.store:
        case Store.PNG:
            return f"{plan.n_patches:,} PNG files"
        case Store.ZARR:
            return f"{plan.n_patches:,} patches in Zarr arrays ({compression})"
        case Store.BOTH:
            return f"{plan.n_patches:,} PNG files and as many patches in Zarr arrays ({compression})"
    n_chunks = sum(record.n_chunks for record in plan.surveys.values())
    covered = config.pixel_coverage.value
    return f"{n_chunks:,} chunks of {PIXEL_CHUNK_PX} px in OME-Zarr images ({compression}; coverage: {covered})"


def describe_end(config: RunConfig, finished: Finished) -> list[str]:
    """Return the last lines of a run; the very last one says whether the data set is complete."""
    n_failed = len(finished.faults)
    n_good = sum(outcome.fault is None for outcome in finished.outcomes.values())
    patches = f"{finished.n_written:,} of {finished.n_planned:,} patches"
    if not n_failed:
        return [f"COMPLETE: {n_good:,} of {n_good:,} slides, {patches}"]
    notes = ["exit code 0 although slides failed: on_partial is warn"] if config.on_partial == "warn" else []
    failures = f"{n_failed:,} of {n_good + n_failed:,} slides failed and are not in the data set"
    return [*notes, f"INCOMPLETE: {failures}, {patches}; see {config.output_dir / ERRORS}"]


def written_table(counts: Mapping[Split, CocoCounts]) -> Table:
    """Return how many images and boxes each split got."""
    names = CATEGORY_NAMES
    columns = ("split", "#images", "#without boxes", *(f"#{name}" for name in names.values()), "#crowd")
    rows = [
        (
            split.value,
            count.n_images,
            count.n_empty_images,
            *(count.labels_by_category.get(category, 0) for category in names),
            count.n_crowd,
        )
        for split, count in counts.items()
    ]
    return make_table("Written", columns, rows)
