"""On what kind of file system a folder lies, and how files are brought into it: under temporary names, or at once.

Knows the table of mounts of Linux; elsewhere, every folder counts as one of a local disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from wsi_extract.errors import ConfigError

COMMIT_VARIABLE = "WSI_EXTRACT_COMMIT"
"""Of the environment: says how files are committed, whatever the file system."""
MOUNT_TABLE = Path("/proc/self/mountinfo")
FUSE = "fuse"
POSIX_FUSE = frozenset(
    {
        "fuse-overlayfs",
        "unionfs",
        "unionfs-fuse",
        "mergerfs",
        "bindfs",
        "encfs",
        "gocryptfs",
        "cryfs",
        "ntfs-3g",
        "exfat",
        "ext2",
        "sshfs",
        "glusterfs",
        "ceph",
        "ceph-fuse",
        "juicefs",
        "mfs",
        "moosefs",
        "lizardfs",
        "beegfs",
        "quobyte",
        "lxcfs",
    }
)
"""File systems in user space that rename in one step and let a file be written more than once, as a disk does."""
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs", "9p"}
)
_OCTAL = re.compile(rb"\\([0-7]{3})")


class CommitForm(Enum):
    """How a file gets its name."""

    RENAME = "rename"
    """Written under a temporary name, made durable, renamed: nobody ever sees half a file. For disks."""
    DIRECT = "direct"
    """Written once, whole, under its own name; a record that comes later tells whether it is. For object stores, which
    cannot rename, append or overwrite a part of a file, or do so by copying it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mounted file system."""

    number: str = ""
    parent: str = ""
    """Number of the one it is mounted on."""
    place: str
    kind: str
    """As the system names it: ext4, nfs4, fuse.sshfs ..."""
    source: str

    @property
    def is_fuse(self) -> bool:
        """Whether a program stands behind it, and no device."""
        return self.kind == FUSE or self.kind.startswith(f"{FUSE}.")

    @property
    def is_posix_fuse(self) -> bool:
        """Whether it is one of `POSIX_FUSE`, by its kind, or by its source where the kind says no more than FUSE."""
        return self.is_fuse and bool({self.kind.partition(".")[2], self.source} & POSIX_FUSE)

    @property
    def is_local(self) -> bool:
        """Whether it is no network's, as far as can be told: FUSE counts as one."""
        return not self.is_fuse and self.kind not in NETWORK


def commit_form(folder: str | Path) -> CommitForm:
    """Return how files are committed in a folder, which need not exist.

    The environment's `COMMIT_VARIABLE` decides, else the file system. FUSE counts as an object store unless it is one
    of `POSIX_FUSE`: what is written once, and never renamed, suits an unknown one too; the other way round, a run may
    fail, or copy every file. What was found for a folder holds as long as the process.

    Raises
    ------
    ConfigError
        When the variable has another value than those of `CommitForm`.
    """
    asked = os.environ.get(COMMIT_VARIABLE)
    if not asked:
        return _form_on_disk(os.fspath(folder))
    try:
        return CommitForm(asked)
    except ValueError as error:
        values = " or ".join(form.value for form in CommitForm)
        raise ConfigError(f"{COMMIT_VARIABLE} is {asked!r} in the environment.", f"Set it to {values}.") from error


@cache
def _form_on_disk(folder: str) -> CommitForm:
    return form_on(mount_of(Path(folder)))


def form_on(mount: Mount | None) -> CommitForm:
    """Return how files are committed on a file system; ``None`` is one of which nothing is known."""
    is_store = mount is not None and mount.is_fuse and not mount.is_posix_fuse
    return CommitForm.DIRECT if is_store else CommitForm.RENAME


def mount_of(folder: Path, *, table: Path = MOUNT_TABLE) -> Mount | None:
    """Return the file system of a folder, which need not exist; ``None`` where the system has no such table."""
    try:
        lines = table.read_bytes().splitlines()
    except OSError:
        return None
    place = os.path.realpath(folder)
    return _seen_at(place, [mount for mount in map(_parse_line, lines) if mount is not None])


def _seen_at(place: str, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount on which the way to a place ends, crossing from one to the next as the system does.

    The one with the longest place may be hidden: by a later one further up.
    """
    holding = [mount for mount in mounts if _holds(mount.place, place)]
    numbers = {mount.number for mount in mounts}
    found, above = None, [mount for mount in holding if mount.parent not in numbers or mount.parent == mount.number]
    while above:
        shortest = min(len(mount.place) for mount in above)
        found = [mount for mount in above if len(mount.place) == shortest][-1]
        holding.remove(found)
        above = [mount for mount in holding if mount.parent == found.number]
    return found


def _holds(mount_place: str, place: str) -> bool:
    return place == mount_place or place.startswith(mount_place.rstrip("/") + "/")


def _parse_line(line: bytes) -> Mount | None:
    """Return what a line of the table says: ``36 35 98:0 /root /place rw,noatime master:1 - ext4 /dev/sda1 rw``."""
    before, dash, after = line.partition(b" - ")
    fields, more = before.split(b" "), after.split(b" ")
    if not dash or len(fields) < 5 or len(more) < 2:
        return None
    number, parent = _unescaped(fields[0]), _unescaped(fields[1])
    return Mount(
        number=number, parent=parent, place=_unescaped(fields[4]), kind=_unescaped(more[0]), source=_unescaped(more[1])
    )


def _unescaped(field: bytes) -> str:
    """Return a field of the table, in which blanks, tabs, line ends and backslashes are octal numbers."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field))
