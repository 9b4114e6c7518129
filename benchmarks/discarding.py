"""Get the output of measured jobs out of the way without deleting it while others are measured.

ext4 passes over every inode that was freed in the last minutes when it makes a file: after thousands of files were
deleted, each new one costs several times as much, whoever makes it. And where no memory is free, each page that is
written has to be taken from another file's first, which may cost more than writing it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4

ROOM_BYTES = 25 * 10**9
"""With less free, what was discarded is deleted after all."""
_PREFIX = "discarded-"


def discard(folder: Path) -> None:
    """Rename a folder within its parent, which the caller deletes at the end; a folder that is not there is fine.

    What its files keep of the memory is given back.
    """
    if not folder.exists():
        return
    os.sync()  # pages that were not written yet cannot be given back
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    folder.rename(folder.with_name(f"{_PREFIX}{uuid4().hex}"))
    if shutil.disk_usage(folder.parent).free < ROOM_BYTES:
        for discarded in folder.parent.glob(f"{_PREFIX}*"):
            shutil.rmtree(discarded)
