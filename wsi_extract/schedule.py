"""The executor that runs tasks on a Dask cluster. The only module that knows Dask.

Workers get plain functions of one item; what returns through the scheduler is a record of a few hundred bytes or a
fault. The driver keeps its own bounded window of tasks in flight, so that scheduler memory does not grow with the
number of slides and a dying worker takes few tasks with it.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
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
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.machine import memory_bytes
from wsi_extract.model import Fault, FaultClass
from wsi_extract.slides import SlideCache
from wsi_extract.tasks import Task, TaskResult, attempt

WINDOW_PER_THREAD = 3
"""Tasks in flight per worker thread: enough that no worker waits, few enough that a dying one takes few along."""
POLL_S = 0.01
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
    "distributed.nanny.pre-spawn-environ": {
        "MALLOC_TRIM_THRESHOLD_": 65536,
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
    """Gives each worker process its slide handles, and keeps native libraries to one thread."""

    slides: SlideCache

    def __init__(self, *, name: str) -> None:
        self.name = name

    def setup(self, worker: Any) -> None:
        """Open the process's slide cache."""
        cv2.setNumThreads(0)
        self.slides = SlideCache()
        if threading.current_thread() is threading.main_thread():
            # Ctrl-C reaches every process of the terminal; the driver decides what it means.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def teardown(self, worker: Any) -> None:
        """Close all slides."""
        self.slides.close()


def _attempt_on_worker(task: Task, plugin_name: str) -> tuple[object, Fault | None]:
    """Run the task in a worker; its item stays there."""
    plugin = get_worker().plugins[plugin_name]
    assert isinstance(plugin, SlidesPlugin)
    result = attempt(task, plugin.slides)
    return result.value, result.fault


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

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Yield each result as it arrives; take new tasks only as there is room in the window."""
        waiting = iter(tasks)
        in_flight: dict[Future[Any], Task] = {}
        arrivals = as_completed()
        try:
            self._fill(waiting, in_flight, arrivals)
            while in_flight:
                self._wait(arrivals)
                future = next(arrivals)
                task = in_flight.pop(future)
                result = _result_of(future, task)
                future.release()
                self._fill(waiting, in_flight, arrivals)
                yield result
        finally:
            for future in in_flight:
                future.cancel()

    def _wait(self, arrivals: Any) -> None:
        """Wait until a task has ended; give up when the cluster has no workers for too long."""
        last_seen_s = time.monotonic()
        while not arrivals.has_ready():
            time.sleep(POLL_S)
            if time.monotonic() - last_seen_s < self.patience_s:
                continue
            if not self.client.scheduler_info(n_workers=-1)["workers"]:
                raise EnvironmentFaultError(
                    f"the Dask cluster has had no workers for {self.patience_s:.0f} s.",
                    "Start workers and give the same command again; finished work is kept.",
                )
            last_seen_s = time.monotonic()

    def _fill(self, waiting: Iterator[Task], in_flight: dict[Future[Any], Task], arrivals: Any) -> None:
        while len(in_flight) < WINDOW_PER_THREAD * self.n_workers:
            task = next(waiting, None)
            if task is None:
                return
            future = self._submit(task)
            in_flight[future] = task
            arrivals.add(future)

    def _submit(self, task: Task) -> Future[Any]:
        """Hand a task over as a delayed call keyed by stage, slide and number.

        The dashboard cuts a key at the first word that is not purely alphabetic: one bar per stage, one group per
        slide. Slide names must not enter the key.
        """
        key = (f"{task.stage}-s{task.slide_ordinal:07d}-{self.token}", task.index)
        run_task = delayed(_attempt_on_worker, pure=False, traverse=False)
        lazy = run_task(task, _plugin_name(self.token), dask_key_name=key)
        future: Future[Any] = self.client.compute(lazy, optimize_graph=False)
        return future


def _plugin_name(token: str) -> str:
    return f"wsi-extract-slides-{token}"


def _result_of(future: Future[Any], task: Task) -> TaskResult:
    """Return the result of a finished future; a dead worker becomes a fault of the task that killed it."""
    if future.status == "finished":
        value, fault = future.result()
        return TaskResult(task=task, value=value, fault=fault)
    error = future.exception() if future.status == "error" else None
    if error is not None and not isinstance(error, KilledWorker):
        raise error  # tasks hand their errors back as values: this one is ours
    lost = Fault(
        slide_id=task.slide_id,
        stage=task.stage,
        fault_class=FaultClass.WORKER if error is not None else FaultClass.ENVIRONMENT,
        error_type=type(error).__name__ if error is not None else "Cancelled",
        message=f"worker processes died on block {task.index} of this slide: {error}"
        if error is not None
        else "the cluster dropped the task",
        remedy="Give each worker more memory (fewer --workers), or check the slide for damage.",
    )
    return TaskResult(task=task, fault=lost)


@contextmanager
def local_cluster(*, n_workers: int, memory_bytes: int, dashboard_address: str) -> Iterator[Client]:
    """Start one single-threaded worker process per core on this machine, reachable from this machine only."""
    with dask.config.set(DASK_SETTINGS):
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=dashboard_address,
            memory_limit=memory_bytes,
            silence_logs=40,
        )
        with cluster, Client(cluster) as client:
            yield client


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
