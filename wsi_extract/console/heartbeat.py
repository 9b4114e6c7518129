"""Calls a function again and again beside what the main thread does, which may wait for hours in native code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

EVERY_S = 1.0


@contextmanager
def beating(beat: Callable[[], None], *, every_s: float = EVERY_S) -> Iterator[None]:
    """Call ``beat`` from a thread of its own as long as the block lasts."""
    has_ended = Event()

    def loop() -> None:
        while not has_ended.wait(every_s):
            beat()

    thread = Thread(target=loop, name="heartbeat", daemon=True)
    with suppress(RuntimeError):  # the system grants no further thread: the block matters more
        thread.start()
    try:
        yield
    finally:
        has_ended.set()
        if thread.ident is not None:
            thread.join()
