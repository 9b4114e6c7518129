"""SIGINT and SIGTERM: stop at once where Python runs, between two steps where a C library does, and in any case."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Check = Callable[[], None]
"""Raises `KeyboardInterrupt` or `Terminated` when a signal has arrived."""
Handler = Callable[[int, FrameType | None], None]


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


@contextmanager
def stoppable() -> Iterator[Check]:
    """Let the signals raise `KeyboardInterrupt` or `Terminated`.

    Python drops an exception that is raised within a destructor or a weakref callback, wherever it came from, and
    NumPy one that is raised while it looks up an attribute. Therefore the signal is remembered as well: what is
    yielded raises again. From the signal on loggers are silent, because libraries that are torn down in the middle of
    a call complain.
    """
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        logging.disable(logging.CRITICAL)
        arrived.append(number)
        _raise_first(arrived)

    with _handlers(note):
        yield lambda: _raise_first(arrived)


@contextmanager
def held() -> Iterator[Check]:
    """Put the signals off to the end of the block, or to the next call of what is yielded."""
    arrived: list[int] = []
    with _handlers(lambda number, _frame: arrived.append(number)):
        yield lambda: _raise_first(arrived)
    _raise_first(arrived)


def _raise_first(arrived: list[int]) -> None:
    if arrived:
        raise Terminated if arrived[0] == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def _handlers(handler: Handler) -> Iterator[None]:
    """Handle the signals in this way within the block; in other threads than the main one no signal arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
