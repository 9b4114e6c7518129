"""The Dask executor: every task once, a bounded window, faults as values, a readable dashboard."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, wait

from wsi_extract import bundles
from wsi_extract.errors import EnvironmentFaultError, SlideError
from wsi_extract.model import FaultClass
from wsi_extract.schedule import (
    WINDOW_PER_THREAD,
    DaskExecutor,
    _results_of,
    dask_executor,
    existing_cluster,
    local_cluster,
)
from wsi_extract.slides import SlideCache
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


def die_on_three(item: int, slides: SlideCache) -> int:
    if item == 3:
        os._exit(1)
    return item


def die_on_seven(item: int, slides: SlideCache) -> int:
    if item == 7:
        os._exit(1)
    time.sleep(0.002)
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
        executor.patience_s = 0.5
        client.retire_workers(close_workers=True)
        with pytest.raises(EnvironmentFaultError, match="no workers"):
            list(executor.run(tasks_for(double, 3)))


def test_a_bundle_that_kills_its_workers_costs_only_the_task_that_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "TAIL_SHARE", 1e9)  # bundle from the second result on
    with (
        local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as client,
        dask_executor(client, worker_memory_bytes=10**9, report_path=None) as executor,
    ):
        results = list(executor.run(tasks_for(die_on_seven, 12)))
    assert sorted(result.value for result in results if isinstance(result.value, int)) == [*range(7), *range(8, 12)]
    (fault,) = [result.fault for result in results if result.fault is not None]
    assert fault.fault_class is FaultClass.WORKER
    assert "block 7" in fault.message


def test_a_result_that_died_with_its_worker_is_made_again() -> None:
    """It may die after the driver heard of it, and before the driver has fetched it."""
    with (
        local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as client,
        dask_executor(client, worker_memory_bytes=10**9, report_path=None) as executor,
    ):
        bundler = bundles.Bundler(tasks_for(double, 1), n_workers=1)
        bundle = bundler.next(n_in_flight=0)
        future = executor._submit(bundle)
        wait(future)
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        while future.status == "finished":
            time.sleep(0.005)
        (result,) = _results_of(future, bundle, bundler)
    assert result.fault is None
    assert isinstance(result.value, tuple)
    assert result.value[1] != pid


def test_a_task_that_kills_its_workers_becomes_a_fault() -> None:
    with (
        local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as client,
        dask_executor(client, worker_memory_bytes=10**9, report_path=None) as executor,
    ):
        results = {result.task.index: result for result in executor.run(tasks_for(die_on_three, 6))}
    fault = results[3].fault
    assert fault is not None
    assert fault.fault_class is FaultClass.WORKER
    assert "died" in fault.message
