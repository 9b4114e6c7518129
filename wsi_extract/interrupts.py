"""SIGINT, SIGTERM and SIGHUP: stop at once where Python runs, between two steps where a C library does, in any case.

The first signal stops the program in good order. Whoever cannot wait for that sends another one: the program leaves at
once then, as if it had been killed; files are whole or absent in that case too.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

Check = Callable[[], None]
"""Raises `KeyboardInterrupt`, `Terminated` or `HungUp` when a signal has arrived."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_BY_SIGNAL = 128
"""What shells add the number of the signal to."""
SAME_EVENT_S = 0.5
"""Within this time a further signal belongs to the first: Ctrl-C reaches a program from its terminal and, a moment
later, from whatever started it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


class HungUp(Terminated):
    """SIGHUP arrived: the terminal was closed."""


def exit_code_of(error: KeyboardInterrupt) -> int:
    """Return the code that shells know a death by this signal by: 130, 143 or 129."""
    if isinstance(error, HungUp):
        return EXIT_BY_SIGNAL + signal.SIGHUP
    return EXIT_BY_SIGNAL + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


_ERRORS: Mapping[int, type[KeyboardInterrupt]] = {signal.SIGTERM: Terminated, signal.SIGHUP: HungUp}


class _Arrivals:
    """The first signal that arrived; at a second one the process ends."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._first_s = 0.0

    def note(self, number: int) -> bool:
        """Return whether it is the first."""
        now_s = time.monotonic()
        if self.first is None:
            self.first, self._first_s = number, now_s
            return True
        if now_s - self._first_s >= SAME_EVENT_S:
            os._exit(EXIT_BY_SIGNAL + self.first)
        return False

    def raise_first(self) -> None:
        if self.first is not None:
            raise _ERRORS.get(self.first, KeyboardInterrupt)


@contextmanager
def stoppable() -> Iterator[Check]:
    """Let the signals raise `KeyboardInterrupt`, `Terminated` or `HungUp`.

    Python drops an exception that is raised within a destructor or a weakref callback, wherever it came from, and
    NumPy one that is raised while it looks up an attribute. Therefore the signal is remembered as well: what is
    yielded raises again. From the signal on loggers are silent, because libraries that are torn down in the middle of
    a call complain, and so is Python about what it dropped.

    SIGHUP stays ignored where it was, as ``nohup`` asks for.
    """
    arrivals = _Arrivals()

    def note(number: int, _frame: FrameType | None) -> None:
        logging.disable(logging.CRITICAL)
        sys.unraisablehook = _ignore
        if arrivals.note(number):  # only then: what stops the program must not be stopped itself
            arrivals.raise_first()

    with _handlers(note):
        yield arrivals.raise_first


def _ignore(_dropped: object) -> None:
    """Say nothing of an error that nobody could catch."""


@contextmanager
def held() -> Iterator[Check]:
    """Put the signals off to the end of the block, or to the next call of what is yielded."""
    arrivals = _Arrivals()

    def note(number: int, _frame: FrameType | None) -> None:
        arrivals.note(number)

    try:
        with _handlers(note):
            yield arrivals.raise_first
    finally:  # also when the block failed: what a program stumbles over while it is being stopped is no news
        _hand_on(arrivals)


def _hand_on(arrivals: _Arrivals) -> None:
    """Let whoever handles signals outside the block have the one that was put off."""
    if arrivals.first is None:
        return
    outer = signal.getsignal(arrivals.first)
    if callable(outer):  # `stoppable` remembers it, or a block around this one puts it off further
        outer(arrivals.first, None)
    else:
        arrivals.raise_first()


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals in this way within the block; in other threads than the main one no signal arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN
