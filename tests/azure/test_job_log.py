"""The log of a job, without what Azure's log viewer repeats."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.azure_job.job_log import JobLog

REPEATED = "RunId: nice_name\nWeb View: https://ml.azure.com/runs/nice_name\n"
SUMMARY = f"\nExecution Summary\n=================\n{REPEATED}\n"
LOG = "\nStreaming user_logs/std_log.txt\n===============================\n\n"


def shown(*texts: str) -> tuple[JobLog, str]:
    out = io.StringIO()
    log = JobLog(out, name="nice_name")
    for text in texts:
        log.write(text)
    return log, out.getvalue()


def test_the_log_stays_and_what_is_repeated_goes() -> None:
    own = "START\n\n\nRunId: another\n=================\nDONE\n"
    log, text = shown(REPEATED, LOG, own, SUMMARY)
    assert text == LOG + own
    assert log.is_shown


def test_warnings_of_the_service_stay() -> None:
    log, text = shown(REPEATED, SUMMARY, "\nWarnings:\nThe disk was full.\n\n")
    assert text.lstrip("\n") == "Warnings:\nThe disk was full.\n"
    assert not log.is_shown


@pytest.mark.parametrize(
    ("lines", "shortfall"),
    [
        (["COMPLETE: 3 of 3 slides"], None),
        (["2026-11-21 22:28:47Z INCOMPLETE: 1 of 3 slides failed"], "INCOMPLETE: 1 of 3 slides failed"),
        (["INCOMPLETE: 1 of 3"], "INCOMPLETE: 1 of 3"),
        (["2026-11-21 22:28:47Z INCOMPLETE: a", "2026-11-21 22:29:00Z COMPLETE: b"], None),  # it was started again
        (["2026-11-21 22:28:47Z slide INCOMPLETE: x", "x INCOMPLETE: y"], None),
    ],
)
def test_the_last_verdict_counts(lines: list[str], shortfall: str | None) -> None:
    assert shown(LOG, "\n".join([*lines, "+ echo DONE", "DONE\n"]))[0].shortfall == shortfall


def test_nothing_moves_the_cursor_and_nothing_is_lost_before_a_line_of_ours() -> None:
    out = io.StringIO()
    log = JobLog(out, name="n")
    log.write("10 %\r20 %\r\n\x1b[2Jhalf a li")
    log.end_with("the log cannot be shown any further")
    assert out.getvalue() == "10 %\n20 %\n\\x1b[2Jhalf a li\nthe log cannot be shown any further\n"


@given(st.text(alphabet="aI=\n :NCOMPLETER", max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_it_makes_no_difference_how_the_text_is_cut(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    parts = [text[start:stop] for start, stop in pairwise(places)]
    whole, pieces = shown(text + "\n"), shown(*parts, "\n")
    assert whole[1] == pieces[1]
    assert whole[0].shortfall == pieces[0].shortfall
