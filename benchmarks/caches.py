"""The kernel's page cache: drop files from it, and see what really came from disk."""

from __future__ import annotations

import os
from pathlib import Path

_IO_PATH = Path("/proc/self/io")


def drop_from_page_cache(folder: Path) -> None:
    """Ask the kernel to forget the content of all files below ``folder``; pages that are still mapped stay."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what was not written yet cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def bytes_read_from_disk() -> int | None:
    """Return what this process has had fetched from disk since it began, ``None`` where the kernel does not say."""
    if not _IO_PATH.exists():
        return None
    fields = dict(line.split(": ") for line in _IO_PATH.read_text().splitlines())
    return int(fields["read_bytes"])


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below ``folder``, in whole file system blocks as they take up the disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())
