"""What a power loss can leave of an output folder: every state that POSIX allows, of which seeded ones are drawn.

Durable is what was synchronised: the bytes of a file by fsync of the file, its name by fsync of the folder. Of the rest
any part may have reached the disk: each change of a folder alone, the bytes of a file wholly, cut off, or as zeros.
File systems in use lose less; a program that survives this survives them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.faults.recorder import Event, Recording


class Loss(StrEnum):
    """How much of what was not synchronised is lost."""

    NOTHING = "nothing"
    """All of it arrived: what a killed process leaves."""
    EVERYTHING = "everything"
    """None of it did."""
    NAMES = "names"
    """Names did not arrive, bytes did."""
    BYTES = "bytes"
    """Bytes did not arrive, names did: what renaming before synchronising ends in."""
    ANYTHING = "anything"
    """Any part of it, by lot."""


@dataclass(eq=False, slots=True, kw_only=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Names of one folder that change together."""

    gone: str | None = None
    name: str | None = None
    node: _File | _Folder | None = None


@dataclass(eq=False, slots=True, kw_only=True)
class _Folder:
    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def change(self, change: _Change) -> None:
        _apply(self.entries, change)
        self.pending.append(change)


def _apply(entries: dict[str, _File | _Folder], change: _Change) -> None:
    if change.gone is not None:
        entries.pop(change.gone, None)
    if change.name is not None and change.node is not None:
        entries[change.name] = change.node


class Disk:
    """An output folder with the memory of what is durable."""

    def __init__(self, recording: Recording) -> None:
        self._root = _Folder()
        self._begun: dict[int, tuple[_File | _Folder, bytes | int]] = {}
        for path in recording.folders:
            self._do(Event(kind="mkdir", path=path))
        for path, data in recording.files.items():
            self._do(Event(kind="create", path=path))
            self._do(Event(kind="write", path=path, data=data))
        self._settle(self._root)

    def play(self, events: Iterable[Event]) -> None:
        """Carry out changes."""
        for event in events:
            self._do(event)

    def state(self, loss: Loss, *, seed: int = 0) -> tuple[tuple[str, ...], dict[str, bytes]]:
        """Return folders and files as they are found when the power is back; the disk itself stays."""
        rng = random.Random(seed)
        folders: list[str] = []
        files: dict[str, bytes] = {}
        _collect(self._root, "", loss=loss, rng=rng, into=(folders, files))
        return tuple(folders), files

    def _settle(self, folder: _Folder) -> None:
        folder.durable = dict(folder.entries)
        folder.pending.clear()
        for node in folder.entries.values():
            if isinstance(node, _Folder):
                self._settle(node)
            else:
                node.durable = bytes(node.content)

    def _node(self, path: str) -> _File | _Folder:
        node: _File | _Folder = self._root
        for name in path.split("/") if path else ():
            assert isinstance(node, _Folder)
            node = node.entries[name]
        return node

    def _folder_of(self, path: str) -> tuple[_Folder, str]:
        above, _, name = path.rpartition("/")
        folder = self._node(above)
        assert isinstance(folder, _Folder)
        return folder, name

    def _do(self, event: Event) -> None:
        if event.kind == "sync_begin":
            self._begin(event)
        elif event.kind == "sync_end":
            self._end(event)
        elif event.kind in ("write", "truncate"):
            self._edit(event)
        elif event.path:
            self._rename(event)

    def _edit(self, event: Event) -> None:
        file = self._node(event.path)
        assert isinstance(file, _File)
        if event.kind == "truncate":
            del file.content[event.offset :]
            return
        file.content.extend(bytes(max(0, event.offset - len(file.content))))
        file.content[event.offset : event.offset + len(event.data)] = event.data

    def _rename(self, event: Event) -> None:
        """Carry out a change of names."""
        folder, name = self._folder_of(event.path)
        if event.kind in ("remove", "rmdir"):
            folder.change(_Change(gone=name))
        elif event.kind == "mkdir":
            folder.change(_Change(name=name, node=_Folder()))
        elif event.kind == "create":
            known = folder.entries.get(name)
            if isinstance(known, _File):
                known.content.clear()
            else:
                folder.change(_Change(name=name, node=_File()))
        elif event.source is None:
            folder.change(_Change(name=name, node=_File(content=bytearray(event.data))))
        else:
            origin, old_name = self._folder_of(event.source)
            node = origin.entries[old_name]
            if origin is folder:
                folder.change(_Change(gone=old_name, name=name, node=node))
            else:
                folder.change(_Change(name=name, node=node))
                origin.change(_Change(gone=old_name))

    def _begin(self, event: Event) -> None:
        node = self._node(event.path)
        self._begun[event.offset] = node, len(node.pending) if isinstance(node, _Folder) else bytes(node.content)

    def _end(self, event: Event) -> None:
        node, reached = self._begun.pop(event.offset)
        if isinstance(node, _Folder):
            assert isinstance(reached, int)
            for change in node.pending[:reached]:
                _apply(node.durable, change)
            del node.pending[:reached]
            return
        assert isinstance(reached, bytes)
        node.durable = reached


def _collect(
    folder: _Folder, path: str, *, loss: Loss, rng: random.Random, into: tuple[list[str], dict[str, bytes]]
) -> None:
    folders, files = into
    entries = dict(folder.durable)
    for change in folder.pending:
        if loss in (Loss.NOTHING, Loss.BYTES) or (loss is Loss.ANYTHING and rng.random() < 0.5):
            _apply(entries, change)
    for name, node in sorted(entries.items()):
        below = f"{path}/{name}" if path else name
        if isinstance(node, _Folder):
            folders.append(below)
            _collect(node, below, loss=loss, rng=rng, into=into)
        else:
            files[below] = _surviving_bytes(node, loss=loss, rng=rng)


def _surviving_bytes(file: _File, *, loss: Loss, rng: random.Random) -> bytes:
    content = bytes(file.content)
    if content == file.durable or loss in (Loss.NOTHING, Loss.NAMES):
        return content
    if loss in (Loss.EVERYTHING, Loss.BYTES):
        return file.durable
    cut = rng.randrange(len(content) + 1)
    return rng.choice([content, file.durable, content[:cut], content[:cut] + bytes(len(content) - cut)])


def write_state(folder: Path, state: tuple[tuple[str, ...], dict[str, bytes]]) -> None:
    """Make the folder hold exactly this."""
    folders, files = state
    folder.mkdir(parents=True)
    for name in folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
