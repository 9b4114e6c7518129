"""A folder of this machine for files that nobody keeps: never the output folder, a mount of a network or of a store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from wsi_extract.disk.mounts import MOUNT_TABLE, mount_of

TOLD = "TMPDIR"
"""Of the environment: where a user wants temporary files."""
CANDIDATES = (Path("/tmp"), Path("/var/tmp"), Path("/mnt/tmp"), Path("/mnt"))  # nothing is opened here
"""Where machines have disks for such files; of equal room the first."""
MEMORY = Path("/dev/shm")
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems that count as memory of the machine, and of a container's limit, so they come last."""


def local_scratch(
    *,
    avoid: Collection[Path] = (),
    environ: Mapping[str, str] | None = None,
    candidates: Sequence[Path] = CANDIDATES,
    last_resort: Path = MEMORY,
    table: Path = MOUNT_TABLE,
) -> Path:
    """Return a folder on a local disk that this process may write to.

    It is the one that the user told, if that is local; else the one with most room, on a disk if there is any.

    Parameters
    ----------
    avoid
        Folders of the run: neither they nor anything below them is returned.
    environ
        The environment; by default this process's.
    candidates, last_resort
        Folders to choose from, and what is taken where none of them will do.
    table
        The system's table of mounts.

    Raises
    ------
    FileNotFoundError
        When no folder at all can be written to.
    """
    told = (os.environ if environ is None else environ).get(TOLD)
    if told and _is_usable(Path(told), avoid=avoid, table=table):
        return Path(told)
    rooms = list(_rooms(candidates, avoid=avoid, table=table))
    if rooms:
        return max(rooms, key=lambda room: room[:2])[2]
    return last_resort if _is_usable(last_resort, avoid=avoid, table=table) else Path(tempfile.gettempdir())


def _rooms(candidates: Sequence[Path], *, avoid: Collection[Path], table: Path) -> Iterator[tuple[bool, int, Path]]:
    """Yield (whether it is no memory, free bytes, folder) of the first usable folder of each disk."""
    seen: set[int] = set()
    for folder in candidates:
        if _is_usable(folder, avoid=avoid, table=table):
            device = folder.stat().st_dev
            if device not in seen:
                seen.add(device)
                room = os.statvfs(folder)
                mount = mount_of(folder, table=table)
                yield mount is None or mount.kind not in IN_MEMORY, room.f_bavail * room.f_frsize, folder


def _is_usable(folder: Path, *, avoid: Collection[Path], table: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return False
    place = Path(os.path.realpath(folder))
    if any(place.is_relative_to(os.path.realpath(each)) for each in avoid):
        return False
    mount = mount_of(place, table=table)
    return mount is None or mount.is_local
