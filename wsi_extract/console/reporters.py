"""Shows a run to a person: a progress bar on a terminal, plain lines in a log, tables at both ends."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsi_extract.config import RunConfig
from wsi_extract.console.dashboard_address import describe_dashboard
from wsi_extract.console.progress import BarDisplay, LogDisplay, Stage, StageDisplay
from wsi_extract.console.tables import (
    class_table,
    describe_end,
    describe_store,
    plan_table,
    reconciliation_table,
    slide_table,
    written_table,
)
from wsi_extract.extraction import RunPlan
from wsi_extract.finish import Finished, describe_shortfall
from wsi_extract.gather import Inputs, SlideStatus
from wsi_extract.in_work import SlidesInWork
from wsi_extract.model import Fault, Split
from wsi_extract.printable import as_one_line
from wsi_extract.slides_table import describe_kept_stains
from wsi_extract.state.layout import ERRORS
from wsi_extract.storage import CodecName, Store

LOG_WIDTH = 140
"""Columns where there is no terminal to ask."""
NO_CURSOR = frozenset({"dumb", "unknown"})
"""Terminals without bars: those of editors and of serial lines."""
MAX_SLIDES_SHOWN = 40
MAX_FAULTS_SHOWN = 50
"""Lines of failed slides in a log; a terminal shows all."""


def make_console() -> Console:
    """Return a console for standard output: with colours on a terminal, plain text in a file or pipe."""
    if sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in NO_CURSOR:
        return Console(highlight=False, markup=False, emoji=False)  # names of files may hold brackets
    # Whatever the environment says of colours: logs are read in browsers and editors, and bars would fill them.
    return Console(highlight=False, markup=False, emoji=False, width=LOG_WIDTH, force_terminal=False, color_system=None)


def utc_stamp() -> str:
    """Return what a line of a log begins with: a time that means the same wherever the log is watched."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} "


class ConsoleReporter:
    """Reports a run on a console.

    Parameters
    ----------
    check_signals
        Raises when the program was told to end; called with every progress.
    stamp
        Returns what lines begin with where there is no terminal.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        console: Console,
        check_signals: Callable[[], None],
        stamp: Callable[[], str] = str,
    ) -> None:
        self.config = config
        self.console = console
        self.check_signals = check_signals
        self._stamp = stamp
        self._work = SlidesInWork()
        self._display: StageDisplay = (
            BarDisplay(console) if console.is_terminal else LogDisplay(self._print, work=self._work)
        )
        self._stage: Stage | None = None
        self._slides = ""
        self._n_failed = 0
        self._verdict: tuple[str, str] | None = None
        """The last line of a run and its style, once it has come to its end."""

    def _print(self, text: str, *, style: str = "") -> None:
        """Print one line of plain text: names of files, and what files say, may hold anything."""
        line = as_one_line(text)
        if self.console.is_terminal:
            self.console.print(Text(line, style=style))
        else:  # one line whatever its length: logs are searched
            self.console.print(Text(self._stamp() + line), soft_wrap=True)

    def _print_table(self, table: Table) -> None:
        if not self.console.is_terminal:
            table.box = box.ASCII2  # logs are read in all kinds of viewers
        self.console.print(table)

    def begin(self, stage: str, *, total: int, unit: str, started_s: float | None = None) -> None:
        """Start a stage of ``total`` units; it was begun at ``started_s`` of `time.monotonic` if not now."""
        began_s = time.monotonic() if started_s is None else started_s
        self._stage = Stage(
            name=stage, unit=unit, total=total, started_s=began_s, slides=self._slides, n_failed=self._n_failed
        )
        self._display.begin(self._stage)

    def advance(self, n_units: int) -> None:
        """Note that units of the current stage are done."""
        self.check_signals()
        if self._stage is not None:
            self._stage.done += n_units
            self._display.advance(n_units)

    def keep(self, n_units: int) -> None:
        """Note that units of the current stage were done by an earlier run."""
        if self._stage is not None:
            self._stage.n_kept += n_units
        self.advance(n_units)

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Note how many slides of the extraction are complete."""
        self._slides = f", {n_done:,} of {total:,} slides"
        if self._stage is not None:
            self._stage.slides = self._slides

    def take_up(self, slide_id: str) -> None:
        """Note that a task of a slide was handed out."""
        self._work.take_up(slide_id, now_s=time.monotonic())

    def put_down(self, slide_id: str) -> None:
        """Note that a task of a slide came back."""
        self._work.put_down(slide_id, now_s=time.monotonic())

    def beat(self) -> None:
        """Write a line to a log in which nothing was written for a while; may be called from another thread."""
        self._display.beat()

    def note(self, text: str) -> None:
        """Show what a person may want to know; may be called from another thread."""
        self._print(text)

    def warn(self, text: str) -> None:
        """Show what a person should know although the run goes on; may be called from another thread."""
        self._print(f"warning: {text}", style="yellow")
        self._show_verdict()

    def _show_verdict(self) -> None:
        """Show once more what a run has ended with: whatever comes later, it is the last line."""
        if self._verdict is not None:
            self._print(self._verdict[0], style=self._verdict[1])

    def show_dashboard(self, link: str | None) -> None:
        """Show where the dashboard is, and how to get there."""
        for line in describe_dashboard(link, environ=os.environ, host=socket.gethostname()):
            self._print(line)

    def fail(self, fault: Fault) -> None:
        """Show a failure that the run survives."""
        self._n_failed += 1
        if self._stage is not None:
            self._stage.n_failed = self._n_failed
        n_hidden = 0 if self.console.is_terminal else self._n_failed - MAX_FAULTS_SHOWN
        if n_hidden <= 0:
            message = fault.message.removeprefix(f"slide {fault.slide_id}: ")
            text = f"slide {fault.slide_id} failed ({fault.stage}): {message} {fault.remedy}"
            self._print(text.strip(), style="red")
        elif n_hidden == 1:
            self._print(f"further slides that fail are only counted here; {ERRORS} will list all")

    def end(self) -> None:
        """Finish the current stage."""
        self._stage = None
        self._display.end()

    def close(self) -> None:
        """Take the progress bar off the terminal, also when the stage was interrupted."""
        self._display.close()

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
        self._show_shortfalls(plan)
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

    def _show_shortfalls(self, plan: RunPlan) -> None:
        shortfalls = [
            f"slide {record.slide_id}, {describe_shortfall(account)}"
            for record in plan.surveys.values()
            for account in record.accounts
            if account.missing_reason
        ]
        for text in shortfalls[:MAX_SLIDES_SHOWN]:
            self._print(text)
        if len(shortfalls) > MAX_SLIDES_SHOWN:
            self._print(f"... and {len(shortfalls) - MAX_SLIDES_SHOWN:,} more; slides.csv will list all")

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
        *notes, verdict = describe_end(self.config, finished)
        for note in notes:
            self._print(note, style="yellow")
        self._verdict = (verdict, "bold red" if finished.faults else "")
        self._show_verdict()
        self._display.close()


class SilentReporter:
    """Shows nothing."""

    def begin(self, stage: str, *, total: int, unit: str, started_s: float | None = None) -> None:
        """Ignore the start of a stage."""

    def advance(self, n_units: int) -> None:
        """Ignore progress."""

    def keep(self, n_units: int) -> None:
        """Ignore what was done before."""

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Ignore the slides."""

    def take_up(self, slide_id: str) -> None:
        """Ignore what goes out."""

    def put_down(self, slide_id: str) -> None:
        """Ignore what comes back."""

    def show_dashboard(self, link: str | None) -> None:
        """Ignore the dashboard."""

    def note(self, text: str) -> None:
        """Ignore a note."""

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
