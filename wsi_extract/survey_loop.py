"""The driver's side of the surveys: which slides have a plan already, and whether their patches will fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from wsi_extract.config import RunConfig
from wsi_extract.disk_room import DiskRoom
from wsi_extract.extraction import Reporter
from wsi_extract.gather import Inputs, SlideStatus
from wsi_extract.model import Fault
from wsi_extract.preflight import expected_bytes, survey_job
from wsi_extract.stain import StainTarget
from wsi_extract.state.layout import survey_path
from wsi_extract.state.plans import SurveyRecord
from wsi_extract.state.run_claims import require_claim
from wsi_extract.state.slide_ledger import remember_fault
from wsi_extract.survey import survey_slide
from wsi_extract.tasks import Task, TaskResult, survivable_fault

STAGE = "survey"


class SurveyLoop:
    """The state of the surveys: how many are still out, what became of each slide, what the plans so far need."""

    def __init__(self, config: RunConfig, inputs: Inputs, *, target: StainTarget | None, reporter: Reporter) -> None:
        self.config = config
        self.inputs = inputs
        self.target = target
        self.reporter = reporter
        self.surveys: dict[str, SurveyRecord] = {}
        self.faults: dict[str, Fault] = {}
        self.room = DiskRoom.measure(config.output_dir)
        self.n_bytes = 0
        """Expected size of the patches of the slides surveyed so far."""
        self._n_left = len(inputs.planned)

    @property
    def is_complete(self) -> bool:
        """Whether every slide has a plan or a fault."""
        return self._n_left == 0

    @property
    def has_room(self) -> bool:
        """Whether the patches planned so far fit on the disk."""
        return self.room.needed_bytes(self.n_bytes) <= self.room.free_bytes

    def tasks(self) -> Iterator[Task]:
        """Yield one task per slide that takes part; those that could not even be opened are remembered first."""
        for fault in self.inputs.faults:
            self._remember(fault, fingerprint=None)
        run_digest = None if self.config.dry_run else require_claim(self.config.output_dir)
        for ordinal, entry in enumerate(self.inputs.entries):
            if entry.status is SlideStatus.PLANNED:
                yield Task(
                    stage=STAGE,
                    slide_ordinal=ordinal,
                    slide_id=entry.file.slide_id,
                    index=0,
                    function=survey_slide,
                    item=survey_job(self.config, entry, target=self.target, run_digest=run_digest),
                    path=entry.file.path,
                    at_home=self._has_plan(entry.file.slide_id),
                )

    def _has_plan(self, slide_id: str) -> bool:
        """Whether a plan is there already, so that the survey most likely answers without opening the slide."""
        return not self.config.dry_run and survey_path(self.config.output_dir, slide_id=slide_id).is_file()

    def take(self, result: TaskResult) -> SurveyRecord | None:
        """Note the result of one survey and return its record, ``None`` when the slide failed.

        Raises
        ------
        EnvironmentFaultError, IntegrityError
            When the machine or the output folder failed, not the slide.
        """
        slide_id = result.task.slide_id
        self.reporter.advance(1)
        self._n_left -= 1
        if not isinstance(result.value, SurveyRecord):
            self.faults[slide_id] = survivable_fault(result)
            self.reporter.fail(self.faults[slide_id])
            info = self.inputs.entries[result.task.slide_ordinal].info
            self._remember(self.faults[slide_id], fingerprint=None if info is None else info.fingerprint)
            return None
        self.surveys[slide_id] = result.value
        alone = replace(self.inputs, entries=(self.inputs.entries[result.task.slide_ordinal],))
        self.n_bytes += expected_bytes(self.config, alone, {slide_id: result.value})
        return result.value

    def _remember(self, fault: Fault, *, fingerprint: str | None) -> None:
        if not self.config.dry_run:
            remember_fault(self.config.output_dir, fault, fingerprint=fingerprint)
