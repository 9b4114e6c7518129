"""The executor that runs tasks on a Dask cluster.

Workers get plain functions of one item; what returns through the scheduler is a record of a few hundred bytes or a
fault. The driver keeps its own bounded window of tasks in flight, so that scheduler memory does not grow with the
number of slides and a dying worker takes few tasks with it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from dask.delayed import delayed
from distributed import Client, Future, KilledWorker, WorkerPlugin, as_completed, get_worker, performance_report
from distributed.scheduler import NoValidWorkerError, NoWorkerError

import wsi_extract
from wsi_extract.bundles import Bundle, Bundler
from wsi_extract.clusters import (
    ANSWER_S,
    RESUME,
    TlsFiles,
    existing_cluster,
    local_cluster,
    scheduler_lost,
    warning_about,
    workers_of,
)
from wsi_extract.errors import EnvironmentFaultError, WsiExtractError
from wsi_extract.faults import refuse_silent_slide
from wsi_extract.hang_watch import HangWatch
from wsi_extract.machine import memory_bytes
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides import SlideCache
from wsi_extract.tasks import ATTEMPTS, Task, TaskResult, attempt, keep_to_one_thread

__all__ = ["DaskExecutor", "TlsFiles", "dask_executor", "existing_cluster", "local_cluster", "warning_about"]

WINDOW_PER_THREAD = 3
"""Tasks in flight per worker thread: enough that no worker waits, few enough that a dying one takes few along."""
LOOK_ROUND_S = 1.0
"""How often the driver stops waiting for results to see whether the scheduler is still there."""
FETCH_ROUND_S = 5.0
"""How often it does so while it waits for a result that is ready."""
TASK_TIMEOUT_S = 900.0
GRACE_S = 60.0
"""What workers that died may take to come back, beside the time their tasks had."""
DEATHS_ALONE = 2
"""A task is to blame when this many workers died while it was the only one on all of them."""
HANG_ADVICE = (
    "This worker process ends, and another one tries again; a slide that ends two by itself is left out, if its file "
    "answers. Raise --task_timeout_s if it is just slow."
)
LAST_RESORT = 2.0
"""Times the limit after which a worker ends that cannot even run its watch: a worker costs less than the run."""
SEVERAL_THREADS = "runs several threads, which slide handles do not allow."
ONE_THREAD = "Start workers with one thread per process: dask worker --nthreads 1 --nworkers auto."
TOKEN_DIGITS = 8
"""Of the random part of names on the cluster: two runs on one scheduler must not meet."""

_LOG = logging.getLogger(__name__)


class SlidesPlugin(WorkerPlugin):
    """Gives each worker process its slide handles, and keeps it to one thread.

    Parameters
    ----------
    name
        Of the plugin on the cluster.
    task_timeout_s
        How long one task may take before its worker counts as hanging.
    """

    slides: SlideCache
    watch: HangWatch

    def __init__(self, *, name: str, task_timeout_s: float) -> None:
        self.name = name
        self.package_version = wsi_extract.__version__
        self.task_timeout_s = task_timeout_s

    def setup(self, worker: Any) -> None:
        """Open the process's slide cache, and watch what it does from here on."""
        keep_to_one_thread()
        self.slides = SlideCache()
        self.watch = HangWatch(self.task_timeout_s, advice=HANG_ADVICE, last_resort=LAST_RESORT)
        self.watch.__enter__()

    def teardown(self, worker: Any) -> None:
        """Close all slides."""
        self.watch.__exit__()
        self.slides.close()

    def check(self, worker: Any) -> None:
        """Refuse a worker that has joined the cluster later and is not like those of the beginning.

        Raises
        ------
        EnvironmentFaultError
            Which ends the run: other tasks may have gone to that worker as well.
        """
        if worker.state.nthreads != 1:
            raise EnvironmentFaultError(f"the worker {worker.address} {SEVERAL_THREADS}", ONE_THREAD)
        if self.package_version != wsi_extract.__version__:
            raise EnvironmentFaultError(
                f"the worker {worker.address} has version {wsi_extract.__version__} of this package, the run has "
                f"{self.package_version}.",
                "Install the same version everywhere.",
            )


def _attempt_on_worker(bundle: Bundle, plugin_name: str) -> tuple[list[tuple[object, Fault | None]], float]:
    """Run tasks in a worker, where their items stay; return what became of each, and the seconds all of them took."""
    worker = get_worker()
    plugin = worker.plugins[plugin_name]
    assert isinstance(plugin, SlidesPlugin)
    plugin.check(worker)
    started_s = time.monotonic()
    results = [attempt(task, plugin.slides, watch=plugin.watch) for task in bundle]
    worked_s = time.monotonic() - started_s
    return [(result.value, result.fault) for result in results], worked_s


@dataclass(kw_only=True)
class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster, with a bounded number in flight."""

    client: Client
    token: str
    """Random part of the keys: Dask takes two tasks of one key for the same, also from different runs."""
    n_workers: int
    worker_memory_bytes: int
    stall_s: float
    """How long nothing at all may arrive although there are workers."""
    patience_s: float = 120.0
    """How long the cluster may be without workers."""
    _n_submitted: int = field(default=0, init=False)
    _deaths: Counter[tuple[str, int, int]] = field(default_factory=Counter, init=False)
    """Workers that died while a task was alone on all of them, by stage, slide and number of the task."""
    _proven: Task | None = field(default=None, init=False)
    """What a worker has come to an end with last."""
    _blamed: str | None = field(default=None, init=False)
    """The slide blamed last, unless a worker has come to an end with something since then."""

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Yield each result as it arrives; take new tasks only as there is room in the window.

        Raises
        ------
        EnvironmentFaultError
            When the scheduler or all workers are gone, or nothing moves any more.
        """
        bundler = Bundler(tasks, n_workers=self.n_workers)
        in_flight: dict[Future[Any], Bundle] = {}
        arrivals = as_completed()
        try:
            self._fill(bundler, in_flight, arrivals)
            while in_flight:
                self._wait(arrivals)
                future = next(arrivals)
                bundle = in_flight.pop(future)
                results = self._results_of(future, bundle, bundler)
                future.release()
                yield from results  # before new tasks are taken: which come next may depend on them
                self._fill(bundler, in_flight, arrivals)
        except Exception as error:
            if self.client.status == "running" or isinstance(error, WsiExtractError):
                raise
            raise scheduler_lost(self.client) from error  # Dask has many names for that, some of them bare errors
        finally:
            if self.client.status == "running":
                for future in in_flight:
                    future.cancel()

    def _wait(self, arrivals: Any) -> None:
        """Wait until a bundle has ended; give up when none can any more."""
        began_s = last_seen_s = time.monotonic()
        while not arrivals.has_ready():
            with arrivals.thread_condition:
                if not arrivals.has_ready():  # notified under the condition's lock, after it is ready
                    arrivals.thread_condition.wait(timeout=min(LOOK_ROUND_S, self.patience_s))
            self._check_connection()
            now_s = time.monotonic()
            if now_s - began_s >= self.stall_s and workers_of(self.client):
                raise EnvironmentFaultError(
                    f"nothing has come from the workers of the Dask cluster for {now_s - began_s:.0f} s: they hang, or "
                    "are paused because their memory is full.",
                    f"Look at their logs, or give them more memory. {RESUME}",
                )
            if now_s - last_seen_s >= self.patience_s:
                if not workers_of(self.client):
                    raise _no_workers(f"for {self.patience_s:.0f} s")
                last_seen_s = now_s

    def _check_connection(self) -> None:
        if self.client.status != "running":
            raise scheduler_lost(self.client)

    def _fill(self, bundler: Bundler, in_flight: dict[Future[Any], Bundle], arrivals: Any) -> None:
        while len(in_flight) < WINDOW_PER_THREAD * self.n_workers:
            bundle = bundler.next(n_in_flight=len(in_flight))
            if not bundle:
                return
            self._check_connection()
            future = self._submit(bundle)
            in_flight[future] = bundle
            arrivals.add(future)

    def _submit(self, bundle: Bundle) -> Future[Any]:
        """Hand a bundle over as a delayed call keyed by stage, slide and number of its first task.

        The dashboard cuts a key at the first word that is not purely alphabetic: one bar per stage, one group per
        slide. Slide names must not enter the key.
        """
        first = bundle[0]
        self._n_submitted += 1  # a task that is tried again is another one to Dask
        key = (f"{first.stage}-s{first.slide_ordinal:07d}-{self.token}", first.index, self._n_submitted)
        run_tasks = delayed(_attempt_on_worker, pure=False, traverse=False)
        lazy = run_tasks(bundle, _plugin_name(self.token), dask_key_name=key)
        future: Future[Any] = self.client.compute(lazy, optimize_graph=False)
        return future

    def _results_of(self, future: Future[Any], bundle: Bundle, bundler: Bundler) -> list[TaskResult]:
        """Return the results of a future that ended, none yet when its tasks have to be tried again.

        Unless a bundle was alone on all workers it is not known which task killed one, and where the results died
        with their worker it may be none: each task is tried again alone. A dead worker becomes a fault of the task
        that killed two of them alone: one may have died of something else.
        """
        try:
            # Its state may be "lost" or "pending" by now, when the worker died with the results.
            pairs, worked_s = self._fetch(future)  # any other error is ours: tasks hand theirs back
        except CancelledError as error:
            raise scheduler_lost(self.client) from error
        except (NoWorkerError, NoValidWorkerError) as error:  # as soon as the scheduler was told to say so
            raise _no_workers("for too long") from error
        except KilledWorker as killed:
            if bundler.is_on_trial and self._is_to_blame(bundle[0], n_deaths=killed.allowed_failures + 1):
                self._refuse_scapegoat(bundle[0])
                return [TaskResult(task=bundle[0], fault=_crash(bundle[0], error=killed))]
            bundler.put_back(bundle)
            return []
        except EnvironmentFaultError:
            raise
        except (TimeoutError, OSError):
            bundler.put_back(bundle)
            return []
        bundler.learn(bundle, worked_s=worked_s)
        self._proven, self._blamed = bundle[-1], None
        return [
            TaskResult(task=task, value=value, fault=fault) for task, (value, fault) in zip(bundle, pairs, strict=True)
        ]

    def _fetch(self, future: Future[Any]) -> tuple[list[tuple[object, Fault | None]], float]:
        """Return what a worker has returned; look now and then whether there is anybody left to ask."""
        until_s = time.monotonic() + ANSWER_S
        while True:
            try:
                answer: tuple[list[tuple[object, Fault | None]], float] = future.result(timeout=FETCH_ROUND_S)
            except EnvironmentFaultError:  # an OSError as well, but that of a worker
                raise
            except (TimeoutError, OSError):
                self._check_connection()
                if time.monotonic() >= until_s:
                    raise
            else:
                return answer

    def _is_to_blame(self, task: Task, *, n_deaths: int) -> bool:
        identity = (task.stage, task.slide_ordinal, task.index)
        self._deaths[identity] += n_deaths
        return self._deaths[identity] >= DEATHS_ALONE

    def _refuse_scapegoat(self, task: Task) -> None:
        """Refuse to blame a slide for what the machine does to whatever is read: now to this one, then to the others.

        Raises
        ------
        EnvironmentFaultError
            When its file does not answer; or it is the second in a row, and workers do not even come to an end with
            what they came to an end with before.
        """
        if task.path is not None:
            refuse_silent_slide(task.path)
        if self._blamed not in (None, task.slide_id) and not self._can_repeat():
            raise EnvironmentFaultError(
                f"worker processes die or hang whatever they read, slides {self._blamed} and {task.slide_id} at last.",
                f"Look at the memory, the disk and the libraries of the machines they run on. {RESUME}",
            )
        self._blamed = task.slide_id

    def _can_repeat(self) -> bool:
        """Whether a worker comes to an end with a task that one has done before; nothing else is in flight."""
        if self._proven is None:
            return False
        future = self._submit((self._proven,))
        arrivals = as_completed([future])
        self._wait(arrivals)
        try:
            self._fetch(next(arrivals))
        except EnvironmentFaultError:
            raise
        except (KilledWorker, TimeoutError, OSError):
            return False
        return True


def _plugin_name(token: str) -> str:
    return f"wsi-extract-slides-{token}"


def _no_workers(how_long: str) -> EnvironmentFaultError:
    return EnvironmentFaultError(f"the Dask cluster has had no workers {how_long}.", f"Look at their logs. {RESUME}")


def _crash(task: Task, *, error: KilledWorker) -> Fault:
    return Fault(
        slide_id=task.slide_id,
        stage=task.stage,
        fault_class=FaultClass.WORKER,
        error_type=type(error).__name__,
        message=f"worker processes died on block {task.index} of this slide, or were ended because it hung",
        remedy="Give each worker more memory (fewer --workers), or check the slide for damage.",
    )


@contextmanager
def dask_executor(
    client: Client, *, worker_memory_bytes: int | None, report_path: Path | None, task_timeout_s: float = TASK_TIMEOUT_S
) -> Iterator[DaskExecutor]:
    """Prepare the cluster's workers, and record what they do as a Dask performance report.

    Parameters
    ----------
    worker_memory_bytes
        Memory each worker may use; ``None`` asks the workers.
    report_path
        Where the report is written at the end, unless the run fails; ``None`` writes none. That it cannot be written
        is logged, and costs nothing else.
    task_timeout_s
        How long one task may take before its worker counts as hanging, and is ended.

    Raises
    ------
    EnvironmentFaultError
        When there are no workers, or such as run several threads.
    """
    workers = workers_of(client).values()
    if not workers:
        raise EnvironmentFaultError("the Dask cluster has no workers.", "Check their logs.")
    if any(worker["nthreads"] != 1 for worker in workers):
        raise EnvironmentFaultError(f"a worker of the Dask cluster {SEVERAL_THREADS}", ONE_THREAD)
    if worker_memory_bytes is None:
        worker_memory_bytes = min(int(worker["memory_limit"] or memory_bytes()) for worker in workers)
    token = uuid4().hex[:TOKEN_DIGITS]
    client.register_plugin(SlidesPlugin(name=_plugin_name(token), task_timeout_s=task_timeout_s))
    n_deaths = 1 + int(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures))
    executor = DaskExecutor(
        client=client,
        token=token,
        n_workers=len(workers),
        worker_memory_bytes=worker_memory_bytes,
        # A task that hangs is heard of after so many workers; one that fails was tried several times.
        stall_s=(ATTEMPTS + n_deaths) * task_timeout_s + GRACE_S,
    )
    report = None if report_path is None else performance_report(filename=str(report_path), mode="inline")
    if report is not None:
        report.__enter__()
    yield executor
    # Not after a failure: tasks may still be running, and they need their slides; nobody asks for a report then.
    _finish(client, report=report, plugin_name=_plugin_name(token))


def _finish(client: Client, *, report: performance_report | None, plugin_name: str) -> None:
    """Close the slides and write the report; the work is done, whatever Dask, the network or the disk makes of that."""
    try:
        client.unregister_worker_plugin(plugin_name)
        if report is not None:
            report.__exit__(None, None, None)
    except Exception as error:  # noqa: BLE001
        _LOG.warning("the report of Dask could not be written: %s", error)
