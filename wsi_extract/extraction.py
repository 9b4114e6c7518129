"""The driver's side of the extraction: which blocks are still to be done, and what became of each slide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from wsi_extract.blocks import cut_blocks
from wsi_extract.config import RunConfig
from wsi_extract.errors import IntegrityError
from wsi_extract.extract import ExtractJob, extract_block
from wsi_extract.finish import Finished, SlideOutcome
from wsi_extract.gather import Inputs, SlideEntry
from wsi_extract.layout import plan_path, record_path
from wsi_extract.model import Block, BlockRecord, Fault, SlidePlan
from wsi_extract.plans import SurveyRecord, read_patches
from wsi_extract.records import read_document
from wsi_extract.slide_tally import SlideProgress, SlideTally
from wsi_extract.storage import Store
from wsi_extract.stores.block_files import BlockTarget, files_of_block
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.targets import LabelRules
from wsi_extract.tasks import Task, TaskResult


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
    """The state of the extraction loop: which slides failed, how many blocks each has."""

    def __init__(self, config: RunConfig, plan: RunPlan, *, reporter: Reporter) -> None:
        self.config = config
        self.plan = plan
        self.faults: dict[str, Fault] = dict(plan.faults)
        self.n_blocks: dict[str, int] = {}
        n_patches = {slide_id: record.n_patches for slide_id, record in plan.surveys.items()}
        self.tally = SlideTally(n_patches, faults=self.faults, reporter=reporter)
        self.rules = label_rules(config)
        self.stage = "label" if config.store is Store.PIXELS else "extract"
        """The pixel store is filled later, shard by shard; here its patches are labelled."""
        name, level = config.pixel_codec
        self.target = BlockTarget(
            output_dir=config.output_dir.resolve(), store=config.store, codec=PixelCodec(name=name, level=level)
        )

    def tasks(self) -> Iterator[Task]:
        """Yield the blocks that are not done, slide by slide; a slide that failed yields no more."""
        for ordinal, entry in enumerate(self.plan.inputs.entries):
            slide_id = entry.file.slide_id
            survey = self.plan.surveys.get(slide_id)
            if survey is None:
                continue
            self.n_blocks[slide_id] = 0
            for block in self._blocks(entry, survey):
                if slide_id in self.faults:
                    break
                self.n_blocks[slide_id] += 1
                if self._is_done(block):
                    self.tally.keep(slide_id, n_units=len(block))
                    continue
                yield Task(
                    stage=self.stage,
                    slide_ordinal=ordinal,
                    slide_id=slide_id,
                    index=block.index,
                    function=extract_block,
                    item=ExtractJob(block=block, rules=self.rules, target=self.target),
                )

    def _blocks(self, entry: SlideEntry, survey: SurveyRecord) -> Iterator[Block]:
        assert entry.info is not None
        assert entry.frame is not None
        path = plan_path(self.config.output_dir, slide_id=survey.slide_id)
        patches = read_patches(path, record=survey)
        return cut_blocks(
            SlidePlan(slide_id=survey.slide_id, patches=patches, accounts=survey.accounts),
            slide=entry.info,
            frame=entry.frame,
            annotations=entry.annotations,
            plan_digest=survey.plan_digest,
        )

    def _is_done(self, block: Block) -> bool:
        """Whether an earlier run finished the block: its record fits the plan and its files are there, whole."""
        path = record_path(self.config.output_dir, slide_id=block.slide.slide_id, index=block.index)
        try:
            document = read_document(path)
        except IntegrityError:
            return False
        if document is None or document["plan_digest"] != block.plan_digest or len(document["patches"]) != len(block):
            return False
        return all(
            file.is_file() and file.stat().st_size == n_bytes
            for file, n_bytes in files_of_block(document, target=self.target)
        )

    def take(self, result: TaskResult) -> None:
        """Note the result of one block."""
        if isinstance(result.value, BlockRecord):
            self.tally.advance(result.task.slide_id, n_units=result.value.n_patches)
        else:
            self.tally.fail(result)

    def outcomes(self) -> dict[str, SlideOutcome]:
        """Return what each planned slide yielded."""
        return {
            entry.file.slide_id: SlideOutcome(
                slide_id=entry.file.slide_id,
                survey=self.plan.surveys.get(entry.file.slide_id),
                n_blocks=self.n_blocks.get(entry.file.slide_id, 0),
                fault=self.faults.get(entry.file.slide_id),
            )
            for entry in self.plan.inputs.planned
        }
