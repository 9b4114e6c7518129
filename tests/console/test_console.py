"""The log of whole runs: what it ends with, and that it stays plain and short."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers_run import MEMORY_BYTES, Inputs, make_config, make_inputs
from wsi_extract.annotations.reconcile import ClassCount, Reason, Reconciliation
from wsi_extract.console.reporters import MAX_SLIDES_SHOWN, ConsoleReporter, SilentReporter
from wsi_extract.console.tables import reconciliation_table
from wsi_extract.pipeline import run
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import SerialExecutor


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("in"), n_slides=2)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    broken = make_inputs(tmp_path_factory.mktemp("broken"), n_slides=2)
    (broken.wsi_dir / "slide_9.svs").write_bytes(b"no slide")
    return broken


def log_of(inputs: Inputs, out: Path, *, force_terminal: bool = False, **settings: object) -> list[str]:
    """Run, and return the lines of the log."""
    shown = io.StringIO()
    console = Console(file=shown, width=140, force_terminal=force_terminal, color_system=None, highlight=False)
    config = make_config(inputs, out, unannotated_slides="negative", **settings)
    reporter = ConsoleReporter(config, console=console, check_signals=lambda: None)
    with SlideCache() as slides:
        run(config, executor=SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES), reporter=reporter)
    return shown.getvalue().splitlines()


def test_a_complete_run_ends_with_its_counts(inputs: Inputs, tmp_path: Path) -> None:
    assert log_of(inputs, tmp_path / "out")[-1] == "COMPLETE: 2 of 2 slides, 40 of 40 patches"


def test_an_incomplete_run_ends_with_what_is_missing(broken: Inputs, tmp_path: Path) -> None:
    lines = log_of(broken, tmp_path / "out")
    assert lines[-1] == (
        "INCOMPLETE: 1 of 3 slides failed and are not in the data set, 40 of 40 patches; "
        f"see {tmp_path / 'out' / 'errors.jsonl'}"
    )
    assert any(line.startswith("slide slide_9 failed (describe): ") for line in lines)


def test_a_warning_that_comes_late_does_not_take_the_last_line(inputs: Inputs, tmp_path: Path) -> None:
    shown = io.StringIO()
    config = make_config(inputs, tmp_path / "out", unannotated_slides="negative")
    reporter = ConsoleReporter(
        config, console=Console(file=shown, width=140, force_terminal=False), check_signals=lambda: None
    )
    reporter.warn("early")
    with SlideCache() as slides:
        run(config, executor=SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES), reporter=reporter)
    reporter.warn("late")
    *_, verdict, late, last = shown.getvalue().splitlines()
    assert late == "warning: late"
    assert verdict == last == "COMPLETE: 2 of 2 slides, 40 of 40 patches"
    assert shown.getvalue().count("COMPLETE") == 2


def test_a_run_that_exits_with_zero_all_the_same_ends_no_better(broken: Inputs, tmp_path: Path) -> None:
    *_, policy, last = log_of(broken, tmp_path / "out", on_partial="warn")
    assert last.startswith("INCOMPLETE: 1 of 3 slides failed")
    assert policy == "exit code 0 although slides failed: on_partial is warn"


def test_a_terminal_is_told_the_same_at_the_end(broken: Inputs, tmp_path: Path) -> None:
    lines = log_of(broken, tmp_path / "out", force_terminal=True)
    assert lines[-2].startswith("INCOMPLETE: 1 of 3 slides failed")  # there the terminal folds it
    assert lines[-1].endswith("errors.jsonl")


def test_a_run_that_is_resumed_says_what_was_there(inputs: Inputs, tmp_path: Path) -> None:
    log_of(inputs, tmp_path / "out")
    lines = log_of(inputs, tmp_path / "out")
    assert "40 of these patches were there already, from an earlier run" in lines
    (end,) = [line for line in lines if line.startswith("extract: 40 of 40 patches done in ")]
    assert end.endswith(", 0 patches/s, 2 of 2 slides")  # what was there says nothing about speed
    assert lines[-1].startswith("COMPLETE: ")


def test_a_log_is_plain_ascii_without_moves_of_a_cursor(broken: Inputs, tmp_path: Path) -> None:
    text = "\n".join(log_of(broken, tmp_path / "out"))
    assert text.isascii()
    assert not {character for character in text if ord(character) < 32} - {"\n"}
    assert max(len(line) for line in text.splitlines() if line[:1] in "|+") <= 140


def test_the_account_of_annotations_reads_like_the_other_tables() -> None:
    count = ClassCount(class_id=2, name="Mitosis", n_read=12_345, n_by_reason={Reason.KEPT_TARGET: 12_345})
    account = Reconciliation(classes=(count,), unmatched_slides=(), unreadable_slides=(), unlisted_slides=())
    shown = io.StringIO()
    Console(file=shown, width=80).print(reconciliation_table(account))
    assert "12,345" in shown.getvalue()
    assert "kept target" in shown.getvalue()


def test_many_slides_cost_few_lines(inputs: Inputs, tmp_path: Path) -> None:
    n_slides = 10_000
    shown = io.StringIO()
    config = make_config(inputs, tmp_path / "out", dry_run=True, unannotated_slides="negative")
    with SlideCache() as slides:
        serial = SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES)
        plan = run(config, executor=serial, reporter=SilentReporter()).plan
    record = next(iter(plan.surveys.values()))
    short = replace(record, accounts=(replace(record.accounts[0], n_missing=1, missing_reason="no room"),))
    many = {f"s{index}": replace(short, slide_id=f"s{index}") for index in range(n_slides)}
    console = Console(file=shown, width=140, force_terminal=False)
    reporter = ConsoleReporter(config, console=console, check_signals=lambda: None)
    reporter.show_inputs(replace(plan.inputs, entries=plan.inputs.entries * n_slides))
    reporter.show_plan(replace(plan, surveys=many))
    lines = shown.getvalue().splitlines()
    assert len(lines) < 2 * MAX_SLIDES_SHOWN + 50
    assert sum("no room" in line for line in lines) == MAX_SLIDES_SHOWN
    assert f"... and {n_slides - MAX_SLIDES_SHOWN:,} more; slides.csv will list all" in lines
    assert lines[-1] == "dry run: nothing was written"
