"""Tasks and nodes: every task once, a slide on one node, nobody idle while others have much, lost nodes survived."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.cluster import placement
from wsi_extract.cluster.node_group import HOME
from wsi_extract.cluster.placement import WINDOW_PER_THREAD, Placement
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task


def nothing(_item: object, _slides: SlideCache) -> None:
    return None


def task_of(slide: int, index: int = 0, *, stage: str = "extract", at_home: bool = False) -> Task:
    return Task(
        stage=stage,
        slide_ordinal=slide,
        slide_id=f"s{slide}",
        index=index,
        function=nothing,
        item=index,
        at_home=at_home,
    )


def tasks_of(n_slides: int, n_tasks: int) -> list[Task]:
    return [task_of(slide, index) for slide in range(n_slides) for index in range(n_tasks)]


def placed(
    tasks: Iterable[Task | None], n_workers: Mapping[int, int], *, homes: dict[str, int] | None = None
) -> Placement:
    return Placement(tasks, homes={} if homes is None else homes, n_workers=n_workers)


def names(tasks: Iterable[Task]) -> list[tuple[str, str, int]]:
    return [(task.stage, task.slide_id, task.index) for task in tasks]


def take_all(deal: Placement, node: int) -> list[Task]:
    deal.ask_again()
    return list(iter(lambda: deal.take(node), None))


tasks_strategy = st.lists(
    st.builds(
        task_of,
        st.integers(0, 8),
        st.integers(0, 3),
        stage=st.sampled_from(["survey", "extract"]),
        at_home=st.booleans(),
    ),
    max_size=60,
)
asks_strategy = st.lists(st.integers(0, 3), max_size=200)


@given(tasks=tasks_strategy, asks=asks_strategy, gone=st.integers(1, 3), when=st.integers(0, 100))
def test_every_task_is_taken_once_whoever_asks_and_goes(
    tasks: list[Task], asks: list[int], gone: int, when: int
) -> None:
    deal = placed(tasks, {0: 1, 1: 2, 2: 1, 3: 1})
    taken: list[Task] = []
    for n_asked, node in enumerate(asks):
        if n_asked == when:
            deal.set_workers({node: 1 for node in range(4) if node != gone})
        if node in deal.nodes:
            deal.ask_again()
            taken += [task] if (task := deal.take(node)) is not None else []
    for node in deal.nodes:
        taken += take_all(deal, node)
    for node in reversed(deal.nodes):
        taken += take_all(deal, node)
    assert sorted(names(taken)) == sorted(names(tasks))
    assert deal.n_waiting == 0


@given(tasks=tasks_strategy, asks=asks_strategy)
def test_a_slide_stays_on_its_node_and_what_must_be_at_home_is_there(tasks: list[Task], asks: list[int]) -> None:
    deal = placed(tasks, dict.fromkeys(range(4), 100))  # nobody ever has so much that others take it over
    nodes_of: defaultdict[str, set[int]] = defaultdict(set)
    for node in [*asks, *(each for each in range(4) for _ in range(60))]:
        deal.ask_again()
        task = deal.take(node)
        if task is not None and task.at_home:
            assert node == HOME
        elif task is not None:
            nodes_of[task.slide_id].add(node)
            assert deal.home_of(task) == node
    assert all(len(nodes) == 1 for nodes in nodes_of.values())


@given(tasks=tasks_strategy)
def test_one_node_takes_all_in_order_without_reading_ahead(tasks: list[Task]) -> None:
    n_read = 0

    def count() -> Iterator[Task]:
        nonlocal n_read
        for task in tasks:
            n_read += 1
            yield task

    deal = placed(count(), {HOME: 1})
    for n_taken, task in enumerate(tasks, start=1):
        assert deal.take(HOME) is task
        assert (n_read, deal.n_waiting) == (n_taken, 0)
    assert deal.take(HOME) is None


def test_slides_keep_their_nodes_from_one_stream_to_the_next() -> None:
    homes: dict[str, int] = {}
    first = placed([task_of(0, stage="survey"), task_of(1, stage="survey")], {0: 1, 1: 1}, homes=homes)
    assert first.take(1) is not None
    assert first.take(0) is not None
    second = placed(tasks_of(2, 2), {0: 1, 1: 1}, homes=homes)
    assert [task.slide_id for task in take_all(second, 0)] == ["s1", "s1"]
    assert [task.slide_id for task in take_all(second, 1)] == ["s0", "s0"]


def test_none_stops_the_reading_until_asked_again() -> None:
    deal = placed([task_of(0), None, None, task_of(1)], {0: 1, 1: 1})
    assert deal.take(0) is not None
    assert [deal.take(0), deal.take(1), deal.take(1)] == [None, None, None]
    deal.ask_again()
    assert deal.take(0) is None
    deal.ask_again()
    assert deal.take(1) is not None


def test_no_more_is_read_ahead_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LOOK_AHEAD", 10)
    deal = placed(tasks_of(1, 100), {0: 100, 1: 100})
    assert deal.take(0) is not None
    assert deal.take(1) is not None, "so many wait that an idle node helps"
    assert deal.n_waiting == 9


def test_an_idle_node_takes_a_slide_over_that_nobody_has_begun() -> None:
    tasks = tasks_of(4, 2)
    deal = placed(tasks, {0: 1, 1: 1}, homes=dict.fromkeys(["s0", "s1", "s2", "s3"], 0))
    assert deal.take(0) is not None
    taken = deal.take(1)
    assert taken is not None
    assert (taken.slide_id, taken.index) == ("s3", 0)
    assert deal.home_of(taken) == 1
    assert names([task for task in (deal.take(1),) if task is not None]) == [("extract", "s3", 1)]


def test_what_a_node_will_soon_do_itself_is_left_to_it() -> None:
    deal = placed(tasks_of(1, 1 + WINDOW_PER_THREAD), {0: 1, 1: 1}, homes={"s0": 0})
    assert deal.take(0) is not None
    assert deal.take(1) is None


def test_a_giant_slide_is_shared_once_it_would_take_long() -> None:
    deal = placed(tasks_of(1, 100), {0: 1, 1: 1}, homes={"s0": 0})
    assert deal.take(0) is not None
    n_shared = len(take_all(deal, 1))
    assert n_shared == 99 - placement.SHARE_AT * WINDOW_PER_THREAD
    assert deal.home_of(task_of(0)) == 0
    assert len(take_all(deal, 0)) == 99 - n_shared


def test_what_must_be_at_home_is_never_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LOOK_AHEAD", 1)
    deal = placed([task_of(slide, at_home=True) for slide in range(20)], {0: 1, 1: 1})
    assert take_all(deal, 1) == []
    assert len(take_all(deal, 0)) == 20


def test_slides_of_a_lost_node_get_another_home() -> None:
    deal = placed(tasks_of(2, 3), {0: 1, 1: 2}, homes={"s0": 1, "s1": 1})
    lost = deal.take(1)
    assert lost is not None
    assert deal.take(0) is None
    deal.set_workers({0: 1})
    deal.put_back([lost])
    assert names(take_all(deal, 0)) == names(tasks_of(2, 3))


def test_what_is_put_back_goes_first() -> None:
    deal = placed(tasks_of(3, 1), {0: 1})
    first = deal.take(0)
    assert first is not None
    deal.put_back([first])
    assert deal.take(0) is first
