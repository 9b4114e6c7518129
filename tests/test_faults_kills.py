"""Runs that are killed at named points: what is left is never half-written, and resuming gives the undisturbed result.

`tests.faults.soak` kills at every point; here are those around which the protocol is built, for each store.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import clusters, kills
from tests.faults.kills import crash_points, kill
from tests.faults.plans import When, struck
from tests.faults.shop import COMPLETE, KILLED, Shop
from wsi_extract.storage import Store

POINTS = [
    (Store.PNG, "rename:plan", 1, When.AFTER),  # a plan without its survey
    (Store.PNG, "rename:survey", 2, When.AFTER),
    (Store.PNG, "write:patch", 7, When.AFTER),  # temporaries only
    (Store.PNG, "rename:patch", 20, When.AFTER),  # patches of a block without its record
    (Store.PNG, "rename:record", 2, When.AFTER),
    (Store.PNG, "rename:slide_manifest", 1, When.AFTER),
    (Store.PNG, "rename:coco", 1, When.AFTER),  # one split has its document, the other not
    (Store.PNG, "sync:manifest", 1, When.AFTER),  # all there, but for the last name
    (Store.PNG, "rename:manifest", 1, When.AFTER),  # finished, but nobody was told
    (Store.ZARR, "rename:shard", 2, When.AFTER),
    (Store.ZARR, "rename:zarr_document", 2, When.AFTER),
    (Store.BOTH, "rename:shard", 1, When.BEFORE),
    (Store.BOTH, "rename:record", 3, When.BEFORE),
    (Store.PIXELS, "write:pixel_shard", 20, When.BEFORE),
    (Store.PIXELS, "rename:pixel_shard", 1, When.AFTER),
    (Store.PIXELS, "rename:pixel_record", 1, When.AFTER),
    (Store.PIXELS, "rename:zarr_document", 1, When.AFTER),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(folder=tmp_path_factory.mktemp("kills"), n_slides=2) as shop:
        yield shop


@pytest.mark.parametrize(("store", "operation", "number", "when"), POINTS, ids=str)
def test_a_run_killed_at_a_crash_point_is_resumed_without_a_trace(
    shop: Shop, store: Store, operation: str, number: int, when: When
) -> None:
    strike = kill(operation, number=number, when=when)
    outcome = shop.strike(operation, strike, store=store, codes={KILLED})
    assert outcome.verdict.problems == []
    assert outcome.is_survived
    assert outcome.n_resumes == 1


def test_a_run_killed_again_and_again_gets_there(shop: Shop) -> None:
    """Each attempt is killed a little later; no finished block is ever made twice."""
    out = shop.new_folder()
    for number in (1, 2, 3):
        end = shop.run(out, store=Store.PNG, plan=struck(out, kill("rename:record", number=number)))
        assert end.code in (KILLED, COMPLETE)
    outcome = shop.resume("three kills in a row", out, end, store=Store.PNG)
    assert outcome.verdict.problems == []
    assert outcome.is_survived


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
