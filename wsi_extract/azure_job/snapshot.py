"""The files that travel with a job: an allow-list, so that no history, environment, output or secret is sent by chance.

``.amlignore`` says the same to Azure's own tools. What is sent is a copy of these files in a fresh folder: nothing
changes while it is hashed, and no other file is looked at.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wsi_extract.errors import ConfigError
from wsi_extract.input_files import open_regular
from wsi_extract.printable import as_one_line

CONFIG_NAME = "config.json"
PROGRAM_NAME = "run_extraction.py"
PACKAGE_NAME = "wsi_extract"
FILE_NAMES = (PROGRAM_NAME, CONFIG_NAME, "requirements.txt")
NEEDED = (*FILE_NAMES, f"{PACKAGE_NAME}/__init__.py")
STAGING_NAME = "wsi_extract_job"
MANY_FILES, MANY_BYTES = 500, 10_000_000
MOST_FILES, MOST_BYTES = 2_000, 300_000_000
"""Limits that the service documents."""
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    """One file: its name on the node, relative with slashes, and where it is here."""

    name: str
    path: Path
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All files, sorted by name; ``digest`` is the SHA-256 of their names and contents, hexadecimal."""

    files: tuple[SnapshotFile, ...]
    digest: str

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)


def list_snapshot(root: Path, *, config_path: Path, extra: Mapping[str, Path] | None = None) -> Snapshot:
    """Return the files that a job needs.

    Parameters
    ----------
    root
        Folder of ``run_extraction.py`` and of the package.
    config_path
        File that will be ``config.json`` on the node.
    extra
        Further files that the settings name: name on the node -> path here.

    Raises
    ------
    ConfigError
        When a file is missing, cannot be read or is a link in the package, when two would have one name, or when there
        is more than the service takes.
    """
    root = root.absolute()
    paths = {name: root / name for name in FILE_NAMES} | {CONFIG_NAME: config_path} | _package_files(root)
    for name, path in (extra or {}).items():
        if ".git" in Path(name).parts:
            raise _of_git(path)
        if name in paths and not _is_same(paths[name], path):
            raise ConfigError(f"{path} would replace the program's own {name} on the node.", "Give it another name.")
        paths.setdefault(name, path)
    missing = [name for name in NEEDED if name not in paths or not paths[name].is_file()]
    if missing:
        raise ConfigError(
            f"the program in {root} is incomplete: {', '.join(missing)} missing.", "Run it from a full copy."
        )
    if len(paths) > MOST_FILES:
        raise ConfigError(_too_much(len(paths), 0, root=root))
    digest = hashlib.sha256()
    files = []
    for name in sorted(paths):
        content_digest, n_bytes = _read_file(paths[name])
        digest.update(f"{len(name.encode())} {name} ".encode() + content_digest)
        files.append(SnapshotFile(name=name, path=paths[name], n_bytes=n_bytes))
    snapshot = Snapshot(files=tuple(files), digest=digest.hexdigest())
    if snapshot.n_bytes > MOST_BYTES:
        raise ConfigError(_too_much(len(paths), snapshot.n_bytes, root=root))
    return snapshot


def _too_much(n_files: int, n_bytes: int, *, root: Path) -> str:
    held = f"{n_files:,} files" + (f", {n_bytes / 1e6:,.0f} MB" if n_bytes else "")
    return (
        f"{held} would be sent with the job; the service takes {MOST_FILES:,} files, {MOST_BYTES / 1e6:,.0f} MB. "
        f"Clear what is no part of the program out of {root / PACKAGE_NAME}."
    )


def snapshot_warnings(snapshot: Snapshot) -> list[str]:
    """Return what is unusual about a snapshot, one line each."""
    if len(snapshot.files) <= MANY_FILES and snapshot.n_bytes <= MANY_BYTES:
        return []
    largest = max(snapshot.files, key=lambda file: file.n_bytes)
    text = f"{len(snapshot.files):,} files, {snapshot.n_bytes / 1e6:,.1f} MB, are sent with the job"
    return [f"{text}; the largest is {as_one_line(largest.name)}, {largest.n_bytes / 1e6:,.1f} MB"]


@contextmanager
def staged(snapshot: Snapshot) -> Iterator[Path]:
    """Copy the files into a fresh folder for as long as the context is open.

    Raises
    ------
    ConfigError
        When there is no room for the copy, or a file is not what it was when it was listed.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        except OSError as error:
            raise _no_room(error, folder=None) from error
        target = Path(folder, STAGING_NAME)
        try:
            _copy_files(snapshot, target)
        except OSError as error:
            raise _no_room(error, folder=folder) from error
        copied = list_snapshot(
            target,
            config_path=target / CONFIG_NAME,
            extra={file.name: target / file.name for file in snapshot.files},
        )
        if copied.digest != snapshot.digest:
            raise ConfigError("the program's files changed while they were copied.", "Submit again.")
        yield target


def _copy_files(snapshot: Snapshot, target: Path) -> None:
    for file in snapshot.files:
        copy = target / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _opened(file.path) as source, copy.open("xb") as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)


def _no_room(error: OSError, *, folder: str | None) -> ConfigError:
    where = f" to {Path(folder).parent}" if folder else ""
    remedy = "Make room there, or set TMPDIR to another folder."
    return ConfigError(f"cannot copy the code of the job{where}: {error.strerror}.", remedy)


def _package_files(root: Path) -> dict[str, Path]:
    """All files of the package but compiled ones, by name on the node; links are refused, they lead anywhere."""
    found = {}
    for folder, folders, names in os.walk(root / PACKAGE_NAME):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            if path.is_symlink():
                raise ConfigError(f"{path} is a link; it would be sent as what it leads to.", "Remove it.")
            if name == ".git":
                raise _of_git(path)
            if name in names and not name.endswith(".pyc"):
                found[_name_on_node(path, root=root)] = path
    return found


def _of_git(path: Path) -> ConfigError:
    return ConfigError(f"{path}: a repository's history is not sent with a job.", "Move it elsewhere.")


def _name_on_node(path: Path, *, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    if as_one_line(name) != name:
        raise ConfigError(f"{root}: the file name {as_one_line(name)!r} cannot be sent.", "Rename the file.")
    return name


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = open_regular(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be sent with the job: {error.strerror}.") from error
    with stream:
        yield stream


def _read_file(path: Path) -> tuple[bytes, int]:
    """Return the SHA-256 of a file's content, and its size in bytes."""
    digest, n_bytes = hashlib.sha256(), 0
    with _opened(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            n_bytes += len(chunk)
    return digest.digest(), n_bytes
