"""Shows a run to a person: a progress bar on a terminal, plain lines in a log, tables at both ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wsi_extract.config import RunConfig
from wsi_extract.extraction import RunPlan
from wsi_extract.finish import Finished, describe_shortfall
from wsi_extract.gather import Inputs, SlideStatus
from wsi_extract.model import Fault, PatchKind, Role, Split
from wsi_extract.slides_table import describe_kept_stains
from wsi_extract.storage import CodecName, Store
from wsi_extract.stores.zarr_json import PIXEL_CHUNK_PX
from wsi_extract.targets import CATEGORY_NAMES

LOG_WIDTH = 140
"""Columns where there is no terminal to ask."""
LINE_EVERY_S = 10.0
MAX_SLIDES_SHOWN = 40


def make_console() -> Console:
    """Return a console for standard output."""
    console = Console(highlight=False, markup=False)  # names of files may hold brackets
    return console if console.is_terminal else Console(highlight=False, markup=False, width=LOG_WIDTH)


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table; columns whose name starts with ``#`` hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        table.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return table


class ConsoleReporter:
    """Reports a run on a console."""

    def __init__(self, config: RunConfig, *, console: Console, check_signals: Callable[[], None]) -> None:
        self.config = config
        self.console = console
        self.check_signals = check_signals
        """Raises when the program was told to end; called with every progress."""
        self.progress: Progress | None = None
        self.bar: TaskID | None = None
        self.stage, self.unit = "", ""
        self.slides = ""
        self.total = self.done = self.n_failed = 0
        self.started_s = self.line_s = 0.0

    def _print_table(self, table: Table) -> None:
        if not self.console.is_terminal:
            table.box = box.ASCII2  # logs are read in all kinds of viewers
        self.console.print(table)

    def begin(self, stage: str, *, total: int, unit: str, started_s: float | None = None) -> None:
        """Start a stage of ``total`` units; it was begun at ``started_s`` of `time.monotonic` if not now."""
        self.stage, self.unit, self.total, self.done = stage, unit, total, 0
        self.line_s = time.monotonic()
        self.started_s = self.line_s if started_s is None else started_s
        if not self.console.is_terminal:
            self.console.print(f"{stage}: {total:,} {unit}")
            return
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.bar = self.progress.add_task(stage, total=total, note="")
        self.progress.start()

    def advance(self, n_units: int) -> None:
        """Note that units of the current stage are done."""
        self.check_signals()
        self.done += n_units
        if self.progress is not None and self.bar is not None:
            self.progress.update(self.bar, advance=n_units, note=self._note())
        elif time.monotonic() - self.line_s >= LINE_EVERY_S:
            self.line_s = time.monotonic()
            left_s = (self.total - self.done) / max(self._rate_per_s(), 1e-9)
            self.console.print(f"{self.stage}: {self.done:,} of {self.total:,}, {self._note()}, {left_s:.0f} s left")

    def _rate_per_s(self) -> float:
        return self.done / max(time.monotonic() - self.started_s, 1e-3)

    def _note(self) -> str:
        failures = f", failed slides: {self.n_failed}" if self.n_failed else ""
        rate = self._rate_per_s()
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s{self.slides}{failures}"

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Note how many slides of the extraction are complete."""
        self.slides = f", {n_done:,} of {total:,} slides"

    def fail(self, fault: Fault) -> None:
        """Show a failure that the run survives."""
        self.n_failed += 1
        self._show_fault(fault)

    def _show_fault(self, fault: Fault) -> None:
        message = fault.message.removeprefix(f"slide {fault.slide_id}: ")
        text = f"slide {fault.slide_id} failed ({fault.stage}): {message} {fault.remedy}"
        self.console.print(Text(text.strip(), style="red"))

    def end(self) -> None:
        """Finish the current stage."""
        if self.progress is not None:
            self.close()
        else:
            seconds = time.monotonic() - self.started_s
            self.console.print(f"{self.stage}: {self.done:,} of {self.total:,} done in {seconds:.1f} s, {self._note()}")

    def close(self) -> None:
        """Take the progress bar off the terminal, also when the stage was interrupted."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = self.bar = None

    def show_kept(self, n_kept: int, *, unit: str) -> None:
        """Show how much an earlier run had done."""
        if n_kept:
            self.console.print(f"{n_kept:,} of these {unit} were there already, from an earlier run")

    def show_inputs(self, inputs: Inputs) -> None:
        """Show slides, classes, reconciliation and splits."""
        source = inputs.annotations.source
        self.console.print(f"annotations: {source.path.name}, {source.format}, {source.n_slides} slides")
        for note in source.notes:
            self.console.print(Text(f"note: {note}", style="yellow"))
        classes = inputs.annotations.classes
        self._print_table(
            make_table(
                "Classes",
                ("#id", "name", "role", "decided by", "#annotations"),
                [
                    (c.class_id, c.name, c.role.label if c.role else "not used", c.decided_by, c.n_annotations)
                    for c in classes
                ],
            )
        )
        (first, *others), *rows = inputs.annotations.reconciliation.to_rows()
        columns = (first, *(f"#{name}" for name in others))
        self._print_table(make_table("Where the annotations went", columns, rows))
        self._show_slides(inputs)

    def _show_slides(self, inputs: Inputs) -> None:
        rows = []
        for entry in inputs.entries[:MAX_SLIDES_SHOWN]:
            um = entry.info.um_per_px_xy if entry.info is not None else None
            rows.append(
                (
                    entry.file.slide_id,
                    entry.status.value if entry.decision is None else "+".join(s.value for s in entry.decision.splits),
                    "" if entry.decision is None else entry.decision.group,
                    f"{entry.info.width_l0_px:,} x {entry.info.height_l0_px:,}" if entry.info is not None else "",
                    "unknown" if um is None else f"{um[0]:.4g}" if um[0] == um[1] else f"{um[0]:.4g} x {um[1]:.4g}",
                    entry.annotations.count(Role.TARGET),
                    entry.annotations.count(Role.HARD_NEGATIVE),
                    "see above" if entry.status is SlideStatus.FAILED else entry.reason,
                )
            )
        columns = ("slide", "split", "group", "level-0 px", "um/px", "#targets", "#hard neg.", "reason")
        self._print_table(make_table("Slides", columns, rows))
        if len(inputs.entries) > MAX_SLIDES_SHOWN:
            self.console.print(f"... and {len(inputs.entries) - MAX_SLIDES_SHOWN} more; slides.csv lists all")
        n_ignored = len(inputs.found.ignored)
        if n_ignored:
            self.console.print(f"{n_ignored} other files in the slide folder are not slides")

    def show_plan(self, plan: RunPlan) -> None:
        """Show what is going to be extracted."""
        accounts = [account for record in plan.surveys.values() for account in record.accounts]
        splits = [split for split in Split if any(account.split is split for account in accounts)]
        columns = [self._count_plan(plan, split=split) for split in splits]
        rows = [(name, *(column[name] for column in columns)) for name in (columns[0] if columns else ())]
        self._print_table(make_table("Plan", ("", *(f"#{split}" for split in splits)), rows))
        for record in plan.surveys.values():
            for account in record.accounts:
                if account.missing_reason:
                    self.console.print(f"slide {record.slide_id}, {describe_shortfall(account)}")
        for line in describe_kept_stains(list(plan.surveys.values())):
            self.console.print(Text(line, style="yellow"))
        self.console.print(
            f"{self._describe_store(plan)}, about {plan.n_bytes / 1e6:,.0f} MB; "
            f"memory per worker at most about {plan.worker_bytes / 1e6:,.0f} MB"
        )
        if self.config.store is not Store.PNG and self.config.pixel_codec[0] is CodecName.JPEG:
            self.console.print(Text("codec jpeg is lossy: pixels will differ from the slide's", style="yellow"))
        if self.config.dry_run:
            self.console.print("dry run: nothing was written")

    def _describe_store(self, plan: RunPlan) -> str:
        codec, level = self.config.pixel_codec
        compression = codec.value if codec is CodecName.NONE else f"{codec.value}, level {level}"
        match self.config.store:
            case Store.PNG:
                return f"{plan.n_patches:,} PNG files"
            case Store.ZARR:
                return f"{plan.n_patches:,} patches in Zarr arrays ({compression})"
            case Store.BOTH:
                return f"{plan.n_patches:,} PNG files and as many patches in Zarr arrays ({compression})"
        n_chunks = sum(record.n_chunks for record in plan.surveys.values())
        covered = self.config.pixel_coverage.value
        return f"{n_chunks:,} chunks of {PIXEL_CHUNK_PX} px in OME-Zarr images ({compression}; coverage: {covered})"

    @staticmethod
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

    def show_finished(self, finished: Finished, *, inputs: Inputs, seconds: float) -> None:
        """Show what was written and what is missing."""
        rows = [
            (
                split.value,
                counts.n_images,
                counts.n_empty_images,
                *(counts.labels_by_category.get(category, 0) for category in CATEGORY_NAMES),
                counts.n_crowd,
            )
            for split, counts in finished.counts.items()
        ]
        columns = ("split", "#images", "#without boxes", *(f"#{name}" for name in CATEGORY_NAMES.values()), "#crowd")
        self._print_table(make_table("Written", columns, rows))
        rate = finished.n_written / max(seconds, 1e-3)
        self.console.print(
            f"{finished.n_written:,} of {finished.n_planned:,} planned patches, {seconds:.1f} s, "
            f"{rate:,.0f} patches/s: {self.config.output_dir}"
        )
        meant = {split for entry in inputs.entries if entry.decision is not None for split in entry.decision.splits}
        for split in Split:
            if split in meant and finished.counts[split].n_images == 0:
                text = f"NO PATCHES in split {split}: all its slides failed or yield none"
                self.console.print(Text(text, style="bold red"))
        n_unlabelled = sum(entry.status is SlideStatus.UNLABELLED for entry in inputs.entries)
        n_skipped = sum(entry.status is SlideStatus.SKIPPED for entry in inputs.entries)
        if n_unlabelled:
            text = f"slides without annotations, in no split (see --unannotated_slides): {n_unlabelled}"
            self.console.print(Text(text, style="yellow"))
        if n_skipped:
            self.console.print(Text(f"slides skipped, see slides.csv: {n_skipped}", style="yellow"))
        if finished.faults:
            text = f"INCOMPLETE: {len(finished.faults)} failed and not in the data set, see errors.jsonl"
            self.console.print(Text(text, style="bold red"))


class SilentReporter:
    """Shows nothing."""

    def begin(self, stage: str, *, total: int, unit: str, started_s: float | None = None) -> None:
        """Ignore the start of a stage."""

    def advance(self, n_units: int) -> None:
        """Ignore progress."""

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Ignore the slides."""

    def fail(self, fault: Fault) -> None:
        """Ignore a failure; it is in the result."""

    def end(self) -> None:
        """Ignore the end of a stage."""

    def show_kept(self, n_kept: int, *, unit: str) -> None:
        """Ignore what was there already."""

    def show_inputs(self, inputs: Inputs) -> None:
        """Ignore the inputs."""

    def show_plan(self, plan: RunPlan) -> None:
        """Ignore the plan."""

    def show_finished(self, finished: Finished, *, inputs: Inputs, seconds: float) -> None:
        """Ignore the result."""
