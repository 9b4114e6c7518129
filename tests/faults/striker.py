"""Counts operations and carries out what a plan says about the n-th of them."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.plans import Action, Plan, Strike, When

HANG_S = 3600.0


class Striker:
    """What goes wrong in one process."""

    def __init__(self, plan: Plan) -> None:
        self._strikes = plan.strikes
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._make_token = os.open

    @contextmanager
    def around(self, name: str, relative: str) -> Iterator[bool]:
        """Let the operation in the block be hit: yield whether only half of it is to happen.

        Raises
        ------
        OSError
            As planned, before or after the operation.
        """
        due = self._due(name, relative)
        for strike in due:
            if strike.when is When.BEFORE:
                self._carry_out(strike, relative)
        try:
            yield any(strike.action is Action.SHORT for strike in due)
        finally:  # also when the operation failed by itself: a folder that is there, a file that is not
            for strike in due:
                if strike.when is When.AFTER:
                    self._carry_out(strike, relative)

    def _due(self, name: str, relative: str) -> list[Strike]:
        due = []
        with self._lock:
            for number, strike in enumerate(self._strikes):
                if not _is_meant(strike.operation, name) or strike.path_part not in relative:
                    continue
                self._counts[number] += 1
                n = self._counts[number]
                if n == strike.number or (strike.is_lasting and n > strike.number):
                    due.append(strike)
        return [strike for strike in due if self._is_first(strike)]

    def _is_first(self, strike: Strike) -> bool:
        if not strike.token:
            return True
        try:
            os.close(self._make_token(strike.token, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def _carry_out(self, strike: Strike, relative: str) -> None:
        match strike.action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.SEGFAULT:
                ctypes.string_at(0)
            case Action.ERROR:
                raise OSError(strike.errno, os.strerror(strike.errno), relative)
            case Action.DELAY:
                time.sleep(strike.seconds)
            case Action.HANG:
                time.sleep(HANG_S)
            case Action.SHORT:
                return


def _is_meant(operations: str, name: str) -> bool:
    if not operations:
        return not name.startswith("stat:")  # thousands of questions, nothing done
    kind = name[: name.index(":") + 1]
    return any(each in (name, kind) for each in operations.split())
