"""Sends things somewhere slow or dead, from a thread of its own, so that whoever sends never waits and never fails.

Knows not what is sent nor where to. Times are seconds (``_s``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

Target = TypeVar("Target")

MAX_WAITING = 64
"""Jobs that wait; beyond that the oldest is dropped."""
HOPELESS_FAILURES = 3
"""So many jobs that failed in a row, or one before the first success: what is down is not coming up."""
HOPELESS_END_S = 3.0
"""How long the end may take then."""


class BackgroundSender(Generic[Target]):
    """Runs jobs one after the other on a target that is opened with the first one, in a thread of its own.

    What goes wrong is told once; then jobs are tried in silence, because what is down may come up again.

    Parameters
    ----------
    open_target
        Opens what jobs are run on; when it fails, jobs are dropped.
    on_trouble
        Is told in words, from the thread or from `close`, that something could not be sent.
    """

    def __init__(self, open_target: Callable[[], Target], *, on_trouble: Callable[[str], None]) -> None:
        self._open_target = open_target
        self._on_trouble = on_trouble
        self._has_told = self._is_done = False
        self._n_failures = HOPELESS_FAILURES - 1
        """In a row; what has never worked gets no benefit of the doubt."""
        self._jobs: deque[Callable[[Target], None]] = deque(maxlen=MAX_WAITING)
        self._latest: Callable[[Target], None] | None = None
        self._is_closing = self._is_abandoned = False
        self._answered_s: float | None = None
        """When the target was opened, or did a job last."""
        self._changed = Condition()
        self._thread = Thread(target=self._loop, name="background sender", daemon=True)

    def send(self, job: Callable[[Target], None]) -> None:
        """Have a job run after those that wait."""
        with self._changed:
            self._jobs.append(job)
            self._wake()

    def send_latest(self, job: Callable[[Target], None]) -> None:
        """Have a job run when no other waits; it replaces an earlier one of this kind that was not begun yet."""
        with self._changed:
            self._latest = job
            self._wake()

    def _wake(self) -> None:
        if self._thread.ident is None:
            try:
                self._thread.start()
            except RuntimeError as error:  # the system grants no further thread
                self._tell(error)
                self._is_abandoned = True
        self._changed.notify()

    def close(self, *, budget_s: float, patience_s: float) -> None:
        """Wait until everything is sent, but not longer than ``budget_s``; what is left then is dropped.

        Nor longer than ``patience_s`` since the last job that was done, and where nothing could be sent lately not
        longer than `HOPELESS_END_S`. Opening the target has the whole budget: loading a library takes its time.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
            if self._thread.ident is not None and not self._is_abandoned:
                self._wait_for_the_rest(budget_s=budget_s, patience_s=patience_s)
            self._is_abandoned = True

    def _wait_for_the_rest(self, *, budget_s: float, patience_s: float) -> None:
        began_s = time.monotonic()
        while not self._is_done:
            now_s = time.monotonic()
            if self._is_hopeless:
                until_s = min(budget_s, HOPELESS_END_S) + began_s
            elif self._answered_s is None:
                until_s = budget_s + began_s
            else:
                until_s = min(budget_s + began_s, patience_s + max(began_s, self._answered_s))
            if now_s >= until_s:
                self._tell(TimeoutError(f"not all was taken within {now_s - began_s:.0f} s after the end of the run"))
                return
            self._changed.wait(until_s - now_s)

    @property
    def _is_hopeless(self) -> bool:
        return self._n_failures >= HOPELESS_FAILURES

    def _loop(self) -> None:
        try:
            target = self._open_target()
        except Exception as error:  # noqa: BLE001  # what a library makes of its own import is anybody's guess
            self._tell(error)
        else:
            self._note_answer()
            while (job := self._next()) is not None:
                self._try(job, target)
        with self._changed:
            self._is_done = self._is_abandoned = True
            self._changed.notify_all()

    def _try(self, job: Callable[[Target], None], target: Target) -> None:
        try:
            job(target)
        except Exception as error:  # noqa: BLE001  # nothing that happens there matters to the run
            self._tell(error)
            with self._changed:
                self._n_failures += 1
                self._changed.notify_all()
        else:
            self._n_failures = 0
            self._note_answer()

    def _note_answer(self) -> None:
        with self._changed:
            self._answered_s = time.monotonic()
            self._changed.notify_all()

    def _next(self) -> Callable[[Target], None] | None:
        """Return the next job, ``None`` at the end."""
        with self._changed:
            while not (self._jobs or self._latest or self._is_closing):
                self._changed.wait()
            if self._is_abandoned:
                return None
            if self._jobs:
                return self._jobs.popleft()
            latest, self._latest = self._latest, None
            return latest

    def _tell(self, error: Exception) -> None:
        if not self._has_told and not self._is_abandoned:
            self._has_told = True
            self._on_trouble(f"{type(error).__name__}: {error}")
