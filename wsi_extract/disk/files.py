"""Write files so that they are whole or absent, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

from wsi_extract.disk.direct_files import DirectFiles, accept_folder, write_and_hand_over, write_staged
from wsi_extract.disk.durable import Synchroniser, fsync_folders, make_folder, name_file
from wsi_extract.disk.mounts import CommitForm, commit_form
from wsi_extract.disk.renames import remove_quietly, replace_file
from wsi_extract.disk.staging import Stage, open_spool

TEMPORARY_SUFFIX = ".partial"
SYNC_STEP_BYTES = 2**24
"""What is written of a long file goes to the disk in steps of this size, while the next bytes are made."""


def temporary_beside(path: Path) -> Path:
    """Return a name for a temporary that no other process, on any machine, writes to."""
    return path.with_name(f"{path.name}.{_unique_ending()}")


def _unique_ending() -> str:
    return f"{uuid4().hex[:12]}{TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Tell whether a file of this name is one of `temporary_beside`, and not a user's that ends alike."""
    return re.fullmatch(rf".+\.[0-9a-f]{{12}}{re.escape(TEMPORARY_SUFFIX)}", name, re.DOTALL) is not None


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets the name ``path`` when the block has ended; when it raises, what was there is there still.

    A temporary beside it, made durable and renamed; or, in `CommitForm.DIRECT`, one elsewhere whose content is written
    to ``path`` at the end.
    """
    if commit_form(path.parent) is CommitForm.DIRECT:
        with closing(Stage()) as stage:
            with stage.open_file(str(path)) as spool:
                yield spool
            write_staged(stage.files, record=None)
        return
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
        name_file(error, str(path))
        raise
    fsync_folders((path.parent,))


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all.

    In `CommitForm.DIRECT` a file that holds just that is left alone: while it is written, it would be neither.
    """
    with atomic_writer(path) as stream:
        stream.write(data)


def scratch_for(path: Path) -> AbstractContextManager[IO[bytes]]:
    """Open a temporary without a name, for what is to be copied to ``path`` later: beside it, where files may be."""
    if commit_form(path.parent) is CommitForm.DIRECT:
        return open_spool()
    return tempfile.TemporaryFile(dir=path.parent)


class Writes(Protocol):
    """A file that is written bit by bit, from the beginning."""

    def write(self, data: bytes, /) -> int:
        """Append bytes."""


class _SteadyFile:
    """Makes what is written durable in steps."""

    def __init__(self, stream: IO[bytes], steps: Synchroniser) -> None:
        self._stream = stream
        self._steps = steps
        self._n_waiting_bytes = 0

    def write(self, data: bytes, /) -> int:
        n_written = self._stream.write(data)
        self._n_waiting_bytes += n_written
        if self._n_waiting_bytes >= SYNC_STEP_BYTES:
            self._n_waiting_bytes = 0
            self._steps.add(os.dup(self._stream.fileno()))
        return n_written


class _RenamedFiles:
    """Files under temporary names. `CommitForm.RENAME`."""

    def __init__(self, synchroniser: Synchroniser) -> None:
        self._synchroniser = synchroniser
        self._ending = _unique_ending()
        self._folders: set[str] = set()
        self._pending: list[tuple[str, str]] = []

    def add(self, path: str, data: bytes) -> None:
        temporary = self._temporary_for(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        write_and_hand_over(descriptor, (data,), self._synchroniser)

    @contextmanager
    def open_file(self, path: str) -> Iterator[Writes]:
        with Path(self._temporary_for(path)).open("xb") as stream:
            with Synchroniser(n_threads=1, n_files=1) as steps:
                yield _SteadyFile(stream, steps)
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
        self._synchroniser.wait()

    def publish(self) -> None:
        """Give all files their names, durably; they have to be durable themselves."""
        for temporary, path in self._pending:
            replace_file(temporary, path)
        fsync_folders(Path(folder) for folder in self._folders)

    @property
    def place(self) -> str:
        return min(self._folders, default="")

    def discard(self) -> None:
        """Remove what has no name yet."""
        remove_quietly(temporary for temporary, _ in self._pending)

    def close(self) -> None:
        """Keep nothing: all is with the synchroniser, or renamed."""


class FileBatch:
    """Takes files of one output folder that get their names together. Made by `open_batch`."""

    def __init__(
        self, synchroniser: Synchroniser, *, record: Path | None, still_ours: Callable[[], None] = accept_folder
    ) -> None:
        self._synchroniser = synchroniser
        self._record = record
        self._still_ours = still_ours
        self._files: _RenamedFiles | DirectFiles | None = None

    def _files_for(self, path: str) -> _RenamedFiles | DirectFiles:
        """Return what takes the files: the first one's folder decides for all."""
        if self._files is None:
            is_direct = commit_form(path.rpartition("/")[0]) is CommitForm.DIRECT
            self._files = (
                DirectFiles(record=self._record, still_ours=self._still_ours)
                if is_direct
                else _RenamedFiles(self._synchroniser)
            )
        return self._files

    def add(self, path: str, data: bytes) -> None:
        """Take a file with all its bytes; its folder is made where it is missing.

        Raises
        ------
        OSError
            When the file cannot be written, or a path is given twice.
        """
        self._files_for(path).add(path, data)

    def open_file(self, path: str) -> AbstractContextManager[Writes]:
        """Open a file that is written bit by bit, otherwise like `add`."""
        return self._files_for(path).open_file(path)

    def make_durable(self) -> None:
        """Return when what was written so far is durable: the moment to refuse it, before any file has its name.

        Raises
        ------
        OSError
            When a file could not be made durable.
        """
        if self._files is not None:
            self._files.make_durable()

    def publish(self) -> None:
        """Let all files appear, durably."""
        if self._files is not None:
            self._files.publish()

    @property
    def place(self) -> str:
        """A folder of the batch, for messages."""
        return "" if self._files is None else self._files.place

    def discard(self) -> None:
        """Remove what has no name yet."""
        if self._files is not None:
            self._files.discard()

    def close(self) -> None:
        """Free what the batch holds, whether its files appeared or not."""
        if self._files is not None:
            self._files.close()


@contextmanager
def open_batch(*, record: Path | None = None, still_ours: Callable[[], None] = accept_folder) -> Iterator[FileBatch]:
    """Write many files that appear together, when the block has ended and all of them are durable, or not at all.

    Files are made durable while the next ones are written. Only renaming can stop half-way: each file is whole then.
    In `CommitForm.DIRECT`, files are kept elsewhere until the block has ended, and may then stop half-way in any state.

    Parameters
    ----------
    record
        What vouches for the files once they are there. In `CommitForm.DIRECT` it is removed, durably, before one of
        them is written over; files that are there already, with the same bytes, stay as they are.
    still_ours
        Raises when the folder belongs to somebody else by now. In `CommitForm.DIRECT`, where it takes long until all
        files are there, it is asked meanwhile, and before a file is written over.
    """
    synchroniser = Synchroniser()
    batch = FileBatch(synchroniser, record=record, still_ours=still_ours)
    with closing(batch):
        try:
            with synchroniser:
                yield batch
            batch.publish()
        except BaseException as error:
            batch.discard()
            name_file(error, batch.place)
            raise


def commit_together(pending: Sequence[tuple[Path, Path]]) -> None:
    """Make temporaries durable, all at once, then rename them: pairs of the temporary and its final path."""
    try:
        with Synchroniser() as synchroniser:
            for temporary, _ in pending:  # for writing as well: a share may refuse to flush what is read
                synchroniser.add(os.open(temporary, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        name_file(error, str(pending[0][1].parent))
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
