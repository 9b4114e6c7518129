"""Surveys and blocks come from one stream: nothing waits for the last survey, and no check comes too late for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_run import MEMORY_BYTES, Inputs, content_of, copy_inputs, extract, make_inputs, read_manifest
from tests.test_failures import damage
from wsi_extract.disk_room import DiskRoom
from wsi_extract.errors import EnvironmentFaultError, InputError
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.survey_loop import SurveyLoop
from wsi_extract.tasks import Task, TaskResult, attempt


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"))


@dataclass(kw_only=True)
class SlowSurveyExecutor:
    """Gives the result of the first survey only when nothing else can be done, as if that slide were a giant."""

    slides: SlideCache
    n_workers: int = 2
    worker_memory_bytes: int = MEMORY_BYTES
    n_before_last_survey: int = 0
    """Blocks done while it was out."""

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        held: Task | None = None
        stream = iter(tasks)
        for task in stream:
            if task is None:
                assert held is not None
                yield self.finish(held)
                held = None
            elif task.stage == "survey" and task.slide_ordinal == 0:
                held = task
            else:
                self.n_before_last_survey += task.stage in {"extract", "label"} and held is not None
                yield self.finish(task)
        if held is not None:  # a stream of surveys only
            yield self.finish(held)

    def finish(self, task: Task) -> TaskResult:
        return attempt(task, self.slides)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="png"),
        pytest.param({"split_mode": "half", "patches_per_slide": 12, "guard_px": 10}, id="half"),
        pytest.param({"store": "pixels"}, id="pixels"),
    ],
)
def test_blocks_do_not_wait_for_the_last_survey(inputs: Inputs, tmp_path: Path, settings: dict[str, Any]) -> None:
    extract(inputs, tmp_path / "serial", **settings)
    with SlideCache() as slides:
        executor = SlowSurveyExecutor(slides=slides)
        extract(inputs, tmp_path / "early", executor=executor, **settings)
    assert executor.n_before_last_survey >= 6
    assert content_of(tmp_path / "early") == content_of(tmp_path / "serial")


def test_a_dry_run_surveys_only(inputs: Inputs, tmp_path: Path) -> None:
    with SlideCache() as slides:
        executor = SlowSurveyExecutor(slides=slides)
        result = extract(inputs, tmp_path / "out", executor=executor, dry_run=True)
    assert result.plan.n_patches == 80
    assert executor.n_before_last_survey == 0


def test_a_slide_that_fails_early_gives_the_same_account(inputs: Inputs, tmp_path: Path) -> None:
    broken = copy_inputs(inputs, tmp_path / "input")
    damage(broken.wsi_dir / "slide_3.svs")
    settings: dict[str, Any] = {"sampling": "grid", "overlap": 0.2}
    extract(broken, tmp_path / "serial", **settings)
    with SlideCache() as slides:
        extract(broken, tmp_path / "early", executor=SlowSurveyExecutor(slides=slides), **settings)
    assert read_manifest(tmp_path / "early")["status"] == "partial"
    assert content_of(tmp_path / "early") == content_of(tmp_path / "serial")


def test_a_second_run_keeps_what_is_done_while_surveys_are_out(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(inputs, out)
    expected, patches = content_of(out), sorted(out.glob("train2017/*/*.png"))
    kept = {path: path.stat().st_mtime_ns for path in patches[1:]}
    patches[0].unlink()
    with SlideCache() as slides:
        executor = SlowSurveyExecutor(slides=slides)
        extract(inputs, out, executor=executor)
    assert content_of(out) == expected
    n_touched = sum(path.stat().st_mtime_ns != written for path, written in kept.items())
    assert n_touched < 16  # of a block


class FullDiskExecutor(SlowSurveyExecutor):
    """The first block finds the disk full."""

    def finish(self, task: Task) -> TaskResult:
        if task.stage != "extract":
            return super().finish(task)
        fault = Fault(
            slide_id=task.slide_id,
            stage=task.stage,
            fault_class=FaultClass.ENVIRONMENT,
            error_type="OSError",
            message="No space left on device",
            remedy="Make room.",
        )
        return TaskResult(task=task, fault=fault)


def test_a_failing_machine_stops_the_run_while_surveys_are_out(inputs: Inputs, tmp_path: Path) -> None:
    with SlideCache() as slides:
        executor = FullDiskExecutor(slides=slides)
        with pytest.raises(EnvironmentFaultError, match="No space left"):
            extract(inputs, tmp_path / "out", executor=executor)
    assert executor.n_before_last_survey == 1
    assert not (tmp_path / "out" / "errors.jsonl").exists()


# --- what is refused


def test_no_block_is_handed_out_that_the_disk_has_no_room_for(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All surveys are awaited, so that the message tells what the whole run needs."""
    measured = DiskRoom.measure(tmp_path)
    monkeypatch.setattr(DiskRoom, "measure", lambda _folder: replace(measured, free_bytes=10_000))
    with SlideCache() as slides:
        executor = SlowSurveyExecutor(slides=slides)
        with pytest.raises(EnvironmentFaultError, match="the patches need about"):
            extract(inputs, tmp_path / "out", executor=executor)
    assert executor.n_before_last_survey == 0
    assert not list((tmp_path / "out").glob("*2017"))


@dataclass(kw_only=True)
class EagerExecutor:
    """Ends the first survey before all others, and a further one after each block."""

    slides: SlideCache
    n_workers: int = 2
    worker_memory_bytes: int = MEMORY_BYTES
    stages: list[str] = field(default_factory=list)
    """Of the tasks, as they were done."""

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        held = deque[Task]()
        for task in tasks:
            if task is not None and task.stage == "survey" and task.slide_ordinal > 0:
                held.append(task)
                continue
            if task is not None:
                yield self.finish(task)
            if held and (task is None or task.stage != "survey"):
                yield self.finish(held.popleft())

    def finish(self, task: Task) -> TaskResult:
        self.stages.append(task.stage)
        return attempt(task, self.slides)


def test_blocks_of_a_slide_stop_when_the_next_plan_shows_that_the_disk_is_too_small(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = DiskRoom(output_dir=tmp_path, written_bytes=0, free_bytes=1_000_000)  # of a slide, not of two
    monkeypatch.setattr(DiskRoom, "measure", lambda _folder: room)
    with SlideCache() as slides:
        executor = EagerExecutor(slides=slides)
        with pytest.raises(EnvironmentFaultError, match="the patches need about"):
            extract(inputs, tmp_path / "out", executor=executor)
    extracting = [stage for stage in executor.stages if stage in {"survey", "extract"}]
    assert extracting == ["survey", "extract", "survey", "survey", "survey"]


def test_blocks_that_were_held_back_for_room_are_done_in_the_end(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide in the middle of which blocks were held back misses none, and does none twice."""
    monkeypatch.setattr(SurveyLoop, "has_room", property(lambda surveys: len(surveys.surveys) % 2))
    extract(inputs, tmp_path / "serial")
    with SlideCache() as slides:
        executor = EagerExecutor(slides=slides)
        extract(inputs, tmp_path / "eager", executor=executor)
    assert executor.stages.count("extract") == len(list((tmp_path / "serial").glob("**/records/*/*.json")))
    assert content_of(tmp_path / "eager") == content_of(tmp_path / "serial")


def test_a_run_that_yields_nothing_is_refused_whatever_the_order(inputs: Inputs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sampling": "grid", "split_mode": "half", "patch_size": 512, "guard_px": 400}
    with SlideCache() as slides, pytest.raises(InputError, match="no slide yields a patch"):
        extract(inputs, tmp_path / "out", executor=SlowSurveyExecutor(slides=slides), **settings)


def test_room_is_that_of_the_disk_and_of_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet" / "there"
    fresh = DiskRoom.measure(out)
    assert fresh.written_bytes == 0
    assert fresh.free_bytes > 0
    (out / "train2017" / "s").mkdir(parents=True)
    (out / "train2017" / "s" / "a.png").write_bytes(b"12345")
    (out / "notes.txt").write_bytes(b"1")
    room = DiskRoom.measure(out)
    assert room.written_bytes == 5
    assert room.needed_bytes(5) == 0
    assert room.needed_bytes(105) == pytest.approx(110)


@pytest.mark.parametrize(("n_bytes", "fits"), [(0, True), (1000, True), (2000, True), (2001, False)])
def test_the_reserve_counts(tmp_path: Path, n_bytes: int, fits: bool) -> None:
    room = DiskRoom(output_dir=tmp_path, written_bytes=1000, free_bytes=1100)
    if fits:
        room.check(n_bytes)
        return
    with pytest.raises(EnvironmentFaultError, match="--output_dir"):
        room.check(n_bytes)


def test_a_slide_that_has_a_plan_is_surveyed_where_the_plan_is(inputs: Inputs, tmp_path: Path) -> None:
    """And any other one wherever there is room."""
    extract(inputs, tmp_path / "out")
    (tmp_path / "out" / ".wsi_extract" / "plans" / "slide_2.json").unlink()
    asked: dict[str, bool] = {}

    class AskingExecutor(SlowSurveyExecutor):
        def finish(self, task: Task) -> TaskResult:
            if task.stage == "survey":
                asked[task.slide_id] = task.at_home
            else:
                assert not task.at_home
            return super().finish(task)

    with SlideCache() as slides:
        extract(inputs, tmp_path / "out", executor=AskingExecutor(slides=slides))
    assert asked == {"slide_1": True, "slide_2": False, "slide_3": True, "slide_4": True}
