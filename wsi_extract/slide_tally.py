"""How far the slides of a stage are, and which of them failed: what the driver keeps while tasks come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from wsi_extract.model import Fault
from wsi_extract.tasks import Progress, TaskResult, survivable_fault


class SlideProgress(Progress, Protocol):
    """Shows units and slides that are done."""

    def keep(self, n_units: int) -> None:
        """Note units of the current stage that an earlier run has done."""

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Note how many slides of the stage are complete."""


class SlideTally:
    """Counts what each slide still lacks, and keeps the fault of each slide that failed.

    Parameters
    ----------
    n_left
        Units each slide lacks at the start, by slide id.
    faults
        By slide id; those of slides that fail now are added.
    """

    def __init__(self, n_left: Mapping[str, int], *, faults: dict[str, Fault], reporter: SlideProgress) -> None:
        self.n_left = dict(n_left)
        self.faults = faults
        self.n_kept = 0
        """Units that an earlier run finished."""
        self._n_done = sum(n == 0 for n in self.n_left.values())
        """Slides that lack nothing."""
        self._reporter = reporter
        self._fault_index: dict[str, int] = {}

    def keep(self, slide_id: str, *, n_units: int) -> None:
        """Note units that are there already."""
        self.n_kept += n_units
        self._take_off(slide_id, n_units=n_units)
        self._reporter.keep(n_units)

    def advance(self, slide_id: str, *, n_units: int) -> None:
        """Note units that are done."""
        self._take_off(slide_id, n_units=n_units)
        self._reporter.advance(n_units)

    def _take_off(self, slide_id: str, *, n_units: int) -> None:
        n_before = self.n_left[slide_id]
        self.n_left[slide_id] -= n_units
        if self.n_left[slide_id] == 0:
            self._n_done += n_before != 0
            self._reporter.count_slides(self._n_done, total=len(self.n_left))

    def fail(self, result: TaskResult) -> None:
        """Note that a task failed and with it its slide.

        Raises
        ------
        EnvironmentFaultError, IntegrityError
            When the machine or the output folder failed, not the slide.
        """
        fault, slide_id = survivable_fault(result), result.task.slide_id
        if slide_id not in self.faults:
            self._reporter.fail(fault)
        # Of several faults of a slide the one of its first task counts, whichever arrives first.
        if result.task.index <= self._fault_index.get(slide_id, result.task.index):
            self.faults[slide_id], self._fault_index[slide_id] = fault, result.task.index
