"""An HDF5 file that is being written: whole or absent, also where the disk is full or the user stops the export.

HDF5 cannot give a file up: after a failed write it fails to close the file, tries again when the process ends, and
crashes it. An exception of a signal handler in the middle of its work has no way out either. Therefore it writes
through `PatientStream`, which hides failures from it, and signals wait until it is between two steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

from wsi_extract.disk.durable import fsync_folder, make_folder
from wsi_extract.disk.files import temporary_beside
from wsi_extract.interrupts import Check, held

if TYPE_CHECKING:
    import h5py  # it has no types


class PatientStream:
    """A file that takes every write; the first failure is kept for `check`, and nothing is written after it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: memoryview) -> int:
        """Write all of ``data``, unless a write failed before."""
        n_done = 0
        try:
            while n_done < len(data) and self._failure is None:
                n_done += self._raw.write(data[n_done:])
        except OSError as error:
            self._failure = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, unless a write failed before."""
        try:
            if self._failure is None:
                self._raw.truncate(size)
        except OSError as error:
            self._failure = error
        return self._raw.tell() if size is None else size

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes; what was never written reads as zeros."""
        return self._raw.read(size).ljust(size, b"\0")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the file."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the place in the file."""
        return self._raw.tell()

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdf5Output:
    """An HDF5 file that is being written."""

    file: h5py.File
    stream: PatientStream
    check_signals: Check

    def check(self) -> None:
        """Raise what the disk or the user had to say meanwhile; to be called between two steps.

        Raises
        ------
        OSError
            When the file cannot be written.
        KeyboardInterrupt
            When a signal has arrived.
        """
        self.stream.check()
        self.check_signals()


@contextmanager
def atomic_hdf5(h5py: ModuleType, path: Path) -> Iterator[Hdf5Output]:
    """Open a temporary HDF5 file; on success make it durable and give it its name, else remove it."""
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        with temporary.open("w+b", buffering=0) as raw:
            stream = PatientStream(raw)
            # HDF5 writes also when an object of it is forgotten: signals wait until the file is closed.
            with held() as check_signals, h5py.File(stream, "w") as file:
                yield Hdf5Output(file=file, stream=stream, check_signals=check_signals)
            stream.check()
            os.fsync(raw.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
