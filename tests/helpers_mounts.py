"""What a mounted object store does not do, noticed in a process that runs the unchanged program.

``python -m tests.helpers_mounts FOLDER -- ARGUMENTS`` runs `run_extraction.py` and ends with `FORBIDDEN` when the
process renamed, linked, locked, appended to or reopened a file below FOLDER. An audit hook sees what Python does; it
cannot be taken away, and replaces nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORBIDDEN = 99
"""Exit code of a process that did what a mounted store refuses."""
WRITES = os.O_WRONLY | os.O_RDWR


class StoreRules:
    """Notes what a process does below a folder that a mounted object store would refuse."""

    def __init__(self, folder: Path) -> None:
        self._root = os.path.realpath(folder)
        self.broken: list[str] = []
        self.n_written = 0
        self._written: set[str] = set()
        self._checks: dict[str, Callable[..., None]] = {
            "open": self._opened,
            "os.remove": self._removed,
            "os.rename": self._moved,
            "os.link": self._moved,
            "os.symlink": self._moved,
            "os.truncate": self._changed,
            "os.chmod": self._changed,
            "os.utime": self._changed,
            "fcntl.flock": self._changed,
            "fcntl.lockf": self._changed,
            "mmap.__new__": self._mapped,
        }

    def watch(self) -> None:
        """Begin; there is no end to it in this process."""
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        check = self._checks.get(event)
        if check is not None:
            check(event, *arguments)

    def _place(self, path: object, dir_fd: object = None) -> str | None:
        """Return the path below the folder, ``None`` when it is elsewhere."""
        try:
            if isinstance(path, int):
                text = str(Path(f"/proc/self/fd/{path}").readlink())
            else:
                text = os.fsdecode(path)  # type: ignore[arg-type]  # a path of any kind
                if isinstance(dir_fd, int) and dir_fd >= 0 and not text.startswith("/"):
                    text = f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/{text}"
        except (OSError, TypeError):
            return None
        text = f"{os.path.realpath(Path(text).parent)}/{Path(text).name}"
        return text[len(self._root) :] if text == self._root or text.startswith(f"{self._root}/") else None

    def _opened(self, event: str, path: object, _mode: object, flags: object) -> None:
        if not isinstance(flags, int) or not flags & WRITES:
            return
        place = self._place(path)
        if place is None:
            return
        if flags & os.O_ACCMODE != os.O_WRONLY or flags & os.O_APPEND or not flags & (os.O_TRUNC | os.O_EXCL):
            self.broken.append(f"{event} {place} with flags {flags:o}")
        if place in self._written:
            self.broken.append(f"{event} {place} a second time")
        self._written.add(place)
        self.n_written += 1

    def _removed(self, _event: str, path: object, dir_fd: object) -> None:
        self._written.discard(self._place(path, dir_fd) or "")

    def _moved(self, event: str, source: object, target: object, *_: object) -> None:
        for path in (source, target):
            if self._place(path) is not None:
                self.broken.append(f"{event} {self._place(path)}")

    def _changed(self, event: str, path: object, *_: object) -> None:
        if self._place(path) is not None:
            self.broken.append(f"{event} {self._place(path)}")

    def _mapped(self, event: str, descriptor: object, *_: object) -> None:
        if isinstance(descriptor, int) and descriptor >= 0 and self._place(descriptor) is not None:
            self.broken.append(f"{event} {self._place(descriptor)}")


def main() -> int:
    """Run the program under the rules."""
    folder, dashes, *arguments = sys.argv[1:]
    assert dashes == "--"
    import run_extraction  # noqa: PLC0415
    from wsi_extract import blocks  # noqa: PLC0415

    blocks.MIN_BLOCK_PATCHES = 16  # small plans become several blocks, as those of whole slides are
    rules = StoreRules(Path(folder))
    rules.watch()
    code = run_extraction.main(arguments)
    for each in rules.broken:
        print(f"FORBIDDEN {each}", file=sys.stderr)
    print(f"{rules.n_written} files written", file=sys.stderr)
    return FORBIDDEN if rules.broken else code


if __name__ == "__main__":
    sys.exit(main())
