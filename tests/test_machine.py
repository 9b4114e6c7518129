"""How many cores and how much memory a process may use, from trees as kernels and containers show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.machine import memory_bytes, memory_per_worker_bytes, n_cores

MANY = 64
GIB = 2**30


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)), raising=False)


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root: of ``proc/self/cgroup``, and of the groups below ``sys/fs/cgroup``."""
    for name, text in files.items():
        path = root / ("proc/self/cgroup" if name == "self" else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, MANY, id="no groups at all"),
        pytest.param({"self": "0::/", "cpu.max": "max 100000"}, MANY, id="no limit"),
        pytest.param({"self": "0::/", "cpu.max": "400000 100000"}, 4, id="of a container"),
        pytest.param({"self": "0::/", "cpu.max": "350000 100000"}, 3, id="half a core is the driver's"),
        pytest.param({"self": "0::/", "cpu.max": "50000 100000"}, 1, id="never less than one"),
        pytest.param({"self": "0::/", "cpu.max": "9900000 100000"}, MANY, id="more than there is"),
        pytest.param({"self": "0::/", "cpu.max": "4 0"}, MANY, id="nonsense"),
        pytest.param({"self": "0::/", "cpu.max": ""}, MANY, id="empty"),
        pytest.param({"self": "0::/a/b", "a/b/cpu.max": "200000 100000"}, 2, id="of its own group"),
        pytest.param(
            {"self": "0::/a/b", "a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3, id="of the group above"
        ),
        pytest.param(
            {"self": "0::/a/b", "a/b/cpu.max": "800000 100000", "a/cpu.max": "300000 100000"}, 3, id="the least"
        ),
        pytest.param({"self": "0::/a", "b/cpu.max": "100000 100000"}, MANY, id="of another's group"),
        pytest.param({"self": "0::/../../x", "cpu.max": "200000 100000"}, 2, id="out of sight"),
        pytest.param({"self": "0::/docker/1f", "cpu.max": "200000 100000"}, 2, id="a path that leads nowhere"),
        pytest.param(
            {"self": "4:cpu,cpuacct:/d/1\n1:name=systemd:/x", "cpu,cpuacct/d/1/cpu.cfs_quota_us": "250000",
             "cpu,cpuacct/d/1/cpu.cfs_period_us": "100000"}, 2, id="version 1",
        ),
        pytest.param(
            {"self": "4:cpuacct,cpu:/d", "cpuacct,cpu/d/cpu.cfs_quota_us": "300000",
             "cpuacct,cpu/d/cpu.cfs_period_us": "100000"}, 3, id="version 1, the other way round",
        ),
        pytest.param({"self": "0::/", "cpu.max": "\u00b2 100000"}, MANY, id="a digit that is no number"),
        pytest.param({"self": "0::/..", "cpu.max": "200000 100000"}, 2, id="above what is in sight"),
        pytest.param({"self": f"0::/{'n' * 300}/x", "cpu.max": "200000 100000"}, 2, id="no name of a folder"),
        pytest.param({"self": "0::/a:b", "a:b/cpu.max": "200000 100000"}, 2, id="a colon in the name"),
        pytest.param(
            {"self": "4:cpu:/d", "cpu/d/cpu.cfs_quota_us": "-1", "cpu/d/cpu.cfs_period_us": "100000"}, MANY,
            id="version 1, no limit",
        ),
        pytest.param(
            {"self": "4:cpu,cpuacct:/docker/1", "cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5,
            id="version 1, in a container that sees its part",
        ),
        pytest.param(
            {"self": "3:cpuset:/\n0::/u", "unified/u/cpu.max": "600000 100000"}, 6, id="both versions side by side"
        ),
    ],
)  # fmt: skip
def test_cores_are_those_that_the_groups_leave(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert n_cores(root=tree(tmp_path, files)) == expected


def test_cores_that_the_process_is_bound_to_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert n_cores(root=tmp_path) == 2
    assert n_cores(root=tree(tmp_path, {"self": "0::/", "cpu.max": "400000 100000"})) == 2


@given(quota_us=st.integers(1, 10**8), period_us=st.integers(1_000, 10**6))
def test_workers_never_use_more_than_the_quota(
    tmp_path_factory: pytest.TempPathFactory, quota_us: int, period_us: int
) -> None:
    root = tree(tmp_path_factory.mktemp("root"), {"self": "0::/", "cpu.max": f"{quota_us} {period_us}"})
    n = n_cores(root=root)
    assert 1 <= n <= MANY
    assert n == 1 or n * period_us <= quota_us
    assert n == MANY or (n + 1) * period_us > quota_us


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"self": "0::/", "memory.max": str(GIB)}, GIB, id="of a container"),
        pytest.param(
            {"self": "0::/", "memory.max": str(GIB), "memory.high": str(GIB // 2)}, GIB // 2, id="slowed down"
        ),
        pytest.param({"self": "0::/a/b", "a/memory.max": str(GIB), "a/b/memory.max": "max"}, GIB, id="group above"),
        pytest.param({"self": "0::/a/b", "a/b/memory.high": str(GIB)}, GIB, id="own group"),
        pytest.param({"self": "9:memory:/d/1", "memory/d/1/memory.limit_in_bytes": str(GIB)}, GIB, id="version 1"),
        pytest.param({"self": "9:memory:/d/1", "memory/memory.limit_in_bytes": str(GIB)}, GIB, id="version 1, part"),
    ],
)
def test_memory_is_what_the_groups_leave(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert memory_bytes(root=tree(tmp_path, files)) == expected


@pytest.mark.parametrize("text", ["max", "", "9223372036854771712", "-1"])
def test_memory_without_a_limit_is_that_of_the_machine(tmp_path: Path, text: str) -> None:
    whole = memory_bytes(root=tmp_path)
    assert memory_bytes(root=tree(tmp_path, {"self": "0::/", "memory.max": text})) == whole
    assert whole <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_workers_share_most_of_the_memory_or_have_what_was_asked() -> None:
    assert memory_per_worker_bytes(3, asked_mb=500) == 500_000_000
    assert 0 < memory_per_worker_bytes(4, asked_mb=None) * 4 < memory_bytes()
    assert memory_per_worker_bytes(0, asked_mb=None) == memory_per_worker_bytes(1, asked_mb=None)
