"""Whether the patches of a run will fit on the disk, so that it refuses before it fills it."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from wsi_extract.disk.mounts import CommitForm, commit_form
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.model import Split
from wsi_extract.state.layout import PATCHES, PIXELS, split_folder

DISK_RESERVE = 1.1
"""Room asked for, as a multiple of the expected size."""
RESERVE_BYTES = 64 * 2**20
"""Room left on the disk, for the documents of the run and for other programs: a disk without any stops them all."""
RESERVE_SHARE = 0.05
"""Of a disk so small that this is less."""
LOOK_EVERY_S = 1.0
"""How often the disk is asked, at most. Where more than the reserve is written meanwhile, the disk itself says so."""


@dataclass(slots=True)
class _LastLook:
    again_s: float = 0.0
    """When the disk may be asked again, of `time.monotonic`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRoom:
    """What the disk offered before the run wrote anything; measured once, because later files come and go."""

    output_dir: Path
    written_bytes: int
    """Pixels that an earlier run wrote there; they need no further room."""
    free_bytes: float
    """Infinite where the file system does not tell."""
    _last_look: _LastLook = field(default_factory=_LastLook, init=False, repr=False, compare=False)

    @classmethod
    def measure(cls, output_dir: Path) -> Self:
        """Measure the room of a folder, which need not exist; nothing may be writing there.

        Raises
        ------
        EnvironmentFaultError
            When the folder cannot be reached.
        """
        if commit_form(output_dir) is CommitForm.DIRECT:  # what a mount of a store tells is the room of its cache
            return cls(output_dir=output_dir, written_bytes=0, free_bytes=math.inf)
        pixels = (*(split_folder(split) for split in Split), PATCHES, PIXELS)
        files = (file for name in pixels for file in (output_dir / name).rglob("*") if file.is_file())
        return cls(
            output_dir=output_dir,
            written_bytes=sum(file.stat().st_size for file in files),
            free_bytes=_free_bytes(_room_of(output_dir)),
        )

    def needed_bytes(self, n_bytes: int) -> float:
        """Return the free room that pixels of ``n_bytes`` need, with a reserve."""
        return max(0, n_bytes - self.written_bytes) * DISK_RESERVE

    def check(self, n_bytes: int) -> None:
        """Refuse to go on when pixels of ``n_bytes`` will not fit.

        Raises
        ------
        EnvironmentFaultError
            When the disk has less room than those still to be written need.
        """
        needed = self.needed_bytes(n_bytes)
        if needed > self.free_bytes:
            raise EnvironmentFaultError(
                f"the patches need about {needed / 1e9:.1f} GB, but {self.output_dir} has "
                f"{self.free_bytes / 1e9:.1f} GB free.",
                "Make room or choose another --output_dir, then run the same command again.",
            )

    def check_reserve(self, *, reserve_bytes: int | None = None) -> None:
        """Refuse to take the last room of the disk. Cheap enough to be asked after every task.

        Parameters
        ----------
        reserve_bytes
            Room to leave; by default `RESERVE_BYTES`, of a small disk less.

        Raises
        ------
        EnvironmentFaultError
            When less than the reserve is free now, or nobody can tell because the folder cannot be reached.
        """
        now_s = time.monotonic()
        if now_s < self._last_look.again_s:
            return
        self._last_look.again_s = now_s + LOOK_EVERY_S
        room = _room_of(self.output_dir)
        free_bytes = _free_bytes(room) if math.isfinite(self.free_bytes) else math.inf
        if reserve_bytes is None:
            reserve_bytes = min(RESERVE_BYTES, int(room.f_blocks * room.f_frsize * RESERVE_SHARE))
        if free_bytes < reserve_bytes:
            raise EnvironmentFaultError(
                f"the disk of {self.output_dir} has {free_bytes / 1e6:.0f} MB free, and the last "
                f"{reserve_bytes / 1e6:.0f} MB are left to other programs.",
                "Make room or choose another --output_dir, then run the same command again; finished work is kept.",
            )


def _room_of(folder: Path) -> os.statvfs_result:
    """Return what a disk says of its room: all zeros when its file system does not tell."""
    try:
        return os.statvfs(_existing(folder))
    except OSError as error:
        raise EnvironmentFaultError(
            f"the output folder {folder} cannot be reached: {error.strerror}.",
            "Is the mount still there? Mend it, then run the same command again; finished work is kept.",
        ) from error


def _free_bytes(room: os.statvfs_result) -> float:
    """Return the room left: infinite for a file system that tells of no blocks at all, as some network ones."""
    return float(room.f_bavail * room.f_frsize) if room.f_blocks else math.inf


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())
