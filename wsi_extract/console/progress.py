"""How a stage is shown while it runs: a bar on a terminal, lines in a log, which somebody may watch in a browser.

A log gets a line at once where something begins or ends, then every `LINE_EVERY_S`, after `SOON_S` every `BEAT_S`, also
when nothing was done in between. Times are seconds (``_s``) of `time.monotonic`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from wsi_extract.in_work import SlidesInWork
from wsi_extract.pace import Pace, describe_rate, describe_seconds

LINE_EVERY_S = 10.0
SOON_S = 120.0
BEAT_S = 30.0
MAX_SLIDES_NAMED = 3
AFTER = {
    "": "starting",
    "describe": "reading annotations and choosing splits",
    "survey": "checking the plan",
    "extract": "writing documents, index and manifest",
    "label": "looking for what is left of the pixels to write",
    "pixels": "writing documents, index and manifest",
}
"""What is done after each stage, without a count."""


@dataclass(kw_only=True)
class Stage:
    """What is known of a stage that runs."""

    name: str
    unit: str
    total: int
    started_s: float
    done: int = 0
    n_kept: int = 0
    """Of ``done``: what was there already and says nothing about speed."""
    slides: str = ""
    n_failed: int = 0
    """Slides of the whole run that failed so far."""
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.started_s)

    @property
    def n_new(self) -> int:
        """What this run has done."""
        return self.done - self.n_kept

    def note(self, per_s: float) -> str:
        """Return speed, slides and failures in words."""
        failures = f", failed slides: {self.n_failed:,}" if self.n_failed else ""
        return f"{describe_rate(per_s)} {self.unit}/s{self.slides}{failures}"

    def mean_per_s(self, now_s: float) -> float:
        """Return units per second since the beginning."""
        return Pace(self.started_s).per_s(now_s, self.n_new)


class StageDisplay(Protocol):
    """Shows one stage after the other."""

    def begin(self, stage: Stage) -> None:
        """Start to show a stage."""

    def advance(self, n_units: int) -> None:
        """Show that ``n_units`` more are done, which the stage counts already."""

    def end(self) -> None:
        """Show that the stage is done."""

    def close(self) -> None:
        """Show nothing any more."""

    def beat(self) -> None:
        """Show, from another thread, that the program is alive."""


class BarDisplay:
    """A bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: tuple[Stage, Progress, TaskID] | None = None

    def begin(self, stage: Stage) -> None:
        """Put up a bar."""
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),  # the one that gives way on a narrow terminal
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=self._console,
        )
        self._shown = (stage, progress, progress.add_task(stage.name, total=stage.total, note=""))
        progress.start()

    def advance(self, n_units: int) -> None:
        """Move the bar."""
        if self._shown is not None:
            stage, progress, bar = self._shown
            progress.update(bar, advance=n_units, note=stage.note(stage.mean_per_s(time.monotonic())))

    def end(self) -> None:
        """Leave the bar as it is."""
        self.close()

    def close(self) -> None:
        """Take the bar off the terminal's cursor, also when the stage was interrupted."""
        if self._shown is not None:
            self._shown[1].stop()
            self._shown = None

    def beat(self) -> None:
        """Nothing: the bar moves by itself."""


class LogDisplay:
    """Lines in a log.

    Parameters
    ----------
    write
        Writes one line; called from two threads.
    work
        Which slides are in work.
    clock
        `time.monotonic`, or one for tests.
    """

    def __init__(
        self, write: Callable[[str], None], *, work: SlidesInWork, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._work = work
        self._clock = clock
        self._stage: Stage | None = None
        self._last_name = ""
        self._is_open = True
        self._line_s = self._news_s = clock()
        """When the last line was written, and when something was done last."""
        self._n_at_line = 0
        self._lock = Lock()
        """Held while a line is due or not, so that the two threads do not both write it."""

    def begin(self, stage: Stage) -> None:
        """Write how much there is to do."""
        self._news_s = self._clock()
        self._n_at_line = 0
        self._stage = stage
        self._put(f"{stage.name}: {stage.total:,} {stage.unit}")

    def advance(self, n_units: int) -> None:
        """Write a line when it is time."""
        now_s = self._clock()
        if n_units:
            self._news_s = now_s
        stage = self._stage
        if stage is None:
            return
        every_s = LINE_EVERY_S if now_s - stage.started_s < SOON_S else BEAT_S
        with self._lock:
            if now_s - self._line_s >= every_s:
                self._put(self._describe(stage, now_s=now_s))

    def beat(self) -> None:
        """Write a line when there was none for a while."""
        now_s = self._clock()
        with self._lock:
            if not self._is_open or now_s - self._line_s < BEAT_S:
                return
            stage = self._stage
            if stage is not None:
                self._put(self._describe(stage, now_s=now_s))
            else:
                what = AFTER.get(self._last_name, "working")
                self._put(f"{what}, for {describe_seconds(now_s - self._news_s)} now{self._in_work(now_s)}")

    def end(self) -> None:
        """Write what was done."""
        stage, now_s = self._stage, self._clock()
        self._stage = None
        self._news_s = now_s
        if stage is not None:
            self._last_name = stage.name
            seconds = now_s - stage.started_s
            took = describe_seconds(seconds) if seconds >= 60 else f"{seconds:.1f} s"
            note = stage.note(stage.mean_per_s(now_s))
            self._put(f"{stage.name}: {stage.done:,} of {stage.total:,} {stage.unit} done in {took}, {note}")

    def close(self) -> None:
        """Write no more."""
        self._is_open = False

    def _put(self, line: str) -> None:
        self._line_s = self._clock()
        self._write(line)

    def _describe(self, stage: Stage, *, now_s: float) -> str:
        done = f"{stage.name}: {stage.done:,} of {stage.total:,} {stage.unit}"
        if stage.total:
            done += f" ({1000 * stage.done // stage.total / 10:.1f} %)"  # 100.0 at the end only
        if stage.done == self._n_at_line:
            silence = describe_seconds(now_s - self._news_s)
            return f"{done}{stage.slides}, nothing new for {silence}{self._in_work(now_s)}"
        self._n_at_line = stage.done
        note = stage.note(stage.pace.per_s(now_s, stage.n_new))
        left_s = stage.pace.left_s(now_s, stage.n_new, n_left=max(0, stage.total - stage.done))
        stage.pace.mark(now_s, stage.n_new)
        return f"{done}, {note}" + ("" if left_s is None else f", {describe_seconds(left_s)} left")

    def _in_work(self, now_s: float) -> str:
        """Return the slides that are waited for, the one that has been silent for longest first."""
        silences = self._work.silences(now_s)
        if not silences:
            return ""
        named = ", ".join(f"{name} ({describe_seconds(silence_s)})" for name, silence_s in silences[:MAX_SLIDES_NAMED])
        n_more = len(silences) - MAX_SLIDES_NAMED
        return f"; in work: {named}" + (f" and {n_more:,} more slides" if n_more > 0 else "")
