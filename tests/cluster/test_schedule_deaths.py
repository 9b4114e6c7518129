"""Workers that die, hang or stop taking tasks: what that costs, and whom."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from distributed import Client, wait

from wsi_extract.cluster import bundles
from wsi_extract.cluster.schedule import TASK_TIMEOUT_S, DaskExecutor, dask_executor, local_cluster
from wsi_extract.errors import EnvironmentFaultError, SlideError
from wsi_extract.model import FaultClass
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task

pytestmark = pytest.mark.xdist_group("dask")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    with local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as client:
        yield client


@pytest.fixture
def client(cluster: Client) -> Client:
    """The cluster, once the worker that the test before has killed is back."""
    cluster.wait_for_workers(1, timeout=120)
    return cluster


def executor_of(client: Client, *, task_timeout_s: float = TASK_TIMEOUT_S) -> AbstractContextManager[DaskExecutor]:
    return dask_executor(client, worker_memory_bytes=10**9, report_path=None, task_timeout_s=task_timeout_s)


def process_of(item: int, slides: SlideCache) -> int:
    return os.getpid()


def tasks_for(function: Any, n: int) -> list[Task]:
    return [
        Task(stage="extract", slide_ordinal=i // 4, slide_id=f"s{i // 4}", index=i, function=function, item=i)
        for i in range(n)
    ]


def task_of(function: Any, item: object) -> Task:
    return Task(stage="extract", slide_ordinal=0, slide_id="s", index=0, function=function, item=item)


def die_on_seven(item: int, slides: SlideCache) -> int:
    if item == 7:
        os._exit(1)
    time.sleep(0.002)
    return item


def hang_on_seven(item: int, slides: SlideCache) -> int:
    if item == 7:
        ctypes.PyDLL(None).sleep(60)  # as native code that does not even give the interpreter back
    return item


def count_death(item: Path, slides: SlideCache) -> NoReturn:
    with item.open("a") as deaths:
        deaths.write("died\n")
    os._exit(1)


def die_twice(item: Path, slides: SlideCache) -> str:
    if item.exists() and item.read_text().count("died") == 2:
        return "alive"
    return count_death(item, slides)


def die(item: object, slides: SlideCache) -> NoReturn:
    os._exit(1)


def die_while_there(item: Path, slides: SlideCache) -> str:
    if item.exists():
        os._exit(1)
    return "alive"


def fail_slowly(item: float, slides: SlideCache) -> NoReturn:
    time.sleep(item)
    raise SlideError("damaged")


def hang(item: float, slides: SlideCache) -> None:
    time.sleep(item)


def set_pause(share: float, dask_worker: Any) -> None:
    dask_worker.memory_manager.memory_pause_fraction = share


def status_of(dask_worker: Any) -> str:
    return str(dask_worker.status.name)


def test_a_bundle_that_kills_its_workers_costs_only_the_task_that_did(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "TAIL_SHARE", 1e9)  # bundle from the second result on
    with executor_of(client) as executor:
        results = list(executor.run(tasks_for(die_on_seven, 12)))
    assert sorted(result.value for result in results if isinstance(result.value, int)) == [*range(7), *range(8, 12)]
    (fault,) = [result.fault for result in results if result.fault is not None]
    assert fault.fault_class is FaultClass.WORKER
    assert "died on block 7" in fault.message


def test_a_task_that_hangs_costs_only_itself(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "TAIL_SHARE", 1e9)
    with executor_of(client, task_timeout_s=0.5) as executor:
        results = list(executor.run(tasks_for(hang_on_seven, 12)))
    assert sorted(result.value for result in results if isinstance(result.value, int)) == [*range(7), *range(8, 12)]
    (fault,) = [result.fault for result in results if result.fault is not None]
    assert (fault.slide_id, fault.fault_class) == ("s1", FaultClass.WORKER)
    assert "hung" in fault.message


def test_three_workers_die_of_a_task_until_it_is_blamed(client: Client, tmp_path: Path) -> None:
    """Once beside others, twice alone: one worker may die of something else."""
    path = tmp_path / "deaths"
    with executor_of(client) as executor:
        (result,) = executor.run([task_of(count_death, path)])
    assert result.fault is not None
    assert path.read_text().count("died") == 3


def test_a_task_whose_worker_dies_of_something_else_is_not_blamed(client: Client, tmp_path: Path) -> None:
    with executor_of(client) as executor:
        (result,) = executor.run([task_of(die_twice, tmp_path / "deaths")])
    assert (result.value, result.fault) == ("alive", None)


def test_workers_that_are_all_paused_are_not_waited_for_for_ever(client: Client) -> None:
    with executor_of(client) as executor:
        assert executor.calls.stall_s == 3 * TASK_TIMEOUT_S + 60
        executor.calls.stall_s = 1.0
        client.run(set_pause, 1e-9)
        try:
            while set(client.run(status_of).values()) != {"paused"}:
                time.sleep(0.02)
            with pytest.raises(EnvironmentFaultError, match="paused"):
                list(executor.run(tasks_for(process_of, 3)))
        finally:
            client.run(set_pause, 0.8)


def test_a_result_that_died_with_its_worker_is_made_again(client: Client) -> None:
    """It may die after the driver heard of it, and before the driver has fetched it."""
    with executor_of(client) as executor:
        future = executor.calls.run_anywhere(tuple(tasks_for(process_of, 1)))
        wait(future)
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        while future.status == "finished":
            time.sleep(0.005)
        ((value, fault),) = executor.calls.fetch(future).outcomes
    assert fault is None
    assert isinstance(value, int)
    assert value != pid


def test_every_attempt_has_all_its_time(client: Client) -> None:
    with executor_of(client, task_timeout_s=1.0) as executor:
        (result,) = executor.run([task_of(fail_slowly, 0.7)])
    assert result.fault is not None
    assert (result.fault.fault_class, result.fault.n_attempts) == (FaultClass.SLIDE, 2)


def test_a_worker_that_hangs_says_where_in_one_line(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    with executor_of(client, task_timeout_s=0.3) as executor:
        (result,) = executor.run([task_of(hang, 60.0)])
    assert result.fault is not None
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert lines
    assert all(line.startswith("error: extract of slide s has not ended for 0 s: ") for line in lines)
    assert "This worker process ends" in lines[0]


def of_slides(function: Any, items: Iterable[object]) -> list[Task]:
    return [
        Task(stage="extract", slide_ordinal=i, slide_id=f"s{i}", index=0, function=function, item=item)
        for i, item in enumerate(items)
    ]


def test_workers_that_die_of_what_they_managed_before_end_the_run(client: Client, tmp_path: Path) -> None:
    switch = tmp_path / "dying"
    with executor_of(client) as executor:
        (first,) = executor.run(of_slides(die_while_there, [switch]))
        assert first.value == "alive"
        switch.touch()
        with pytest.raises(EnvironmentFaultError, match="whatever they read"):
            list(executor.run(of_slides(die_while_there, [switch] * 2)))


def test_two_deadly_slides_in_a_row_are_both_blamed(client: Client) -> None:
    with executor_of(client) as executor:
        list(executor.run(of_slides(process_of, [0])))
        results = list(executor.run(of_slides(die, range(2))))
    assert {result.task.slide_id for result in results if result.fault is not None} == {"s0", "s1"}
