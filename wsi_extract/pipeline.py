"""The story of one run. Start reading here.

    gather   find and open slides, read annotations, assign splits             -> Inputs
    survey   one task per slide: tissue mask, sampled coordinates              -> SurveyRecord, plan on disk
    extract  one task per block: read, cut, label, write, record               -> BlockRecord, files
    pixels   one task per shard of a slide's pixels, for the pixel store        -> PixelRecord, files
    publish  documents of the Zarr stores: from here on they open
    finish   records in plan order -> COCO and index per split, tables, manifest

Every patch has its place, split and file name before a pixel of the output is read, so the order of execution cannot
change the result. This module knows no scheduler: the executor is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from wsi_extract.claim import check_folder, claim_folder, sweep_temporaries
from wsi_extract.config import RunConfig
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.extraction import ExtractionLoop, Reporter, RunPlan
from wsi_extract.finish import Finished, SlideOutcome, describe_shortfall, finish_run
from wsi_extract.gather import Inputs, SlideStatus, gather_inputs
from wsi_extract.layout import plan_path
from wsi_extract.model import Fault
from wsi_extract.pixel_loop import PixelLoop
from wsi_extract.pixels import check_pixel_frame
from wsi_extract.plans import SurveyRecord, read_patches
from wsi_extract.preflight import (
    check_disk,
    check_memory,
    describe_run,
    expected_bytes,
    surroundings,
    survey_job,
)
from wsi_extract.publish import publish_stores
from wsi_extract.splits import LeakageReport, overlaps_between_splits
from wsi_extract.storage import Store
from wsi_extract.stores.zarr_json import check_node_name
from wsi_extract.survey import survey_slide
from wsi_extract.tasks import Executor, Task, survivable_fault


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
    inputs = gather_inputs(config, executor=executor, progress=reporter)
    _check_store(config, inputs)
    reporter.show_inputs(inputs)
    needed_bytes = check_memory(config, inputs, executor=executor)
    description = describe_run(config, inputs)
    failed = [entry.file.slide_id for entry in inputs.entries if entry.status is SlideStatus.FAILED]
    claim = check_folder if config.dry_run else claim_folder
    claim(config.output_dir, description=description, failed=failed, fresh=config.fresh)
    surveys, faults = _survey(config, inputs, executor=executor, reporter=reporter)
    plan = RunPlan(
        inputs=inputs,
        surveys=surveys,
        faults=faults,
        n_bytes=expected_bytes(config, inputs, surveys),
        worker_bytes=needed_bytes,
    )
    reporter.show_plan(plan)
    _refuse_empty(plan)
    check_disk(config.output_dir, n_bytes=plan.n_bytes)
    if config.dry_run:
        return RunResult(plan=plan, finished=None)
    leakage = _prove_no_overlap(config, plan)
    outcomes = _extract(config, plan, executor=executor, reporter=reporter)
    publish_stores(config, plan, outcomes=outcomes)
    seconds = (datetime.now(UTC) - started).total_seconds()
    finished = finish_run(
        config,
        inputs=inputs,
        outcomes=outcomes,
        leakage=leakage,
        run={"started": started.isoformat(), "seconds": round(seconds, 3), **surroundings(config, executor)},
    )
    reporter.show_finished(finished, inputs=inputs, seconds=seconds)
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


def _survey(
    config: RunConfig, inputs: Inputs, *, executor: Executor, reporter: Reporter
) -> tuple[dict[str, SurveyRecord], dict[str, Fault]]:
    def tasks() -> Iterator[Task]:
        for ordinal, entry in enumerate(inputs.entries):
            if entry.status is not SlideStatus.PLANNED:
                continue
            yield Task(
                stage="survey",
                slide_ordinal=ordinal,
                slide_id=entry.file.slide_id,
                index=0,
                function=survey_slide,
                item=survey_job(config, entry),
            )

    reporter.begin("survey", total=len(inputs.planned), unit="slides")
    surveys: dict[str, SurveyRecord] = {}
    faults: dict[str, Fault] = {}
    for result in executor.run(tasks()):
        reporter.advance(1)
        if isinstance(result.value, SurveyRecord):
            surveys[result.task.slide_id] = result.value
        else:
            faults[result.task.slide_id] = survivable_fault(result)
            reporter.fail(faults[result.task.slide_id])
    reporter.end()
    return surveys, faults


def _extract(config: RunConfig, plan: RunPlan, *, executor: Executor, reporter: Reporter) -> dict[str, SlideOutcome]:
    extraction = ExtractionLoop(config, plan, reporter=reporter)
    reporter.begin(extraction.stage, total=plan.n_patches, unit="patches")
    for result in executor.run(extraction.tasks()):
        extraction.take(result)
    reporter.end()
    reporter.show_kept(extraction.tally.n_kept, unit="patches")
    if config.store is Store.PIXELS:
        pixels = PixelLoop(config, plan, faults=extraction.faults, reporter=reporter)
        reporter.begin("pixels", total=pixels.n_chunks, unit="chunks")
        for result in executor.run(pixels.tasks()):
            pixels.take(result)
        reporter.end()
        reporter.show_kept(pixels.tally.n_kept, unit="chunks")
    sweep_temporaries(config.output_dir)  # of workers that died and were replaced
    return extraction.outcomes()


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


def _prove_no_overlap(config: RunConfig, plan: RunPlan) -> LeakageReport:
    """Add to the leakage report that no two patches of different splits share pixels of a slide."""
    report = plan.inputs.leakage
    for entry in plan.inputs.planned:
        survey = plan.surveys.get(entry.file.slide_id)
        if survey is None or entry.frame is None or entry.decision is None or len(entry.decision.splits) < 2:
            continue
        patches = read_patches(plan_path(config.output_dir, slide_id=survey.slide_id), record=survey)
        n_pairs = overlaps_between_splits(patches, frame=entry.frame)
        report = replace(report, n_overlapping_patch_pairs=report.n_overlapping_patch_pairs + n_pairs)
    if report.n_overlapping_patch_pairs:
        raise IntegrityError(
            f"{report.n_overlapping_patch_pairs} pairs of patches of different splits overlap.", "Please report this."
        )
    return report
