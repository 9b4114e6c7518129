"""Keep whole files away from their folder until they may be written there: in memory, or on a disk of this machine.

For file systems on which a file that was begun cannot be taken back without a trace, see `wsi_extract.disk.mounts`.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Self

from wsi_extract.disk.durable import name_file
from wsi_extract.disk.scratch import local_scratch

MEMORY_BYTES = 2**24
"""Of a stage, and of each of its long files; what is more goes to the disk. Less than a worker's memory varies by."""
COPY_STEP_BYTES = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagedFile:
    """A file that is complete, and not yet where it belongs."""

    path: str
    """Where it belongs."""
    n_bytes: int
    _stream: IO[bytes]
    _start: int

    def chunks(self) -> Iterator[bytes]:
        """Yield its content, from the beginning."""
        left = self.n_bytes
        self._stream.seek(self._start)
        while left:
            chunk = self._stream.read(min(left, COPY_STEP_BYTES))
            if not chunk:
                raise OSError(f"the copy of {self.path} in {_scratch()} has become shorter")
            left -= len(chunk)
            yield chunk

    def is_there(self) -> bool:
        """Tell whether just this content is there already."""
        try:
            with open(self.path, "rb", buffering=0, opener=_without_links) as present:
                if os.fstat(present.fileno()).st_size != self.n_bytes:
                    return False
                return all(_read_whole(present, len(chunk)) == chunk for chunk in self.chunks())
        except OSError:
            return False


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _read_whole(stream: IO[bytes], n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes and (more := stream.read(n_bytes - len(data))):
        data += more
    return data


class Stage:
    """Takes files, any number of small ones and some long ones. A context manager; afterwards nothing is left."""

    def __init__(self) -> None:
        self.files: list[StagedFile] = []
        self._small: IO[bytes] | None = None
        self._spools: list[IO[bytes]] = []
        self._paths: set[str] = set()

    def add(self, path: str, data: bytes) -> None:
        """Take a whole file.

        Raises
        ------
        FileExistsError
            When a file of this path was taken before.
        """
        self._refuse_second(path)
        if self._small is None:
            self._small = self._open_spool()
        start = self._small.seek(0, os.SEEK_END)
        self._small.write(data)
        self.files.append(StagedFile(path=path, n_bytes=len(data), _stream=self._small, _start=start))

    @contextmanager
    def open_file(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file that is written bit by bit; it is taken when the block ends without an error."""
        self._refuse_second(path)
        spool = self._open_spool()
        yield spool
        n_bytes = spool.seek(0, os.SEEK_END)
        self.files.append(StagedFile(path=path, n_bytes=n_bytes, _stream=spool, _start=0))

    def _open_spool(self) -> IO[bytes]:
        spool = open_spool()
        self._spools.append(spool)
        return spool

    def _refuse_second(self, path: str) -> None:
        if path in self._paths:
            raise FileExistsError(errno.EEXIST, "a file is given twice", path)
        self._paths.add(path)

    def close(self) -> None:
        """Forget everything."""
        for spool in self._spools:
            with suppress(OSError):  # a full disk fails once more, over what nobody wants any longer
                spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Spool(tempfile.SpooledTemporaryFile[bytes]):
    """A file without a name, of which errors say where it lies: it is that disk which is full."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes only
        with _scratch_named():
            return super().write(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with _scratch_named():  # what was written last may reach the disk only now
            return super().seek(offset, whence)


@contextmanager
def _scratch_named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name_file(error, str(_scratch()))
        raise


def open_spool() -> IO[bytes]:
    """Open a file without a name: in memory while it is small, then on a disk of this machine."""
    return _Spool(max_size=MEMORY_BYTES, dir=str(_scratch()))


@cache
def _scratch() -> Path:
    """Return where this process keeps what is too much for its memory; looked up once, not for every small file."""
    return local_scratch()
