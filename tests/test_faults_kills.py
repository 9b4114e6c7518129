"""Runs that are killed at named points: what is left is never half-written, and resuming gives the undisturbed result.

`tests.faults.soak` kills at every point; here are those around which the protocol is built, for each store.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import clusters, kills
from tests.faults.kills import crash_points
from tests.faults.plans import When
from tests.faults.shop import Shop
from wsi_extract.storage import Store

POINTS = {  # of one run and those that go on with it, each killed a little further on
    Store.PNG: [
        ("rename:plan", 1, When.AFTER),  # a plan without its survey
        ("rename:survey", 2, When.AFTER),
        ("write:patch", 7, When.AFTER),  # temporaries only
        ("rename:patch", 20, When.AFTER),  # patches of a block without its record
        ("rename:record", 1, When.AFTER),
        ("rename:record", 1, When.AFTER),
        ("rename:slide_manifest", 1, When.AFTER),
        ("rename:coco", 1, When.AFTER),  # one split has its document, the other not
        ("sync:manifest", 1, When.AFTER),  # all there, but for the last name
        ("rename:manifest", 1, When.AFTER),  # finished, but nobody was told
    ],
    Store.ZARR: [("rename:shard", 2, When.AFTER), ("rename:zarr_document", 2, When.AFTER)],
    Store.BOTH: [("rename:shard", 1, When.BEFORE), ("rename:record", 3, When.BEFORE)],
    Store.PIXELS: [
        ("write:pixel_shard", 20, When.BEFORE),
        ("rename:pixel_shard", 1, When.AFTER),
        ("rename:pixel_record", 1, When.AFTER),
        ("rename:zarr_document", 1, When.AFTER),
    ],
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(folder=tmp_path_factory.mktemp("kills"), n_slides=2) as shop:
        yield shop


@pytest.mark.parametrize("store", POINTS)
def test_runs_killed_again_and_again_are_resumed_without_a_trace(shop: Shop, store: Store) -> None:
    outcome = kills.kill_in_a_row(shop, store, POINTS[store])
    assert outcome.verdict.problems == []
    assert outcome.is_survived
    assert outcome.n_resumes == 1


@pytest.mark.parametrize("number", [4, 13, 25])
def test_a_finished_folder_that_is_taken_up_again_looks_unfinished_at_once(shop: Shop, number: int) -> None:
    outcome = kills.kill_while_resuming(shop, Store.PNG, number=number)
    assert outcome.verdict.problems == []
    assert outcome.is_survived


def test_every_operation_of_a_run_is_seen(shop: Shop) -> None:
    """The harness names all that changes the folder; a new way to write would show up as UNSEEN."""
    for store in (Store.BOTH, Store.PIXELS):
        trace = shop.trace(store)
        assert [line for line in trace if line.startswith("UNSEEN")] == []
        assert not any(name.endswith(":other") for name in crash_points(trace))


def test_a_second_driver_is_refused_and_the_first_unharmed(shop: Shop) -> None:
    (outcome,) = clusters.two_drivers(shop, Store.PNG)
    assert outcome.verdict.problems == []
    assert outcome.is_survived


def test_a_worker_that_segfaults_costs_nothing(shop: Shop) -> None:
    outcome = next(clusters.segfaults(shop, Store.PNG))
    assert outcome.verdict.problems == []
    assert outcome.is_survived
