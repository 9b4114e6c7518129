"""Room on the disk of the destination: what an export needs, what is there, and how to say that it was too little."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.export import hdf5_files, lmdb_files
from wsi_extract.export.options import Encoding, ExportFormat, ExportRequest
from wsi_extract.index import SplitIndex
from wsi_extract.preflight import PNG_SHARE_OF_RAW

FULL = (errno.ENOSPC, errno.EDQUOT)
NEARLY_FULL_BYTES = 64 * 1024**2
"""LMDB calls a full disk an input or output error: with less room than a transaction takes, a full disk it was."""
REMEDY = "Make room and give the same command again; what was written is kept."
BYTES_PER_MB, BYTES_PER_GB = 10**6, 10**9


def expected_bytes(request: ExportRequest, indexes: Sequence[SplitIndex]) -> int:
    """Return the room an export takes at its peak, for stained tissue; an estimate."""
    raw = [len(index) * index.patch_wh_px[0] * index.patch_wh_px[1] * 3 for index in indexes]
    if request.format is ExportFormat.HDF5:
        share = hdf5_files.SHARE_OF_RAW[request.options.compression]
        return int((sum(raw) + max(raw, default=0)) * share)  # a split lies in its parts until they are joined
    if request.format is ExportFormat.LMDB and request.options.encoding is Encoding.RAW:
        return sum(lmdb_files.pages_bytes(index) for index in indexes)
    return int(sum(raw) * PNG_SHARE_OF_RAW)


def check_room(destination: Path, *, n_bytes: int) -> None:
    """Refuse an export that will not fit; what an earlier attempt wrote counts as done.

    Raises
    ------
    EnvironmentFaultError
        When the disk has less room than the files still to be written need.
    """
    written = sum(path.stat().st_blocks * 512 for path in destination.rglob("*") if path.is_file())
    needed, free = max(0, n_bytes - written), free_bytes(destination)
    if needed > free:
        raise EnvironmentFaultError(
            f"the export needs about {size_text(needed)} more, but {destination} has {size_text(free)} free.",
            "Make room or choose another --dest, then give the same command again.",
        )


def writing_fault(destination: Path, error: Exception) -> EnvironmentFaultError:
    """Return the error that says in one line what could not be written, why, and how much room there is."""
    free = free_bytes(destination)
    is_full = getattr(error, "errno", None) in FULL or free < NEARLY_FULL_BYTES
    reason = " ".join(str(error).split())
    return EnvironmentFaultError(
        f"cannot write the export to {destination}: {reason}; {size_text(free)} are free there now.",
        REMEDY if is_full else "Mend that and give the same command again; what was written is kept.",
    )


def free_bytes(folder: Path) -> int:
    """Return the free room on the disk of a folder that may be still to be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


def size_text(n_bytes: int) -> str:
    """Return a size as people write it.

    >>> size_text(2_340_000_000), size_text(23_400_000)
    ('2.3 GB', '23 MB')
    """
    if n_bytes >= BYTES_PER_GB:
        return f"{n_bytes / BYTES_PER_GB:.1f} GB"
    return f"{n_bytes / BYTES_PER_MB:.0f} MB"
