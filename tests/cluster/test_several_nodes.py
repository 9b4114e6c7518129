"""Two nodes share a run: same data set whoever is lost, slides stay together, files travel, faults are fair."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it comes without
import pytest
from distributed import get_worker

from tests.cluster.conftest import LongRun
from tests.cluster.helpers_two_nodes import MEMORY_BYTES, TwoNodes, two_nodes
from tests.helpers_run import Inputs, content_of, extract, make_inputs
from wsi_extract.cluster.node_group import HOME, rank_of
from wsi_extract.cluster.schedule import DaskExecutor, dask_executor
from wsi_extract.errors import SlideError
from wsi_extract.model import FaultClass
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task, TaskResult

pytestmark = pytest.mark.xdist_group("several_nodes")
OTHER = 1


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def alone(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The data set that one process makes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    extract(inputs, out)
    return content_of(out)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path_factory.mktemp("nodes"), n_workers=2) as both:
        yield both


@pytest.fixture
def nodes(cluster: TwoNodes) -> TwoNodes:
    """The cluster, once all are back that the test before has killed."""
    cluster.restore()
    return cluster


@pytest.fixture
def said() -> list[str]:
    """What the executor tells of its nodes."""
    return []


@pytest.fixture
def executor(nodes: TwoNodes, said: list[str]) -> Iterator[DaskExecutor]:
    with dask_executor(
        nodes.client, worker_memory_bytes=MEMORY_BYTES, report_path=None, has_nodes=True, say=said.append
    ) as prepared:
        yield prepared


def tasks_for(function: Any, n: int, *, at_home: bool = False) -> list[Task]:
    return [
        Task(
            stage="extract",
            slide_ordinal=i // 4,
            slide_id=f"s{i // 4}",
            index=i,
            function=function,
            item=i,
            at_home=at_home,
        )
        for i in range(n)
    ]


def rank_here() -> int:
    return rank_of(get_worker().name)


def where(item: int, slides: SlideCache) -> int:
    time.sleep(0.01)
    return rank_here()


def fill_disk_of_other(item: int, slides: SlideCache) -> int:
    if rank_here() == OTHER:
        raise OSError(28, "No space left on device")
    return item


def lose_line_of_other(item: int, slides: SlideCache) -> int:
    if rank_here() == OTHER and item % 4 == 0:
        raise SlideError("slide s: it cannot be read") from OSError(19, "No such device")
    return item


def find_damage(item: int, slides: SlideCache) -> int:
    raise SlideError(f"tile {item} is damaged on node {rank_here()}")


def die_on_six(item: int, slides: SlideCache) -> int:
    if item == 6:
        os._exit(1)
    time.sleep(0.01)
    return rank_here()


def transfers_of(dask_worker: Any) -> tuple[int, list[tuple[str | None, int]]]:
    """The node of a worker, and to whom it gave how many bytes."""
    return rank_of(dask_worker.name), [(each["who"], each["total"]) for each in dask_worker.transfer_outgoing_log]


@pytest.mark.parametrize("store", ["zarr", "pixels"])
def test_the_data_set_is_that_of_one_process(
    executor: DaskExecutor, inputs: Inputs, tmp_path: Path, store: str
) -> None:
    extract(inputs, tmp_path / "alone", store=store)
    extract(inputs, tmp_path / "out", executor=executor, store=store)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "alone")
    assert set(executor._homes.values()) == {HOME, OTHER}
    assert executor.n_workers == 3


def test_files_travel_from_worker_to_worker(
    executor: DaskExecutor, nodes: TwoNodes, inputs: Inputs, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """What driver and scheduler fetch are records."""
    before = nodes.client.run(transfers_of)
    extract(inputs, tmp_path / "out", executor=executor)
    assert content_of(tmp_path / "out") == alone
    at_home = {address for address, (rank, _) in before.items() if rank == HOME}
    n_bytes: defaultdict[bool, int] = defaultdict(int)
    for address, (rank, transfers) in nodes.client.run(transfers_of).items():
        for who, total in transfers[len(before[address][1]) :]:
            assert rank == OTHER or who not in at_home
            n_bytes[who in at_home] += total
    made = [slide_id for slide_id, node in executor._homes.items() if node == OTHER]
    of_files = sum(path.stat().st_size for name in made for path in (tmp_path / "out").glob(f"*2017/{name}/*.png"))
    assert of_files > 100_000
    assert n_bytes[True] > of_files
    assert n_bytes[False] < 50_000


def test_the_tasks_of_a_slide_run_on_one_node(executor: DaskExecutor) -> None:
    nodes_of = defaultdict(set)
    for result in executor.run(tasks_for(where, 80)):
        nodes_of[result.task.slide_id].add(result.value)
    assert all(len(nodes) == 1 for nodes in nodes_of.values())
    assert set.union(*nodes_of.values()) == {HOME, OTHER}


def test_what_must_be_at_home_runs_there(executor: DaskExecutor) -> None:
    assert {result.value for result in executor.run(tasks_for(where, 12, at_home=True))} == {HOME}


def test_a_full_disk_of_another_node_costs_that_node(executor: DaskExecutor, said: list[str]) -> None:
    results = list(executor.run(tasks_for(fill_disk_of_other, 24)))
    assert sorted(result.value for result in results if isinstance(result.value, int)) == list(range(24))
    assert any("node 1 takes no further part: No space left on device" in line for line in said)
    assert {result.value for result in executor.run(tasks_for(where, 12))} == {HOME}


def lose_scratch(dask_worker: Any, lost: str = "/nonexistent/worker") -> str:
    """Let a worker of the other node have no folder for its files; return the one it had."""
    had: str = dask_worker.local_directory
    if rank_of(dask_worker.name) == OTHER:
        dask_worker.local_directory = lost
    return had


def test_a_node_without_scratch_costs_that_node(
    executor: DaskExecutor,
    nodes: TwoNodes,
    inputs: Inputs,
    alone: dict[str, bytes],
    tmp_path: Path,
    said: list[str],
) -> None:
    folders = nodes.client.run(lose_scratch)
    try:
        extract(inputs, tmp_path / "out", executor=executor)
    finally:
        for address, folder in folders.items():
            nodes.client.run(lose_scratch, lost=folder, workers=[address])
    assert content_of(tmp_path / "out") == alone
    assert any("node 1 takes no further part" in line for line in said)


def test_what_another_node_cannot_read_is_read_at_home(executor: DaskExecutor) -> None:
    results = list(executor.run(tasks_for(lose_line_of_other, 24)))
    assert sorted(result.value for result in results if isinstance(result.value, int)) == list(range(24))


def test_a_damaged_slide_is_believed_wherever_it_was_read(executor: DaskExecutor) -> None:
    faults = [result.fault for result in executor.run(tasks_for(find_damage, 16))]
    texts = [fault.message for fault in faults if fault is not None and fault.fault_class is FaultClass.SLIDE]
    assert len(texts) == 16
    assert any("node 1" in text for text in texts)


def test_a_task_that_kills_workers_of_other_nodes_costs_only_itself(executor: DaskExecutor) -> None:
    results = list(executor.run(tasks_for(die_on_six, 16)))
    (fault,) = [result.fault for result in results if result.fault is not None]
    assert "block 6" in fault.message
    assert len(results) == 16


def test_nothing_is_left_on_the_cluster(
    executor: DaskExecutor, nodes: TwoNodes, inputs: Inputs, tmp_path: Path
) -> None:
    """Neither tasks nor files that nobody fetches any more."""
    extract(inputs, tmp_path / "out", executor=executor)
    stopped = executor.run(tasks_for(where, 60))
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]  # it is a generator
    until_s = time.monotonic() + 60
    while nodes.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    assert sum(nodes.client.run(lambda dask_worker: len(dask_worker.data)).values()) == 0


@dataclass(kw_only=True)
class Eventful:
    """An executor during whose run things happen, each when so many blocks are done."""

    executor: DaskExecutor
    events: dict[int, Callable[[], object]]
    n_workers: int = 3
    worker_memory_bytes: int = MEMORY_BYTES
    n_done: int = 0

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        for result in self.executor.run(tasks):
            self.n_done += result.task.stage == "extract"
            if self.n_done in self.events:
                self.events.pop(self.n_done)()
            yield result


def test_what_dies_costs_nothing_but_itself(nodes: TwoNodes, long_run: LongRun, tmp_path: Path) -> None:
    """A worker is replaced, of either node; a node that loses its power is not."""
    found = nodes.client.run(lambda dask_worker: (str(dask_worker.name), dask_worker.monitor.proc.pid))
    pids = dict(found.values())
    events: dict[int, Callable[[], object]] = {
        4: psutil.Process(pids["node-1-0"]).kill,
        10: psutil.Process(pids["node-0-0"]).kill,
        16: nodes.follower.kill,
    }
    said: list[str] = []
    with dask_executor(
        nodes.client, worker_memory_bytes=MEMORY_BYTES, report_path=None, has_nodes=True, say=said.append
    ) as executor:
        eventful = Eventful(executor=executor, events=events)
        extract(long_run.inputs, tmp_path / "out", executor=eventful, **long_run.settings)
    assert not events
    assert said[0] == "node 1 works with 2 workers"
    assert said[1:] in ([], ["node 1 has gone"])  # nobody looks for a node that nothing is wanted of
    assert content_of(tmp_path / "out") == long_run.alone
