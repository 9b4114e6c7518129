"""Write files so that they are whole or absent, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Self
from uuid import uuid4

TEMPORARY_SUFFIX = ".partial"
SYNC_THREADS = 16
"""The file system commits what waits together at once: 256 files take 0.05 s with 16 threads, 0.9 s one by one."""
SYNC_BATCH = 16
MAX_WAITING_BATCHES = 8
"""Of one writer: their files are open because they are not durable yet; the usual limit of a process is 1,024."""


def temporary_beside(path: Path) -> Path:
    """Return a name for a temporary that no other process, on any machine, writes to."""
    return path.with_name(f"{path.name}.{_unique_ending()}")


def _unique_ending() -> str:
    return f"{uuid4().hex[:12]}{TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Tell whether a file of this name is one of `temporary_beside`, and not a user's that ends alike."""
    return re.fullmatch(rf".+\.[0-9a-f]{{12}}{re.escape(TEMPORARY_SUFFIX)}", name, re.DOTALL) is not None


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


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
        try:
            self._hand_over()
        finally:
            for _thread in self._threads:
                self._waiting.put(None)
            for thread in self._threads:
                thread.join()
        if kind is None:
            self._raise_first()

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
        n_waiting = self._waiting.qsize()
        if len(self._threads) < self._n_threads and (n_waiting or not self._threads):
            self._start_thread()
        batch, self._collected = self._collected, []
        if not self._threads or n_waiting >= MAX_WAITING_BATCHES:
            self._synchronise_all(batch)  # a slow disk: what is written must not run away from it
        else:
            self._waiting.put(batch)

    def _start_thread(self) -> None:
        thread = Thread(target=self._work, name="synchroniser", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system grants no more: those that run have to do
            self._n_threads = len(self._threads)
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        while (batch := self._waiting.get()) is not None:
            self._synchronise_all(batch)

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
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            make_folder(Path(folder))
            self._folders.add(folder)
        temporary = f"{path}.{self._ending}"
        self._pending.append((temporary, path))
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            n_written = os.write(descriptor, data)
            while n_written < len(data):  # a signal, or a disk that is about to be full
                n_written += os.write(descriptor, memoryview(data)[n_written:])
        except BaseException:
            os.close(descriptor)
            raise
        self._synchroniser.add(descriptor)

    def rename_all(self) -> None:
        """Give all files their names; they have to be durable."""
        for temporary, path in self._pending:
            os.replace(temporary, path)  # noqa: PTH105  # of thousands of files, without making paths of their names
        for folder in sorted(self._folders):
            fsync_folder(Path(folder))

    def remove_all(self) -> None:
        """Remove what has no name yet."""
        for temporary, _ in self._pending:
            Path(temporary).unlink(missing_ok=True)


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
    except BaseException:
        batch.remove_all()
        raise


def commit_together(pending: Sequence[tuple[Path, Path]]) -> None:
    """Make temporaries durable, all at once, then rename them: pairs of the temporary and its final path."""
    with Synchroniser() as synchroniser:
        for temporary, _ in pending:
            synchroniser.add(os.open(temporary, os.O_RDONLY | os.O_CLOEXEC))
    for temporary, path in pending:
        temporary.replace(path)
    for folder in sorted({path.parent for _, path in pending}):
        fsync_folder(folder)


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
