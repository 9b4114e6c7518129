"""Rename a file over another one, also where the file system refuses that: SMB shares, some FUSE mounts."""

from __future__ import annotations

import errno
import filecmp
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

REFUSALS = frozenset({errno.EEXIST, errno.EACCES, errno.EPERM})
"""What such a file system says instead of replacing a file, above all while somebody has the old one open."""
PAUSES_S = (0.05, 0.15, 0.4)


def replace_file(temporary: str, path: str) -> None:
    """Give ``temporary`` the name ``path``, which may be another file's.

    One step wherever the file system can do it. Where it refuses to replace a file, and still does after some pauses,
    a file of the same content stays as it is; any other is renamed out of the way first. For that moment no file has
    the name, and a crash leaves none: as absent as before it was first written, never half a file.

    Raises
    ------
    OSError
        When the file cannot be renamed; what had the name has it still.
    """
    try:
        os.replace(temporary, path)  # noqa: PTH105  # of thousands of files, without making paths of their names
    except OSError as error:
        if error.errno not in REFUSALS or not _is_file(path):
            raise
        _insist(temporary, path)


def _is_file(path: str) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def _insist(temporary: str, path: str) -> None:
    for pause_s in PAUSES_S:
        time.sleep(pause_s)
        try:
            Path(temporary).replace(path)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
        else:
            return
    if filecmp.cmp(temporary, path, shallow=False):
        remove_quietly((temporary,))
        return
    aside = Path(f"{path}.{uuid4().hex[:12]}{Path(temporary).suffix}")  # of a crash, the next start collects it
    Path(path).rename(aside)
    try:
        Path(temporary).rename(path)
    except BaseException:
        aside.rename(path)
        raise
    remove_quietly((str(aside),))


def remove_quietly(temporaries: Iterable[str]) -> None:
    """Remove temporaries that are of no use any more.

    What cannot be removed stays until the next start, which collects it: the error that led here is worth more.
    """
    for temporary in temporaries:
        with suppress(OSError):
            Path(temporary).unlink()
