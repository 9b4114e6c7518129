"""Lost bundles: suspects when their node lives, innocents when it is gone; never forgotten, never decided twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.cluster.casualties import LOSS_S, SURE_LOSS_S, Casualties, Casualty
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task


def nothing(_item: object, _slides: SlideCache) -> None:
    return None


def casualty(index: int, *, node: int = 1, at_s: float = 100.0) -> Casualty:
    task = Task(stage="extract", slide_ordinal=0, slide_id="s", index=index, function=nothing, item=index)
    return Casualty(bundle=(task,), node=node, at_s=at_s, error=RuntimeError("died"), was_alone=False)


def holding(*lost: Casualty) -> Casualties:
    casualties = Casualties()
    for each in lost:
        casualties.add(each)
    return casualties


def test_nothing_is_decided_before_there_is_a_sign() -> None:
    casualties = holding(casualty(1))
    verdicts = casualties.judge({1: 99.0}, sizes={1: 1}, now_s=99.0 + LOSS_S / 2)
    assert not verdicts
    assert len(casualties) == 1


def test_a_node_that_lives_had_a_reason_to_lose_a_worker() -> None:
    casualties = holding(casualty(1))
    verdicts = casualties.judge({1: 101.0}, sizes={1: 2}, now_s=101.0)
    assert [each.bundle[0].index for each in verdicts.suspects] == [1]
    assert (verdicts.innocents, verdicts.lost, len(casualties)) == ((), frozenset(), 0)


def test_a_sign_from_before_the_death_is_none() -> None:
    assert not holding(casualty(1)).judge({1: 100.05}, sizes={1: 2}, now_s=101.0)


def test_what_was_on_a_lost_node_is_innocent() -> None:
    casualties = holding(casualty(1), casualty(2), casualty(3, node=2))
    verdicts = casualties.judge({1: 99.0, 2: 101.0}, sizes={1: 1, 2: 1}, now_s=100.0 + LOSS_S)
    assert [bundle[0].index for bundle in verdicts.innocents] == [1, 2]
    assert [each.bundle[0].index for each in verdicts.suspects] == [3]
    assert verdicts.lost == {1}


def test_a_node_that_was_silent_before_is_not_waited_for() -> None:
    """Its line was cut; the scheduler takes half a minute to notice."""
    casualties = holding()
    casualties.judge({1: 60.0}, sizes={1: 1}, now_s=60.0)
    casualties.add(casualty(1))
    assert casualties.judge({}, sizes={1: 1}, now_s=100.0).innocents


def test_several_workers_do_not_die_of_one_task() -> None:
    soon_s = 100.0 + SURE_LOSS_S
    assert holding(casualty(1)).judge({}, sizes={1: 2}, now_s=soon_s).innocents
    assert not holding(casualty(1)).judge({}, sizes={1: 1}, now_s=soon_s), "its worker may be starting anew"
    assert not holding(casualty(1)).judge({1: 99.0}, sizes={1: 2}, now_s=soon_s), "one is still there"


def test_a_task_that_was_on_two_lost_nodes_is_tried_alone() -> None:
    """It may be what takes whole machines down."""
    casualties = holding(casualty(1))
    assert casualties.judge({}, sizes={}, now_s=200.0).innocents
    casualties.add(casualty(1, node=2, at_s=300.0))
    casualties.add(casualty(2, node=2, at_s=300.0))
    verdicts = casualties.judge({}, sizes={}, now_s=400.0)
    assert [each.bundle[0].index for each in verdicts.suspects] == [1]
    assert [bundle[0].index for bundle in verdicts.innocents] == [2]
    assert verdicts.lost == {2}


@given(
    deaths=st.lists(st.tuples(st.integers(1, 3), st.floats(0, 50)), max_size=20),
    signs=st.lists(st.dictionaries(st.integers(1, 3), st.floats(0, 100)), max_size=10),
)
def test_every_bundle_is_decided_once(deaths: list[tuple[int, float]], signs: list[dict[int, float]]) -> None:
    casualties = holding(*(casualty(index, node=node, at_s=at_s) for index, (node, at_s) in enumerate(deaths)))
    decided: list[int] = []
    for now_s, seen_s in [*enumerate(signs), (1000.0, {})]:
        verdicts = casualties.judge(seen_s, sizes={}, now_s=float(now_s))
        decided += [each.bundle[0].index for each in verdicts.suspects]
        decided += [bundle[0].index for bundle in verdicts.innocents]
    assert sorted(decided) == list(range(len(deaths)))
    assert len(casualties) == 0
