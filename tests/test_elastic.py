"""The executor that grows: in this process while there is little to do, on a cluster when there is more."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import ElasticExecutor, SerialExecutor, Task, TaskResult, n_workers_used

WORK_S = 2**-7
"""What a task takes on the clock of these tests; the multiples are exact."""
N_WORKERS = 8


class Clock:
    """Goes on only while a task works: how busy the machine is decides nothing."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s


CLOCK = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_extract.tasks.time", CLOCK)


def work(item: object, slides: SlideCache) -> tuple[object, int]:
    """Return the item, and which cache of slides, hence which process, it was given."""
    CLOCK.sleep(WORK_S)
    return item, id(slides)


def tasks_for(n: int) -> list[Task]:
    return [Task(stage="extract", slide_ordinal=0, slide_id="s", index=i, function=work, item=i) for i in range(n)]


class Cluster:
    """Stands for one: an executor with slides of its own, and a note of what became of it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.slides = SlideCache()

    @contextmanager
    def open(self) -> Iterator[SerialExecutor]:
        self.events.append("started")
        try:
            yield SerialExecutor(slides=self.slides, worker_memory_bytes=1, n_workers=N_WORKERS)
        except BaseException as error:
            self.events.append(type(error).__name__)
            raise
        finally:
            self.events.append("closed")

    def count(self, results: Iterable[TaskResult]) -> int:
        """How many of the results were made on it."""
        return sum(isinstance(r.value, tuple) and r.value[1] == id(self.slides) for r in results)


def elastic(cluster: Cluster, *, patience_s: float) -> ElasticExecutor:
    return ElasticExecutor(
        slides=SlideCache(),
        n_workers=N_WORKERS,
        worker_memory_bytes=7,
        open_cluster=cluster.open,
        patience_s=patience_s,
    )


def test_a_small_job_starts_no_cluster() -> None:
    cluster = Cluster()
    with elastic(cluster, patience_s=60) as executor:
        assert (executor.n_workers, executor.worker_memory_bytes) == (N_WORKERS, 7)
        results = list(executor.run(tasks_for(5)))
        assert n_workers_used(executor) == 1
    assert [result.task.index for result in results] == list(range(5))
    assert cluster.events == []


@pytest.mark.parametrize(
    ("n_units_after", "starts"),
    [
        pytest.param(0, False, id="the last one"),
        pytest.param(30, False, id="less than the start of a cluster takes"),
        pytest.param(100_000, True, id="much"),
        pytest.param(None, True, id="nobody knows"),
    ],
)
def test_a_cluster_is_started_for_work_that_is_worth_it(n_units_after: int | None, starts: bool) -> None:
    cluster = Cluster()
    tasks = [replace(task, n_units_after=n_units_after) for task in tasks_for(6)]
    with elastic(cluster, patience_s=2 * WORK_S) as executor:
        results = list(executor.run(tasks))
    assert [result.task.index for result in results] == list(range(6))
    assert ("started" in cluster.events) is starts


def test_what_is_left_after_a_while_goes_to_a_cluster() -> None:
    cluster = Cluster()
    with elastic(cluster, patience_s=3 * WORK_S) as executor:
        results = list(executor.run(tasks_for(10)))
        assert [result.task.index for result in results] == list(range(10))
        assert cluster.count(results) == 10 - 3
        assert cluster.count(executor.run(tasks_for(4))) == 4  # later stages begin there
        assert cluster.events == ["started"]
        assert n_workers_used(executor) == N_WORKERS
    assert cluster.events == ["started", "closed"]


def test_work_of_earlier_stages_counts() -> None:
    cluster = Cluster()
    with elastic(cluster, patience_s=3 * WORK_S) as executor:
        assert cluster.count(executor.run(tasks_for(4))) == 1
        assert cluster.count(executor.run(tasks_for(4))) == 4


def test_no_cluster_is_started_when_nothing_is_left() -> None:
    cluster = Cluster()
    with elastic(cluster, patience_s=3 * WORK_S) as executor:
        assert len(list(executor.run(tasks_for(3)))) == 3
        assert list(executor.run([])) == []
    assert cluster.events == []


def test_one_worker_is_never_worth_a_cluster() -> None:
    cluster = Cluster()
    with replace(elastic(cluster, patience_s=0), n_workers=1) as executor:
        assert len(list(executor.run(tasks_for(3)))) == 3
        assert n_workers_used(executor) == 1
    assert cluster.events == []


@pytest.mark.parametrize("n_workers", [1, N_WORKERS])
def test_in_isolation_nothing_runs_in_this_process(n_workers: int) -> None:
    cluster = Cluster()
    with replace(elastic(cluster, patience_s=60), n_workers=n_workers, isolate=True) as executor:
        assert list(executor.run([])) == []
        assert cluster.events == []
        for _ in range(2):
            results = list(executor.run(tasks_for(3)))
            assert [result.task.index for result in results] == [0, 1, 2]
            assert cluster.count(results) == 3
    assert cluster.events == ["started", "closed"]


def test_a_task_in_this_process_is_watched_and_the_watch_ends_before_a_cluster_starts() -> None:
    cluster, names = Cluster(), []

    def note_threads(item: object, _slides: SlideCache) -> object:
        names.append([thread.name for thread in threading.enumerate()].count("hang watch"))
        CLOCK.sleep(WORK_S)
        return item

    tasks = [replace(task, function=note_threads) for task in tasks_for(10)]
    with replace(elastic(cluster, patience_s=3 * WORK_S), task_timeout_s=60) as executor:
        assert len(list(executor.run(tasks))) == 10
    assert names[0] == 1
    assert names[-1] == 0  # on the cluster, which has its own


def test_a_failure_reaches_the_cluster() -> None:
    """Its report must not be written, nor its slides closed, while tasks are still running."""

    def interrupt(executor: ElasticExecutor) -> None:
        with executor:
            next(iter(executor.run(tasks_for(3))))
            raise KeyboardInterrupt

    cluster = Cluster()
    with pytest.raises(KeyboardInterrupt):
        interrupt(elastic(cluster, patience_s=0))
    assert cluster.events == ["started", "KeyboardInterrupt", "closed"]


def test_a_stream_that_waits_for_results_is_asked_again_after_each() -> None:
    """The next task exists only once the one before is done, here and on the cluster."""
    cluster, done = Cluster(), list[int]()

    def stream() -> Iterator[Task]:
        for number, task in enumerate(tasks_for(6)):
            assert len(done) == number
            yield task

    with elastic(cluster, patience_s=3 * WORK_S) as executor:
        for result in executor.run(stream()):
            done.append(result.task.index)
    assert done == list(range(6))
