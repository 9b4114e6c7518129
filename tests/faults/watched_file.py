"""Files opened by `open` whose every read and write is an operation that can be counted, and can fail."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from tests.faults.roles import DELETED

if TYPE_CHECKING:
    from tests.faults.injector import Injector

FLAGS = {"w": os.O_TRUNC, "x": os.O_EXCL}


class WatchedFile(io.FileIO):
    """A file of the output folder."""

    injector: Injector
    relative: str

    def write(self, data: Any, /) -> int:
        return self.injector.operate("write", self._now(), super().write, data)

    def readall(self) -> bytes:
        return self.injector.operate("read", self._now(), super().readall)

    def readinto(self, buffer: Any, /) -> int:
        return self.injector.operate("read", self._now(), super().readinto, buffer)

    def truncate(self, size: int | None = None, /) -> int:
        return self.injector.operate("truncate", self._now(), super().truncate, size)

    def _now(self) -> str | None:
        """Return where the file lies now: it may have been renamed."""
        return self.injector.relative(self.fileno())


def open_watched(injector: Injector, *, real_open: Callable[..., IO[Any]]) -> Callable[..., IO[Any]]:
    """Return what takes the place of the built-in `open`."""

    def opening(  # noqa: PLR0917  # as many as the built-in takes
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        relative = None if isinstance(file, int) else injector.relative(file)
        if relative is None:
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw_mode = mode.replace("b", "").replace("t", "")
        if opener is not None:
            relative += f"/{DELETED}"  # a temporary that never has a name
        operation = "open" if raw_mode in ("r", "r+") else "create"

        def call(*_: object) -> WatchedFile:
            raw = WatchedFile(file, raw_mode, opener=opener)
            raw.injector = injector
            return raw

        raw = injector.operate(operation, relative, call, FLAGS.get(raw_mode[0], 0))
        if "b" in mode and buffering == 0:
            return raw
        kind: Any = io.BufferedReader
        if "+" in mode:
            kind = io.BufferedRandom
        elif raw_mode != "r":
            kind = io.BufferedWriter
        buffered = kind(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    return opening
