"""Whether the patches of a run will fit on the disk, so that it refuses before it fills it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.layout import PATCHES, PIXELS, split_folder
from wsi_extract.model import Split

DISK_RESERVE = 1.1
"""Room asked for, as a multiple of the expected size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRoom:
    """What the disk offered before the run wrote anything; measured once, because later files come and go."""

    output_dir: Path
    written_bytes: int
    """Pixels that an earlier run wrote there; they need no further room."""
    free_bytes: int

    @classmethod
    def measure(cls, output_dir: Path) -> Self:
        """Measure the room of a folder, which need not exist; nothing may be writing there."""
        pixels = (*(split_folder(split) for split in Split), PATCHES, PIXELS)
        files = (file for name in pixels for file in (output_dir / name).rglob("*") if file.is_file())
        existing = next(folder for folder in (output_dir, *output_dir.parents) if folder.is_dir())
        return cls(
            output_dir=output_dir,
            written_bytes=sum(file.stat().st_size for file in files),
            free_bytes=shutil.disk_usage(existing).free,
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
