"""The folder in which the start step makes environments: on a local disk, of this user alone, one process at a time.

It runs on Python 3.8 and newer, before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from wsi_extract.node_start.commands import SetupError

COMPLETE = "complete"
"""Name of the file beside the attempts at an environment that names the one that is complete."""
LOCK_POLL_S = 0.5
NEEDED_BYTES = 1_500_000_000
"""The packages take 490 MB, those for MLflow 125, Python and uv 175, what pip downloads 250."""


def private_folder(environ: Mapping[str, str], *, digest: str) -> Path:
    """Return the folder that holds environments, made if need be: one that has this one, else one with room.

    Raises
    ------
    SetupError
        When no place will do; above all when somebody else could plant programs in it.
    """
    folders = [Path(place).absolute() / f"wsi_extract-{os.geteuid()}" for place in _places(environ)]
    problems = []
    for must_be_complete in (True, False):
        for folder in folders:
            if must_be_complete and not os.path.isfile(folder / digest / COMPLETE):  # noqa: PTH113  # never raises
                continue
            problem = _unusable(folder, needed_bytes=0 if must_be_complete else NEEDED_BYTES)
            if not problem:
                return folder
            problems.append(f"  {folder}: {problem}")
    raise SetupError(
        "no place for an environment:\n" + "\n".join(dict.fromkeys(problems)),
        "Let WSI_EXTRACT_ENV_DIR (job.environment_variables) name a folder on a local disk.",
    )


def _places(environ: Mapping[str, str]) -> Iterator[str]:
    chosen = environ.get("WSI_EXTRACT_ENV_DIR")
    if chosen:
        yield chosen
        return
    with contextlib.suppress(FileNotFoundError):  # where nothing that is usual for temporary files can be written
        yield tempfile.gettempdir()
    yield "/var/tmp"
    if environ.get("HOME"):
        yield f"{environ['HOME']}/.cache"


def _unusable(folder: Path, *, needed_bytes: int) -> str:
    """Return why a folder cannot be used, ``""`` if it can; make it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        disk = os.statvfs(folder)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        return "not a folder that belongs to this user alone (mode 0700); others could put programs into it"
    if disk.f_flag & os.ST_NOEXEC:
        return "mounted without the right to run programs (noexec)"
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes < needed_bytes:
        return f"{free_bytes / 1e9:.1f} GB are free, {needed_bytes / 1e9:.1f} GB are needed"
    return ""


@contextlib.contextmanager
def locked(lock: Path, *, say: Callable[[str], None], ends_at_s: float) -> Iterator[int | None]:
    """Yield the descriptor of a lock that no other process of the node has, ``None`` where locks are missing.

    Raises
    ------
    SetupError
        When another process holds it to the end of the time.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor if _lock(descriptor, say=say, ends_at_s=ends_at_s) else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, say: Callable[[str], None], ends_at_s: float) -> bool:
    try:
        import fcntl  # noqa: PLC0415  # not everywhere
    except ImportError:
        return False
    is_said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends_at_s:
                raise SetupError(
                    "another process of this node makes the same environment, and does not end.",
                    "End it, or let WSI_EXTRACT_ENV_DIR (job.environment_variables) name another folder.",
                ) from None
            if not is_said:
                say("another process of this node makes the environment; waiting for it")
            is_said = True
            time.sleep(LOCK_POLL_S)
        except OSError:  # a file system without locks
            return False
        else:
            return True
