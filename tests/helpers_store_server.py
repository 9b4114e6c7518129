"""Serves `tests.helpers_store_mount`: ``python -m tests.helpers_store_server PLACE OBJECTS LOG``, with libfuse."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from mfusepy import FUSE, FuseOSError, Operations


class Store(Operations):  # type: ignore[misc]  # the library has no types
    """Objects by path; folders that hold one are there, and those that were made and hold none yet."""

    use_ns = True

    def __init__(self, objects: str, log: str) -> None:
        self.objects = objects
        self.made: set[str] = set()
        self.writing: dict[int, tuple[str, bytearray]] = {}
        self.last_handle = 0
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND)

    def note(self, operation: str, path: str) -> None:
        os.write(self.log, f"{operation}\t{path}\n".encode())

    def refuse(self, operation: str, path: str, number: int = errno.ENOTSUP) -> FuseOSError:
        self.note(f"refused {operation}", path)
        return FuseOSError(number)

    def at(self, path: str) -> Path:
        return Path(self.objects + path)

    # --- what is there

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        self.note("getattr", path)
        if fh is not None and fh in self.writing:
            return self.facts(stat.S_IFREG | 0o644, len(self.writing[fh][1]))
        found = self.at(path)
        if found.is_file():
            return self.facts(stat.S_IFREG | 0o644, found.stat().st_size)
        if found.is_dir() or path in self.made:
            return self.facts(stat.S_IFDIR | 0o755, 0)
        for name, data in self.writing.values():
            if name == path:
                return self.facts(stat.S_IFREG | 0o644, len(data))
        raise FuseOSError(errno.ENOENT)

    @staticmethod
    def facts(mode: int, size: int) -> dict[str, int]:
        times = {"st_atime": 0, "st_mtime": 0, "st_ctime": 0}
        return {**times, "st_mode": mode, "st_size": size, "st_nlink": 1, "st_uid": os.getuid(), "st_gid": 0}

    def readdir(self, path: str, _fh: int) -> list[str]:
        self.note("list", path)
        above = path.rstrip("/") + "/"
        made = {
            name[len(above) :] for name in self.made if name.startswith(above) and name.count("/") == above.count("/")
        }
        found = self.at(path)
        return [".", "..", *sorted(made | ({each.name for each in found.iterdir()} if found.is_dir() else set()))]

    def mkdir(self, path: str, _mode: int) -> None:
        self.note("mkdir", path)
        self.made.add(path)

    def rmdir(self, path: str) -> None:
        self.note("rmdir", path)
        if self.at(path).is_dir():
            raise FuseOSError(errno.ENOTEMPTY)
        if path not in self.made:
            raise FuseOSError(errno.ENOENT)
        self.made.discard(path)

    def unlink(self, path: str) -> None:
        self.note("unlink", path)
        if not self.at(path).is_file():
            raise FuseOSError(errno.ENOENT)
        self.at(path).unlink()
        folder = self.at(path).parent
        while folder != Path(self.objects) and not any(folder.iterdir()):  # goes with its last object
            folder.rmdir()
            self.made.discard(str(folder)[len(self.objects) :])
            folder = folder.parent

    def statfs(self, _path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1, "f_bavail": 0, "f_bfree": 0}  # of no meaning

    # --- reading and writing

    def open(self, path: str, flags: int) -> int:
        self.last_handle += 1
        if flags & os.O_ACCMODE == os.O_RDONLY:
            self.note("open", path)
            return self.last_handle
        if flags & os.O_ACCMODE != os.O_WRONLY or flags & os.O_APPEND or not flags & os.O_TRUNC:
            raise self.refuse(f"open with flags {flags:o}", path)
        self.note("overwrite", path)
        self.writing[self.last_handle] = (path, bytearray())
        return self.last_handle

    def create(self, path: str, _mode: int, fi: int | None = None) -> int:
        flags = fi or 0
        if flags & os.O_ACCMODE == os.O_RDWR or flags & os.O_APPEND:
            raise self.refuse(f"create with flags {flags:o}", path)
        self.note("create", path)
        self.last_handle += 1
        self.writing[self.last_handle] = (path, bytearray())
        return self.last_handle

    def read(self, path: str, size: int, offset: int, _fh: int) -> bytes:
        self.note("read", path)
        with self.at(path).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        known = self.writing.get(fh)
        if known is None or offset != len(known[1]):
            raise self.refuse("write elsewhere than at the end", path)
        self.note("write", path)
        known[1].extend(data)
        return len(data)

    def flush(self, path: str, fh: int) -> None:
        if fh in self.writing:
            self.note("upload", path)
            self.at(path).parent.mkdir(parents=True, exist_ok=True)
            self.at(path).write_bytes(self.writing[fh][1])

    def release(self, _path: str, fh: int) -> None:
        self.writing.pop(fh, None)

    def fsync(self, _path: str, _datasync: int, _fh: int) -> None:
        raise FuseOSError(errno.ENOSYS)

    fsyncdir = fsync

    # --- what a store does not do

    def rename(self, old: str, _new: str) -> None:
        raise self.refuse("rename", old)

    def link(self, target: str, _source: str) -> None:
        raise self.refuse("link", target)

    def symlink(self, target: str, _source: str) -> None:
        raise self.refuse("symlink", target)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        raise self.refuse(f"truncate to {length}, {fh}", path)

    def chmod(self, path: str, _mode: int) -> None:
        raise self.refuse("chmod", path, errno.EPERM)

    def utimens(self, path: str, times: object = None) -> None:
        raise self.refuse(f"utimens {times}", path, errno.EPERM)


if __name__ == "__main__":
    FUSE(
        Store(*sys.argv[2:]),
        sys.argv[1],
        foreground=True,
        nothreads=True,
        fsname="objects",
        atomic_o_trunc=True,
        big_writes=True,
    )
