"""Make files and folders durable: folders at once, files on threads while their writer goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Self

SYNC_THREADS = 16
"""The file system commits what waits together at once: 256 files take 0.05 s with 16 threads, 0.9 s one by one."""
SYNC_BATCH = 16
MAX_WAITING_BATCHES = 8
"""Of one writer: their files are open because they are not durable yet; the usual limit of a process is 1,024."""
NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What a file system says that makes files durable when they are closed, and cannot be asked to."""
NO_FOLDER_SYNC = NO_SYNC | {errno.EACCES}
"""What one says that cannot make folders durable, and EACCES of one that may be changed but not listed."""


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable; nothing where the file system has no durable folders.

    Raises
    ------
    OSError
        When it has, and failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            name_file(error, str(folder))
            raise


def fsync_folders(folders: Iterable[Path]) -> None:
    """Make renames inside the folders durable, and the folders themselves.

    A folder that was found may have been made a moment ago by another process, which died before it was durable.
    """
    for each in sorted({each for folder in folders for each in (folder, folder.parent)}):
        fsync_folder(each)


def fsync_after_removal(folder: Path) -> None:
    """Make removals inside ``folder`` durable; in an object store it may have gone with the last file it held."""
    with suppress(FileNotFoundError):
        fsync_folder(folder)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents where they are missing, durably.

    Nothing is made in a folder whose own name may be lost: who finds one need not ask for those above it, though it may
    have been made a moment ago by another process, which died before it was durable.
    """
    if folder.is_dir():
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()] or [folder]
    found = missing[-1].parent
    if not found.is_mount():  # its name is nothing that could be lost
        fsync_folder(found.parent)
    for path in reversed(missing):
        path.mkdir(parents=True, exist_ok=True)  # in an object store, one that holds nothing yet may have gone again
        fsync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything below it. What goes by itself meanwhile is gone: stores have no empty folders.

    Raises
    ------
    OSError
        When something cannot be removed, or the folder is a link.
    """
    if folder.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a link is no folder to be emptied", str(folder))
    with suppress(FileNotFoundError):
        with os.scandir(folder) as listed:
            entries = list(listed)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            else:
                Path(entry.path).unlink(missing_ok=True)
        folder.rmdir()


def name_file(error: BaseException, path: str) -> None:
    """Say which file, or folder, an error is about: the system does not when a write or a wait for the disk fails."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None and path:
        error.filename = path


class Synchroniser:
    """Makes files durable on threads of its own, while their writer goes on.

    The threads live no longer than the ``with`` block, so that a later fork inherits none. When the block has ended
    all files are durable; when it raises, they are closed. Where the system grants no thread, the writer's own does it.

    Files are handed over in batches, and a further thread starts only when batches wait: on a fast disk one thread is
    enough, and every change of threads takes time from the writer; a slow disk commits at once what waits together.

    Parameters
    ----------
    n_threads
        The most batches that are synchronised at a time.
    n_files
        Of a batch.
    forgiven
        What a file system may answer that cannot make files durable, or does so when they are closed.
    """

    def __init__(
        self, *, n_threads: int = SYNC_THREADS, n_files: int = SYNC_BATCH, forgiven: Container[int] = ()
    ) -> None:
        self._n_threads = n_threads
        self._n_files = n_files
        self._forgiven = forgiven
        self._threads: list[Thread] = []
        self._collected: list[int] = []
        self._waiting: SimpleQueue[list[int] | None] = SimpleQueue()
        self._errors: list[OSError] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end_threads()
        if kind is None:
            self._raise_first()

    def wait(self) -> None:
        """Return when all files that were added are durable.

        Raises
        ------
        OSError
            When one of them could not be made durable.
        """
        self._end_threads()
        self._raise_first()

    def _end_threads(self) -> None:
        try:
            self._hand_over()
        finally:
            self._waiting.put(None)
            for thread in self._threads:
                thread.join()
        self._waiting = SimpleQueue()
        self._threads.clear()

    def add(self, descriptor: int) -> None:
        """Take over an open file: synchronise and close it, now or later.

        Raises
        ------
        OSError
            When a file that was added before could not be made durable.
        """
        self._collected.append(descriptor)
        if len(self._collected) >= self._n_files:
            self._hand_over()
            self._raise_first()

    def _hand_over(self) -> None:
        if not self._collected:
            return
        n_waiting = self._waiting.qsize()
        if len(self._threads) < self._n_threads and (n_waiting or not self._threads):
            self._start_thread()
        batch, self._collected = self._collected, []
        if not self._threads or n_waiting >= MAX_WAITING_BATCHES:
            self._synchronise_all(batch)  # a slow disk: what is written must not run away from it
        else:
            self._waiting.put(batch)

    def _start_thread(self) -> None:
        thread = Thread(target=self._work, args=(self._waiting,), name="synchroniser", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system grants no more: those that run have to do
            self._n_threads = len(self._threads)
        else:
            self._threads.append(thread)

    def _work(self, waiting: SimpleQueue[list[int] | None]) -> None:
        while (batch := waiting.get()) is not None:
            self._synchronise_all(batch)
        # For the next thread. Not one word for each of them: a signal may arrive between the start of a thread and the
        # note of it, and that thread would take the word of another one, which would be waited for without end.
        waiting.put(None)

    def _synchronise_all(self, descriptors: Sequence[int]) -> None:
        for descriptor in descriptors:
            self._synchronise(descriptor)

    def _synchronise(self, descriptor: int) -> None:
        try:
            try:
                self._fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:  # of closing as well: a network file system may fail only then
            self._errors.append(error)

    def _fsync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in self._forgiven:
                raise

    def _raise_first(self) -> None:
        if self._errors:
            raise self._errors[0]
