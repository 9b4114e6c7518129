"""The executor that runs tasks on a Dask cluster. The only module that knows Dask.

Workers get plain functions of one item; what returns through the scheduler is a record of a few hundred bytes or a
fault. The driver keeps its own bounded window of tasks in flight, so that scheduler memory does not grow with the
number of slides and a dying worker takes few tasks with it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from dask.delayed import delayed
from distributed import (
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    WorkerPlugin,
    as_completed,
    get_worker,
    performance_report,
)

import wsi_extract
from wsi_extract.bundles import Bundle, Bundler
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.interrupts import held
from wsi_extract.machine import memory_bytes
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides import SlideCache
from wsi_extract.tasks import Task, TaskResult, attempt, keep_to_one_thread

WINDOW_PER_THREAD = 3
"""Tasks in flight per worker thread: enough that no worker waits, few enough that a dying one takes few along."""
LOOK_ROUND_S = 1.0
"""How often the driver stops waiting for results to see whether there are workers at all."""
RESULT_S = 30.0
"""How long results of a few bytes may take from a worker; some die with theirs."""
TOKEN_DIGITS = 8
"""Of the random part of names on the cluster: two runs on one scheduler must not meet."""

DASK_SETTINGS: dict[str, Any] = {
    # Managed memory is near zero here, so spilling would only add a second way to fail.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.80,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.no-workers-timeout": "10 minutes",
    # A local cluster looks once whether a worker that died is back, and else gives it up for good, although its nanny
    # may be starting it again at that moment, because the same task killed it twice.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.nanny.pre-spawn-environ": {
        # Without Dask's own MALLOC_TRIM_THRESHOLD_: with it every patch is new memory of the system, page by page,
        # which costs half as much processor time again as all the work.
        "OMP_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
    },
}
NETWORK_SETTINGS: dict[str, Any] = {
    # For clusters of several machines only: on one machine every retry talks to a process that has died.
    "distributed.comm.retry.count": 3,
    "distributed.comm.timeouts.connect": "60s",
}


class SlidesPlugin(WorkerPlugin):
    """Gives each worker process its slide handles, and keeps it to one thread."""

    slides: SlideCache

    def __init__(self, *, name: str) -> None:
        self.name = name

    def setup(self, worker: Any) -> None:
        """Open the process's slide cache."""
        keep_to_one_thread()
        self.slides = SlideCache()

    def teardown(self, worker: Any) -> None:
        """Close all slides."""
        self.slides.close()


def _attempt_on_worker(bundle: Bundle, plugin_name: str) -> tuple[list[tuple[object, Fault | None]], float]:
    """Run tasks in a worker, where their items stay; return what became of each, and the seconds all of them took."""
    plugin = get_worker().plugins[plugin_name]
    assert isinstance(plugin, SlidesPlugin)
    started_s = time.monotonic()
    results = [attempt(task, plugin.slides) for task in bundle]
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
    patience_s: float = 120.0
    """How long the cluster may be without workers."""
    _n_submitted: int = field(default=0, init=False)

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Yield each result as it arrives; take new tasks only as there is room in the window."""
        bundler = Bundler(tasks, n_workers=self.n_workers)
        in_flight: dict[Future[Any], Bundle] = {}
        arrivals = as_completed()
        try:
            self._fill(bundler, in_flight, arrivals)
            while in_flight:
                self._wait(arrivals)
                future = next(arrivals)
                bundle = in_flight.pop(future)
                results = _results_of(future, bundle, bundler)
                future.release()
                yield from results  # before new tasks are taken: which come next may depend on them
                self._fill(bundler, in_flight, arrivals)
        finally:
            for future in in_flight:
                future.cancel()

    def _wait(self, arrivals: Any) -> None:
        """Wait until a bundle has ended; give up when the cluster has no workers for too long."""
        last_seen_s = time.monotonic()
        while not arrivals.has_ready():
            with arrivals.thread_condition:
                if not arrivals.has_ready():  # notified under the condition's lock, after it is ready
                    arrivals.thread_condition.wait(timeout=min(LOOK_ROUND_S, self.patience_s))
            if time.monotonic() - last_seen_s < self.patience_s:
                continue
            if not self.client.scheduler_info(n_workers=-1)["workers"]:
                raise EnvironmentFaultError(
                    f"the Dask cluster has had no workers for {self.patience_s:.0f} s.",
                    "Start workers and give the same command again; finished work is kept.",
                )
            last_seen_s = time.monotonic()

    def _fill(self, bundler: Bundler, in_flight: dict[Future[Any], Bundle], arrivals: Any) -> None:
        while len(in_flight) < WINDOW_PER_THREAD * self.n_workers:
            bundle = bundler.next(n_in_flight=len(in_flight))
            if not bundle:
                return
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


def _plugin_name(token: str) -> str:
    return f"wsi-extract-slides-{token}"


def _results_of(future: Future[Any], bundle: Bundle, bundler: Bundler) -> list[TaskResult]:
    """Return the results of a future that ended; a dead worker becomes a fault of the task that killed it.

    Unless the bundle was alone it is not known which task did, and where the results died with their worker it may be
    none: there are no results yet then, and each task is tried again alone.
    """
    error: KilledWorker | None = None
    if future.status != "cancelled":  # it may be "lost" or "pending" by now, when the worker died with the results
        try:
            pairs, worked_s = future.result(timeout=RESULT_S)  # any other error is ours: tasks hand theirs back
        except TimeoutError:
            bundler.put_back(bundle)
            return []
        except KilledWorker as killed:
            if not bundler.is_on_trial:
                bundler.put_back(bundle)
                return []
            error = killed
        else:
            bundler.learn(bundle, worked_s=worked_s)
            return [
                TaskResult(task=task, value=value, fault=fault)
                for task, (value, fault) in zip(bundle, pairs, strict=True)
            ]
    return [TaskResult(task=task, fault=_loss(task, error=error)) for task in bundle]


def _loss(task: Task, *, error: KilledWorker | None) -> Fault:
    return Fault(
        slide_id=task.slide_id,
        stage=task.stage,
        fault_class=FaultClass.WORKER if error is not None else FaultClass.ENVIRONMENT,
        error_type=type(error).__name__ if error is not None else "Cancelled",
        message=f"worker processes died on block {task.index} of this slide: {error}"
        if error is not None
        else "the cluster dropped the task",
        remedy="Give each worker more memory (fewer --workers), or check the slide for damage.",
    )


@contextmanager
def local_cluster(*, n_workers: int, memory_bytes: int, dashboard_address: str) -> Iterator[Client]:
    """Start one single-threaded worker process per core on this machine, reachable from this machine only."""
    with dask.config.set(DASK_SETTINGS), ExitStack() as stack:
        # A signal in the middle of the start would make Dask complain at length.
        with held(), _workers_deaf_to_ctrl_c():
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=dashboard_address,
                memory_limit=memory_bytes,
                silence_logs=40,
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client


@contextmanager
def _workers_deaf_to_ctrl_c() -> Iterator[None]:
    """Start processes that never see Ctrl-C, which reaches every process of a terminal: the driver decides.

    Threads inherit the mask of signals from the thread that starts them, and so do processes, from their first moment.
    """
    resource_tracker.ensure_running()  # else it would start within the block, and unblock the signal when it has
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def existing_cluster(address: str, *, patience_s: float = 15.0) -> Iterator[Client]:
    """Connect to a running scheduler.

    Raises
    ------
    EnvironmentFaultError
        When nothing answers there, or the workers cannot import this package in this version.
    """
    with dask.config.set(DASK_SETTINGS | NETWORK_SETTINGS):
        try:
            client = Client(address, timeout=patience_s)
        except (OSError, TimeoutError) as error:
            raise EnvironmentFaultError(
                f"no Dask scheduler answers at {address}: {error}.", "Start one, or leave --scheduler out."
            ) from error
        with client:
            _check_workers(client, address=address)
            yield client


def _check_workers(client: Client, *, address: str) -> None:
    try:
        versions = client.run(_package_version)
    except Exception as error:
        if "ModuleNotFoundError" not in repr(error):  # which distributed wraps into a bare Exception
            raise
        raise EnvironmentFaultError(
            f"the workers of {address} cannot import this package: {error}.",
            "Install it there (pip install .), or start the workers in this folder.",
        ) from error
    if not versions:
        raise EnvironmentFaultError(f"the scheduler at {address} has no workers.", "Start some and run again.")
    different = {worker: version for worker, version in versions.items() if version != wsi_extract.__version__}
    if different:
        raise EnvironmentFaultError(
            f"workers of {address} run another version than {wsi_extract.__version__}: {different}.",
            "Install the same version everywhere.",
        )


def _package_version() -> str:
    return wsi_extract.__version__


@contextmanager
def dask_executor(
    client: Client, *, worker_memory_bytes: int | None, report_path: Path | None
) -> Iterator[DaskExecutor]:
    """Prepare the cluster's workers, and record what they do as a Dask performance report.

    Parameters
    ----------
    worker_memory_bytes
        Memory each worker may use; ``None`` asks the workers.
    report_path
        Where the report is written at the end; ``None`` writes none.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        raise EnvironmentFaultError("the Dask cluster has no workers.", "Check their logs.")
    if any(worker["nthreads"] != 1 for worker in workers):
        raise EnvironmentFaultError(
            "the workers of the Dask cluster run several threads each, which slide handles do not allow.",
            "Start them with one thread per process: dask worker --nthreads 1 --nworkers auto.",
        )
    if worker_memory_bytes is None:
        worker_memory_bytes = min(int(worker["memory_limit"] or memory_bytes()) for worker in workers)
    token = uuid4().hex[:TOKEN_DIGITS]
    client.register_plugin(SlidesPlugin(name=_plugin_name(token)))
    executor = DaskExecutor(client=client, token=token, n_workers=len(workers), worker_memory_bytes=worker_memory_bytes)
    with performance_report(filename=str(report_path), mode="inline") if report_path is not None else nullcontext():
        yield executor
    # Not after a failure: tasks may still be running, and they need their slides.
    with suppress(OSError, ValueError, TimeoutError):
        client.unregister_worker_plugin(_plugin_name(token))
