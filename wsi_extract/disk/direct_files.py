"""Write files under their own names, whole and once: `CommitForm.DIRECT`.

Between the first byte and the last a file is neither what it was nor what it will be, so nothing may speak of it then.

A block may be written twice at a time: by a worker that was given up but lives, and by its successor. The later one
must not open a file that the earlier one's record already speaks of, as it may die before it has written it again.
They take turns, therefore, and what is whole is left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from wsi_extract.disk.durable import (
    NO_SYNC,
    SYNC_THREADS,
    Synchroniser,
    fsync_after_removal,
    fsync_folders,
    make_folder,
)
from wsi_extract.disk.kernel_names import turn_at
from wsi_extract.disk.renames import remove_quietly
from wsi_extract.disk.staging import Stage, StagedFile

WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
WRITE_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
LOOK_EVERY_S = 1.0
"""How long files are written, at most, without asking whether the folder is still this run's."""


def accept_folder() -> None:
    """Ask nobody whether the folder is still this run's."""


class DirectFiles:
    """Files that are staged elsewhere until they may be written. `CommitForm.DIRECT`."""

    def __init__(self, *, record: Path | None, still_ours: Callable[[], None]) -> None:
        self._record = record
        self._still_ours = still_ours
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
        write_staged(self._stage.files, record=self._record, still_ours=self._still_ours)

    @property
    def place(self) -> str:
        """A folder of the files, for messages."""
        return min((file.path.rpartition("/")[0] for file in self._stage.files), default="")

    def discard(self) -> None:
        """Leave it to `publish`: nothing was written before."""

    def close(self) -> None:
        """Forget what was staged."""
        self._stage.close()


def write_staged(
    files: Sequence[StagedFile], *, record: Path | None, still_ours: Callable[[], None] = accept_folder
) -> None:
    """Write files under their own names and make them durable; when that fails, remove those that were begun.

    Files that hold what they should stay as they are, but for being made durable.

    Parameters
    ----------
    record
        What vouches for all of them, if anything does: it is removed, durably, before the first of them is written
        over. Where all hold what they should, the record stays too.
    still_ours
        Raises when the folder belongs to somebody else by now. Asked before the record is removed, before a file is
        written over, and from time to time; nothing is removed then, as it may not be this run's any more.

    Raises
    ------
    OSError
        When a file cannot be written; the system may say so only when it is closed.
    """
    if not files:
        return
    with turn_at(files[0].path if record is None else str(record)):
        if record is not None and record.exists():
            files = missing_of(files)
            if files:
                still_ours()  # the turn may have come only when another run had written the block
                record.unlink(missing_ok=True)
                fsync_after_removal(record.parent)
        folders = [Path(folder) for folder in dict.fromkeys(file.path.rpartition("/")[0] for file in files)]
        for folder in folders:
            make_folder(folder)
        _write_all(files, still_ours=still_ours)
        fsync_folders(folders)


def _write_all(files: Sequence[StagedFile], *, still_ours: Callable[[], None]) -> None:
    begun: list[str] = []
    look_again_s = time.monotonic() + LOOK_EVERY_S
    try:
        # One file alone is not worth a thread: starting that takes longer.
        with Synchroniser(n_threads=min(SYNC_THREADS, len(files) - 1), forgiven=NO_SYNC) as synchroniser:
            for file in files:
                if time.monotonic() >= look_again_s:
                    _ask(still_ours, begun)
                    look_again_s = time.monotonic() + LOOK_EVERY_S
                try:
                    descriptor = os.open(file.path, WRITE_NEW, 0o666)
                except FileExistsError:
                    if file.is_there():  # perhaps of a writer that died before it was durable
                        synchroniser.add(os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
                        continue
                    _ask(still_ours, begun)
                    descriptor = os.open(file.path, WRITE_ANEW, 0o666)
                begun.append(file.path)
                write_and_hand_over(descriptor, file.chunks(), synchroniser)
    except BaseException:
        remove_quietly(begun)
        raise


def _ask(still_ours: Callable[[], None], begun: list[str]) -> None:
    """Ask whether the folder is still this run's; if not, what was begun in it is not either."""
    try:
        still_ours()
    except BaseException:
        begun.clear()
        raise


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
