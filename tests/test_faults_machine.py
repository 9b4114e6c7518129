"""Machines that fail under a run: full disks, passing errors, power cuts, wrong clocks, damage."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.faults import clusters, flips, machine
from tests.faults.plans import FILLING, READING
from tests.faults.power_loss import Disk, Loss
from tests.faults.recorder import Recording
from tests.faults.shop import COMPLETE, RESUMABLE, Outcome, Shop
from wsi_extract.storage import Store


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(folder=tmp_path_factory.mktemp("machine"), n_slides=2) as shop:
        yield shop


@pytest.fixture(scope="module")
def recording(shop: Shop) -> Recording:
    return machine.record(shop, Store.PNG)


def check(outcome: Outcome) -> None:
    assert outcome.verdict.problems == [], outcome.fault
    assert outcome.is_survived


def test_disks_that_fail_for_good_stop_the_run_and_blame_no_slide(shop: Shop) -> None:
    strikes = [
        machine.failing(FILLING, number, code, is_lasting=True)
        for number, code in ((1, errno.ENOSPC), (60, errno.ENOSPC), (120, errno.EIO), (160, errno.EDQUOT))
    ]
    check(shop.strike_in_a_row("disks that fail for good", strikes, store=Store.PNG, code=RESUMABLE))


@pytest.mark.parametrize("code", [errno.EIO, errno.EINTR], ids=errno.errorcode.get)
@pytest.mark.parametrize(("operation", "number"), [("write:patch", 30), ("rename:record", 2)])
def test_an_error_that_passes_costs_a_repetition(shop: Shop, operation: str, number: int, code: int) -> None:
    """Of the task only, and nobody notices."""
    outcome = machine.passing_error_at(shop, Store.PNG, number=number, code=code, operations=operation)
    check(outcome)
    assert outcome.code == COMPLETE


@pytest.mark.parametrize(("store", "number"), [(Store.PIXELS, 130), (Store.ZARR, 250)])
def test_an_error_that_passes_anywhere_is_survived_or_resumed(shop: Shop, store: Store, number: int) -> None:
    check(machine.passing_error_at(shop, store, number=number, code=errno.EIO))


@pytest.mark.parametrize("number", [3, 30])
def test_an_error_while_reading_state_is_survived_or_resumed(shop: Shop, number: int) -> None:
    check(machine.passing_error_at(shop, Store.PNG, number=number, code=errno.EIO, operations=READING))


@pytest.mark.parametrize("number", [1, 5, 9])
def test_an_error_while_reading_a_plan_is_no_damage(shop: Shop, number: int) -> None:
    """Nothing has to be deleted because a disk did not answer once."""
    check(machine.passing_error_at(shop, Store.PIXELS, number=number, code=errno.EIO, operations="open:plan read:plan"))


def test_the_recorded_changes_make_the_folder(shop: Shop, recording: Recording) -> None:
    """What the power losses below are drawn from is what happened, and all of it is durable at the end."""
    expected = shop.oracle(Store.PNG).files
    for loss in (Loss.NOTHING, Loss.EVERYTHING):
        disk = Disk(recording)
        disk.play(recording.events)
        _, files = disk.state(loss)
        assert {name: data for name, data in files.items() if name in expected} == expected


@pytest.mark.parametrize("loss", [Loss.EVERYTHING, Loss.NAMES, Loss.BYTES, Loss.ANYTHING])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_power_loss_leaves_nothing_half_written(shop: Shop, recording: Recording, loss: Loss, share: float) -> None:
    point = round(share * len(recording.events))
    check(machine.power_loss_at(shop, Store.PNG, recording, point=point, loss=loss, seed=1))


def test_a_power_loss_while_a_finished_folder_is_taken_up_again(shop: Shop) -> None:
    again = machine.record(shop, Store.ZARR, is_resumed=True)
    for point in (12, 40):
        check(machine.power_loss_at(shop, Store.ZARR, again, point=point, loss=Loss.ANYTHING, seed=2))


def test_clocks_signals_short_writes_and_slow_disks_change_nothing(shop: Shop) -> None:
    for outcome in machine.odd_machines(shop, Store.PIXELS):
        check(outcome)


def test_a_damaged_slide_is_taken_up_again_when_it_is_mended(shop: Shop) -> None:
    for outcome in clusters.damaged_slide(shop, Store.PNG):
        check(outcome)


def test_a_folder_that_is_deleted_stops_the_run(shop: Shop) -> None:
    for outcome in clusters.folder_deleted(shop, Store.PNG):
        check(outcome)


def test_a_damaged_file_is_found_and_mended(shop: Shop) -> None:
    outcomes = flips.repairs(shop, Store.ZARR, seed=1)
    for outcome in (next(outcomes), next(outcomes), next(outcomes)):
        check(outcome)
