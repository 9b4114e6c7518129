"""A real mount with the manners of an object store: what is forbidden there fails, and is counted.

A file is written from its beginning to its end, once, and becomes an object when it is closed; until then others see
what was there before. Renaming, linking, appending, changing a part, a mode or a time fail. Folders that hold nothing
vanish. Nothing can be made durable but by closing (ENOSYS). Needs FUSE: `why_impossible` tells.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 60.0
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMount:
    """A mount, and where its objects lie."""

    place: Path
    objects: Path
    log: Path
    server: subprocess.Popen[bytes]

    def operations(self) -> Counter[str]:
        """Return how often each operation was asked for; those that were refused begin with ``refused``."""
        return Counter(line.partition("\t")[0] for line in self.log.read_text().splitlines())

    def refused(self) -> list[str]:
        """Return what was refused, with the file."""
        return [line for line in self.log.read_text().splitlines() if line.startswith("refused")]


def why_impossible() -> str:
    """Return what this machine lacks for a mount of its own; empty when it lacks nothing."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "the kernel offers no FUSE to this user"
    try:
        import mfusepy  # noqa: F401, PLC0415
    except (ImportError, OSError) as error:
        return f"libfuse is not there: {error}"
    return "" if os.geteuid() == 0 or shutil.which("fusermount3") or shutil.which("fusermount") else "no fusermount"


@contextmanager
def mounted(folder: Path) -> Iterator[StoreMount]:
    """Yield a mount in ``folder``, whose objects stay when it ends, for the next one."""
    mount = _start(folder)
    try:
        yield mount
    finally:
        _unmount(mount)


def _start(folder: Path) -> StoreMount:
    place, objects, log = folder / "mount", folder / "objects", folder / "log"
    for each in (place, objects):
        each.mkdir(parents=True, exist_ok=True)
    log.touch()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers_store_server", str(place), str(objects), str(log)], cwd=ROOT
    )
    give_up_s = time.monotonic() + PATIENCE_S
    while not os.path.ismount(place):
        if server.poll() is not None or time.monotonic() > give_up_s:
            server.kill()
            raise RuntimeError(f"the store was not mounted: {server.wait()}")
        time.sleep(0.01)
    return StoreMount(place=place, objects=objects, log=log, server=server)


def _unmount(mount: StoreMount) -> None:
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    command = [tool, "-u", "-z"] if tool else ["umount", "-l"]
    subprocess.run([*command, str(mount.place)], check=False, capture_output=True)
    try:
        mount.server.wait(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        mount.server.kill()
        mount.server.wait()
