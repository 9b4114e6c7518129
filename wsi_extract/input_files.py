"""Open files that a user names: regular files only, so that no pipe, device or endless stream stops or fills a run.

Every failure is an `OSError` whose ``strerror`` says what is wrong; callers know what the file was meant to be.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; never waits.

    Raises
    ------
    OSError
        When it cannot be opened, or is a folder, pipe, device or socket.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would be waited for without end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # NUL, or half a character
        raise OSError(errno.EINVAL, f"no file can have that name ({error})", str(path)) from error
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"it is {KINDS.get(kind, 'no file')}, not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, *, largest_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        Also when it holds more than ``largest_bytes``, or changed while it was read.
    """
    with open_regular(path) as stream:
        before = os.fstat(stream.fileno())
        if before.st_size > largest_bytes:
            largest = f"at most {largest_bytes / 1e6:,.0f} MB can be read"
            raise OSError(errno.EFBIG, f"it holds {before.st_size / 1e6:,.0f} MB, {largest}", str(path))
        # One byte more than it should hold shows growth; files below /proc have content without a size.
        data = stream.read(before.st_size + 1)
        after = os.fstat(stream.fileno())
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise OSError(errno.EBUSY, "it was changed while it was read", str(path))
    return data
