"""The story of one run. Start reading here.

    gather   find and open slides, read annotations, assign splits             -> Inputs
    survey   one task per slide: tissue mask, sampled coordinates              -> SurveyRecord, plan on disk
    extract  one task per block: read, cut, label, write, record               -> BlockRecord, files
             (of a slide that has its plan: the surveys of others may still be out)
    pixels   one task per shard of a slide's pixels, for the pixel store        -> PixelRecord, files
    publish  documents of the Zarr stores: from here on they open
    finish   records in plan order -> COCO and index per split, tables, manifest

Every patch has its place, split and file name before a pixel of the output is read, so the order of execution cannot
change the result. This module knows no scheduler: the executor is handed in.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from wsi_extract.config import RunConfig
from wsi_extract.disk.mounts import CommitForm, commit_form
from wsi_extract.disk_room import DiskRoom
from wsi_extract.errors import EnvironmentFaultError, InputError
from wsi_extract.extraction import ExtractionLoop, Reporter, RunPlan
from wsi_extract.finish import Finished, describe_shortfall, finish_run
from wsi_extract.gather import Inputs, SlideStatus, gather_inputs
from wsi_extract.in_work import run_watched
from wsi_extract.model import Fault
from wsi_extract.pixel_loop import PixelLoop
from wsi_extract.pixels import check_pixel_frame
from wsi_extract.preflight import check_memory, describe_run, stain_target, surroundings
from wsi_extract.publish import publish_stores
from wsi_extract.stain import StainTarget
from wsi_extract.state.claim import check_folder, claim_folder, refuse_foreign
from wsi_extract.state.clearing import sweep_temporaries
from wsi_extract.state.folder_lock import locked, refuse_locked
from wsi_extract.state.layout import run_path
from wsi_extract.state.run_claims import check_claim, run_digest
from wsi_extract.storage import Store
from wsi_extract.stores.png import check_encoder
from wsi_extract.stores.zarr_json import check_node_name
from wsi_extract.survey_loop import STAGE as SURVEY
from wsi_extract.survey_loop import SurveyLoop
from wsi_extract.tasks import Executor, Task, n_workers_used
from wsi_extract.versions import check_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended."""

    plan: RunPlan
    finished: Finished | None
    """``None`` after a dry run."""

    @property
    def has_failures(self) -> bool:
        """Whether slides are missing from the data set that should be in it."""
        return bool(self.plan.inputs.faults or self.plan.faults or (self.finished and self.finished.faults))


def run(config: RunConfig, *, executor: Executor, reporter: Reporter) -> RunResult:
    """Carry out one run from slides and annotations to a finished data set.

    Raises
    ------
    InputError, ConfigError
        When the input or the settings cannot be used.
    EnvironmentFaultError
        When the machine failed; running the same command again resumes.
    IntegrityError
        When the output folder belongs to another run.
    """
    started = _Start(at=datetime.now(UTC), monotonic_s=time.monotonic())
    check_versions()
    refuse_locked(config.output_dir)  # before all slides are opened, as the next two
    refuse_foreign(config.output_dir)
    _refuse_lost_slides(config)
    if config.store.has_png:
        check_encoder(config.pixel_encoder)
    if config.dry_run:
        work = _prepare(config, executor=executor, reporter=reporter)
        check_folder(config.output_dir, description=work.description, failed=work.failed, fresh=config.fresh)
        plan, _, _ = _plan_and_extract(work)
        return RunResult(plan=plan, finished=None)
    # Before any slide is opened: one that kills this process on being opened leaves the mark of a hard end as well.
    with locked(config.output_dir, command="run_extraction.py") as lock:
        if not lock.is_exclusive:
            reporter.warn(
                f"{config.output_dir} cannot be locked: make sure that no other run writes there.{lock.rival}"
            )
        work = _prepare(config, executor=executor, reporter=reporter)
        claim_folder(config.output_dir, description=work.description, failed=work.failed, fresh=config.fresh)
        return _write(work, started=started)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """When a run began: for people, and to measure how long it takes although somebody may set the clock."""

    at: datetime
    monotonic_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a run does, once its input is known."""

    config: RunConfig
    inputs: Inputs
    target: StainTarget | None
    executor: Executor
    reporter: Reporter
    worker_bytes: int
    description: dict[str, object]
    """What the output depends on."""

    @property
    def failed(self) -> list[str]:
        """Ids of slides that could not be opened."""
        return [entry.file.slide_id for entry in self.inputs.entries if entry.status is SlideStatus.FAILED]


def _prepare(config: RunConfig, *, executor: Executor, reporter: Reporter) -> _Work:
    """Look at all input, and refuse what cannot be used."""
    target = stain_target(config)
    inputs = gather_inputs(config, executor=executor, progress=reporter)
    _check_store(config, inputs)
    reporter.show_inputs(inputs)
    return _Work(
        config=config,
        inputs=inputs,
        target=target,
        executor=executor,
        reporter=reporter,
        worker_bytes=check_memory(config, inputs, executor=executor),
        description=describe_run(config, inputs, target=target),
    )


def _write(work: _Work, *, started: _Start) -> RunResult:
    """Fill an output folder that belongs to the run, and finish it."""
    config, inputs, executor = work.config, work.inputs, work.executor
    plan, extraction, room = _plan_and_extract(work)
    if config.store is Store.PIXELS:
        _write_pixels(work, plan, faults=extraction.faults, room=room)
    if commit_form(config.output_dir) is CommitForm.RENAME:
        sweep_temporaries(config.output_dir)  # of workers that died and were replaced
    outcomes = extraction.outcomes()
    claim = run_digest(work.description)
    check_claim(config.output_dir, claim)  # a folder that was moved or deleted must not be made anew, half empty
    publish_stores(config, plan, outcomes=outcomes)
    check_claim(config.output_dir, claim)
    wall_s = time.monotonic() - started.monotonic_s
    finished = finish_run(
        config,
        inputs=inputs,
        outcomes=outcomes,
        leakage=extraction.leakage,
        run={
            "started": started.at.isoformat(),
            "seconds": round(wall_s, 3),
            **surroundings(config, executor),
            "n_workers": n_workers_used(executor),
        },
    )
    work.reporter.show_finished(finished, inputs=inputs, seconds=wall_s)
    return RunResult(plan=plan, finished=finished)


def _refuse_lost_slides(config: RunConfig) -> None:
    """Refuse to resume without a slide: what was there when the run began is not a mistake of the command.

    Raises
    ------
    EnvironmentFaultError
        When the folder of slides has gone, or holds nothing, since an earlier run.
    """
    if not run_path(config.output_dir).is_file():
        return
    try:
        with os.scandir(config.wsi_dir) as entries:
            reason = "" if next(entries, None) is not None else "is empty"
    except OSError as error:
        reason = f"cannot be listed ({error.strerror})"
    if reason:
        raise EnvironmentFaultError(
            f"the slide folder {config.wsi_dir} {reason}, although {config.output_dir} was begun with slides.",
            "Is the mount still there? Mend it, then run the same command again; finished work is kept.",
        )


def _check_store(config: RunConfig, inputs: Inputs) -> None:
    """Refuse slides that the store asked for cannot hold.

    Raises
    ------
    InputError, ConfigError
        With the slide, the reason, and another way.
    """
    if config.store is Store.PNG:
        return
    for entry in inputs.planned:
        check_node_name(entry.file.slide_id)
        if config.store is Store.PIXELS:
            assert entry.frame is not None
            check_pixel_frame(entry.file.slide_id, entry.frame)


def _plan_and_extract(work: _Work) -> tuple[RunPlan, ExtractionLoop, DiskRoom]:
    """Survey all slides, and extract their blocks unless this is a dry run.

    Both come from one stream of tasks, so that no worker waits for the last survey.
    """
    config, inputs, reporter = work.config, work.inputs, work.reporter
    surveys = SurveyLoop(config, inputs, target=work.target, reporter=reporter)
    extraction = ExtractionLoop(config, inputs, reporter=reporter)
    plan = None
    reporter.begin(SURVEY, total=len(inputs.planned), unit="slides")
    for result in run_watched(work.executor, _tasks(config, surveys, extraction), progress=reporter):
        if not config.dry_run:
            surveys.room.check_reserve()
        if result.task.stage != SURVEY:
            extraction.take(result)
            continue
        survey = surveys.take(result)
        if survey is not None:
            extraction.add(survey)
        if surveys.is_complete:
            reporter.end()
            plan = _decide(surveys, worker_bytes=work.worker_bytes)
            reporter.show_plan(plan)
            _refuse_empty(plan)
            surveys.room.check(plan.n_bytes)
            if not config.dry_run:
                extraction.open(plan)
    assert plan is not None
    if not config.dry_run:
        reporter.end()
        reporter.show_kept(extraction.n_kept, unit="patches")
    return plan, extraction, surveys.room


def _tasks(config: RunConfig, surveys: SurveyLoop, extraction: ExtractionLoop) -> Iterator[Task | None]:
    """Yield all surveys, then the blocks of slides that have a plan, also while the last surveys are still out.

    Until every plan is made and the disk is known to have room for all, blocks are handed out only while it has room
    for those of the plans that are there, which is looked at before each.
    """
    yield from surveys.tasks()
    if config.dry_run:
        return
    while not surveys.is_complete:
        blocks = extraction.tasks()
        while surveys.has_room and (block := next(blocks, None)) is not None:
            yield block
        if not surveys.is_complete:
            yield None
    yield from extraction.tasks()


def _decide(surveys: SurveyLoop, *, worker_bytes: int) -> RunPlan:
    return RunPlan(
        inputs=surveys.inputs,
        surveys=surveys.surveys,
        faults=surveys.faults,
        n_bytes=surveys.n_bytes,
        worker_bytes=worker_bytes,
    )


def _write_pixels(work: _Work, plan: RunPlan, *, faults: dict[str, Fault], room: DiskRoom) -> None:
    reporter = work.reporter
    pixels = PixelLoop(work.config, plan, faults=faults, reporter=reporter)
    reporter.begin("pixels", total=pixels.n_chunks, unit="chunks")
    for result in run_watched(work.executor, pixels.tasks(), progress=reporter):
        room.check_reserve()
        pixels.take(result)
    reporter.end()
    reporter.show_kept(pixels.tally.n_kept, unit="chunks")


def _refuse_empty(plan: RunPlan) -> None:
    """Refuse to go on when no slide yields a patch.

    Raises
    ------
    InputError
        With the reason of each slide.
    """
    if plan.n_patches:
        return
    reasons = [f"  {slide_id}: {fault.message}" for slide_id, fault in sorted(plan.faults.items())]
    for slide_id, record in sorted(plan.surveys.items()):
        reasons += [f"  {slide_id}, {describe_shortfall(account)}" for account in record.accounts]
    raise InputError("no slide yields a patch:\n" + "\n".join(reasons[:20]))
