"""The Dask executor: every task once, a bounded window, faults as values, a readable dashboard."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from wsi_extract.cluster import bundles
from wsi_extract.cluster.schedule import (
    WINDOW_PER_THREAD,
    DaskExecutor,
    dask_executor,
    existing_cluster,
    local_cluster,
)
from wsi_extract.errors import EnvironmentFaultError, SlideError
from wsi_extract.model import FaultClass
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task

pytestmark = pytest.mark.xdist_group("dask")
N_WORKERS = 2


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_cluster(n_workers=N_WORKERS, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as cluster_client:
        yield cluster_client


@pytest.fixture
def executor(client: Client) -> Iterator[DaskExecutor]:
    with dask_executor(client, worker_memory_bytes=10**9, report_path=None) as prepared:
        yield prepared


def double(item: int, slides: SlideCache) -> tuple[int, int]:
    assert isinstance(slides, SlideCache)
    return 2 * item, os.getpid()


def fail_on_odd(item: int, slides: SlideCache) -> int:
    if item % 2:
        raise SlideError(f"tile {item} is damaged")
    return item


def fill_disk(item: int, slides: SlideCache) -> int:
    raise OSError(28, "No space left on device")


def wait_a_little(item: int, slides: SlideCache) -> int:
    time.sleep(0.05)
    return item


def signals_blocked(_item: object, _slides: SlideCache) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def tasks_for(function: Any, n: int, *, stage: str = "extract") -> list[Task]:
    return [
        Task(stage=stage, slide_ordinal=i // 4, slide_id=f"s{i // 4}", index=i, function=function, item=i)
        for i in range(n)
    ]


def test_every_task_runs_once_in_worker_processes(executor: DaskExecutor) -> None:
    results = list(executor.run(tasks_for(double, 40)))
    values = [result.value for result in results]
    assert sorted(value[0] for value in values if isinstance(value, tuple)) == [2 * i for i in range(40)]
    pids = {value[1] for value in values if isinstance(value, tuple)}
    assert os.getpid() not in pids
    assert len(pids) == N_WORKERS


def test_tasks_are_taken_only_as_there_is_room(executor: DaskExecutor) -> None:
    taken = 0

    def count() -> Iterator[Task]:
        nonlocal taken
        for task in tasks_for(double, 60):
            taken += 1
            yield task

    done = 0
    for _ in executor.run(count()):
        done += 1
        assert taken - done <= WINDOW_PER_THREAD * N_WORKERS
    assert done == 60


def test_results_are_yielded_before_tasks_that_depend_on_them_are_taken(executor: DaskExecutor) -> None:
    done: list[int] = []

    def stream() -> Iterator[Task | None]:
        first, *others = tasks_for(double, 20)
        yield first
        while not done:
            yield None
        yield from others

    for result in executor.run(stream()):
        done.append(result.task.index)
    assert done[0] == 0
    assert sorted(done) == list(range(20))


def test_workers_never_see_ctrl_c(executor: DaskExecutor) -> None:
    """It reaches every process of a terminal, but only the driver decides what it means."""
    (result,) = executor.run(tasks_for(signals_blocked, 1))
    assert result.value is True
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_a_failing_slide_is_a_value_and_the_rest_goes_on(executor: DaskExecutor) -> None:
    results = list(executor.run(tasks_for(fail_on_odd, 10)))
    faults = [result.fault for result in results if result.fault is not None]
    assert len(faults) == 5
    assert {fault.fault_class for fault in faults} == {FaultClass.SLIDE}
    assert sorted(result.value for result in results if isinstance(result.value, int)) == [0, 2, 4, 6, 8]


def test_a_full_disk_is_not_blamed_on_the_slide(executor: DaskExecutor) -> None:
    (result,) = executor.run(tasks_for(fill_disk, 1))
    assert result.fault is not None
    assert result.fault.fault_class is FaultClass.ENVIRONMENT


def test_keys_give_one_bar_per_stage_and_one_group_per_slide(executor: DaskExecutor, client: Client) -> None:
    for _ in executor.run(tasks_for(double, 8, stage="survey")):
        pass
    prefixes = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert "survey" in prefixes
    assert not [prefix for prefix in prefixes if prefix.startswith("survey-")]


def test_nothing_is_left_on_the_cluster(executor: DaskExecutor, client: Client) -> None:
    stopped = executor.run(tasks_for(double, 30))
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]  # it is a generator
    for _ in range(100):
        n_tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        if n_tasks == 0:
            return
        time.sleep(0.05)
    raise AssertionError(f"{n_tasks} tasks are still on the scheduler")


def test_a_report_is_written(client: Client, tmp_path: Path) -> None:
    report = tmp_path / "out" / "dask-report.html"
    with dask_executor(client, worker_memory_bytes=None, report_path=report) as executor:
        list(executor.run(tasks_for(double, 4)))
        assert executor.worker_memory_bytes == 10**9
    assert report.stat().st_size > 1000


def test_no_scheduler_is_a_clear_environment_fault() -> None:
    with (
        pytest.raises(EnvironmentFaultError, match="no Dask scheduler"),
        existing_cluster("tcp://127.0.0.1:1", patience_s=0.5),
    ):
        pass


def test_an_existing_cluster_is_used(client: Client) -> None:
    with (
        existing_cluster(client.scheduler_info()["address"]) as other,
        dask_executor(other, worker_memory_bytes=None, report_path=None) as executor,
    ):
        assert len(list(executor.run(tasks_for(double, 6)))) == 6


def test_two_runs_on_one_scheduler_do_not_meet(client: Client) -> None:
    """Equal keys would give one run the results of the other; one plugin for both would end with the first."""
    with dask_executor(client, worker_memory_bytes=None, report_path=None) as first:
        with dask_executor(client, worker_memory_bytes=None, report_path=None) as second:
            doubled, failed = second.run(tasks_for(double, 12)), first.run(tasks_for(fail_on_odd, 12))
            pairs = list(zip(doubled, failed, strict=True))
        assert all(isinstance(result.value, tuple) for result, _ in pairs)
        assert all(result.fault is not None or isinstance(result.value, int) for _, result in pairs)
        assert len(list(first.run(tasks_for(double, 6)))) == 6


def test_workers_of_several_threads_are_refused() -> None:
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
        pytest.raises(EnvironmentFaultError, match="--nthreads 1"),
        dask_executor(client, worker_memory_bytes=None, report_path=None),
    ):
        pass


def test_a_cluster_without_workers_is_not_waited_for_in_vain() -> None:
    with (
        local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as client,
        dask_executor(client, worker_memory_bytes=10**9, report_path=None) as executor,
    ):
        executor.calls.patience_s = 0.5
        client.retire_workers(close_workers=True)
        with pytest.raises(EnvironmentFaultError, match="no workers"):
            list(executor.run(tasks_for(double, 3)))


def test_what_takes_long_together_does_not_hang(monkeypatch: pytest.MonkeyPatch, executor: DaskExecutor) -> None:
    """Each task has its own time, not all that went to a worker together."""
    monkeypatch.setattr(bundles, "TAIL_SHARE", 1e9)
    with dask_executor(executor.calls.client, worker_memory_bytes=10**9, report_path=None, task_timeout_s=0.5) as brisk:
        results = list(brisk.run(tasks_for(wait_a_little, 24)))
    assert [result.fault for result in results if result.fault is not None] == []


def test_a_report_that_cannot_be_written_costs_nothing(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with (
        caplog.at_level(logging.WARNING),
        dask_executor(client, worker_memory_bytes=None, report_path=tmp_path / "file" / "report.html") as executor,
    ):
        assert len(list(executor.run(tasks_for(double, 4)))) == 4
    (record,) = caplog.records
    assert "report" in record.getMessage()
    with dask_executor(client, worker_memory_bytes=None, report_path=Path("/dev/full")) as executor:
        list(executor.run(tasks_for(double, 4)))


def test_a_failure_is_not_hidden_by_its_report(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(EnvironmentFaultError, match="the real one"),
        dask_executor(client, worker_memory_bytes=None, report_path=tmp_path / "file" / "report.html"),
    ):
        raise EnvironmentFaultError("the real one", "")
