"""Stands between a process and its output folder: names every operation, and makes the planned ones fail.

Python's own functions are replaced in the modules that hold them, and files are opened as a class that counts their
reads and writes; the program that runs on top of that is unchanged. An audit hook notes operations that change the
folder by another way, so that no crash point is overlooked. What native libraries read from slides is not seen.
Paths are those below the output folder, with slashes. Linux only.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from tests.faults.plans import Plan
from tests.faults.recorder import Recorder
from tests.faults.roles import DELETED, role_of_file, role_of_folder
from tests.faults.striker import Striker
from tests.faults.watched_file import open_watched

Result = TypeVar("Result")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
BY_DESCRIPTOR = {
    "fsync": "sync",
    "fdatasync": "sync",
    "write": "write",
    "pwrite": "write",
    "writev": "write",
    "ftruncate": "truncate",
    "read": "read",
    "pread": "read",
    "preadv": "read",
    "close": "close",
}
"""Functions of `os` that take a descriptor first, and the name of their operation."""
BY_PATH = {
    "mkdir": "mkdir",
    "rmdir": "rmdir",
    "unlink": "remove",
    "remove": "remove",
    "truncate": "truncate",
    "scandir": "list",
    "listdir": "list",
    "stat": "stat",
}
"""Those that take a path first; `stat` names nothing that a crash could come between."""
AUDITED = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"})


class Injector:
    """Names operations, lets them strike, and records what they changed."""

    def __init__(self, plan: Plan) -> None:
        self._root = _absolute(plan.output_dir)
        self._slides = _absolute(plan.wsi_dir) if plan.wsi_dir else ""
        self._striker = Striker(plan)
        self._recorder = Recorder(self._root) if plan.events_path else None
        self._trace = (
            os.open(plan.trace_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if plan.trace_path else None
        )
        self._inside = threading.local()
        self._real = {name: getattr(os, name) for name in (*BY_DESCRIPTOR, *BY_PATH, "readlink", "open")}
        self._events_path = plan.events_path

    # --- places

    def relative(self, path: object, *, dir_fd: int | None = None) -> str | None:
        """Return the path below the output folder, ``None`` when it is not there."""
        if isinstance(path, int):
            try:
                text: str = self._real["readlink"](f"/proc/self/fd/{path}")
            except OSError:
                return None
        else:
            text = os.fsdecode(path)  # type: ignore[arg-type]  # a path of any kind
            if dir_fd is not None and not text.startswith("/"):
                text = f"{self._real['readlink'](f'/proc/self/fd/{dir_fd}')}/{text}"
            text = _absolute(text)
        if text == self._root:
            return ""
        if text.startswith(f"{self._root}/"):
            return text[len(self._root) + 1 :]
        return f"//{text}" if self._slides and text.startswith(f"{self._slides}/") else None

    def _role(self, relative: str, *, operation: str) -> str:
        if relative.startswith("//"):
            return "slide"
        if operation in ("mkdir", "rmdir", "list"):
            return role_of_folder(relative)
        if operation in ("sync", "open", "close") and self._is_folder(relative):
            return role_of_folder(relative)
        return role_of_file(relative) if relative else role_of_folder(relative)

    def _is_folder(self, relative: str) -> bool:
        try:
            return stat.S_ISDIR(self._real["stat"](f"{self._root}/{relative}").st_mode)
        except OSError:
            return False

    # --- operations

    def operate(self, operation: str, relative: str | None, call: Callable[..., Result], *arguments: Any) -> Result:
        """Carry out one operation, with whatever is planned for it before and after."""
        if relative is None or self._is_inside():
            return call(*arguments)
        self._inside.depth = True
        try:
            name = f"{operation}:{self._role(relative, operation=operation)}"
            self._note(f"{name}\t{relative}")
            with self._striker.around(name, relative) as shortened:
                if shortened and operation == "write":
                    arguments = _halved(arguments)
                if self._recorder is None or relative.endswith(DELETED):
                    return call(*arguments)
                return self._recorder.record(operation, relative, call, arguments)
        finally:
            self._inside.depth = False

    def _is_inside(self) -> bool:
        return bool(getattr(self._inside, "depth", False))

    def _note(self, line: str) -> None:
        if self._trace is not None:
            self._real["write"](self._trace, f"{line}\n".encode())

    def finish(self) -> None:
        """Write what was recorded."""
        if self._recorder is not None:
            self._recorder.save(self._events_path)

    # --- replacements

    def _by_descriptor(self, name: str) -> Callable[..., Any]:
        real, operation = self._real[name], BY_DESCRIPTOR[name]

        def replacement(descriptor: int, *arguments: Any) -> Any:
            return self.operate(operation, self.relative(descriptor), real, descriptor, *arguments)

        return replacement

    def _by_path(self, name: str) -> Callable[..., Any]:
        real, operation = self._real[name], BY_PATH[name]

        def replacement(path: Any = ".", *arguments: Any, **named: Any) -> Any:
            relative = self.relative(path, dir_fd=named.get("dir_fd"))
            return self.operate(operation, relative, lambda *given: real(*given, **named), path, *arguments)

        return replacement

    def _moving(self, real: Callable[..., None]) -> Callable[..., None]:
        def replacement(source: Any, target: Any, **named: Any) -> None:
            origin = self.relative(source, dir_fd=named.get("src_dir_fd"))
            relative = self.relative(target, dir_fd=named.get("dst_dir_fd"))
            if self._recorder is not None and relative is not None:
                self._recorder.expect_move(origin)
            self.operate("rename", relative, lambda *given: real(*given, **named), source, target)

        return replacement

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        operation = "create" if flags & (os.O_CREAT | os.O_TRUNC) else "open"

        def call(*_: object) -> int:
            descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
            return descriptor

        return self.operate(operation, self.relative(path, dir_fd=dir_fd), call, flags)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note a change of the folder that came by none of the replaced functions."""
        if event not in AUDITED or self._is_inside():
            return
        path, flags = arguments[0], arguments[2] if event == "open" else 0
        if not isinstance(path, str | bytes) or (event == "open" and not flags & WRITES):
            return
        if self.relative(path) is not None:
            self._note(f"UNSEEN {event}\t{os.fsdecode(path)}")

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stand in the way of everything this process does to the folder, within the block."""
        if self._trace is not None:
            sys.addaudithook(self._audit)
        with ExitStack() as stack:

            def put(module: Any, name: str, value: object) -> None:
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)

            for name in BY_DESCRIPTOR:
                put(os, name, self._by_descriptor(name))
            for name in BY_PATH:
                put(os, name, self._by_path(name))
            put(os, "replace", self._moving(os.replace))
            put(os, "rename", self._moving(os.rename))
            put(os, "open", self._open)
            put(fcntl, "flock", self._locking(fcntl.flock))
            opening = open_watched(self, real_open=builtins.open)
            put(builtins, "open", opening)
            put(io, "open", opening)
            yield

    def _locking(self, real: Callable[..., None]) -> Callable[..., None]:
        def replacement(file: Any, operation: int) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            self.operate("flock", self.relative(descriptor), real, descriptor, operation)

        return replacement


def _absolute(path: str) -> str:
    """Return the path without dots, links as they are: `pathlib` would ask the disk, through what is replaced here."""
    return os.path.abspath(path)  # noqa: PTH100


def _halved(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a write with half of the bytes; of what is written from several buffers, the first."""
    at = next(n for n, value in enumerate(arguments) if not isinstance(value, int))
    data = arguments[at]
    if isinstance(data, list | tuple):
        return (*arguments[:at], data[:1], *arguments[at + 1 :])
    view = memoryview(data).cast("B")
    return (*arguments[:at], view[: max(1, len(view) // 2)], *arguments[at + 1 :])
