"""Names that one process of this machine holds, and that are free the moment it is dead, whatever killed it.

They are the kernel's (abstract sockets of Linux, one set per network namespace) and lie in no folder, so they serve
where files cannot be locked. Elsewhere, and where a sandbox grants no such socket, nothing is held and nobody refused.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

HAS_NAMES = sys.platform == "linux"
NOT_GRANTED = frozenset({errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT})
TURN_PATIENCE_S = 600.0
"""More than the files of one block take to be written to a slow store."""
LOOK_AGAIN_S = 0.02


def name_for(path: str | os.PathLike[str], *, purpose: str) -> str:
    """Return the name that stands for a file or folder, which need not exist; links in the way to it are followed."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100  # many times per block
    place = os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
    return f"\0wsi_extract/{purpose}/{hashlib.sha256(os.fsencode(place)).hexdigest()}"


def hold_name(name: str) -> AbstractContextManager[object] | None:
    """Return what holds a name until it is closed, ``None`` when somebody has it.

    Raises
    ------
    OSError
        When this process may open no more files.
    """
    if not HAS_NAMES:
        return nullcontext()
    holder = None
    try:
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        holder.bind(name)
        holder.listen()
    except OSError as error:
        if holder is not None:
            holder.close()
        if error.errno == errno.EADDRINUSE:
            return None
        if error.errno in NOT_GRANTED:
            return nullcontext()
        raise
    return holder


def is_name_held(name: str) -> bool:
    """Tell whether a living process holds a name; it does not notice the question."""
    if not HAS_NAMES:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(0)
        try:
            asking.connect(name)
        except BlockingIOError:  # many ask at once
            return True
        except OSError:
            return False
        return True


@contextmanager
def turn_at(path: str, *, patience_s: float = TURN_PATIENCE_S) -> Iterator[None]:
    """Write a file, and what belongs to it, while no other process or thread of this machine does.

    Raises
    ------
    TimeoutError
        When somebody else goes on for longer than anybody should.
    """
    name = name_for(path, purpose="file")
    give_up_s = time.monotonic() + patience_s
    while (holder := hold_name(name)) is None:
        if time.monotonic() >= give_up_s:
            raise TimeoutError(errno.ETIMEDOUT, "another process has been writing it for too long", path)
        time.sleep(LOOK_AGAIN_S)
    with holder:
        yield
