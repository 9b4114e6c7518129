"""Runs that write files directly, killed at named points: half a file is never vouched for, and resuming mends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import kills
from tests.faults.kills import crash_points, kill
from tests.faults.plans import Action, Strike, When, struck
from tests.faults.shop import COMPLETE, KILLED, RESUMABLE, Shop
from tests.helpers_run import content_of
from wsi_extract.disk.mounts import COMMIT_VARIABLE
from wsi_extract.model import Split
from wsi_extract.state.layout import split_folder
from wsi_extract.state.records import encode_document, read_document
from wsi_extract.storage import Store

POINTS = {  # of one run and those that go on with it, each killed a little further on
    Store.PNG: [
        ("write:run", 1, When.BEFORE),  # half of what says whose folder it is
        ("create:survey", 2, When.AFTER),
        ("create:patch", 7, When.AFTER),
        ("create:record", 1, When.AFTER),
        ("write:patch", 5, When.AFTER),
        ("write:record", 1, When.AFTER),
        ("write:slide_manifest", 1, When.BEFORE),
        ("write:coco", 1, When.BEFORE),
        ("create:manifest", 1, When.AFTER),
        ("write:manifest", 1, When.AFTER),  # finished, but nobody was told
    ],
    Store.BOTH: [
        ("write:shard", 2, When.BEFORE),
        ("create:record", 1, When.AFTER),
        ("create:patch", 3, When.AFTER),
        ("create:zarr_document", 2, When.AFTER),
    ],
    Store.PIXELS: [("write:pixel_shard", 2, When.BEFORE), ("create:pixel_record", 1, When.AFTER)],
}
FORBIDDEN = ("rename:", "flock:", "truncate:", "UNSEEN")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(COMMIT_VARIABLE, "direct")
        with Shop(folder=tmp_path_factory.mktemp("direct"), n_slides=2, is_direct=True) as shop:
            yield shop


@pytest.fixture(scope="module")
def renaming_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(COMMIT_VARIABLE, "rename")
        with Shop(folder=tmp_path_factory.mktemp("renamed"), n_slides=2) as shop:
            yield shop


@pytest.mark.parametrize("store", POINTS)
def test_runs_killed_while_they_write_directly_are_resumed_without_a_trace(shop: Shop, store: Store) -> None:
    outcome = kills.kill_in_a_row(shop, store, POINTS[store])
    assert outcome.verdict.problems == []
    assert outcome.n_resumes == 1


@pytest.mark.parametrize("number", [2, 9])
def test_a_finished_folder_that_is_taken_up_again_looks_unfinished_at_once(shop: Shop, number: int) -> None:
    out = shop.new_folder()
    assert shop.run(out, store=Store.PNG).code == COMPLETE
    any_change = " ".join(f"{kind}:" for kind in ("create", "write", "remove", "rmdir"))
    end = shop.run(out, store=Store.PNG, plan=struck(out, kill(any_change, number=number)))
    outcome = shop.resume("while resuming", out, end, store=Store.PNG, codes={KILLED})
    assert outcome.verdict.problems == []


@pytest.mark.parametrize("first_form", ["direct", "rename"])
def test_a_run_that_was_killed_goes_on_in_the_other_form(shop: Shop, renaming_shop: Shop, first_form: str) -> None:
    first, second = (shop, renaming_shop) if first_form == "direct" else (renaming_shop, shop)
    out = shop.new_folder()
    for each, operation, number in ((first, "write:run", 1), (second, "write:patch", 9), (first, "write:patch", 12)):
        end = each.run(out, store=Store.PNG, plan=struck(out, kill(operation, number=number)))
        assert end.code == KILLED, end.text
    assert second.run(out, store=Store.PNG).code == COMPLETE
    assert first.oracle(Store.PNG).judge_finished(out).problems == []


def test_starting_over_that_is_killed_goes_on(shop: Shop) -> None:
    for number in (3, 60):
        out = shop.new_folder()
        shop.run(out, store=Store.PNG)
        plan = struck(out, kill("remove: rmdir: write:", number=number))
        end = shop.forker.run(plan, [*shop.argv(out, store=Store.PNG), "--fresh"])
        outcome = shop.resume("while starting over", out, end, store=Store.PNG, codes={KILLED})
        assert outcome.verdict.problems == []


@pytest.mark.parametrize("store", [Store.BOTH, Store.PIXELS])
def test_nothing_is_done_that_a_mounted_store_refuses_and_the_result_is_the_same(
    shop: Shop, renaming_shop: Shop, store: Store
) -> None:
    trace = shop.trace(store)
    assert [line for line in trace if line.startswith(FORBIDDEN)] == []
    assert not any(name.endswith((":other", ":scratch")) for name in crash_points(trace))
    created = [line for line in trace if line.startswith("create:")]
    assert len(created) == len(set(created)) > 40  # each file once
    direct, renamed = content_of(shop.oracle(store).expected), content_of(renaming_shop.oracle(store).expected)
    renamed.pop(".wsi_extract/lock")  # a note is removed, a lock is emptied
    assert direct.keys() == renamed.keys()
    assert [name for name in direct if direct[name] != renamed[name]] == []


def damage_one_patch(out: Path) -> tuple[Path, Path]:
    """Cut a patch of a data set; return it and the record of its block."""
    record = min(out.glob(".wsi_extract/records/*/000000.json"))
    document = read_document(record)
    assert document is not None
    patch = out / split_folder(Split(document["split"])) / document["patches"][0]["file_name"]
    patch.write_bytes(patch.read_bytes()[:-1])
    return patch, record


def test_a_record_is_gone_before_its_files_are_written_over(shop: Shop) -> None:
    out = shop.new_folder()
    assert shop.run(out, store=Store.PNG).code == COMPLETE
    patch, record = damage_one_patch(out)
    end = shop.run(out, store=Store.PNG, plan=struck(out, kill("write:patch")))
    assert not patch.stat().st_size
    assert not record.exists()
    assert list(out.glob(".wsi_extract/slides/*.json"))  # remembers the digest of the record, for the alarm
    assert (end.code, shop.run(out, store=Store.PNG).code) == (KILLED, COMPLETE)
    assert shop.oracle(Store.PNG).judge_finished(out).problems == []


def test_the_determinism_alarm_comes_before_a_file_is_touched(shop: Shop) -> None:
    out = shop.new_folder()
    assert shop.run(out, store=Store.PNG).code == COMPLETE
    patch, record = damage_one_patch(out)
    document = read_document(record)
    assert document is not None
    document["patches"][1]["sha256"] = "0" * 64  # what another machine may have found
    record.write_bytes(encode_document(document))
    before = {path: path.read_bytes() for path in (*patch.parent.iterdir(), record)}
    end = shop.run(out, store=Store.PNG)
    assert (end.code, "determinism alarm" in end.text) == (6, True)
    assert {path: path.read_bytes() for path in (*patch.parent.iterdir(), record)} == before


def test_files_that_cannot_be_written_stop_the_run_which_goes_on_later(shop: Shop) -> None:
    for operation in ("close:patch", "write:record"):
        strike = Strike(action=Action.ERROR, operation=operation, number=1, errno=28, is_lasting=True)
        outcome = shop.strike(f"full: {operation}", strike, store=Store.PNG, codes={RESUMABLE})
        assert outcome.verdict.problems == []


def test_kills_at_random_times(shop: Shop) -> None:
    for outcome in kills.signals_at_random(shop, Store.BOTH, signal_number=signal.SIGKILL, n=2, seed=1):
        assert outcome.verdict.problems == []
