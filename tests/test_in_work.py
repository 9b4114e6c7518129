"""Which slides are in work, as tasks go out and come back."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers_run import MEMORY_BYTES, ShuffledExecutor
from wsi_extract.console.reporters import SilentReporter
from wsi_extract.in_work import SlidesInWork, run_watched
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import SerialExecutor, Task


def echo(item: object, _slides: SlideCache) -> object:
    if item == 3:
        raise ValueError("no such thing")
    return item


def tasks(n_tasks: int) -> list[Task | None]:
    return [
        Task(stage="echo", slide_ordinal=i % 3, slide_id=f"s{i % 3}", index=i, function=echo, item=i)
        for i in range(n_tasks)
    ]


class CountingReporter(SilentReporter):
    """Counts what is out."""

    def __init__(self) -> None:
        self.n_out: Counter[str] = Counter()
        self.most_out = 0

    def take_up(self, slide_id: str) -> None:
        """Count it."""
        self.n_out[slide_id] += 1
        self.most_out = max(self.most_out, self.n_out.total())

    def put_down(self, slide_id: str) -> None:
        """Count it off."""
        self.n_out[slide_id] -= 1


@given(n_tasks=st.integers(0, 12), seed=st.integers(0, 9))
def test_all_that_goes_out_comes_back_also_what_fails(n_tasks: int, seed: int) -> None:
    reporter = CountingReporter()
    with SlideCache() as slides:
        results = list(run_watched(ShuffledExecutor(slides=slides, seed=seed), tasks(n_tasks), progress=reporter))
    assert sorted(result.task.index for result in results) == list(range(n_tasks))
    assert set(reporter.n_out.values()) <= {0}
    assert reporter.most_out == n_tasks


def test_a_serial_executor_has_one_task_out() -> None:
    reporter = CountingReporter()
    with SlideCache() as slides:
        serial = SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES)
        for result in run_watched(serial, tasks(3), progress=reporter):
            assert reporter.n_out.total() == 0
            assert result.fault is None
    assert reporter.most_out == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_a_slide_is_in_work_while_one_of_its_tasks_is_out(events: list[tuple[str, bool]]) -> None:
    work, n_out = SlidesInWork(), Counter[str]()
    for now_s, (name, goes_out) in enumerate(events):
        if goes_out:
            work.take_up(name, now_s=now_s)
            n_out[name] += 1
        elif n_out[name]:
            work.put_down(name, now_s=now_s)
            n_out[name] -= 1
    silences = work.silences(len(events))
    assert {name for name, _ in silences} == {name for name, n in n_out.items() if n}
    assert [silence_s for _, silence_s in silences] == sorted((s for _, s in silences), reverse=True)


def test_a_silence_begins_with_the_last_that_came_back() -> None:
    work = SlidesInWork()
    for now_s in (0, 1, 2):
        work.take_up("a", now_s=now_s)
    assert work.silences(10) == [("a", 10)]
    work.put_down("a", now_s=7)
    assert work.silences(10) == [("a", 3)]
