"""The lines of a log, as somebody reads them who watches a job in a browser."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.helpers_run import Inputs, make_config
from wsi_extract.console import progress as console_progress
from wsi_extract.console.heartbeat import beating
from wsi_extract.console.progress import BarDisplay, LogDisplay, Stage
from wsi_extract.console.reporters import MAX_FAULTS_SHOWN, ConsoleReporter, make_console, utc_stamp
from wsi_extract.in_work import SlidesInWork
from wsi_extract.model import Fault, FaultClass
from wsi_extract.pace import WINDOW_S, Pace, describe_seconds


class Log:
    """A log whose clock is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.lines: list[str] = []
        self.work = SlidesInWork()
        self.display = LogDisplay(self.lines.append, work=self.work, clock=lambda: self.now_s)
        self.stage = Stage(name="", unit="", total=0, started_s=0)

    def begin(self, *, name: str = "extract", total: int = 1000) -> None:
        self.stage = Stage(name=name, unit="patches", total=total, started_s=self.now_s)
        self.display.begin(self.stage)

    def advance(self, n_units: int, *, n_kept: int = 0) -> None:
        self.stage.done += n_units
        self.stage.n_kept += n_kept
        self.display.advance(n_units)

    def wait(self, seconds: int) -> None:
        """Let time pass as the heartbeat sees it."""
        for _ in range(seconds):
            self.now_s += 1
            self.display.beat()


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    log = Log()
    log.begin(total=10_000)
    log.now_s += 20
    log.stage.slides, log.stage.n_failed = ", 3 of 40 slides", 2
    log.advance(1_000)
    assert log.lines == [
        "extract: 10,000 patches",
        "extract: 1,000 of 10,000 patches (10.0 %), 50 patches/s, 3 of 40 slides, failed slides: 2, 0:03:00 left",
    ]


def test_what_was_kept_says_nothing_about_speed() -> None:
    log = Log()
    log.begin(total=10_000)
    log.advance(9_000, n_kept=9_000)
    log.now_s += 100
    log.advance(100)
    assert log.lines[-1] == "extract: 9,100 of 10,000 patches (91.0 %), 1 patches/s, 0:15:00 left".replace(
        "1 p", "1.0 p"
    )


def test_silence_names_what_is_waited_for() -> None:
    log = Log()
    log.begin()
    for name in ("a", "b", "c", "d", "e"):
        log.work.take_up(name, now_s=log.now_s)
        log.now_s += 1
    log.advance(10)
    log.wait(30)
    assert log.lines[-1].startswith("extract: 10 of 1,000 patches (1.0 %), ")
    log.wait(30)
    assert log.lines[-1] == (
        "extract: 10 of 1,000 patches (1.0 %), nothing new for 0:00:55; in work: a (0:01:00), b (0:00:59), "
        "c (0:00:58) and 2 more slides"
    )


def test_between_stages_the_log_goes_on() -> None:
    log = Log()
    log.wait(30)
    assert log.lines == ["starting, for 0:00:30 now"]
    log.begin()
    log.advance(1000)
    log.display.end()
    log.wait(60)
    assert log.lines[-2:] == [
        "writing documents, index and manifest, for 0:00:30 now",
        "writing documents, index and manifest, for 0:01:00 now",
    ]
    log.display.close()
    n_lines = len(log.lines)
    log.wait(100)
    assert len(log.lines) == n_lines


def test_an_empty_stage_has_no_percentage() -> None:
    log = Log()
    log.begin(total=0)
    log.wait(30)
    log.display.end()
    assert log.lines[1:] == [
        "extract: 0 of 0 patches, nothing new for 0:00:30",
        "extract: 0 of 0 patches done in 30.0 s, 0 patches/s",
    ]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20)), max_size=60))
def test_no_silence_is_longer_than_a_beat_and_no_flood_follows(steps: list[tuple[int, int]]) -> None:
    log = Log()
    times_s: list[float] = []
    log.display = LogDisplay(lambda _: times_s.append(log.now_s), work=log.work, clock=lambda: log.now_s)
    log.begin(total=10**6)
    for seconds, n_units in steps:
        log.wait(seconds)
        log.advance(n_units)
    gaps = [after - before for before, after in zip(times_s, [*times_s[1:], log.now_s], strict=True)]
    assert all(gap <= console_progress.BEAT_S for gap in gaps)
    assert all(gap >= console_progress.LINE_EVERY_S for gap in gaps[:-1])


def test_a_day_of_progress_costs_a_line_per_beat() -> None:
    log = Log()
    log.begin(total=10**6)
    for _ in range(24 * 3600):
        log.wait(1)
        log.advance(1)
    assert len(log.lines) < 24 * 3600 / console_progress.BEAT_S + 20


def test_the_pace_forgets_what_is_long_ago() -> None:
    pace = Pace(0.0)
    n_done = 0
    for now_s in range(10, 3000, 10):
        n_done += 1000 if now_s < 1000 else 10
        pace.mark(now_s, n_done)
    assert pace.per_s(3000, n_done) == pytest.approx(1.0, rel=0.1)
    assert Pace(0.0).left_s(WINDOW_S, 0, n_left=5) is None


@given(st.integers(0, 10**7))
def test_a_time_can_be_read_back(seconds: int) -> None:
    hours, minutes, rest = map(int, describe_seconds(seconds).split(":"))
    assert hours * 3600 + minutes * 60 + rest == seconds
    assert minutes < 60 > rest


def make_reporter(tmp_path: Path, *, stamp: str = "") -> tuple[ConsoleReporter, io.StringIO]:
    shown = io.StringIO()
    config = make_config(Inputs(folder=tmp_path, slides=(), annotations=()), tmp_path / "out")
    console = Console(file=shown, width=140, force_terminal=False)
    return ConsoleReporter(config, console=console, check_signals=lambda: None, stamp=lambda: stamp), shown


def fault(slide_id: str, *, message: str = "damaged tile") -> Fault:
    return Fault(
        slide_id=slide_id,
        stage="extract",
        fault_class=FaultClass.SLIDE,
        error_type="SlideError",
        message=message,
        remedy="",
    )


def test_failures_are_lines_up_to_a_number_and_then_a_count(tmp_path: Path) -> None:
    reporter, shown = make_reporter(tmp_path)
    reporter.begin("extract", total=10_000, unit="patches")
    for index in range(1_000):
        reporter.fail(fault(f"s{index}"))
    reporter.end()
    lines = shown.getvalue().splitlines()
    assert len(lines) == 1 + MAX_FAULTS_SHOWN + 1 + 1
    assert "errors.jsonl will list all" in lines[-2]
    assert lines[-1].endswith("failed slides: 1,000")


def test_a_long_line_stays_one_line_and_begins_with_its_time(tmp_path: Path) -> None:
    reporter, shown = make_reporter(tmp_path, stamp="12:00 ")
    reporter.fail(fault("s", message="long " * 100))
    (line,) = shown.getvalue().splitlines()
    assert line.startswith("12:00 slide s failed")
    assert line.count("long") == 100


def test_a_stamp_is_a_time_of_the_world() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ ", utc_stamp())


def test_a_log_is_plain_text_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CLICOLOR_FORCE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    console = make_console()
    console.print("text", style="bold red")
    assert not console.is_terminal
    assert capsys.readouterr().out == "text\n"


@pytest.mark.parametrize(("term", "is_terminal"), [("xterm", True), ("dumb", False), ("UNKNOWN", False)])
def test_a_terminal_without_a_cursor_gets_a_log(monkeypatch: pytest.MonkeyPatch, term: str, is_terminal: bool) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", TerminalText())
    assert make_console().is_terminal is is_terminal


class TerminalText(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_a_narrow_terminal_costs_the_bar_and_not_the_count() -> None:
    shown = io.StringIO()
    bar = BarDisplay(Console(file=shown, width=80, force_terminal=True, color_system=None))
    stage = Stage(name="extract", unit="patches", total=12_000, started_s=time.monotonic() - 10)
    stage.slides, stage.n_failed = ", 4 of 4 slides", 1
    bar.begin(stage)
    stage.done = 12_000
    bar.advance(12_000)
    bar.end()
    assert " 12000/12000 " in shown.getvalue()


def test_two_threads_write_a_line_once() -> None:
    now_s = [0.0]
    lines: list[str] = []

    def slow_clock() -> float:
        time.sleep(0.001)  # lets the other thread in
        return now_s[0]

    display = LogDisplay(lines.append, work=SlidesInWork(), clock=slow_clock)
    stage = Stage(name="extract", unit="patches", total=10**6, started_s=0.0)
    display.begin(stage)
    lines.clear()
    n_rounds = 50
    for _ in range(n_rounds):
        now_s[0] += 1000.0
        stage.done += 1
        thread = threading.Thread(target=display.beat)
        thread.start()
        display.advance(1)
        thread.join()
    assert len(lines) == n_rounds


def test_the_heartbeat_writes_while_the_main_thread_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_progress, "BEAT_S", 0.05)
    reporter, shown = make_reporter(tmp_path)
    reporter.begin("extract", total=10, unit="patches")
    reporter.take_up("slow")
    until_s = time.monotonic() + 60
    with beating(reporter.beat, every_s=0.01):
        while len(shown.getvalue().splitlines()) < 3 and time.monotonic() < until_s:
            time.sleep(0.01)
    lines = shown.getvalue().splitlines()
    assert len(lines) > 2
    assert "in work: slow" in lines[-1]
    reporter.put_down("slow")
    time.sleep(0.1)
    assert shown.getvalue().splitlines() == lines
