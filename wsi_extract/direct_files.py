"""Write files under their own names, whole and once: `CommitForm.DIRECT`.

Between the first byte and the last a file is neither what it was nor what it will be, so nothing may speak of it then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from wsi_extract.durable import NO_SYNC, SYNC_THREADS, Synchroniser, fsync_after_removal, fsync_folders, make_folder
from wsi_extract.renames import remove_quietly
from wsi_extract.staging import Stage, StagedFile

WRITE_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectFiles:
    """Files that are staged elsewhere until they may be written. `CommitForm.DIRECT`."""

    def __init__(self, *, record: Path | None) -> None:
        self._record = record
        self._stage = Stage()

    def add(self, path: str, data: bytes) -> None:
        """Take a whole file."""
        self._stage.add(path, data)

    def open_file(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file that is written bit by bit."""
        return self._stage.open_file(path)

    def make_durable(self) -> None:
        """Wait for nothing: what was not written yet can be refused as it is."""

    def publish(self) -> None:
        """Write all files, durably."""
        write_staged(self._stage.files, record=self._record)

    @property
    def place(self) -> str:
        """A folder of the files, for messages."""
        return min((file.path.rpartition("/")[0] for file in self._stage.files), default="")

    def discard(self) -> None:
        """Leave it to `publish`: nothing was written before."""

    def close(self) -> None:
        """Forget what was staged."""
        self._stage.close()


def write_staged(files: Sequence[StagedFile], *, record: Path | None) -> None:
    """Write files under their own names and make them durable; when that fails, remove those that were begun.

    Parameters
    ----------
    record
        What vouches for all of them, if anything does: it is removed, durably, before the first of them is written
        over. Where it is there, files that hold what they should stay as they are; where all do, the record stays too.

    Raises
    ------
    OSError
        When a file cannot be written; the system may say so only when it is closed.
    """
    if record is not None and record.exists():
        files = missing_of(files)
        if files:
            record.unlink(missing_ok=True)
            fsync_after_removal(record.parent)
    folders = list(dict.fromkeys(file.path.rpartition("/")[0] for file in files))
    begun: list[str] = []
    try:
        for folder in folders:
            make_folder(Path(folder))
        # One file alone is not worth a thread: starting that takes longer.
        with Synchroniser(n_threads=min(SYNC_THREADS, len(files) - 1), forgiven=NO_SYNC) as synchroniser:
            for file in files:
                descriptor = os.open(file.path, WRITE_ANEW, 0o666)
                begun.append(file.path)
                write_and_hand_over(descriptor, file.chunks(), synchroniser)
    except BaseException:
        remove_quietly(begun)
        raise
    fsync_folders(Path(folder) for folder in folders)


def missing_of(files: Sequence[StagedFile]) -> Sequence[StagedFile]:
    """Return the files that are not there yet with the content they should have."""
    return [file for file in files if not file.is_there()]


def write_and_hand_over(descriptor: int, chunks: Iterable[bytes], synchroniser: Synchroniser) -> None:
    """Write a whole file, and leave it to the synchroniser to make it durable and to close it."""
    try:
        for data in chunks:
            n_written = os.write(descriptor, data)
            while n_written < len(data):  # a signal, or a disk that is about to be full
                n_written += os.write(descriptor, memoryview(data)[n_written:])
    except BaseException:
        os.close(descriptor)
        raise
    synchroniser.add(descriptor)
