"""One writer per output folder, and whether the last one came to its end.

The lock is the kernel's (`flock`): it ends with its process, however that dies, so nothing ever needs clearing by hand.
What stands in the file is for people, and tells how the last writer ended: an orderly end empties it, also after an
error or a signal. Content that nobody holds a lock on means ``kill -9``, a crash of native code, or a power cut. It is
put back after such an end by a successor that did not succeed either: what killed the one may be still to come.

Where files are committed directly, as in a mounted object store, nothing can be locked: see `state.folder_note`.
Whoever holds the lock holds the name of that module too: a run that was told to write directly must see it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_extract.causes import name_of
from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.mounts import CommitForm, commit_form
from wsi_extract.errors import EnvironmentFaultError, InputError
from wsi_extract.interrupts import held
from wsi_extract.state.folder_note import (
    MAX_CONTENT_BYTES,
    describe_self,
    is_held_here,
    name_held,
    noted,
    read_note,
    taken,
)
from wsi_extract.state.layout import lock_path

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})
"""What file systems without locks answer, such as some network shares."""
IS_LINK = frozenset({errno.ELOOP, errno.ENOTDIR})
PATIENCE_S = 0.5
"""Processes that only look hold a lock of their own for a moment: see `_is_free`."""
LOOK_AGAIN_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderLock:
    """The right to write to an output folder, as long as the block of `locked` lasts."""

    is_exclusive: bool
    """Whether the file system keeps others out; some network shares cannot."""
    rival: str = ""
    """Who may be writing there as well, in a sentence; empty when nobody is known."""


@contextmanager
def locked(output_dir: Path, *, command: str) -> Iterator[FolderLock]:
    """Hold the lock on an output folder; the folder is made where it is missing.

    Whoever leaves the folder as empty as it was leaves no file of the lock there either, and no folder that was made
    for it. After a hard end, the mark of it stays until somebody comes to a good end.

    Parameters
    ----------
    command
        Who writes, for whoever finds the folder taken.

    Raises
    ------
    EnvironmentFaultError
        When another process holds it: who, and since when; or when the system grants no lock.
    InputError
        When the file of the lock, or its folder, is a link.
    """
    if commit_form(output_dir) is CommitForm.DIRECT:
        with noted(output_dir, command=command) as rival:
            yield FolderLock(is_exclusive=False, rival=rival)
        return
    path = lock_path(output_dir)
    held_lock = _acquire(path, output_dir=output_dir)
    is_done = False
    mark = b""
    try:
        with name_held(output_dir) if held_lock.is_exclusive else nullcontext():
            mark = os.pread(held_lock.descriptor, MAX_CONTENT_BYTES, 0)
            with _content_held(held_lock.descriptor, path, command=command, mark=mark):
                yield FolderLock(is_exclusive=held_lock.is_exclusive)
        is_done = True
    finally:
        with held():
            _leave(held_lock, path, is_marked=bool(mark) and not is_done)


@contextmanager
def _content_held(descriptor: int, path: Path, *, command: str, mark: bytes) -> Iterator[None]:
    """Say in the file who writes, until the block ends; after an error, ``mark`` stands there again."""
    with held():
        _replace_content(descriptor, describe_self(command), path=path)
    try:
        yield
    except BaseException:
        with held(), suppress(OSError):  # a signal now is still an orderly end, and the first error is the one
            _replace_content(descriptor, mark, path=path)
        raise
    with held():
        _replace_content(descriptor, b"", path=path)


def refuse_locked(output_dir: Path) -> None:
    """Refuse a folder that somebody else is writing to, without touching it: to be called before long preparations.

    Raises
    ------
    EnvironmentFaultError
        As `locked` does.
    """
    if is_held_here(output_dir):
        raise taken(read_note(output_dir), output_dir=output_dir)
    if commit_form(output_dir) is CommitForm.DIRECT:
        return
    path = lock_path(output_dir)
    descriptor = _open_to_look(path)
    if descriptor is None:
        return
    try:
        if not _is_free(descriptor, path):
            raise _taken(descriptor, output_dir=output_dir)
    finally:
        os.close(descriptor)


def ended_hard(output_dir: Path) -> bool:
    """Tell whether a process that wrote to the folder died without coming to an orderly end, and none succeeded since.

    Raises
    ------
    EnvironmentFaultError
        When the system does not even say whether the lock is held.
    """
    if is_held_here(output_dir):
        return False
    if commit_form(output_dir) is CommitForm.DIRECT:
        return bool(read_note(output_dir))
    path = lock_path(output_dir)
    descriptor = _open_to_look(path)
    if descriptor is None:
        return False
    try:
        return os.fstat(descriptor).st_size > 0 and _is_free(descriptor, path)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """An open file of a lock, and what was made for it."""

    descriptor: int
    is_exclusive: bool
    made: tuple[Path, ...]
    """Folders that were missing, the innermost first."""
    is_new: bool
    """Whether the file itself was missing."""


def _acquire(path: Path, *, output_dir: Path) -> _Held:
    """Return the open file and whether it is locked, or raise because it stays taken."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            opened = _open_to_hold(path, output_dir=output_dir)
        except FileNotFoundError:  # whoever held it leaves, and takes the folder along that it had made
            if time.monotonic() >= give_up_s:
                raise
            time.sleep(LOOK_AGAIN_S)
            continue
        try:
            fcntl.flock(opened.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with _closing(opened.descriptor):
                if time.monotonic() >= give_up_s:
                    raise _taken(opened.descriptor, output_dir=output_dir) from None
            time.sleep(LOOK_AGAIN_S)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return replace(opened, is_exclusive=False)
            os.close(opened.descriptor)
            raise _not_granted(path, error) from error
        else:
            if _is_named(opened.descriptor, path):
                return opened
            os.close(opened.descriptor)  # somebody deleted the file, or the folder, between opening and locking it


def _leave(lock: _Held, path: Path, *, is_marked: bool) -> None:
    """Give the lock back, and remove what was made for it unless something has been put there.

    The file goes while the lock is held: whoever waits for it sees that it has no name any more, and begins anew.
    """
    is_alone = False
    try:
        if lock.is_exclusive and lock.is_new and not is_marked:
            with suppress(OSError):
                is_alone = list(path.parent.iterdir()) == [path]
                if is_alone:
                    path.unlink()
    finally:
        os.close(lock.descriptor)
    with suppress(OSError):  # it holds something by now
        for folder in lock.made if is_alone else ():
            folder.rmdir()


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _open_to_hold(path: Path, *, output_dir: Path) -> _Held:
    made = tuple(folder for folder in path.parents if not folder.exists())
    make_folder(path.parent)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with _closing(folder):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor, is_new = os.open(path.name, flags | os.O_EXCL, 0o666, dir_fd=folder), True
            except FileExistsError:
                descriptor, is_new = os.open(path.name, flags, 0o666, dir_fd=folder), False
    except OSError as error:
        error.filename = str(path)  # not the name alone, as it was opened by
        if error.errno not in IS_LINK:
            raise
        raise InputError(f"{path}, or its folder, is a link.", f"Remove it from {output_dir}.") from error
    return _Held(descriptor=descriptor, is_exclusive=True, made=made, is_new=is_new)


def _open_to_look(path: Path) -> int | None:
    """Return the open file, ``None`` when there is none: nobody ever wrote here, or this is no folder to write to."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # what makes it unreadable is said where the folder is claimed


def _is_free(descriptor: int, path: Path) -> bool:
    """Tell whether nobody holds the lock, by holding a shared one for a moment; who wants it then tries again."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        raise _not_granted(path, error) from error
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _replace_content(descriptor: int, content: bytes, *, path: Path) -> None:
    """Write first and cut off then: where the disk is full, what was there remains, above all that it is not empty."""
    n_before = os.fstat(descriptor).st_size
    try:
        n_written = 0
        while n_written < len(content):
            n_written += os.pwrite(descriptor, memoryview(content)[n_written:], n_written)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    except OSError as error:
        if not n_before:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
        error.filename = str(path)
        raise


def _taken(descriptor: int, *, output_dir: Path) -> EnvironmentFaultError:
    return taken(os.pread(descriptor, MAX_CONTENT_BYTES, 0), output_dir=output_dir)


def _not_granted(path: Path, error: OSError) -> EnvironmentFaultError:
    return EnvironmentFaultError(
        f"{path} cannot be locked: {error.strerror} ({name_of(error.errno)}); another process may hold it in a way "
        "that this file system does not tell.",
        "Make sure that this user may lock files there, or choose another --output_dir.",
    )
