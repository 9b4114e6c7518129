"""What this machine, or the container this process runs in, has to offer."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
USABLE_SHARE = 0.85
"""Of the memory; the rest is for the driver, the scheduler and the page cache."""


def n_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the memory this process may use: the machine's, or less where a container limits it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_LIMITS:
        try:
            limit = path.read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            memory = min(memory, int(limit))
    return memory


def memory_per_worker_bytes(n_workers: int, *, asked_mb: int | None) -> int:
    """Return the memory each worker may use: what was asked for, or an equal share of most of the machine's."""
    if asked_mb is not None:
        return asked_mb * 1_000_000
    return int(memory_bytes() * USABLE_SHARE) // max(1, n_workers)
