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

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from wsi_extract.claim import check_folder, claim_folder, sweep_temporaries
from wsi_extract.config import RunConfig
from wsi_extract.errors import InputError
from wsi_extract.extraction import ExtractionLoop, Reporter, RunPlan
from wsi_extract.finish import Finished, describe_shortfall, finish_run
from wsi_extract.gather import Inputs, SlideStatus, gather_inputs
from wsi_extract.model import Fault
from wsi_extract.pixel_loop import PixelLoop
from wsi_extract.pixels import check_pixel_frame
from wsi_extract.preflight import check_memory, describe_run, stain_target, surroundings
from wsi_extract.publish import publish_stores
from wsi_extract.stain import StainTarget
from wsi_extract.storage import Store
from wsi_extract.stores.png import check_encoder
from wsi_extract.stores.zarr_json import check_node_name
from wsi_extract.survey_loop import STAGE as SURVEY
from wsi_extract.survey_loop import SurveyLoop
from wsi_extract.tasks import Executor, Task, n_workers_used


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
    started = datetime.now(UTC)
    if config.store.has_png:
        check_encoder(config.pixel_encoder)
    target = stain_target(config)  # before all slides are opened
    inputs = gather_inputs(config, executor=executor, progress=reporter)
    _check_store(config, inputs)
    reporter.show_inputs(inputs)
    needed_bytes = check_memory(config, inputs, executor=executor)
    description = describe_run(config, inputs, target=target)
    failed = [entry.file.slide_id for entry in inputs.entries if entry.status is SlideStatus.FAILED]
    claim = check_folder if config.dry_run else claim_folder
    claim(config.output_dir, description=description, failed=failed, fresh=config.fresh)
    plan, extraction = _plan_and_extract(
        config, inputs, target=target, executor=executor, reporter=reporter, worker_bytes=needed_bytes
    )
    if config.dry_run:
        return RunResult(plan=plan, finished=None)
    if config.store is Store.PIXELS:
        _write_pixels(config, plan, faults=extraction.faults, executor=executor, reporter=reporter)
    sweep_temporaries(config.output_dir)  # of workers that died and were replaced
    outcomes = extraction.outcomes()
    publish_stores(config, plan, outcomes=outcomes)
    wall_s = (datetime.now(UTC) - started).total_seconds()
    finished = finish_run(
        config,
        inputs=inputs,
        outcomes=outcomes,
        leakage=extraction.leakage,
        run={
            "started": started.isoformat(),
            "seconds": round(wall_s, 3),
            **surroundings(config, executor),
            "n_workers": n_workers_used(executor),
        },
    )
    reporter.show_finished(finished, inputs=inputs, seconds=wall_s)
    return RunResult(plan=plan, finished=finished)


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


def _plan_and_extract(
    config: RunConfig,
    inputs: Inputs,
    *,
    target: StainTarget | None,
    executor: Executor,
    reporter: Reporter,
    worker_bytes: int,
) -> tuple[RunPlan, ExtractionLoop]:
    """Survey all slides, and extract their blocks unless this is a dry run.

    Both come from one stream of tasks, so that no worker waits for the last survey.
    """
    surveys = SurveyLoop(config, inputs, target=target, reporter=reporter)
    extraction = ExtractionLoop(config, inputs, reporter=reporter)
    plan = None
    reporter.begin(SURVEY, total=len(inputs.planned), unit="slides")
    for result in executor.run(_tasks(config, surveys, extraction)):
        if result.task.stage != SURVEY:
            extraction.take(result)
            continue
        survey = surveys.take(result)
        if survey is not None:
            extraction.add(survey)
        if surveys.is_complete:
            reporter.end()
            plan = _decide(surveys, worker_bytes=worker_bytes)
            reporter.show_plan(plan)
            _refuse_empty(plan)
            surveys.room.check(plan.n_bytes)
            if not config.dry_run:
                extraction.open(plan)
    assert plan is not None
    if not config.dry_run:
        reporter.end()
        reporter.show_kept(extraction.n_kept, unit="patches")
    return plan, extraction


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


def _write_pixels(
    config: RunConfig, plan: RunPlan, *, faults: dict[str, Fault], executor: Executor, reporter: Reporter
) -> None:
    pixels = PixelLoop(config, plan, faults=faults, reporter=reporter)
    reporter.begin("pixels", total=pixels.n_chunks, unit="chunks")
    for result in executor.run(pixels.tasks()):
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
