"""Whatever happens to a cluster of nodes, every task has one result, nobody innocent is blamed, and nothing drifts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from tests.cluster.helpers_fake import FakeCluster, Trouble
from wsi_extract.cluster import placement, roll, schedule
from wsi_extract.cluster.cluster_calls import ClusterCalls
from wsi_extract.cluster.node_group import HOME
from wsi_extract.cluster.parcels import Destination, ParcelKind
from wsi_extract.cluster.schedule import DaskExecutor
from wsi_extract.cluster.shift import Shift
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task, TaskResult

Identity = tuple[str, int, int]
KILLERS = frozenset({(3, 5), (11, 0)})
CALM = Trouble()


def nothing(_item: object, _slides: SlideCache) -> None:
    return None


def identity(task: Task) -> Identity:
    return task.stage, task.slide_ordinal, task.index


@dataclass(kw_only=True)
class Stream:
    """Two stages of tasks: those of the second come to light as those of the first are done, as in a run."""

    n_slides: int
    random: random.Random
    surveyed: list[int] = field(default_factory=list)
    n_surveys: int = 0
    asked: list[Task] = field(default_factory=list)

    def task(self, stage: str, slide: int, index: int) -> Task:
        at_home = self.random.random() < 0.1
        task = Task(
            stage=stage,
            slide_ordinal=slide,
            slide_id=f"s{slide}",
            index=index,
            function=nothing,
            item=stage,
            at_home=at_home,
        )
        self.asked.append(task)
        return task

    def tasks(self) -> Iterator[Task | None]:
        for slide in range(self.n_slides):
            yield self.task("survey", slide, 99)
        while self.n_surveys < self.n_slides or self.surveyed:
            if not self.surveyed:
                yield None
                continue
            slide = self.surveyed.pop(0)
            for index in range(self.random.choice([0, 1, 4, 40])):
                yield self.task("extract", slide, index)

    def take(self, result: TaskResult) -> None:
        if result.task.stage == "survey":
            self.n_surveys += 1
            self.surveyed.append(result.task.slide_ordinal)


def destination(item: object) -> Destination | None:
    return None if item == "survey" else cast("Destination", ParcelKind.BLOCK)


@dataclass(kw_only=True)
class Played:
    cluster: FakeCluster
    executor: DaskExecutor
    stream: Stream
    results: list[TaskResult]
    shift: Shift
    said: list[str]


def play(
    monkeypatch: pytest.MonkeyPatch, *, seed: int, trouble: Trouble, n_workers: tuple[int, ...] = (2, 3, 1, 2)
) -> Played:
    """Carry out a run, and check what holds for every one."""
    cluster = FakeCluster(n_workers=n_workers, seed=seed, trouble=trouble)
    shifts: list[Shift] = []

    def new_shift(**given: object) -> Shift:
        shifts.append(Shift(**given))  # type: ignore[arg-type]  # as they are
        return shifts[-1]

    for module in (schedule, roll):
        monkeypatch.setattr(module, "time", cluster.clock)
    monkeypatch.setattr(schedule, "destination_of", destination)
    monkeypatch.setattr(schedule, "Shift", new_shift)
    said: list[str] = []
    executor = DaskExecutor(
        calls=cast("ClusterCalls", cluster),
        n_workers=n_workers[HOME],
        worker_memory_bytes=10**9,
        has_nodes=True,
        say=said.append,
    )
    stream = Stream(n_slides=30, random=random.Random(seed))
    results = []
    for result in executor.run(stream.tasks()):
        results.append(result)
        stream.take(result)
    check_every_task_has_one_result(stream, results)
    check_nothing_drifts(shifts[0])
    assert not [future for worker in cluster.workers.values() for future in worker.holds]
    return Played(cluster=cluster, executor=executor, stream=stream, results=results, shift=shifts[0], said=said)


def check_every_task_has_one_result(stream: Stream, results: list[TaskResult]) -> None:
    assert sorted(identity(result.task) for result in results) == sorted(map(identity, stream.asked))


def check_nothing_drifts(shift: Shift) -> None:
    assert shift.is_over
    assert (shift.n_delivering, len(shift.in_flight), len(shift.made), len(shift.casualties)) == (0, 0, 0, 0)
    assert not +shift.n_out
    assert not -shift.n_out


def blamed(played: Played) -> set[tuple[int, int]]:
    return {(result.task.slide_ordinal, result.task.index) for result in played.results if result.fault is not None}


SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_that_come_and_go(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    trouble = Trouble(crashes=0.01, losses=0.02, cuts=0.02)
    played = play(monkeypatch, seed=seed, trouble=trouble)
    unlucky = {key for key, n_deaths in played.cluster.deaths_alone.items() if n_deaths >= 2}
    assert blamed(played) <= {(slide, index) for _, slide, index in unlucky}


@pytest.mark.parametrize("seed", SEEDS)
def test_tasks_that_kill_workers_are_blamed_once_each(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    trouble = Trouble(losses=0.01, cuts=0.01, killers=KILLERS)
    played = play(monkeypatch, seed=seed, trouble=trouble)
    there = {(task.slide_ordinal, task.index) for task in played.stream.asked}
    assert blamed(played) == KILLERS & there


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_that_cannot_read_or_write_cost_no_slide(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    trouble = Trouble(losses=0.01, bad_nodes=frozenset({2}), blind_share=0.1, lost_results=0.01)
    played = play(monkeypatch, seed=seed, trouble=trouble)
    assert not blamed(played)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_whose_workers_die_of_everything_costs_no_slide(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """It has less memory than the first one, say: what it dies of goes well at home, and then it gets no more."""
    played = play(monkeypatch, seed=seed, trouble=Trouble(crashes=0.002, deadly_nodes=frozenset({1})))
    assert not blamed(played)
    assert any("node 1 takes no further part: its workers die of what goes well" in line for line in played.said)


def test_the_window_bounds_what_waits_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(monkeypatch, seed=0, trouble=CALM, n_workers=(1, 4, 4))
    assert 0 < played.cluster.most_held <= placement.WINDOW_PER_THREAD * 4
