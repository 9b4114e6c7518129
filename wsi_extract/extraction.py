"""The driver's side of the extraction: which blocks are still to be done, and what became of each slide."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from wsi_extract.blocks import cut_blocks
from wsi_extract.config import RunConfig
from wsi_extract.errors import IntegrityError
from wsi_extract.extract import ExtractJob, extract_block
from wsi_extract.finish import Finished
from wsi_extract.gather import Inputs, SlideEntry
from wsi_extract.model import Block, BlockRecord, Fault, PatchTable, SlidePlan
from wsi_extract.slide_outcomes import SlideOutcome
from wsi_extract.slide_tally import SlideProgress, SlideTally
from wsi_extract.splits import overlaps_between_splits
from wsi_extract.state.layout import plan_path, record_path
from wsi_extract.state.plans import SurveyRecord, read_patches
from wsi_extract.state.records import read_document_with_digest
from wsi_extract.state.run_claims import require_claim
from wsi_extract.state.slide_ledger import SlideLedger
from wsi_extract.storage import Store
from wsi_extract.stores.block_files import BlockTarget, files_of_block
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.targets import LabelRules
from wsi_extract.tasks import Task, TaskResult, survivable_fault


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPlan:
    """What will be extracted, and what that takes."""

    inputs: Inputs
    surveys: Mapping[str, SurveyRecord]
    """By slide id; slides whose survey failed are missing."""
    faults: Mapping[str, Fault]
    """Of the surveys, by slide id."""
    n_bytes: int
    """Expected size of the patches on disk."""
    worker_bytes: int
    """Upper estimate of a worker's memory."""

    @property
    def n_patches(self) -> int:
        """Patches planned in all slides."""
        return sum(record.n_patches for record in self.surveys.values())


class Reporter(SlideProgress, Protocol):
    """Shows a run to a person, or to nobody."""

    def show_dashboard(self, link: str | None) -> None:
        """Show where the dashboard is, and how to get there; ``None`` is a cluster without one."""

    def note(self, text: str) -> None:
        """Show what a person may want to know."""

    def warn(self, text: str) -> None:
        """Show what a person should know although the run goes on."""

    def show_kept(self, n_kept: int, *, unit: str) -> None:
        """Note how much of the stage that ended was there already."""

    def show_inputs(self, inputs: Inputs) -> None:
        """Show slides, classes, reconciliation and splits."""

    def show_plan(self, plan: RunPlan) -> None:
        """Show what is going to be extracted."""

    def show_finished(self, finished: Finished, *, inputs: Inputs, seconds: float) -> None:
        """Show what was written and what is missing."""


def label_rules(config: RunConfig) -> LabelRules:
    """Return the settings of the visibility rule."""
    return LabelRules(
        label_hard_negatives=config.label_hard_negatives,
        label_visible_fraction=config.label_visible_fraction,
        crowd_visible_fraction=config.crowd_visible_fraction,
    )


class ExtractionLoop:
    """The state of the extraction loop: which slides wait, which failed, how many blocks each has.

    Slides are added as their plans are made. What comes back before all plans are there is kept, and shown once the
    whole is known: see `open`. What happens to a slide is noted on disk at once, so that a run that is killed has said
    it: its manifest when it is done, its fault when it failed.
    """

    def __init__(self, config: RunConfig, inputs: Inputs, *, reporter: Reporter) -> None:
        self.config = config
        self.inputs = inputs
        self.reporter = reporter
        self.faults: dict[str, Fault] = {}
        self.surveys: dict[str, SurveyRecord] = {}
        self.n_blocks: dict[str, int] = {}
        self.leakage = inputs.leakage
        """With the pairs of overlapping patches of the slides whose blocks were begun."""
        self.tally: SlideTally | None = None
        """``None`` until the stage is open."""
        self.stage = "label" if config.store is Store.PIXELS else "extract"
        """The pixel store is filled later, shard by shard; here its patches are labelled."""
        self._rules = label_rules(config)
        name, level = config.pixel_codec
        self._target = BlockTarget(
            output_dir=config.output_dir.resolve(),
            store=config.store,
            codec=PixelCodec(name=name, level=level),
            png=config.pixel_encoder,
            run_digest=None if config.dry_run else require_claim(config.output_dir),
        )
        self._ledger = SlideLedger(config.output_dir)
        self._ordinals = {entry.file.slide_id: ordinal for ordinal, entry in enumerate(inputs.entries)}
        self._waiting: deque[SurveyRecord] = deque()
        self._begun: Iterator[Task] = iter(())
        """The blocks that are left of the slide begun last."""
        self._n_taken = 0
        """Patches of the blocks that were looked at so far."""
        self._n_planned: int | None = None
        """Patches of all plans; ``None`` while plans are missing."""
        self._kept: dict[str, int] = {}
        self._early: list[TaskResult] = []
        self._started_s: float | None = None

    @property
    def n_kept(self) -> int:
        """Patches that an earlier run finished."""
        return sum(self._kept.values())

    def add(self, survey: SurveyRecord) -> None:
        """Let the blocks of a slide be extracted."""
        self.surveys[survey.slide_id] = survey
        self._waiting.append(survey)

    def tasks(self) -> Iterator[Task]:
        """Yield the blocks that are not done of the slides added so far; a slide that failed yields no more.

        When further slides were added, the next call yields theirs; when the last one was left off, also what it left.
        """
        if self._started_s is None:
            self._started_s = time.monotonic()
        while True:
            task = next(self._begun, None)
            if task is not None:
                yield task
            elif self._waiting:
                self._begun = self._tasks_of(self._waiting.popleft())
            else:
                return

    @property
    def _n_left(self) -> int | None:
        """Patches of the blocks that were not looked at yet; ``None`` while plans are missing."""
        return None if self._n_planned is None else self._n_planned - self._n_taken

    def _tasks_of(self, survey: SurveyRecord) -> Iterator[Task]:
        slide_id = survey.slide_id
        ordinal = self._ordinals[slide_id]
        self.n_blocks[slide_id] = 0
        if self.config.store is not Store.PIXELS:  # there a slide is done when its pixels are: see `PixelLoop`
            self._ledger.begin(survey, fingerprint=self._fingerprint_of(slide_id), n_units=survey.n_patches)
        for block in self._blocks(self.inputs.entries[ordinal], survey):
            if slide_id in self.faults:
                break
            self.n_blocks[slide_id] += 1
            self._n_taken += len(block)
            sha256 = self._digest_if_done(block)
            if sha256 is not None:
                self._keep(block, sha256=sha256)
                continue
            yield Task(
                stage=self.stage,
                slide_ordinal=ordinal,
                slide_id=slide_id,
                index=block.index,
                function=extract_block,
                item=ExtractJob(
                    block=block, rules=self._rules, target=self._target, reader=survey.reader, stain=survey.stain
                ),
                path=block.slide.path,
                n_units=len(block),
                n_units_after=self._n_left,
            )

    def _blocks(self, entry: SlideEntry, survey: SurveyRecord) -> Iterator[Block]:
        assert entry.info is not None
        assert entry.frame is not None
        path = plan_path(self.config.output_dir, slide_id=survey.slide_id)
        patches = read_patches(path, record=survey)
        self._prove_no_overlap(entry, patches)
        return cut_blocks(
            SlidePlan(slide_id=survey.slide_id, patches=patches, accounts=survey.accounts),
            slide=entry.info,
            frame=entry.frame,
            annotations=entry.annotations,
            plan_digest=survey.plan_digest,
        )

    def _prove_no_overlap(self, entry: SlideEntry, patches: PatchTable) -> None:
        """Add to the leakage report that no two patches of different splits share pixels of the slide.

        Raises
        ------
        IntegrityError
            When they do.
        """
        assert entry.frame is not None
        assert entry.decision is not None
        if len(entry.decision.splits) < 2:
            return
        n_pairs = overlaps_between_splits(patches, frame=entry.frame)
        self.leakage = replace(self.leakage, n_overlapping_patch_pairs=self.leakage.n_overlapping_patch_pairs + n_pairs)
        if n_pairs:
            raise IntegrityError(
                f"slide {entry.file.slide_id}: {n_pairs} pairs of patches of different splits overlap.",
                "Please report this.",
            )

    def _digest_if_done(self, block: Block) -> str | None:
        """Return the digest of the block's record if an earlier run finished it, else ``None``.

        It did if the record fits the plan and the files are there, whole.
        """
        path = record_path(self.config.output_dir, slide_id=block.slide.slide_id, index=block.index)
        try:
            found = read_document_with_digest(path)
        except IntegrityError:
            return None
        if found is None:
            return None
        document, sha256 = found
        if document["plan_digest"] != block.plan_digest or len(document["patches"]) != len(block):
            return None
        are_whole = all(
            file.is_file() and file.stat().st_size == n_bytes
            for file, n_bytes in files_of_block(document, target=self._target)
        )
        return sha256 if are_whole else None

    def _keep(self, block: Block, *, sha256: str) -> None:
        slide_id, n_patches = block.slide.slide_id, len(block)
        self._kept[slide_id] = self._kept.get(slide_id, 0) + n_patches
        if self.tally is not None:
            self.tally.keep(slide_id, n_units=n_patches)
        self._ledger.add_block(slide_id, index=block.index, n_patches=n_patches, sha256=sha256)

    def _fingerprint_of(self, slide_id: str) -> str:
        info = self.inputs.entries[self._ordinals[slide_id]].info
        assert info is not None
        return info.fingerprint

    def take(self, result: TaskResult) -> None:
        """Note the result of one block.

        Raises
        ------
        EnvironmentFaultError, IntegrityError
            When the machine or the output folder failed, not the slide.
        """
        slide_id = result.task.slide_id
        known = self.faults.get(slide_id)
        if self.tally is not None:
            self._count(result, tally=self.tally)
        else:
            if result.fault is not None:
                self.faults.setdefault(slide_id, survivable_fault(result))
            self._early.append(result)
        if isinstance(result.value, BlockRecord):
            record = result.value
            self._ledger.add_block(slide_id, index=record.index, n_patches=record.n_patches, sha256=record.sha256)
        elif (fault := self.faults[slide_id]) is not known:
            self._ledger.fail(fault, fingerprint=self._fingerprint_of(slide_id))

    def open(self, plan: RunPlan) -> None:
        """Show the stage from here on, beginning with what is done already; no slide may be added any more."""
        self.faults = dict(plan.faults)  # those of early blocks are noted again below
        n_patches = {slide_id: record.n_patches for slide_id, record in self.surveys.items()}
        self._n_planned = sum(n_patches.values())
        self.tally = SlideTally(n_patches, faults=self.faults, reporter=self.reporter)
        self.reporter.begin(self.stage, total=plan.n_patches, unit="patches", started_s=self._started_s)
        for slide_id, n_kept in self._kept.items():
            self.tally.keep(slide_id, n_units=n_kept)
        for result in self._early:
            self._count(result, tally=self.tally)
        self._early.clear()

    @staticmethod
    def _count(result: TaskResult, *, tally: SlideTally) -> None:
        if isinstance(result.value, BlockRecord):
            tally.advance(result.task.slide_id, n_units=result.value.n_patches)
        else:
            tally.fail(result)

    def outcomes(self) -> dict[str, SlideOutcome]:
        """Return what each planned slide yielded; from here on the manifests of all that are done are on disk."""
        self._ledger.flush()
        return {
            entry.file.slide_id: SlideOutcome(
                slide_id=entry.file.slide_id,
                survey=self.surveys.get(entry.file.slide_id),
                n_blocks=self.n_blocks.get(entry.file.slide_id, 0),
                fault=self.faults.get(entry.file.slide_id),
            )
            for entry in self.inputs.planned
        }
