"""Bundles: every task once, as large as the work is worth, never large enough to leave other workers waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.cluster.bundles import BUNDLE_S, MAX_TASKS, Bundle, Bundler
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task


def nothing(_item: object, _slides: SlideCache) -> None:
    return None


def task_of(index: int, *, stage: str = "extract") -> Task:
    return Task(stage=stage, slide_ordinal=0, slide_id="s", index=index, function=nothing, item=index)


def from_list(tasks: Iterable[Task | None]) -> Callable[[int], Task | None]:
    stream = iter(tasks)
    return lambda _node: next(stream, None)


def busy_bundler(tasks: list[Task | None], *, task_s: float, n_workers: int = 1) -> Bundler:
    """A bundler that has seen 1,000 s of work on tasks of this length."""
    bundler = Bundler(from_list(tasks), n_workers=n_workers)
    bundler.learn((task_of(0),), worked_s=1000.0)
    for _ in range(60):
        bundler.learn((task_of(0),), worked_s=task_s)
    return bundler


def bundles_of(bundler: Bundler) -> list[Bundle]:
    bundles = []
    while bundle := bundler.next(n_in_flight=0):
        bundles.append(bundle)
    return bundles


@given(
    stages=st.lists(st.sampled_from(["survey", "extract"]), max_size=80),
    took_s=st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=10),
    n_workers=st.integers(1, 64),
)
def test_every_task_goes_once_and_in_order(stages: list[str], took_s: list[float], n_workers: int) -> None:
    tasks = [task_of(index, stage=stage) for index, stage in enumerate(stages)]
    bundler, taken = Bundler(from_list(tasks), n_workers=n_workers), list[Task]()
    for number in range(len(tasks) + 1):
        bundle = bundler.next(n_in_flight=0)
        assert len(bundle) <= MAX_TASKS
        assert len({task.stage for task in bundle[:-1]}) <= 1
        if bundle:
            bundler.learn(bundle, worked_s=took_s[number % len(took_s)])
        taken += bundle
    assert taken == tasks


def test_nothing_is_bundled_before_it_is_known_how_long_it_takes() -> None:
    assert [len(bundle) for bundle in bundles_of(Bundler(from_list([task_of(i) for i in range(4)]), n_workers=2))] == [
        1
    ] * 4


def test_long_tasks_go_alone_and_short_ones_together() -> None:
    tasks: list[Task | None] = [task_of(i) for i in range(100)]
    assert len(busy_bundler(tasks, task_s=2 * BUNDLE_S).next(n_in_flight=0)) == 1
    assert len(busy_bundler(tasks, task_s=BUNDLE_S / 10).next(n_in_flight=0)) == 10
    assert len(busy_bundler(tasks, task_s=0).next(n_in_flight=0)) == MAX_TASKS


def test_a_run_that_just_began_makes_small_bundles() -> None:
    """The workers that are done wait for the last bundle, which must not be a large part of a small run."""
    bundler = Bundler(from_list([task_of(i) for i in range(100)]), n_workers=2)
    for _ in range(20):
        bundler.learn((task_of(0),), worked_s=0.05)
    assert len(bundler.next(n_in_flight=0)) == 1


def test_none_ends_a_bundle_and_the_stream_is_asked_again() -> None:
    bundler = busy_bundler([task_of(1), task_of(2), None, None, task_of(3)], task_s=0.01)
    assert [len(bundler.next(n_in_flight=0)) for _ in range(4)] == [2, 0, 1, 0]


def test_what_is_put_back_goes_first_and_while_nothing_else_is_in_flight() -> None:
    bundler = busy_bundler([task_of(i) for i in range(6)], task_s=BUNDLE_S / 3)
    suspects = bundler.next(n_in_flight=0)
    assert not bundler.is_on_trial
    bundler.put_back(suspects[:2])
    for suspect in suspects[:2]:
        assert bundler.next(n_in_flight=1) == ()
        assert bundler.next(n_in_flight=0) == (suspect,)
        assert bundler.is_on_trial
    assert bundler.next(n_in_flight=1) == ()  # the last one is still out
    assert len(bundler.next(n_in_flight=0)) == 3
    assert not bundler.is_on_trial
    assert bundler.next(n_in_flight=1) == ()


def test_what_is_put_back_goes_in_order() -> None:
    tasks: list[Task | None] = [task_of(i) for i in range(6)]
    bundler = busy_bundler(tasks, task_s=BUNDLE_S / 3)
    first = bundler.next(n_in_flight=0)
    assert len(first) == 3
    bundler.put_back(first)
    assert [tuple(task.index for task in bundle) for bundle in bundles_of(bundler)] == [(0,), (1,), (2,), (3, 4, 5)]
