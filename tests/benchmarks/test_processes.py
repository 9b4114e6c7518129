from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks import processes
from benchmarks.processes import FailedCommandError, Look, ProcessCost, descendants_of, run_measured

BUSY = "import time; end = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def test_cpu_time_of_a_busy_process_is_counted() -> None:
    cost = run_measured(python(BUSY.format(seconds=0.4)))
    assert 0.4 <= cost.cpu_s < 1.5
    assert cost.wall_s >= 0.4
    assert cost.cores_used(cost.started_s, cost.ended_s) > 0.5 * cost.cpu_s / cost.wall_s  # others may keep it waiting
    assert cost.worker_peak_bytes == 0
    assert 5e6 < cost.driver_peak_bytes < 200e6


def test_descendants_count_too() -> None:
    child = BUSY.format(seconds=0.4) + "\nbytearray(60_000_000)\nimport time; time.sleep(2)"  # looks may come late
    cost = run_measured(
        python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)")
    )
    assert cost.cpu_s >= 0.4
    assert cost.driver_cpu_s < cost.cpu_s - 0.35
    assert cost.worker_peak_bytes > 60e6
    assert cost.driver_peak_bytes < cost.worker_peak_bytes


def test_what_others_do_meanwhile_is_seen() -> None:
    busy = subprocess.Popen(python(BUSY.format(seconds=30)))
    try:
        assert run_measured(python("import time; time.sleep(1)")).others_cores > 0.2
    finally:
        busy.kill()
        busy.wait()


def test_the_end_is_not_awaited_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK_S", 120.0)
    start_s = time.perf_counter()
    assert run_measured(python("pass")).wall_s < 60
    assert time.perf_counter() - start_s < 60


def test_cores_are_those_that_were_given() -> None:
    own = os.sched_getaffinity(0)
    core = max(own)
    code = f"import os, sys; sys.exit(os.sched_getaffinity(0) != {{{core}}})"
    run_measured(python(code), cores=[core])
    assert os.sched_getaffinity(0) == own


def test_python_keeps_what_it_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("WSI_BENCH_KEPT", "1")
    run_measured(
        python("import os, sys; sys.exit(sys.dont_write_bytecode or os.environ['WSI_BENCH_KEPT'] != '1')"),
    )


def test_a_failure_tells_what_was_printed() -> None:
    with pytest.raises(FailedCommandError, match=r"ended with 3:\n(.|\n)*the disk is full"):
        run_measured(python("import sys; print('the disk is full', file=sys.stderr); sys.exit(3)"))


def test_busy_cores_are_counted_over_processes_that_come_and_go() -> None:
    looks = (
        Look(at_s=10.0, cpu_s={1: 1.0}),
        Look(at_s=11.0, cpu_s={1: 1.5, 2: 0.5}),
        Look(at_s=12.0, cpu_s={2: 1.5}),
        Look(at_s=13.0, cpu_s={3: 1.0}),
        Look(at_s=19.0, cpu_s={3: 7.0}),
    )
    cost = ProcessCost(
        started_s=10.0,
        wall_s=9.0,
        cpu_s=9.0,
        driver_cpu_s=0.0,
        driver_peak_bytes=0,
        worker_peak_bytes=0,
        looks=looks,
    )
    assert cost.cores_used(10.0, 13.0) == pytest.approx((0.5 + 0.5 + 1.0 + 1.0) / 3)
    assert cost.cores_used(13.0, 19.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="too short"):
        cost.cores_used(14.0, 18.0)


def test_a_process_is_its_own_first_descendant() -> None:
    assert descendants_of(os.getpid())[0] == os.getpid()
