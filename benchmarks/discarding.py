"""Get the output of measured jobs out of the way without deleting it while others are measured.

ext4 passes over every inode that was freed in the last minutes when it makes a file: after thousands of files were
deleted, each new one costs several times as much, whoever makes it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

ROOM_BYTES = 25 * 10**9
"""With less free, what was discarded is deleted after all."""
_PREFIX = "discarded-"


def discard(folder: Path) -> None:
    """Rename a folder within its parent, which the caller deletes at the end; a folder that is not there is fine."""
    if not folder.exists():
        return
    folder.rename(folder.with_name(f"{_PREFIX}{uuid4().hex}"))
    if shutil.disk_usage(folder.parent).free < ROOM_BYTES:
        for discarded in folder.parent.glob(f"{_PREFIX}*"):
            shutil.rmtree(discarded)
