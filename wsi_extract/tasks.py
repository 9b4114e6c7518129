"""The contract between the run and whatever executes its tasks, and failures as values.

A task is a plain function of one immutable item, called as ``function(item, slides)`` in some process, where
``slides`` is that process's `SlideCache`. It must be idempotent: an executor may run it twice.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from wsi_extract.errors import EnvironmentFaultError, IntegrityError, SlideError, WsiExtractError
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides import SlideCache

ENVIRONMENT_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
"""Causes of an OSError that no slide can be blamed for: slide readers raise `SlideError` instead."""


ATTEMPTS = 2
"""A slide handle that failed once is useless; the second attempt has a fresh one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One unit of work."""

    stage: str
    """One alphabetic word: the bar of the dashboard the task belongs to."""
    slide_ordinal: int
    slide_id: str
    index: int
    """Number of the task within its slide and stage."""
    function: Callable[[Any, SlideCache], object]
    item: object


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What became of a task: a value, or a fault."""

    task: Task
    value: object = None
    fault: Fault | None = None


class Executor(Protocol):
    """Runs tasks somewhere and hands back their results in any order."""

    n_workers: int
    """Processes that work at the same time; 1 for serial execution."""
    worker_memory_bytes: int
    """Memory each of them may use."""

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Run the tasks, taken from the iterable as there is room for them, and yield each result once."""
        ...


class Progress(Protocol):
    """Shows how far a stage is, to a person or to nobody."""

    def begin(self, stage: str, *, total: int, unit: str) -> None:
        """Start a stage of ``total`` units."""

    def advance(self, n_units: int) -> None:
        """Note that units of the current stage are done."""

    def fail(self, fault: Fault) -> None:
        """Show a failure that the run survives."""

    def end(self) -> None:
        """Finish the current stage."""


def survivable_fault(result: TaskResult) -> Fault:
    """Return the fault of a task when it costs one slide only.

    Raises
    ------
    EnvironmentFaultError, IntegrityError
        When the machine or the output folder failed, not the slide.
    """
    fault = result.fault
    assert fault is not None
    if fault.fault_class is FaultClass.ENVIRONMENT:
        raise EnvironmentFaultError(f"{fault.stage} of slide {fault.slide_id}: {fault.message}.", fault.remedy)
    if fault.fault_class is FaultClass.INTEGRITY:
        raise IntegrityError(f"{fault.stage} of slide {fault.slide_id}: {fault.message}", fault.remedy)
    return fault


def fault_from(error: Exception, *, slide_id: str, stage: str) -> Fault:
    """Turn an error raised by a task into a value, and decide whose fault it is."""
    message, remedy, fault_class = str(error), "", FaultClass.SLIDE
    if isinstance(error, WsiExtractError):
        message, remedy = error.message, error.remedy
    if isinstance(error, IntegrityError):
        fault_class = FaultClass.INTEGRITY
    elif isinstance(error, EnvironmentFaultError) or (
        isinstance(error, OSError) and not isinstance(error, SlideError) and error.errno in ENVIRONMENT_ERRNOS
    ):
        fault_class = FaultClass.ENVIRONMENT
        remedy = remedy or "Mend that and run the same command again; finished work is kept."
    elif isinstance(error, MemoryError):
        message = message or "out of memory"
        remedy = "Give each worker more memory: fewer --workers, or a smaller --patch_size."
    elif isinstance(error, OSError):
        remedy = remedy or "Check the disk or the network, then run the same command again."
    elif not isinstance(error, WsiExtractError):
        remedy = "This looks like a bug; please report it with the slide's format."
    return Fault(
        slide_id=slide_id,
        stage=stage,
        fault_class=fault_class,
        error_type=type(error).__name__,
        message=message or type(error).__name__,
        remedy=remedy,
    )


def attempt(task: Task, slides: SlideCache) -> TaskResult:
    """Run a task, once more on a fresh slide handle if it fails, and turn a failure into a value.

    This is the one place where every kind of error is caught: a slide must never take the run down with it.
    """
    result = TaskResult(task=task)
    for _ in range(ATTEMPTS):
        try:
            return TaskResult(task=task, value=task.function(task.item, slides))
        except Exception as error:  # noqa: BLE001
            slides.close()  # a handle that failed once is useless
            fault = fault_from(error, slide_id=task.slide_id, stage=task.stage)
            result = TaskResult(task=task, fault=fault)
            if fault.fault_class is not FaultClass.SLIDE:
                break
    return result


@dataclass(kw_only=True)
class SerialExecutor:
    """Runs tasks one after the other in this process; no Dask, no pickling."""

    slides: SlideCache
    worker_memory_bytes: int
    n_workers: int = 1

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Yield the result of each task as it is done, in order."""
        for task in tasks:
            yield attempt(task, self.slides)
