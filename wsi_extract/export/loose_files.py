"""Write many small files, so that each is whole or absent and a second attempt writes only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import commit_together, temporary_beside

FILES_PER_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LooseFile:
    """A file to be written."""

    path: Path
    read: Callable[[], bytes]
    """Gives the content; called only when the file is not there yet."""
    n_patches: int = 1
    """Patches that are done with this file, for the progress shown."""


def write_missing(files: Iterable[LooseFile], *, advance: Callable[[int], None]) -> None:
    """Write the files that do not exist yet, batch by batch, durably; memory holds one file at a time.

    Parameters
    ----------
    advance
        Told how many patches are done.
    """
    pending: list[tuple[Path, Path]] = []
    n_patches = 0
    try:
        for file in files:
            n_patches += file.n_patches
            if not file.path.exists():
                make_folder(file.path.parent)
                temporary = temporary_beside(file.path)
                pending.append((temporary, file.path))
                temporary.write_bytes(file.read())
            if len(pending) >= FILES_PER_BATCH or n_patches >= FILES_PER_BATCH:
                commit_together(pending)
                advance(n_patches)
                pending, n_patches = [], 0
        commit_together(pending)
        advance(n_patches)
    except BaseException:
        for temporary, _ in pending:
            temporary.unlink(missing_ok=True)
        raise
