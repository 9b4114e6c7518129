"""The driver's account of slides in work: which records each has, so that its manifest is written with the last one.

A manifest is written as soon as its slide is done, so that it is there when the run is killed; of slides that come in
quick succession, many at a time, because each wait for the disk holds up whoever feeds the workers: 2,000 manifests
take 24 s one by one on a disk that others write to, 1.5 s together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsi_extract.model import Fault
from wsi_extract.state.fault_records import forget_fault, note_fault
from wsi_extract.state.layout import slide_manifest_path
from wsi_extract.state.plans import SurveyRecord
from wsi_extract.state.slide_manifests import SCHEMA, SlideManifest, commit_slide_manifests

FLUSH_EVERY_S = 0.25
"""Manifests wait this long for others, or until the next result after it; longer on a slow disk:"""
MAX_FLUSH_SHARE = 0.1
"""Of the driver's time that may go into writing manifests."""


@dataclass(slots=True, kw_only=True)
class _OpenSlide:
    survey: SurveyRecord
    fingerprint: str
    n_left: int
    blocks: dict[int, bytes] = field(default_factory=dict)
    """Digest of the record of each block, as it comes back, in any order; bytes take half the room of hex."""
    shards: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """By row and column."""

    def manifest(self) -> SlideManifest:
        return {
            "schema": SCHEMA,
            "slide_id": self.survey.slide_id,
            "fingerprint": self.fingerprint,
            "plan_digest": self.survey.plan_digest,
            "coverage_digest": self.survey.coverage_digest,
            "n_patches": self.survey.n_patches,
            "blocks": [digest.hex() for _, digest in sorted(self.blocks.items())],
            "pixels": [[row, column, digest.hex()] for (row, column), digest in sorted(self.shards.items())],
        }


class SlideLedger:
    """Collects the digests of records and writes the manifest of each slide that is done.

    Nothing waits when no slide is in work: the last slide of a stage needs no word that it was the last.
    """

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._open: dict[str, _OpenSlide] = {}
        self._waiting: list[SlideManifest] = []
        self._next_flush_s = -math.inf

    def begin(self, survey: SurveyRecord, *, fingerprint: str, n_units: int, blocks: Sequence[str] = ()) -> None:
        """Take up a slide that lacks ``n_units`` patches or chunks; one that lacks none is done.

        Parameters
        ----------
        fingerprint
            Of the slide's file.
        blocks
            Digests of the records of blocks that are done, as hex, in plan order.
        """
        slide = _OpenSlide(survey=survey, fingerprint=fingerprint, n_left=n_units)
        slide.blocks.update((index, bytes.fromhex(digest)) for index, digest in enumerate(blocks))
        self._open[survey.slide_id] = slide
        self._count(slide, n_units=0)

    def add_block(self, slide_id: str, *, index: int, n_patches: int, sha256: str) -> None:
        """Note the record of a block that is done; of slides that are not in work, nothing."""
        slide = self._open.get(slide_id)
        if slide is not None:
            slide.blocks[index] = bytes.fromhex(sha256)
            self._count(slide, n_units=n_patches)

    def add_shard(self, slide_id: str, *, row: int, column: int, n_chunks: int, sha256: str) -> None:
        """Note the record of a shard of pixels that is done; of slides that are not in work, nothing."""
        slide = self._open.get(slide_id)
        if slide is not None:
            slide.shards[row, column] = bytes.fromhex(sha256)
            self._count(slide, n_units=n_chunks)

    def fail(self, fault: Fault, *, fingerprint: str | None) -> None:
        """Give up a slide, and remember why."""
        self._open.pop(fault.slide_id, None)
        remember_fault(self._output_dir, fault, fingerprint=fingerprint)
        self._flush_in_time()

    def _count(self, slide: _OpenSlide, *, n_units: int) -> None:
        slide.n_left -= n_units
        if slide.n_left == 0:
            del self._open[slide.survey.slide_id]
            self._waiting.append(slide.manifest())
        self._flush_in_time()

    def _flush_in_time(self) -> None:
        if not self._open or time.monotonic() >= self._next_flush_s:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises
        ------
        IntegrityError
            When a slide was done before, by the same plan, and came out otherwise.
        """
        if not self._waiting:
            return
        started_s = time.monotonic()
        waiting, self._waiting = self._waiting, []
        commit_slide_manifests(self._output_dir, waiting)
        for manifest in waiting:
            forget_fault(self._output_dir, slide_id=manifest["slide_id"])
        ended_s = time.monotonic()
        self._next_flush_s = ended_s + max(FLUSH_EVERY_S, (ended_s - started_s) / MAX_FLUSH_SHARE)


def remember_fault(output_dir: Path, fault: Fault, *, fingerprint: str | None) -> None:
    """Note on disk that a slide failed: it is not done then, whatever an earlier run said.

    Parameters
    ----------
    fingerprint
        Of the slide's file; ``None`` when it could not even be opened.
    """
    note_fault(output_dir, fault, fingerprint=fingerprint)
    slide_manifest_path(output_dir, slide_id=fault.slide_id).unlink(missing_ok=True)
