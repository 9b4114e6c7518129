"""Who writes to an output folder on a file system without locks, such as a mounted object store.

A note in the folder says who; it is written whole, and removed at an orderly end. On this machine, a name of the kernel
(an abstract socket) says whether whoever wrote it is alive: it ends with its process, as a lock does. Whether a process
of another machine is alive nobody can tell, so what it left is passed on as a warning.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_extract.disk.files import write_atomically
from wsi_extract.disk.kernel_names import hold_name, is_name_held, name_for
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.interrupts import held
from wsi_extract.state.layout import lock_path

MAX_CONTENT_BYTES = 10_000
PATIENCE_S = 0.5
"""A process that dies gives back one thing after the other: its lock, say, and then its name."""
LOOK_AGAIN_S = 0.02
BOOT = Path("/proc/sys/kernel/random/boot_id")
NETWORK = Path("/proc/self/ns/net")
"""Names of the kernel are those of a network: containers on one machine may each have their own."""


def describe_self(command: str) -> bytes:
    """Return who this process is, for whoever finds the folder taken."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "command": command}
    return (json.dumps({**document, "machine": _machine()}, ensure_ascii=False) + "\n").encode()


def _machine() -> str:
    """Return what tells this machine, since it was started, from all others; empty where the system does not say."""
    with suppress(OSError):
        return f"{BOOT.read_text().strip()} {NETWORK.stat().st_ino}"
    return ""


def _parse(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        document = json.loads(content)
        if isinstance(document, dict):
            return document
    return {}


def describe_holder(content: bytes) -> str:
    """Return in words who wrote `describe_self`."""
    holder = _parse(content)
    try:
        return f"process {holder['pid']} on {holder['host']} since {holder['started']} ({holder['command']})"
    except KeyError:  # it has the folder, and is about to say who it is
        return "another process"


def taken(content: bytes, *, output_dir: Path) -> EnvironmentFaultError:
    """Return the error of a folder that somebody else is writing to, who said so with ``content``."""
    return EnvironmentFaultError(
        f"{output_dir} is being written by {describe_holder(content)}.",
        "Wait until it has ended, stop it, or choose another --output_dir.",
    )


def read_note(output_dir: Path) -> bytes:
    """Return the note in a folder, empty where there is none."""
    try:
        return lock_path(output_dir).read_bytes()[:MAX_CONTENT_BYTES]
    except OSError:  # what makes it unreadable is said where the folder is claimed
        return b""


def is_held_here(output_dir: Path) -> bool:
    """Tell whether a living process of this machine is writing to the folder; it does not notice the question."""
    return is_name_held(_name_of(output_dir))


@contextmanager
def name_held(output_dir: Path) -> Iterator[None]:
    """Write to a folder as the only process of this machine that holds its name, until the block ends.

    Raises
    ------
    EnvironmentFaultError
        When another one does.
    """
    give_up_s = time.monotonic() + PATIENCE_S
    while (holder := hold_name(_name_of(output_dir))) is None:
        if time.monotonic() >= give_up_s:
            raise taken(read_note(output_dir), output_dir=output_dir)
        time.sleep(LOOK_AGAIN_S)
    with holder:
        yield


@contextmanager
def noted(output_dir: Path, *, command: str) -> Iterator[str]:
    """Write to a folder as the only process of this machine, and say so there until the block ends.

    Yields who else may be writing, in a sentence: whoever noted so on another machine, and did not take it back. Empty
    when there is nobody. After a hard end the note stays until somebody comes to a good end, as with a lock.

    Raises
    ------
    EnvironmentFaultError
        When another process of this machine is writing there.
    """
    with name_held(output_dir):
        made = [folder for folder in (lock_path(output_dir).parent, output_dir) if not folder.exists()]
        before = read_note(output_dir)
        is_done = False
        with held():
            write_atomically(lock_path(output_dir), describe_self(command))
        try:
            yield _rival_of(before)
            is_done = True
        finally:
            with held(), suppress(OSError):  # a signal now is still an orderly end, and the first error is the one
                if before and not is_done:
                    write_atomically(lock_path(output_dir), before)
                else:
                    _remove_note(output_dir, made=made)


def _rival_of(before: bytes) -> str:
    if not before or (_machine() and _parse(before).get("machine") == _machine()):
        return ""  # nobody, or one that died: its name is free
    return f" Perhaps one does: {describe_holder(before)} has not said that it ended."


def _remove_note(output_dir: Path, *, made: Sequence[Path]) -> None:
    """Remove the note, and folders that were made for it unless something has been put there."""
    lock_path(output_dir).unlink(missing_ok=True)
    for folder in made:
        folder.rmdir()


def _name_of(output_dir: Path) -> str:
    return name_for(os.path.realpath(output_dir), purpose="folder")
