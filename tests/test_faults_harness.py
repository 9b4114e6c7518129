"""The fault harness itself: its model of power losses, its names, what strikes when, and that its judge can say no."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.document import section_names
from tests.faults import soak
from tests.faults.injector import Injector
from tests.faults.kills import thinned
from tests.faults.oracle import Oracle, Verdict
from tests.faults.plans import Action, Plan, Strike, When, struck
from tests.faults.power_loss import Disk, Loss
from tests.faults.recorder import Event, Recording, read_recording, snapshot
from tests.faults.roles import role_of_file, role_of_folder
from tests.faults.shop import COMPLETE, KILLED, Outcome
from tests.helpers_run import make_dataset
from wsi_extract.disk.files import open_batch, write_atomically
from wsi_extract.disk.mounts import CommitForm

CREATED = (Event(kind="create", path="a"), Event(kind="write", path="a", data=b"12345678"))
SYNCED = (Event(kind="sync_begin", path="a", offset=1), Event(kind="sync_end", path="a", offset=1))
NAMED = (Event(kind="sync_begin", path="", offset=2), Event(kind="sync_end", path="", offset=2))
RENAMED = (Event(kind="rename", path="b", source="a"),)


def files_after(*events: Event, loss: Loss, seed: int = 0) -> dict[str, bytes]:
    disk = Disk(Recording(folders=(), files={}, events=()))
    disk.play(events)
    return disk.state(loss, seed=seed)[1]


@pytest.mark.parametrize(
    ("events", "loss", "expected"),
    [
        (CREATED, Loss.NOTHING, {"a": b"12345678"}),
        (CREATED, Loss.EVERYTHING, {}),
        (CREATED, Loss.BYTES, {"a": b""}),
        (CREATED + SYNCED, Loss.EVERYTHING, {}),  # the name is not durable
        (CREATED + SYNCED, Loss.BYTES, {"a": b"12345678"}),
        (CREATED + NAMED, Loss.EVERYTHING, {"a": b""}),
        (CREATED + SYNCED + NAMED, Loss.EVERYTHING, {"a": b"12345678"}),
        (CREATED + SYNCED + NAMED + RENAMED, Loss.EVERYTHING, {"a": b"12345678"}),
        (CREATED + SYNCED + NAMED + RENAMED, Loss.NOTHING, {"b": b"12345678"}),
        (CREATED + RENAMED + NAMED, Loss.EVERYTHING, {"b": b""}),  # renamed before it was synchronised
    ],
)
def test_a_power_loss_takes_what_is_not_durable(
    events: tuple[Event, ...], loss: Loss, expected: dict[str, bytes]
) -> None:
    assert files_after(*events, loss=loss) == expected


def test_what_is_written_during_a_sync_is_not_durable() -> None:
    later = Event(kind="write", path="a", data=b"9", offset=8)
    events = (*CREATED, SYNCED[0], later, SYNCED[1], *NAMED)
    assert files_after(*events, loss=Loss.EVERYTHING) == {"a": b"12345678"}


@given(seed=st.integers(0, 10**6))
def test_what_is_durable_survives_any_power_loss(seed: int) -> None:
    extra = (Event(kind="create", path="c"), Event(kind="write", path="c", data=b"lost"))
    files = files_after(*CREATED, *SYNCED, *RENAMED, *NAMED, *extra, loss=Loss.ANYTHING, seed=seed)
    assert files["b"] == b"12345678"
    assert set(files) <= {"b", "c"}


def test_any_power_loss_can_tear_a_file() -> None:
    found = {files_after(*CREATED, loss=Loss.ANYTHING, seed=seed).get("a") for seed in range(300)}
    assert {None, b"", b"12345678", b"1234", b"1234\0\0\0\0"} <= found


def write_some(out: Path) -> None:
    write_atomically(out / "manifest.json", b"{}")
    with open_batch() as batch:
        batch.add(f"{out}/train2017/s/s_x0_y0.png", b"pixels")


def test_a_recording_makes_the_folder_it_was_taken_of(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_atomically(out / "slides.csv", b"earlier")
    injector = Injector(Plan(output_dir=str(out), events_path=str(tmp_path / "events")))
    with injector.installed():
        write_some(out)
        (out / "slides.csv").unlink()
    injector.finish()
    recording = read_recording(tmp_path / "events")
    disk = Disk(recording)
    assert disk.state(Loss.NOTHING)[1] == {"slides.csv": b"earlier"}
    disk.play(recording.events)
    assert disk.state(Loss.NOTHING) == snapshot(out)
    assert disk.state(Loss.EVERYTHING)[1] == {**snapshot(out)[1], "slides.csv": b"earlier"}  # nobody made that durable


@pytest.mark.parametrize("when", When)
def test_the_nth_operation_of_a_name_is_hit_once(tmp_path: Path, when: When) -> None:
    strike = Strike(action=Action.ERROR, operation="rename:record", number=2, errno=28, when=when)
    records = [tmp_path / ".wsi_extract" / "records" / "s" / f"{n:06d}.json" for n in range(4)]
    with Injector(struck(tmp_path, strike)).installed():
        write_atomically(records[0], b"0")
        write_atomically(tmp_path / "manifest.json", b"not a record")
        with pytest.raises(OSError, match="No space left"):
            write_atomically(records[1], b"1")
        write_atomically(records[2], b"2")
    assert [path.exists() for path in records] == [True, when is When.AFTER, True, False]
    write_atomically(records[3], b"3")  # nothing stands in the way any more
    assert not list(tmp_path.rglob("*.partial"))


def test_writes_that_are_cut_short_are_continued(tmp_path: Path) -> None:
    strike = Strike(action=Action.SHORT, operation="write:", is_lasting=True)
    data = os.urandom(100_000)
    with Injector(struck(tmp_path, strike)).installed():
        write_atomically(tmp_path / "manifest.json", data)
        with open_batch() as batch:
            batch.add(f"{tmp_path}/train2017/s/p.png", data)
    assert snapshot(tmp_path)[1] == {"manifest.json": data, "train2017/s/p.png": data}


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("train2017/s/s_x0_y0.png.0123456789ab.partial", "patch"),
        ("patches.zarr/train/s/c/0/0/0/0", "shard"),
        ("patches.zarr/train/s/zarr.json.0123456789ab.partial", "zarr_document"),
        ("pixels.zarr/s/0/c/0/0/0", "pixel_shard"),
        ("index.zarr/train/kind/zarr.json", "index"),
        (".wsi_extract/plans/s.npz", "plan"),
        (".wsi_extract/plans/s.json", "survey"),
        (".wsi_extract/slides/s.json", "slide_manifest"),
        ("manifest.json.0123456789ab.partial", "manifest"),
        ("annotations/#123 (deleted)", "scratch"),
    ],
)
def test_files_have_the_role_of_what_they_become(path: str, role: str) -> None:
    assert role_of_file(path) == role


def test_folders_have_the_role_of_what_they_hold() -> None:
    assert [role_of_folder(path) for path in ("", ".wsi_extract", ".wsi_extract/records/s", "val2017")] == [
        "output_folder",
        "state_folder",
        "record_folder",
        "patch_folder",
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a patch is cut": lambda out: cut(next(out.glob("*/*/*.png"))),
    "a patch is lost": lambda out: next(out.glob("*/*/*.png")).unlink(),
    "a column of the index is lost": lambda out: next(out.glob("index.zarr/*/kind/c/0")).unlink(),
    "a plan is lost": lambda out: next(out.glob(".wsi_extract/plans/*.npz")).unlink(),
    "a file is left over": lambda out: (next(out.glob("*/*/*.png")).parent / "more.png").touch(),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "unfinished"])
def test_the_judge_finds_what_is_wrong(tmp_path: Path, name: str, *, is_finished: bool) -> None:
    out = make_dataset(tmp_path)
    oracle = Oracle(expected=tmp_path.parent / "original" / "out")
    assert oracle.judge_finished(out, before=oracle.facts_of_records(out)).is_good
    DAMAGE[name](out)
    if not is_finished:
        (out / "manifest.json").unlink()
    verdict = oracle.judge_finished(out) if is_finished else oracle.judge_unfinished(out)
    assert verdict.problems


@pytest.mark.parametrize(
    ("change", "is_torn"),
    [
        (lambda data: data[: len(data) // 2], True),
        (lambda data: data[:100] + bytes(len(data) - 100), True),  # a power loss took the rest
        (lambda data: data[:100] + b"\1" + data[101:], False),
        (lambda data: data + b"\0", False),
    ],
    ids=["cut", "zeros", "changed", "longer"],
)
def test_only_a_file_that_ends_too_early_may_be_there_where_nothing_is_renamed(
    tmp_path: Path, change: Callable[[bytes], bytes], *, is_torn: bool
) -> None:
    out = make_dataset(tmp_path)
    oracle = Oracle(expected=tmp_path.parent / "original" / "out")
    (out / "manifest.json").unlink()
    path = out / "slides.csv"
    path.write_bytes(change(path.read_bytes()))
    assert (not oracle.judge_unfinished(out, may_be_torn=True).problems) is is_torn
    assert oracle.judge_unfinished(out).problems


def test_the_judge_notices_finished_work_that_is_done_again(tmp_path: Path) -> None:
    out = make_dataset(tmp_path)
    oracle = Oracle(expected=tmp_path.parent / "original" / "out")
    before = oracle.facts_of_records(out)
    record = next(out.glob(".wsi_extract/records/*/*.json"))
    write_atomically(record, record.read_bytes())
    assert oracle.judge_finished(out, before=before).n_redone == 1


def test_a_plan_travels_as_json() -> None:
    plan = Plan(output_dir="/out", strikes=(Strike(action=Action.KILL, operation="sync:", when=When.AFTER),))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("share", "expected"), [(1.0, range(12)), (0.25, [2, 6, 10]), (0.01, [6]), (2.0, range(12))])
def test_a_share_of_the_cases_is_spread_over_all_of_them(share: float, expected: Sequence[int]) -> None:
    assert list(thinned(range(12), share=share)) == list(expected)


def test_the_soak_counts_what_became_of_each_fault_and_has_a_table_for_each_form() -> None:
    row = soak.Row(fault="kill")
    row.add(Outcome(fault="first", code=KILLED, n_resumes=1, verdict=Verdict()))
    row.add(Outcome(fault="second", code=KILLED, n_resumes=1, verdict=Verdict(problems=["half-written"], n_lost=2)))
    row.add(Outcome(fault="third", code=COMPLETE, n_resumes=0, verdict=Verdict(), n_faults=3))
    facts = {"started": "2026-11-22", "system": "Linux", "n_cores": 2, "python": "3.11", "distributed": "1"}
    table = soak.table_of({**facts, "rows": [asdict(row), asdict(soak.Row(fault="full", skipped="no root"))]})
    assert "| kill | 5 | 4 | 2 | 2 | 0 | 0 | -9: 2, 0: 1 |" in table
    assert "| full | not tried: no root |" in table
    assert set(soak.SECTIONS) == set(CommitForm)
    assert set(soak.SECTIONS.values()) <= set(section_names(soak.DOCUMENT.read_text()))
