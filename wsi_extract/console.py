"""Shows a run to a person: a progress bar on a terminal, plain lines in a log, tables at both ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wsi_extract.config import RunConfig
from wsi_extract.console_tables import (
    class_table,
    describe_store,
    plan_table,
    reconciliation_table,
    slide_table,
    written_table,
)
from wsi_extract.extraction import RunPlan
from wsi_extract.finish import Finished, describe_shortfall
from wsi_extract.gather import Inputs, SlideStatus
from wsi_extract.model import Fault, Split
from wsi_extract.printable import as_one_line
from wsi_extract.slides_table import describe_kept_stains
from wsi_extract.storage import CodecName, Store

LOG_WIDTH = 140
"""Columns where there is no terminal to ask."""
LINE_EVERY_S = 10.0
MAX_SLIDES_SHOWN = 40


def make_console() -> Console:
    """Return a console for standard output."""
    console = Console(highlight=False, markup=False, emoji=False)  # names of files may hold brackets
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=LOG_WIDTH)


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

    def _print(self, text: str, *, style: str = "") -> None:
        """Print one line of plain text: names of files, and what files say, may hold anything."""
        self.console.print(Text(as_one_line(text), style=style))

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
            self._print(f"{stage}: {total:,} {unit}")
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
            self._print(f"{self.stage}: {self.done:,} of {self.total:,}, {self._note()}, {left_s:.0f} s left")

    def _rate_per_s(self) -> float:
        return self.done / max(time.monotonic() - self.started_s, 1e-3)

    def _note(self) -> str:
        failures = f", failed slides: {self.n_failed}" if self.n_failed else ""
        rate = self._rate_per_s()
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s{self.slides}{failures}"

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Note how many slides of the extraction are complete."""
        self.slides = f", {n_done:,} of {total:,} slides"

    def warn(self, text: str) -> None:
        """Show what a person should know although the run goes on."""
        self._print(f"warning: {text}", style="yellow")

    def fail(self, fault: Fault) -> None:
        """Show a failure that the run survives."""
        self.n_failed += 1
        self._show_fault(fault)

    def _show_fault(self, fault: Fault) -> None:
        message = fault.message.removeprefix(f"slide {fault.slide_id}: ")
        text = f"slide {fault.slide_id} failed ({fault.stage}): {message} {fault.remedy}"
        self._print(text.strip(), style="red")

    def end(self) -> None:
        """Finish the current stage."""
        if self.progress is not None:
            self.close()
        else:
            seconds = time.monotonic() - self.started_s
            self._print(f"{self.stage}: {self.done:,} of {self.total:,} done in {seconds:.1f} s, {self._note()}")

    def close(self) -> None:
        """Take the progress bar off the terminal, also when the stage was interrupted."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = self.bar = None

    def show_kept(self, n_kept: int, *, unit: str) -> None:
        """Show how much an earlier run had done."""
        if n_kept:
            self._print(f"{n_kept:,} of these {unit} were there already, from an earlier run")

    def show_inputs(self, inputs: Inputs) -> None:
        """Show slides, classes, reconciliation and splits."""
        source = inputs.annotations.source
        self._print(f"annotations: {source.path.name}, {source.format}, {source.n_slides} slides")
        for note in source.notes:
            self._print(f"note: {note}", style="yellow")
        self._print_table(class_table(inputs.annotations.classes))
        self._print_table(reconciliation_table(inputs.annotations.reconciliation))
        self._print_table(slide_table(inputs.entries[:MAX_SLIDES_SHOWN]))
        if len(inputs.entries) > MAX_SLIDES_SHOWN:
            self._print(f"... and {len(inputs.entries) - MAX_SLIDES_SHOWN} more; slides.csv lists all")
        n_ignored = len(inputs.found.ignored)
        if n_ignored:
            self._print(f"{n_ignored} other files in the slide folder are not slides")

    def show_plan(self, plan: RunPlan) -> None:
        """Show what is going to be extracted."""
        self._print_table(plan_table(plan))
        for record in plan.surveys.values():
            for account in record.accounts:
                if account.missing_reason:
                    self._print(f"slide {record.slide_id}, {describe_shortfall(account)}")
        for line in describe_kept_stains(list(plan.surveys.values())):
            self._print(line, style="yellow")
        self._print(
            f"{describe_store(self.config, plan)}, about {plan.n_bytes / 1e6:,.0f} MB; "
            f"memory per worker at most about {plan.worker_bytes / 1e6:,.0f} MB"
        )
        if self.config.store is not Store.PNG and self.config.pixel_codec[0] is CodecName.JPEG:
            self._print("codec jpeg is lossy: pixels will differ from the slide's", style="yellow")
        if self.config.dry_run:
            self._print("dry run: nothing was written")

    def show_finished(self, finished: Finished, *, inputs: Inputs, seconds: float) -> None:
        """Show what was written and what is missing."""
        self._print_table(written_table(finished.counts))
        rate = finished.n_written / max(seconds, 1e-3)
        self._print(
            f"{finished.n_written:,} of {finished.n_planned:,} planned patches, {seconds:.1f} s, "
            f"{rate:,.0f} patches/s: {self.config.output_dir}"
        )
        self._print(f"content {finished.content_sha256} (sha256)")
        meant = {split for entry in inputs.entries if entry.decision is not None for split in entry.decision.splits}
        for split in Split:
            if split in meant and finished.counts[split].n_images == 0:
                text = f"NO PATCHES in split {split}: all its slides failed or yield none"
                self._print(text, style="bold red")
        n_unlabelled = sum(entry.status is SlideStatus.UNLABELLED for entry in inputs.entries)
        n_skipped = sum(entry.status is SlideStatus.SKIPPED for entry in inputs.entries)
        if n_unlabelled:
            text = f"slides without annotations, in no split (see --unannotated_slides): {n_unlabelled}"
            self._print(text, style="yellow")
        if n_skipped:
            self._print(f"slides skipped, see slides.csv: {n_skipped}", style="yellow")
        if finished.faults:
            text = f"INCOMPLETE: {len(finished.faults)} failed and not in the data set, see errors.jsonl"
            self._print(text, style="bold red")


class SilentReporter:
    """Shows nothing."""

    def begin(self, stage: str, *, total: int, unit: str, started_s: float | None = None) -> None:
        """Ignore the start of a stage."""

    def advance(self, n_units: int) -> None:
        """Ignore progress."""

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Ignore the slides."""

    def warn(self, text: str) -> None:
        """Ignore a warning."""

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
