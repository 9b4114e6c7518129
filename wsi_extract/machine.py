"""What this machine, or the container this process runs in, has to offer.

Containers limit processes by control groups. A limit holds for all groups below, so the least on the way from the
process's own group up to the root counts. There are two versions of them, which one machine may use side by side: in
version 2 all limits are in one tree, in version 1 each kind has its own. Where a container sees only its part of the
tree, the path of its group may lead nowhere; its limits are at the root of what it sees then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
GROUPS = "sys/fs/cgroup"
UNIFIED = ("", "unified")
"""Where the tree of version 2 is, below `GROUPS`: alone, or beside those of version 1."""
MEMORY_LIMITS = ("memory.max", "memory.high")
"""Above the first the kernel kills, above the second it slows down and takes memory away."""
USABLE_SHARE = 0.85
"""Of the memory; the rest is for the driver, the scheduler and the page cache."""


def n_cores(*, root: Path = ROOT) -> int:
    """Return the number of cores this process may use, at least one.

    A quota of 3.5 cores counts as 3: workers never stand still for the lack of half a core, and the driver has it.

    Parameters
    ----------
    root
        Where the system's files begin.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *(int(quota) for quota in _quotas(root))]))


def memory_bytes(*, root: Path = ROOT) -> int:
    """Return the memory this process may use: the machine's, or less where a container limits it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([memory, *_memory_limits(root)])


def memory_per_worker_bytes(n_workers: int, *, asked_mb: int | None) -> int:
    """Return the memory each worker may use: what was asked for, or an equal share of most of the machine's."""
    if asked_mb is not None:
        return asked_mb * 1_000_000
    return int(memory_bytes() * USABLE_SHARE) // max(1, n_workers)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores that the process's groups may use, as far as they are limited."""
    for folder in _groups_of(root, "", trees=UNIFIED):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        yield from _ratio(quota, period)
    for folder in _groups_of(root, "cpu", trees=("cpu", "cpu,cpuacct", "cpuacct,cpu")):
        yield from _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> Iterator[float]:
    if quota.isdecimal() and period.isdecimal() and int(period):  # no limit is "max" or -1
        yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    paths = [folder / name for folder in _groups_of(root, "", trees=UNIFIED) for name in MEMORY_LIMITS]
    paths += [folder / "memory.limit_in_bytes" for folder in _groups_of(root, "memory", trees=("memory",))]
    for path in paths:
        limit = _read(path)
        if limit.isdecimal():
            yield int(limit)


def _groups_of(root: Path, controller: str, *, trees: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folders of the process's group and all above it, wherever the tree may be: they need not exist.

    Parameters
    ----------
    controller
        The kind of limit, of version 1; empty for version 2.
    trees
        Names the tree may have below `GROUPS`.
    """
    group = _group_of(root, controller)
    for tree in trees:
        for each in (group, *group.parents):
            yield root / GROUPS / tree / each


def _group_of(root: Path, controller: str) -> PurePosixPath:
    """Return the path of the process's group below its tree; that of the tree where it is unknown or out of sight."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and controller in controllers.split(",") and ".." not in PurePosixPath(path).parts:
            return PurePosixPath(path.lstrip("/"))
    return PurePosixPath()


def _read(path: Path) -> str:
    """Return a small file's text, empty where there is none or it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
