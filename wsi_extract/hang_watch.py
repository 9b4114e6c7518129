"""Ends a process in which a task hangs in native code: no signal and no exception would get it out of there.

Knows no tasks: it is told what begins and when that has ended. Times are seconds (``_s``).
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import NoReturn, Self

from wsi_extract.errors import EnvironmentFaultError

TICKS = 10
"""Times that the watch looks per limit. It counts them, not seconds: a process that was stopped does not hang."""
LAST_RESORT = 10.0
"""Times the limit after which a process ends that cannot even run the watch. Its clock goes on while the process is
stopped, by Ctrl-Z or a batch system, and one that is continued must not be ended for that."""
AGAIN = (
    "Run the same command again: finished work is kept, and slides are then read in worker processes, which costs this "
    "slide only. Or leave the slide out; raise --task_timeout_s if it is just slow."
)
"""For a run that is known by its mark to have died, and then reads elsewhere."""
WITH_WORKERS = (
    "Run it again with --workers N (2, or more): finished work is kept, and slides are then read in worker processes, "
    "which costs this slide only. Or leave the slide out; raise --task_timeout_s if it is just slow."
)
"""For whatever would read in its own process again."""


class HangWatch:
    """Watches what is done within the ``with`` block, from one thread of its own, at the cost of an assignment.

    When something takes longer than the limit, the process ends with a message and the exit code of an
    `EnvironmentFaultError`. Native code that holds the interpreter's lock stops the watch as well: Python's
    faulthandler then ends the process, with a traceback instead of the message, and exit code 1.

    Parameters
    ----------
    limit_s
        How long something may take, more by at most a tenth; ``None`` watches nothing.
    advice
        What the user can do about it.
    last_resort
        Times the limit after which a process ends that cannot even run the watch.
    """

    def __init__(self, limit_s: float | None, *, advice: str = WITH_WORKERS, last_resort: float = LAST_RESORT) -> None:
        self._limit_s = limit_s
        self._advice = advice
        self._last_resort = last_resort
        self._current: tuple[str, str] | None = None
        self._has_ended = Event()
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        if self._limit_s is not None:
            self._thread = Thread(target=self._look, args=(self._limit_s,), name="hang watch", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the system grants no further thread: unwatched is better than not at all
                self._thread = None
            else:
                _postpone_last_resort(self._last_resort * self._limit_s)
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def over(self, *, slide_id: str, stage: str) -> Iterator[None]:
        """Watch the block; the names stand in the message."""
        self._current = (slide_id, stage)  # a new object: the watch tells it from the one before by its identity
        try:
            yield
        finally:
            self._current = None

    def _look(self, limit_s: float) -> None:
        seen: tuple[str, str] | None = None
        n_ticks = 0
        while not self._has_ended.wait(limit_s / TICKS):
            _postpone_last_resort(self._last_resort * limit_s)
            current = self._current
            n_ticks = n_ticks + 1 if current is seen else 0
            seen = current
            if current is not None and n_ticks >= TICKS:
                _end_process(*current, limit_s=limit_s, advice=self._advice)


def _postpone_last_resort(left_s: float) -> None:
    """Let the process end later than it would have; nowhere to write to means that it does not end this way."""
    with suppress(io.UnsupportedOperation, AttributeError, ValueError):
        faulthandler.dump_traceback_later(left_s, exit=True, file=sys.__stderr__ or sys.stderr)


def _end_process(slide_id: str, stage: str, *, limit_s: float, advice: str) -> NoReturn:
    """End the process at once: other threads may hold any lock, so that nothing is flushed, closed or asked."""
    text = (
        f"\nerror: {stage} of slide {slide_id} has not ended for {limit_s:.0f} s: native code hangs, in the slide or "
        f"in the disk it lies on. {advice}\n"
    )
    try:
        os.write(2, text.encode(errors="replace"))
    finally:
        os._exit(EnvironmentFaultError.exit_code)
