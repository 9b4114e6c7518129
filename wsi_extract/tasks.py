"""The contract between the run and whatever executes its tasks, and failures as values.

A task is a plain function of one immutable item, called as ``function(item, slides)`` in some process, where
``slides`` is that process's `SlideCache`. It must be idempotent: an executor may run it twice.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import cv2

from wsi_extract.causes import TRANSIENT, errno_of
from wsi_extract.errors import EnvironmentFaultError, IntegrityError, SlideError
from wsi_extract.faults import class_of, fault_from, find_lost_mount
from wsi_extract.hang_watch import AGAIN, HangWatch
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides.open_slides import SlideCache

__all__ = [
    "ElasticExecutor",
    "Executor",
    "Progress",
    "SerialExecutor",
    "Task",
    "TaskResult",
    "attempt",
    "fault_from",
    "keep_to_one_thread",
    "n_workers_used",
    "survivable_fault",
]

ATTEMPTS = 2
"""A slide handle that failed once is useless; the second attempt has a fresh one."""
BACKOFF_S = (0.5, 1.0, 2.0)
"""Before each further attempt at what may pass by itself, such as a network that is down for a moment."""
JITTER_FRACTION = 0.25
"""Many workers that failed together must not come back together."""

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
    path: Path | None = None
    """The slide's file: whether it answers is asked before the slide is blamed for what became of worker processes."""
    n_units: int = 1
    """What it does, in patches, chunks or slides: the unit of its stage."""
    n_units_after: int | None = None
    """Units of its stage that follow; ``None`` when that is not known yet, or other stages do the most."""
    at_home: bool = False
    """Whether it must run where the output folder is, because it answers from what lies there."""


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

    def take_up(self, slide_id: str) -> None:
        """Note that a task of a slide was handed out."""

    def put_down(self, slide_id: str) -> None:
        """Note that a task of a slide came back."""

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
        message = fault.message.removesuffix(".")
        raise EnvironmentFaultError(f"{fault.stage} of slide {fault.slide_id}: {message}.", fault.remedy)
    if fault.fault_class is FaultClass.INTEGRITY:
        raise IntegrityError(f"{fault.stage} of slide {fault.slide_id}: {fault.message}", fault.remedy)
    return fault


def attempt(task: Task, slides: SlideCache, *, watch: HangWatch | None = None) -> TaskResult:
    """Run a task, again on a fresh slide handle if it fails, and turn a failure into a value.

    What may pass by itself is tried three times more, after growing breaks; any other trouble of a slide once more.
    This is the one place where every kind of error is caught: a slide must never take the run down with it.

    Parameters
    ----------
    watch
        Ends the process when one attempt takes too long; the breaks between them do not count.
    """
    watch = watch or HangWatch(None)
    for n_attempts in itertools.count(1):
        try:
            with watch.over(slide_id=task.slide_id, stage=task.stage):
                return TaskResult(task=task, value=task.function(task.item, slides))
        except Exception as error:  # noqa: BLE001
            break_s = _break_s(error, n_attempts=n_attempts)
            with watch.over(slide_id=task.slide_id, stage=task.stage):
                slides.close()  # a handle that failed once is useless
                cause = find_lost_mount(error) or error if break_s is None else error
            if break_s is None:
                fault = fault_from(cause, slide_id=task.slide_id, stage=task.stage, n_attempts=n_attempts)
                return TaskResult(task=task, fault=fault)
        time.sleep(break_s)  # a signal that ends the run ends this as well
    raise AssertionError


def _break_s(error: Exception, *, n_attempts: int) -> float | None:
    """Return how long to wait before the next attempt, ``None`` when it would not help, or was made often enough."""
    is_of_files = isinstance(error, SlideError | OSError) and not isinstance(error, EnvironmentFaultError)
    if is_of_files and errno_of(error) in TRANSIENT:
        if n_attempts > len(BACKOFF_S):
            return None
        return BACKOFF_S[n_attempts - 1] * random.uniform(1 - JITTER_FRACTION, 1 + JITTER_FRACTION)
    return 0.0 if class_of(error) is FaultClass.SLIDE and n_attempts < ATTEMPTS else None


def keep_to_one_thread() -> None:
    """Let OpenCV compute in the thread that calls it: other cores have tasks of their own."""
    cv2.setNumThreads(0)


@dataclass(kw_only=True)
class SerialExecutor:
    """Runs tasks one after the other in this process; no Dask, no pickling."""

    slides: SlideCache
    worker_memory_bytes: int
    n_workers: int = 1
    task_timeout_s: float | None = None
    """How long a task may take before the process ends because it hangs; ``None`` for ever."""

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Yield the result of each task as it is done, in order."""
        with HangWatch(self.task_timeout_s) as watch:
            for task in tasks:
                assert task is not None, "the tasks wait for a result, but all were yielded"
                yield attempt(task, self.slides, watch=watch)


@dataclass(kw_only=True)
class ElasticExecutor:
    """Runs tasks in this process, and what is left on a cluster, once that is worth its start.

    A small run is done before a cluster would be ready, and a single worker saves nothing. A context manager: the
    cluster is closed at the end.
    """

    slides: SlideCache
    n_workers: int
    """Of the cluster; known before it starts, as is their memory, so that a run can be refused early."""
    worker_memory_bytes: int
    open_cluster: Callable[[], AbstractContextManager[Executor]]
    patience_s: float = PATIENCE_S
    isolate: bool = False
    """Run nothing in this process: a slide that crashes or hangs native code then costs a worker, not the run."""
    task_timeout_s: float | None = None
    """How long a task may take in this process before it ends because the task hangs; ``None`` for ever."""
    hang_advice: str = AGAIN
    """What the user can do then."""
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
        with HangWatch(self.task_timeout_s, advice=self.hang_advice) as watch:
            left = yield from self._run_here(iter(tasks), watch)
        if left is None:
            return
        if self._cluster is None:
            self.slides.close()  # no slide is read in this process any more
            self._cluster = self._stack.enter_context(self.open_cluster())
        yield from self._cluster.run(left)

    def _run_here(
        self, waiting: Iterator[Task | None], watch: HangWatch
    ) -> Generator[TaskResult, None, Iterator[Task | None] | None]:
        """Yield results until a cluster is worth its start; return the tasks for it, ``None`` when none are left."""
        for task in waiting:
            if self._cluster is not None or self._is_worth_a_cluster(task):
                return itertools.chain([task], waiting)
            assert task is not None, "the tasks wait for a result, but all were yielded"
            started_s = time.monotonic()
            result = attempt(task, self.slides, watch=watch)
            stage_s, n_units = self._spent.get(task.stage, (0.0, 0))
            self._spent[task.stage] = (stage_s + time.monotonic() - started_s, n_units + task.n_units)
            yield result
        return None

    def _is_worth_a_cluster(self, task: Task | None) -> bool:
        """Whether the run has taken a while, and a cluster would save more of what is left than its start costs."""
        if self.isolate:
            return True
        if task is None or self.n_workers <= 1 or sum(stage_s for stage_s, _ in self._spent.values()) < self.patience_s:
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
