"""The driver's side of the pixel store: which shards are still to be written, and whose failure costs a slide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_extract.config import RunConfig
from wsi_extract.extraction import Reporter, RunPlan
from wsi_extract.gather import SlideEntry
from wsi_extract.layout import plan_path
from wsi_extract.model import Fault
from wsi_extract.pixels import PixelJob, PixelRecord, cut_pixel_jobs, is_done, write_pixels
from wsi_extract.plans import SurveyRecord, read_coverage
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.tasks import Task, TaskResult, survivable_fault


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
        self.reporter = reporter
        self.fault_index: dict[str, int] = {}
        name, level = config.pixel_codec
        self.codec = PixelCodec(name=name, level=level)
        self.n_kept = 0
        """Chunks that an earlier run finished."""
        self.n_left = {slide_id: record.n_chunks for slide_id, record in plan.surveys.items() if slide_id not in faults}
        """Chunks each slide still lacks."""
        self.n_chunks = sum(self.n_left.values())

    def tasks(self) -> Iterator[Task]:
        """Yield the shards that are not done, slide by slide; a slide that failed yields no more."""
        for ordinal, entry in enumerate(self.plan.inputs.entries):
            slide_id = entry.file.slide_id
            if slide_id not in self.n_left:
                continue
            for index, job in enumerate(self._jobs(entry, self.plan.surveys[slide_id])):
                if slide_id in self.faults:
                    break
                if is_done(job):
                    n_chunks = int(np.count_nonzero(job.wanted))
                    self.n_kept += n_chunks
                    self._advance(slide_id, n_chunks=n_chunks)
                    continue
                yield Task(
                    stage="pixels",
                    slide_ordinal=ordinal,
                    slide_id=slide_id,
                    index=index,
                    function=write_pixels,
                    item=job,
                )

    def _jobs(self, entry: SlideEntry, survey: SurveyRecord) -> Iterator[PixelJob]:
        assert entry.info is not None
        assert entry.frame is not None
        output_dir = self.config.output_dir.resolve()
        return cut_pixel_jobs(
            read_coverage(plan_path(output_dir, slide_id=survey.slide_id), record=survey),
            slide=entry.info,
            frame=entry.frame,
            plan_digest=survey.plan_digest,
            codec=self.codec,
            output_dir=output_dir,
        )

    def take(self, result: TaskResult) -> None:
        """Note the result of one shard."""
        if isinstance(result.value, PixelRecord):
            self._advance(result.task.slide_id, n_chunks=result.value.n_chunks)
            return
        fault, slide_id = survivable_fault(result), result.task.slide_id
        if slide_id not in self.faults:
            self.reporter.fail(fault)
        # Of several faults of a slide the one of its first shard counts, whichever arrives first.
        if result.task.index <= self.fault_index.get(slide_id, result.task.index):
            self.faults[slide_id], self.fault_index[slide_id] = fault, result.task.index

    def _advance(self, slide_id: str, *, n_chunks: int) -> None:
        self.n_left[slide_id] -= n_chunks
        if self.n_left[slide_id] == 0:
            n_done = sum(n == 0 for n in self.n_left.values())
            self.reporter.count_slides(n_done, total=len(self.n_left))
        self.reporter.advance(n_chunks)
