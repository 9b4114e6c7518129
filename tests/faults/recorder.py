"""Records everything that changes an output folder, with bytes and the order, for `tests.faults.power_loss`."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change, or the beginning or end of making one durable."""

    kind: str
    """create, write, truncate, remove, mkdir, rmdir, rename, sync_begin or sync_end."""
    path: str
    """Below the output folder, empty for the folder itself."""
    data: bytes = b""
    """What was written."""
    offset: int = 0
    """Where it was written; the size after a truncation; the number that pairs beginning and end of a sync."""
    source: str | None = None
    """Of a rename; ``None`` when it came from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a run found in its folder, and did to it."""

    folders: tuple[str, ...]
    files: dict[str, bytes]
    events: tuple[Event, ...]


def read_recording(path: str | Path) -> Recording:
    """Return what `Recorder.save` wrote."""
    recording = pickle.loads(Path(path).read_bytes())  # of our own making
    assert isinstance(recording, Recording)
    return recording


def snapshot(root: str | Path) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Return all folders, and all files with their bytes, by their path below ``root``."""
    top = Path(root)
    found = sorted(top.rglob("*")) if top.is_dir() else []
    folders = tuple(path.relative_to(top).as_posix() for path in found if path.is_dir())
    return folders, {path.relative_to(top).as_posix(): path.read_bytes() for path in found if path.is_file()}


class Recorder:
    """Notes the changes of one process, in the order in which they happened."""

    def __init__(self, root: str) -> None:
        self._folders, self._files = snapshot(root)
        self._events: list[Event] = []
        self._lock = threading.RLock()
        self._n_syncs = 0
        self._origin: str | None = None
        self._lseek = os.lseek

    def expect_move(self, origin: str | None) -> None:
        """Note where the next rename comes from."""
        self._origin = origin

    def record(self, kind: str, path: str, call: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        """Carry out a change and note it when it is done; of a sync, its beginning too."""
        if kind == "sync":
            return self._sync(path, call, arguments)
        if kind not in ("create", "write", "truncate", "remove", "mkdir", "rmdir", "rename"):
            return call(*arguments)
        with self._lock:
            offset = self._offset(kind, call, arguments)
            result = call(*arguments)
            self._note(kind, path, offset=offset, arguments=arguments, result=result)
        return result

    def _sync(self, path: str, call: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        with self._lock:
            self._n_syncs += 1
            number = self._n_syncs
            self._events.append(Event(kind="sync_begin", path=path, offset=number))
        result = call(*arguments)
        with self._lock:
            self._events.append(Event(kind="sync_end", path=path, offset=number))
        return result

    def _offset(self, kind: str, call: Callable[..., object], arguments: tuple[Any, ...]) -> int:
        if kind == "truncate":
            return int(arguments[1] if len(arguments) > 1 else arguments[0])
        if kind != "write":
            return 0
        file = getattr(call, "__self__", None)
        descriptor = file.fileno() if isinstance(file, io.FileIO) else arguments[0]
        return self._lseek(descriptor, 0, os.SEEK_CUR) if len(arguments) < 3 else int(arguments[2])

    def _note(self, kind: str, path: str, *, offset: int, arguments: tuple[Any, ...], result: object) -> None:
        if kind == "create" and not int(arguments[0]) & (os.O_TRUNC | os.O_EXCL) and path in self._known():
            return  # opened as it was
        data, source = b"", None
        if kind == "write":
            assert isinstance(result, int)
            data = _bytes_of(arguments)[:result]
        elif kind == "rename":
            source, self._origin = self._origin, None
            if source is None:
                data = Path(arguments[1]).read_bytes()
        self._events.append(Event(kind=kind, path=path, data=data, offset=offset, source=source))

    def _known(self) -> set[str]:
        """Return the files that are there, as far as events tell; asked for rarely."""
        known = set(self._files)
        for event in self._events:
            if event.kind in ("create", "rename"):
                known.add(event.path)
            if event.kind == "remove":
                known.discard(event.path)
            if event.kind == "rename":
                known.discard(event.source or "")
        return known

    def save(self, path: str) -> None:
        """Write all that was recorded."""
        recording = Recording(folders=self._folders, files=self._files, events=tuple(self._events))
        Path(path).write_bytes(pickle.dumps(recording))


def _bytes_of(arguments: tuple[Any, ...]) -> bytes:
    data = next(value for value in arguments if not isinstance(value, int))
    return b"".join(bytes(part) for part in data) if isinstance(data, list | tuple) else bytes(data)
