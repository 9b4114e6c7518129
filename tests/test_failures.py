"""What fails, and what that costs: one slide, or the run, never the truth."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_run import (
    MEMORY_BYTES,
    Inputs,
    ShuffledExecutor,
    content_of,
    copy_inputs,
    extract,
    make_inputs,
    read_coco,
    read_manifest,
)
from wsi_extract.errors import EnvironmentFaultError, InputError, IntegrityError, SplitError
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import SerialExecutor, Task, TaskResult
from wsi_extract.verify import audit, compare


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"))


def images_of(out: Path) -> list[dict[str, Any]]:
    return [image for split in ("train", "val") for image in read_coco(out, split)["images"]]


def damage(path: Path) -> None:
    """Zero the middle third: the slide still opens, but its pixels are gone from there on."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * len(data) // 3 :])


# --- slides that do not take part


def test_a_damaged_slide_costs_only_itself(inputs: Inputs, tmp_path: Path) -> None:
    folder = tmp_path / "input"
    broken = copy_inputs(inputs, folder)
    path = broken.wsi_dir / "slide_3.svs"
    damage(path)
    result = extract(broken, tmp_path / "out")
    assert result.has_failures
    manifest = read_manifest(tmp_path / "out")
    assert manifest["status"] == "partial"
    statuses = {row["slide_id"]: row["status"] for row in manifest["slides"]}
    assert statuses == {"slide_1": "complete", "slide_2": "complete", "slide_3": "failed", "slide_4": "complete"}
    assert {image["slide_id"] for image in images_of(tmp_path / "out")} == {"slide_1", "slide_2", "slide_4"}
    (error,) = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert error["slide_id"] == "slide_3"
    assert str(path) in error["message"]


def test_mending_a_slide_moves_no_other(inputs: Inputs, tmp_path: Path) -> None:
    mended = copy_inputs(inputs, tmp_path / "input")
    good = (mended.wsi_dir / "slide_3.svs").read_bytes()
    (mended.wsi_dir / "slide_3.svs").write_bytes(b"not a slide")
    extract(mended, tmp_path / "out")
    (mended.wsi_dir / "slide_3.svs").write_bytes(good)
    extract(mended, tmp_path / "out")
    extract(inputs, tmp_path / "undisturbed")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "undisturbed") | {
        ".wsi_extract/run.json": content_of(tmp_path / "out")[".wsi_extract/run.json"]
    }


def test_slides_nobody_annotated_are_in_no_split(inputs: Inputs, tmp_path: Path) -> None:
    more = make_inputs(tmp_path / "input", n_slides=3, counts=lambda uid: {} if uid == 3 else {2: 4, 7: 2})
    extract(more, tmp_path / "out", train_val_split=0.5)
    row = read_manifest(tmp_path / "out")["slides"][2]
    assert (row["status"], row["splits"], row["n_written"]) == ("unlabelled", [], 0)
    extract(more, tmp_path / "reviewed", train_val_split=0.5, unannotated_slides="negative")
    row = read_manifest(tmp_path / "reviewed")["slides"][2]
    assert (row["status"], row["patches_by_kind"]) == ("complete", {"random": 20})


def test_b07_a_slide_smaller_than_a_patch_is_skipped(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out", patch_size=1218, patches_per_slide=3, train_val_split=0.5)
    rows = read_manifest(tmp_path / "out")["slides"]
    assert [row["status"] for row in rows] == ["skipped", "skipped", "complete", "complete"]
    assert rows[0]["reason"] == "slide_smaller_than_patch: 1611 x 1209 px at the output resolution"


def test_unknown_resolution_is_never_guessed(tmp_path: Path) -> None:
    unknown = make_inputs(tmp_path / "input", n_slides=2, um_per_px=None)
    with pytest.raises(InputError, match="resolution"):
        extract(unknown, tmp_path / "out", mpp=0.5, train_val_split=0.5)
    extract(unknown, tmp_path / "out", mpp=0.5, slide_mpp=0.25, train_val_split=0.5)
    assert {tuple(image["l0_per_px_xy"]) for image in images_of(tmp_path / "out")} == {(2.0, 2.0)}


def test_the_same_slide_under_two_names_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    twice = copy_inputs(inputs, tmp_path / "input")
    (twice.wsi_dir / "slide_2.svs").write_bytes((twice.wsi_dir / "slide_1.svs").read_bytes())
    with pytest.raises(SplitError, match="same content"):
        extract(twice, tmp_path / "out")


class FailingExecutor:
    """Ends with an environment fault at the given task of the extraction."""

    n_workers = 1
    worker_memory_bytes = MEMORY_BYTES

    def __init__(self, slides: SlideCache, *, at: int, stage: str = "extract") -> None:
        self.stage = stage
        self.serial = SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES)
        self.at = at

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        number = 0
        for task in tasks:
            assert task is not None
            if task.stage == self.stage and number == self.at:
                fault = Fault(
                    slide_id=task.slide_id,
                    stage=task.stage,
                    fault_class=FaultClass.ENVIRONMENT,
                    error_type="OSError",
                    message="No space left on device",
                    remedy="Make room.",
                )
                yield TaskResult(task=task, fault=fault)
                return
            number += task.stage == self.stage
            yield from self.serial.run([task])


def test_a_failing_machine_stops_the_run_and_blames_no_slide(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with SlideCache() as slides, pytest.raises(EnvironmentFaultError, match="No space left"):
        extract(inputs, out, executor=FailingExecutor(slides, at=2))
    assert not (out / "manifest.json").exists()
    assert not (out / "errors.jsonl").exists()
    extract(inputs, out)
    extract(inputs, tmp_path / "undisturbed")
    assert content_of(out) == content_of(tmp_path / "undisturbed")


def test_a_machine_that_fails_while_slides_are_opened_is_not_the_slides_fault(inputs: Inputs, tmp_path: Path) -> None:
    with SlideCache() as slides, pytest.raises(EnvironmentFaultError, match="No space left"):
        extract(inputs, tmp_path / "out", executor=FailingExecutor(slides, at=1, stage="describe"))
    assert not (tmp_path / "out").exists()


def test_a_damaged_slide_gives_the_same_account_in_any_order(inputs: Inputs, tmp_path: Path) -> None:
    broken = copy_inputs(inputs, tmp_path / "input")
    damage(broken.wsi_dir / "slide_3.svs")
    settings: dict[str, Any] = {"sampling": "grid", "overlap": 0.2}
    extract(broken, tmp_path / "serial", **settings)
    assert read_manifest(tmp_path / "serial")["status"] == "partial"
    for seed in (1, 2, 3):
        with SlideCache() as slides:
            extract(broken, tmp_path / f"{seed}", executor=ShuffledExecutor(slides=slides, seed=seed), **settings)
        assert compare(tmp_path / "serial", tmp_path / f"{seed}").is_sound


def test_a_slide_that_cannot_be_read_this_time_does_not_disown_the_folder(inputs: Inputs, tmp_path: Path) -> None:
    mine = copy_inputs(inputs, tmp_path / "input")
    extract(mine, tmp_path / "out")
    expected = content_of(tmp_path / "out")
    good = (mine.wsi_dir / "slide_3.svs").read_bytes()
    (mine.wsi_dir / "slide_3.svs").write_bytes(b"")
    assert extract(mine, tmp_path / "out").has_failures
    assert audit(tmp_path / "out").is_sound
    (mine.wsi_dir / "slide_3.svs").write_bytes(good)
    assert not extract(mine, tmp_path / "out").has_failures
    assert content_of(tmp_path / "out") == expected


def test_a_slide_of_context_cells_only_keeps_its_place_when_it_fails(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=5, counts=lambda uid: {3: 4} if uid == 4 else {2: 3 * uid})
    extract(inputs, tmp_path / "whole")
    (inputs.wsi_dir / "slide_4.svs").write_bytes(b"")
    extract(inputs, tmp_path / "broken")
    whole, broken = (
        {row["slide_id"]: row["splits"] for row in read_manifest(tmp_path / name)["slides"]}
        for name in ("whole", "broken")
    )
    assert whole == broken


def test_annotations_that_come_to_mean_something_else_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    """The files are the same, but a table gives the annotations to other slides."""
    mine = make_inputs(tmp_path / "input", counts=lambda uid: {2: 4, 7: 2, 3: 2})
    table = tmp_path / "names.csv"
    table.write_text("annotation_name,slide\nslide_1.svs,slide_1.svs\nslide_2.svs,slide_2.svs\n")
    extract(mine, tmp_path / "out", slide_aliases_csv=str(table))
    table.write_text("annotation_name,slide\nslide_1.svs,slide_2.svs\nslide_2.svs,slide_1.svs\n")
    with pytest.raises(IntegrityError, match="slide slide_1: changed"):
        extract(mine, tmp_path / "out", slide_aliases_csv=str(table))


def test_a_lost_plan_is_made_again(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(inputs, out)
    expected = content_of(out)
    plans = out / ".wsi_extract" / "plans"
    (plans / "slide_1.npz").unlink()
    (plans / "slide_2.npz").write_bytes(b"damaged")
    (plans / "slide_3.json").write_text("{")
    extract(inputs, out)
    assert content_of(out) == expected


def test_what_a_killed_run_left_behind_is_cleared_away(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(inputs, out)
    patch = next(out.glob("train2017/*/*.png"))
    patch.with_name(patch.name + ".0123456789ab.partial").write_bytes(b"half")
    assert not audit(out).is_sound
    extract(inputs, out)
    assert audit(out).is_sound


def test_a_run_that_would_yield_nothing_is_refused_with_the_reasons(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="slide_1, train: patches not possible, slide_smaller_than_patch"):
        extract(inputs, tmp_path / "out", sampling="grid", split_mode="half", patch_size=512, guard_px=400)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_dry_run_says_what_the_real_run_would_refuse(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out")
    before = content_of(tmp_path / "out")
    with pytest.raises(IntegrityError, match=r"settings\.seed"):
        extract(inputs, tmp_path / "out", dry_run=True, seed=1)
    extract(inputs, tmp_path / "out", dry_run=True, seed=1, fresh=True)
    assert content_of(tmp_path / "out") == before


@dataclass(kw_only=True)
class MeddlingExecutor:
    """Does something once, before the given task of a stage of slides whose names end as told."""

    slides: SlideCache
    meddle: Callable[[], object]
    stage: str
    at: int = 0
    ending: str = ""
    n_workers: int = 1
    worker_memory_bytes: int = MEMORY_BYTES

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        serial = SerialExecutor(slides=self.slides, worker_memory_bytes=MEMORY_BYTES)
        for task in tasks:
            assert task is not None
            if task.stage == self.stage and task.slide_id.endswith(self.ending):
                if self.at == 0:
                    self.meddle()
                self.at -= 1
            yield from serial.run([task])


@pytest.mark.parametrize(
    ("stage", "at"), [("describe", 2), ("survey", 1), ("extract", 3)], ids=["describe", "survey", "extract"]
)
def test_a_mount_that_goes_away_blames_no_slide(inputs: Inputs, tmp_path: Path, stage: str, at: int) -> None:
    mine, out = copy_inputs(inputs, tmp_path / "input"), tmp_path / "out"
    away = mine.wsi_dir.with_name("away")
    with SlideCache() as slides:
        meddler = MeddlingExecutor(slides=slides, meddle=lambda: mine.wsi_dir.rename(away), stage=stage, at=at)
        with pytest.raises(EnvironmentFaultError, match="the slides have gone"):
            extract(mine, out, executor=meddler)
    assert not (out / "errors.jsonl").exists()
    assert not list(out.glob(".wsi_extract/faults/*"))
    away.rename(mine.wsi_dir)
    assert not extract(mine, out).has_failures
    extract(inputs, tmp_path / "undisturbed")
    assert content_of(out) == content_of(tmp_path / "undisturbed")


def test_a_slide_that_goes_away_keeps_what_is_done_and_is_no_part_of_the_set(inputs: Inputs, tmp_path: Path) -> None:
    mine, out = copy_inputs(inputs, tmp_path / "input"), tmp_path / "out"
    slide, away = mine.wsi_dir / "slide_3.svs", tmp_path / "away.svs"
    with SlideCache() as slides:
        meddler = MeddlingExecutor(
            slides=slides, meddle=lambda: slide.rename(away), stage="extract", at=1, ending="slide_3"
        )
        assert extract(mine, out, executor=meddler).has_failures
    assert {image["slide_id"] for image in images_of(out)} == {"slide_1", "slide_2", "slide_4"}
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert (error["slide_id"], error["errno_name"], error["n_attempts"]) == ("slide_3", "ENOENT", 2)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*2017/slide_3/*.png")}
    assert kept
    away.rename(slide)
    assert not extract(mine, out).has_failures
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # not made again
    extract(inputs, tmp_path / "undisturbed")
    assert content_of(out) == content_of(tmp_path / "undisturbed")


def test_files_that_may_not_grow_stop_the_run_and_blame_no_slide(inputs: Inputs, tmp_path: Path) -> None:
    """A limit that is reached as a quota is, at a write in the middle of a file."""
    out = tmp_path / "out"
    extract(inputs, tmp_path / "undisturbed")
    largest = max(path.stat().st_size for path in (tmp_path / "undisturbed").glob("*2017/*/*.png"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        with pytest.raises(EnvironmentFaultError, match=r"File too large \(EFBIG\)"):
            extract(inputs, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (out / "manifest.json").exists()
    extract(inputs, out)
    assert content_of(out) == content_of(tmp_path / "undisturbed")


class LitteringExecutor:
    """Leaves a half-written file behind, as a worker that is killed and replaced does."""

    n_workers = 1
    worker_memory_bytes = MEMORY_BYTES

    def __init__(self, slides: SlideCache, *, out: Path) -> None:
        self.serial = SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES)
        self.out = out

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        yield from self.serial.run(tasks)
        for folder in self.out.glob("train2017/*"):
            (folder / "patch.png.0123456789ab.partial").write_bytes(b"half")


def test_a_finished_set_holds_nothing_half_written(inputs: Inputs, tmp_path: Path) -> None:
    with SlideCache() as slides:
        extract(inputs, tmp_path / "out", executor=LitteringExecutor(slides, out=tmp_path / "out"))
    assert audit(tmp_path / "out").problems == ()
