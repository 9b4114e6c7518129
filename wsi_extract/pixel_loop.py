"""The driver's side of the pixel store: which shards are still to be written, and whose failure costs a slide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_extract.config import RunConfig
from wsi_extract.extraction import Reporter, RunPlan
from wsi_extract.gather import SlideEntry
from wsi_extract.model import Fault
from wsi_extract.pixels import (
    PixelJob,
    PixelRecord,
    StoredLevel,
    cut_pixel_jobs,
    is_done,
    read_pixel_document_with_digest,
    write_pixels,
)
from wsi_extract.slide_outcomes import digests_of_blocks
from wsi_extract.slide_tally import SlideTally
from wsi_extract.state.layout import pixel_record_path, plan_path
from wsi_extract.state.plans import SurveyRecord, read_coverage
from wsi_extract.state.run_claims import require_claim
from wsi_extract.state.slide_ledger import SlideLedger
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.tasks import Task, TaskResult


class PixelLoop:
    """The state of writing the pixels of all slides that did not fail yet.

    Parameters
    ----------
    faults
        By slide id; those of slides that fail here are added.
    """

    def __init__(self, config: RunConfig, plan: RunPlan, *, faults: dict[str, Fault], reporter: Reporter) -> None:
        self.config = config
        self.plan = plan
        self.faults = faults
        name, level = config.pixel_codec
        self.codec = PixelCodec(name=name, level=level)
        n_chunks = {slide_id: record.n_chunks for slide_id, record in plan.surveys.items() if slide_id not in faults}
        self.n_chunks = sum(n_chunks.values())
        self.tally = SlideTally(n_chunks, faults=faults, reporter=reporter)
        self._ledger = SlideLedger(config.output_dir)
        self._run_digest = require_claim(config.output_dir)
        self._fingerprints = {
            entry.file.slide_id: entry.info.fingerprint for entry in plan.inputs.planned if entry.info is not None
        }

    def tasks(self) -> Iterator[Task]:
        """Yield the shards that are not done, slide by slide; a slide that failed yields no more."""
        n_left = self.n_chunks
        for ordinal, entry in enumerate(self.plan.inputs.entries):
            slide_id = entry.file.slide_id
            if slide_id not in self.tally.n_left:
                continue
            survey = self.plan.surveys[slide_id]
            self._ledger.begin(
                survey,
                fingerprint=self._fingerprints[slide_id],
                n_units=survey.n_chunks,
                blocks=digests_of_blocks(self.config.output_dir, survey),
            )
            for index, job in enumerate(self._jobs(entry, survey)):
                if slide_id in self.faults:
                    break
                n_units = int(np.count_nonzero(job.wanted))
                n_left -= n_units
                if is_done(job):
                    self._keep(job, n_units=n_units)
                    continue
                yield Task(
                    stage="pixels",
                    slide_ordinal=ordinal,
                    slide_id=slide_id,
                    index=index,
                    function=write_pixels,
                    item=job,
                    path=job.source.slide.path,
                    n_units=n_units,
                    n_units_after=n_left,
                )

    def _keep(self, job: PixelJob, *, n_units: int) -> None:
        slide_id = job.source.slide.slide_id
        path = pixel_record_path(job.output_dir, slide_id=slide_id, row=job.row, column=job.column)
        found = read_pixel_document_with_digest(path)
        assert found is not None  # it was read a moment ago
        self.tally.keep(slide_id, n_units=n_units)
        self._ledger.add_shard(slide_id, row=job.row, column=job.column, n_chunks=n_units, sha256=found[1])

    def _jobs(self, entry: SlideEntry, survey: SurveyRecord) -> Iterator[PixelJob]:
        assert entry.info is not None
        assert entry.frame is not None
        output_dir = self.config.output_dir.resolve()
        return cut_pixel_jobs(
            read_coverage(plan_path(output_dir, slide_id=survey.slide_id), record=survey),
            source=StoredLevel(
                slide=entry.info,
                frame=entry.frame,
                plan_digest=survey.plan_digest,
                reader=survey.reader,
                stain=survey.stain,
            ),
            codec=self.codec,
            output_dir=output_dir,
            run_digest=self._run_digest,
        )

    def take(self, result: TaskResult) -> None:
        """Note the result of one shard."""
        slide_id, record = result.task.slide_id, result.value
        if isinstance(record, PixelRecord):
            self.tally.advance(slide_id, n_units=record.n_chunks)
            self._ledger.add_shard(
                slide_id, row=record.row, column=record.column, n_chunks=record.n_chunks, sha256=record.sha256
            )
            return
        known = self.faults.get(slide_id)
        self.tally.fail(result)
        if self.faults[slide_id] is not known:
            self._ledger.fail(self.faults[slide_id], fingerprint=self._fingerprints[slide_id])
