"""Run the program with faults: ``python -m tests.faults.run --plan plan.json -- <arguments of run_extraction.py>``.

Workers of a cluster on this machine get the same faults, through `tests.faults.preload`.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import run_extraction
import wsi_extract.__main__
from tests.faults.injector import Injector
from tests.faults.plans import Plan
from wsi_extract import blocks

JUMPS_S = (0.0, 7200.0, -86400.0, 3600.0 * 24 * 365, -3600.0, 5.0)
"""How far the clock is off, one after the other: daylight saving, a wrong zone, a dead battery."""

PROGRAMS: dict[str, Callable[[Sequence[str]], int]] = {
    "run_extraction": run_extraction.main,
    "wsi_extract": wsi_extract.__main__.main,
}


def carry_out(plan: Plan, argv: Sequence[str], *, program: str = "run_extraction") -> int:
    """Run the program in this process, with everything that is planned, and return its exit code."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    blocks.MIN_BLOCK_PATCHES = plan.min_block_patches
    injector = Injector(plan)
    with ExitStack() as stack:
        if plan.jumping_clock:
            stack.enter_context(_jumping_clock())
        if plan.signals_every_s:
            stack.enter_context(_interrupting_signals(plan.signals_every_s))
        stack.enter_context(injector.installed())
        try:
            return PROGRAMS[program](argv)
        finally:
            injector.finish()


@contextmanager
def _interrupting_signals(every_s: float) -> Iterator[None]:
    """Interrupt system calls all the time, as profilers do."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, every_s, every_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _jumping_clock() -> Iterator[None]:
    """Let the time of day jump with every question; what `time.monotonic` says stays true, as systems promise."""
    jumps = itertools.cycle(JUMPS_S)
    real_time, real_time_ns = time.time, time.time_ns

    class JumpingDatetime(datetime):
        """The time of day, wrong."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> JumpingDatetime:
            return super().now(tz) + timedelta(seconds=next(jumps))

    with ExitStack() as stack:

        def put(module: object, name: str, value: object) -> None:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

        put(time, "time", lambda: real_time() + next(jumps))
        put(time, "time_ns", lambda: real_time_ns() + int(next(jumps) * 1e9))
        for name, module in list(sys.modules.items()):
            if name.startswith("wsi_extract") and getattr(module, "datetime", None) is datetime:
                put(module, "datetime", JumpingDatetime)
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Read the plan and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    asked = parser.parse_args(argv)
    arguments = asked.arguments[1:] if asked.arguments[:1] == ["--"] else asked.arguments
    plan = Plan.from_json(asked.plan.read_text())
    return carry_out(plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
