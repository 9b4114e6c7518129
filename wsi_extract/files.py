"""Write files so that they are whole or absent, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Self
from uuid import uuid4

from wsi_extract.renames import remove_quietly, replace_file

TEMPORARY_SUFFIX = ".partial"
SYNC_THREADS = 16
"""The file system commits what waits together at once: 256 files take 0.05 s with 16 threads, 0.9 s one by one."""
SYNC_BATCH = 16
MAX_WAITING_BATCHES = 8
"""Of one writer: their files are open because they are not durable yet; the usual limit of a process is 1,024."""
NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES})
"""What a file system says that cannot make folders durable, and EACCES of one that may be changed but not listed."""


def temporary_beside(path: Path) -> Path:
    """Return a name for a temporary that no other process, on any machine, writes to."""
    return path.with_name(f"{path.name}.{_unique_ending()}")


def _unique_ending() -> str:
    return f"{uuid4().hex[:12]}{TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Tell whether a file of this name is one of `temporary_beside`, and not a user's that ends alike."""
    return re.fullmatch(rf".+\.[0-9a-f]{{12}}{re.escape(TEMPORARY_SUFFIX)}", name, re.DOTALL) is not None


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
            _name_file(error, str(folder))
            raise


def fsync_folders(folders: Iterable[Path]) -> None:
    """Make renames inside the folders durable, and the folders themselves.

    A folder that was found may have been made a moment ago by another process, which died before it was durable.
    """
    for each in sorted({each for folder in folders for each in (folder, folder.parent)}):
        fsync_folder(each)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents where they are missing, durably."""
    if folder.is_dir():
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        fsync_folder(path.parent)


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary beside ``path``; on success make it durable and rename it into place, else remove it."""
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(str(temporary), str(path))
    except BaseException as error:
        remove_quietly((str(temporary),))
        _name_file(error, str(path))
        raise
    fsync_folders((path.parent,))


def _name_file(error: BaseException, path: str) -> None:
    """Say which file, or folder, an error is about: the system does not when a write or a wait for the disk fails."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None and path:
        error.filename = path


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_writer(path) as stream:
        stream.write(data)


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
    """

    def __init__(self, *, n_threads: int = SYNC_THREADS, n_files: int = SYNC_BATCH) -> None:
        self._n_threads = n_threads
        self._n_files = n_files
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
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:  # of closing as well: a network file system may fail only then
            self._errors.append(error)

    def _raise_first(self) -> None:
        if self._errors:
            raise self._errors[0]


class FileBatch:
    """Takes files that get their names together. Made by `open_batch`."""

    def __init__(self, synchroniser: Synchroniser) -> None:
        self._synchroniser = synchroniser
        self._ending = _unique_ending()
        self._folders: set[str] = set()
        self._pending: list[tuple[str, str]] = []

    def add(self, path: str, data: bytes) -> None:
        """Write ``data`` beside ``path``, below a folder that is made where it is missing.

        Raises
        ------
        OSError
            When the file cannot be written, or a path is given twice.
        """
        temporary = self._temporary_for(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            n_written = os.write(descriptor, data)
            while n_written < len(data):  # a signal, or a disk that is about to be full
                n_written += os.write(descriptor, memoryview(data)[n_written:])
        except BaseException:
            os.close(descriptor)
            raise
        self._synchroniser.add(descriptor)

    @contextmanager
    def open_file(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file that is written bit by bit, otherwise like `add`."""
        with Path(self._temporary_for(path)).open("xb") as stream:
            yield stream
            stream.flush()
            self._synchroniser.add(os.dup(stream.fileno()))

    def _temporary_for(self, path: str) -> str:
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            make_folder(Path(folder))
            self._folders.add(folder)
        temporary = f"{path}.{self._ending}"
        self._pending.append((temporary, path))
        return temporary

    def make_durable(self) -> None:
        """Return when what was written so far is durable: the moment to refuse it, before any file has its name.

        Raises
        ------
        OSError
            When a file could not be made durable.
        """
        self._synchroniser.wait()

    def rename_all(self) -> None:
        """Give all files their names, durably; they have to be durable themselves."""
        for temporary, path in self._pending:
            replace_file(temporary, path)
        fsync_folders(Path(folder) for folder in self._folders)

    @property
    def place(self) -> str:
        """A folder of the batch, for messages."""
        return min(self._folders, default="")

    def remove_all(self) -> None:
        """Remove what has no name yet."""
        remove_quietly(temporary for temporary, _ in self._pending)


@contextmanager
def open_batch() -> Iterator[FileBatch]:
    """Write many files that appear together, when the block has ended and all of them are durable, or not at all.

    Files are made durable while the next ones are written. Only renaming can stop half-way: each file is whole then.
    """
    synchroniser = Synchroniser()
    batch = FileBatch(synchroniser)
    try:
        with synchroniser:
            yield batch
        batch.rename_all()
    except BaseException as error:
        batch.remove_all()
        _name_file(error, batch.place)
        raise


def commit_together(pending: Sequence[tuple[Path, Path]]) -> None:
    """Make temporaries durable, all at once, then rename them: pairs of the temporary and its final path."""
    try:
        with Synchroniser() as synchroniser:
            for temporary, _ in pending:  # for writing as well: a share may refuse to flush what is read
                synchroniser.add(os.open(temporary, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        _name_file(error, str(pending[0][1].parent))
        raise
    for temporary, path in pending:
        replace_file(str(temporary), str(path))
    fsync_folders(path.parent for _, path in pending)


def accept(_written: object) -> None:
    """Agree to what was written: there is nothing to compare it with."""


def canonical_json(value: object) -> bytes:
    """Return the one JSON form of ``value``: sorted keys, no blanks, no NaN. Fit for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def pretty_json(value: object) -> bytes:
    """Return ``value`` as indented JSON for files that people read; key order is kept."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_tree(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all files below ``folder``, whatever their order on disk."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return sha256_of(canonical_json([[name, sha256_of_file(path)] for name, path in files]))


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of the file's content as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
