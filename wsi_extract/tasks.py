"""The contract between the run and whatever executes its tasks, and failures as values.

A task is a plain function of one immutable item, called as ``function(item, slides)`` in some process, where
``slides`` is that process's `SlideCache`. It must be idempotent: an executor may run it twice.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import cv2

from wsi_extract.errors import EnvironmentFaultError, IntegrityError, SlideError, WsiExtractError
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides import SlideCache

ENVIRONMENT_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
"""Causes of an OSError that no slide can be blamed for: slide readers raise `SlideError` instead."""


NO_THREAD = "can't start new thread"
"""What Python says when the system grants no further thread; it has no type of its own for that."""

ATTEMPTS = 2
"""A slide handle that failed once is useless; the second attempt has a fresh one."""

CLUSTER_START_S = 3.0
"""What starting and closing a local cluster takes, with its report."""
PATIENCE_S = 2.0
"""Work done in this process before other processes are started: about what starting them costs, so that a run never
takes much longer than it would have taken with the better of the two choices."""


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
    n_units: int = 1
    """What it does, in patches, chunks or slides: the unit of its stage."""
    n_units_after: int | None = None
    """Units of its stage that follow; ``None`` when that is not known yet, or other stages do the most."""


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

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Run the tasks, taken from the iterable as there is room for them, and yield each result once.

        ``None`` among the tasks says that which task comes next depends on results still missing: the iterable is
        asked again after the next result was yielded. It never stands where all results were yielded.
        """
        ...


class Progress(Protocol):
    """Shows how far a stage is, to a person or to nobody."""

    def begin(self, stage: str, *, total: int, unit: str, started_s: float | None = None) -> None:
        """Start a stage of ``total`` units; it was begun at ``started_s`` of `time.monotonic` if not now."""

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
    elif _is_of_the_machine(error):
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


def _is_of_the_machine(error: Exception) -> bool:
    if isinstance(error, EnvironmentFaultError):
        return True
    if isinstance(error, OSError):
        return not isinstance(error, SlideError) and error.errno in ENVIRONMENT_ERRNOS
    return isinstance(error, RuntimeError) and str(error) == NO_THREAD


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


def keep_to_one_thread() -> None:
    """Let OpenCV compute in the thread that calls it: other cores have tasks of their own."""
    cv2.setNumThreads(0)


@dataclass(kw_only=True)
class SerialExecutor:
    """Runs tasks one after the other in this process; no Dask, no pickling."""

    slides: SlideCache
    worker_memory_bytes: int
    n_workers: int = 1

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Yield the result of each task as it is done, in order."""
        for task in tasks:
            assert task is not None, "the tasks wait for a result, but all were yielded"
            yield attempt(task, self.slides)


@dataclass(kw_only=True)
class ElasticExecutor:
    """Runs tasks in this process, and what is left on a cluster, once that is worth its start.

    A small run is done before a cluster would be ready. A context manager: the cluster is closed at the end.
    """

    slides: SlideCache
    n_workers: int
    """Of the cluster; known before it starts, as is their memory, so that a run can be refused early."""
    worker_memory_bytes: int
    open_cluster: Callable[[], AbstractContextManager[Executor]]
    patience_s: float = PATIENCE_S
    _spent: dict[str, tuple[float, int]] = field(default_factory=dict, init=False)
    """Seconds and units of each stage that were done in this process."""
    _cluster: Executor | None = field(default=None, init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    @property
    def n_workers_used(self) -> int:
        """Processes that worked at the same time so far: 1 as long as no cluster was started."""
        return 1 if self._cluster is None else self._cluster.n_workers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Yield the result of each task as it is done."""
        waiting = iter(tasks)
        for task in waiting:
            if self._cluster is None and task is not None and self._is_worth_a_cluster(task):
                self.slides.close()  # no slide is read in this process any more
                self._cluster = self._stack.enter_context(self.open_cluster())
            if self._cluster is not None:
                yield from self._cluster.run(itertools.chain([task], waiting))
                return
            assert task is not None, "the tasks wait for a result, but all were yielded"
            started_s = time.monotonic()
            result = attempt(task, self.slides)
            stage_s, n_units = self._spent.get(task.stage, (0.0, 0))
            self._spent[task.stage] = (stage_s + time.monotonic() - started_s, n_units + task.n_units)
            yield result

    def _is_worth_a_cluster(self, task: Task) -> bool:
        """Whether the run has taken a while, and a cluster would save more of what is left than its start costs."""
        if sum(stage_s for stage_s, _ in self._spent.values()) < self.patience_s:
            return False
        if task.n_units_after is None:
            return True
        stage_s, n_units = self._spent.get(task.stage, (0.0, 0))
        if not n_units:
            return False
        left_s = (task.n_units + task.n_units_after) * stage_s / n_units
        return left_s * (1 - 1 / self.n_workers) >= CLUSTER_START_S


def n_workers_used(executor: Executor) -> int:
    """Return how many processes worked at the same time, not how many might have."""
    return executor.n_workers_used if isinstance(executor, ElasticExecutor) else executor.n_workers
