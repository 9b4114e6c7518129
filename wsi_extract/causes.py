"""What lies behind an error: a passing trouble of a disk or a network, the machine, or slides that have gone.

Knows the numbers of the system's errors (errno) and nothing of tasks, slides or what is done about it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from wsi_extract.errors import WsiExtractError

TRANSIENT = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENOTCONN,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EINTR,
        getattr(errno, "EREMOTEIO", errno.EIO),  # of Linux alone
    }
)
"""What a disk, a mount or a network says that may work again in a moment."""
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the machine lacks, whichever file it was noticed at: never the fault of a slide."""
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO})
"""What a file says that is not there, or whose device is not."""

_IN_MESSAGES = {os.strerror(number): number for number in sorted(TRANSIENT | {errno.EMFILE, errno.ENFILE})}
"""Without ENOMEM: a damaged slide may ask for any amount of memory."""

_AGAIN = "then run the same command again; finished work is kept."
_REMEDIES = {
    errno.ENOSPC: f"Make room on that disk (df -h; df -i counts files), or choose another --output_dir, {_AGAIN}",
    errno.EDQUOT: f"Your quota on that disk is used up: make room or have it raised, {_AGAIN}",
    errno.EROFS: f"That file system is mounted read-only: have it mounted for writing, {_AGAIN}",
    errno.EMFILE: f"This process may not open more files: raise the limit (ulimit -n 4096), {_AGAIN}",
    errno.ENFILE: f"The whole machine may not open more files: end other programs or raise fs.file-max, {_AGAIN}",
    errno.ENOMEM: f"The machine is out of memory: use fewer --workers or end other programs, {_AGAIN}",
    errno.EACCES: f"Let this user read and write there, {_AGAIN}",
    errno.EPERM: f"Let this user read and write there, {_AGAIN}",
    errno.EFBIG: f"Files may not be that large there: raise the limit (ulimit -f) or choose another disk, {_AGAIN}",
    errno.ENOENT: f"Was the output folder moved, deleted or unmounted during the run? Put it back, {_AGAIN}",
}


def errno_of(error: BaseException) -> int | None:
    """Return the system's number of the trouble behind an error; ``None`` when the system did not complain.

    It stands in an OSError that the error is or was raised from, or a library names it within its message.

    >>> errno_of(OSError(errno.EIO, "Input/output error")) == errno.EIO
    True
    """
    for each in _chain(error):
        # Python takes any two arguments for number and text, also those of an error of ours.
        if isinstance(each, OSError) and isinstance(each.errno, int):
            return each.errno
    for each in _chain(error):
        if not isinstance(each, OSError | WsiExtractError):
            for text, number in _IN_MESSAGES.items():
                if text in str(each):
                    return number
    return None


def name_of(number: int | None) -> str:
    """Return the name of a number of the system, the same on all machines; empty for ``None``.

    >>> name_of(errno.ENOSPC)
    'ENOSPC'
    """
    return "" if number is None else errno.errorcode.get(number, str(number))


def path_of(error: BaseException) -> Path | None:
    """Return the file that the system complained about, if it said which."""
    for each in _chain(error):
        if isinstance(each, OSError) and isinstance(each.filename, str | bytes):
            return Path(os.fsdecode(each.filename))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def describe_os_error(error: OSError) -> str:
    """Return what the system complained about, with the paths where it named them."""
    files = " and ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"{error.strerror or error} ({name_of(error.errno)})" if error.errno is not None else str(error)
    return f"{files}: {what}" if files else what


def remedy_for(number: int | None) -> str:
    """Return what a user can do when the machine or the output folder failed in this way."""
    if number is None:
        return f"Mend that, {_AGAIN}"
    return _REMEDIES.get(number, f"Check the disk, the mount or the network, {_AGAIN}")


def why_folder_is_lost(path: Path) -> str:
    """Return what became of the folder of a file that could not be read; empty when it is there and holds something.

    A mount that is gone leaves an empty folder, none at all, or one that cannot be listed.
    """
    try:
        with os.scandir(path.parent) as entries:
            return "is empty" if next(entries, None) is None else ""
    except OSError as error:
        return f"cannot be listed: {error.strerror}" if error.errno in ABSENT | TRANSIENT else ""
