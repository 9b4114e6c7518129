"""What worker processes of a Dask cluster run: tasks, and the two halves of a task whose files have to travel."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from distributed import WorkerPlugin, get_worker

import wsi_extract
from wsi_extract.cluster.bundles import Bundle
from wsi_extract.cluster.node_group import HOME, rank_of
from wsi_extract.cluster.parcels import Destination, deliver, destination_of, moved_to, pack
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.hang_watch import HangWatch
from wsi_extract.model import Fault
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task, TaskResult, attempt, keep_to_one_thread

HANG_ADVICE = (
    "This worker process ends, and another one tries again; a slide that ends two by itself is left out, if its file "
    "answers. Raise --task_timeout_s if it is just slow."
)
LAST_RESORT = 2.0
"""Times the limit after which a worker ends that cannot even run its watch: a worker costs less than the run."""
SEVERAL_THREADS = "runs several threads, which slide handles do not allow."
ONE_THREAD = "Start workers with one thread per process: dask worker --nthreads 1 --nworkers auto."


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
    _in_use: Lock
    """Held by the thread that runs tasks."""

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
        self._in_use = Lock()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the slides open during the block."""
        with self._in_use:
            yield

    def teardown(self, worker: Any) -> None:
        """Close all slides, unless a task reads them: a worker that is told to end does not wait for its thread."""
        self.watch.__exit__()
        if self._in_use.acquire(blocking=False):
            try:
                self.slides.close()
            finally:
                self._in_use.release()

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the tasks of a bundle."""

    outcomes: tuple[tuple[object, Fault | None], ...]
    """Value and fault of each task; their items stay where they are."""
    worked_s: float
    """What all of them took."""
    rank: int
    """The node where they ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The report of a bundle, and the files of its tasks that still have to be delivered."""

    report: Report
    deliveries: tuple[Task | None, ...]
    """For each task what brings its files home, ``None`` when it has none."""

    def __sizeof__(self) -> int:
        """Tell Dask, which limits how much it moves at a time, how large this is."""
        return sum(sys.getsizeof(task.item) for task in self.deliveries if task is not None)


def run_bundle(bundle: Bundle, plugin_name: str) -> Report:
    """Run tasks in a worker."""
    worker, plugin = _surroundings(plugin_name)
    started_s = time.monotonic()
    with plugin.at_work():
        results = [attempt(task, plugin.slides, watch=plugin.watch) for task in bundle]
    return _report(results, worked_s=time.monotonic() - started_s, rank=rank_of(worker.name))


def make_bundle(bundle: Bundle, plugin_name: str) -> Made:
    """Run tasks in a worker of any node; away from home their files are kept for `deliver_bundle`."""
    worker, plugin = _surroundings(plugin_name)
    rank = rank_of(worker.name)
    if rank == HOME:
        return Made(report=run_bundle(bundle, plugin_name), deliveries=(None,) * len(bundle))
    started_s = time.monotonic()
    results: list[TaskResult] = []
    deliveries: list[Task | None] = []
    with plugin.at_work():
        for task in bundle:
            result, delivery = _make(task, scratch=worker.local_directory, plugin=plugin)
            results.append(result)
            deliveries.append(delivery)
    report = _report(results, worked_s=time.monotonic() - started_s, rank=rank)
    return Made(report=report, deliveries=tuple(deliveries))


def _make(task: Task, *, scratch: str, plugin: SlidesPlugin) -> tuple[TaskResult, Task | None]:
    """Run a task in a folder of its own; return its result, and the task that delivers its files.

    Whatever goes wrong with that folder is a fault as well: an error would be taken for one of the network.
    """
    destination = destination_of(task.item)
    if destination is None:
        return attempt(task, plugin.slides, watch=plugin.watch), None
    opening = attempt(replace(task, function=_open_folder, item=scratch), plugin.slides, watch=plugin.watch)
    if opening.fault is not None:
        return opening, None
    assert isinstance(opening.value, Path)
    try:
        return _make_in(opening.value, task, destination=destination, plugin=plugin)
    finally:
        shutil.rmtree(opening.value, ignore_errors=True)


def _open_folder(scratch: str, _slides: SlideCache) -> Path:
    return Path(tempfile.mkdtemp(dir=scratch, prefix="task-"))


def _make_in(
    folder: Path, task: Task, *, destination: Destination, plugin: SlidesPlugin
) -> tuple[TaskResult, Task | None]:
    result = attempt(replace(task, item=moved_to(task.item, folder)), plugin.slides, watch=plugin.watch)
    if result.fault is not None:
        return result, None
    packing = attempt(
        replace(task, function=lambda goal, _slides: pack(folder, goal), item=destination),
        plugin.slides,
        watch=plugin.watch,
    )
    if packing.fault is not None:
        return packing, None
    return result, replace(task, function=deliver, item=packing.value)


def deliver_bundle(made: Made, plugin_name: str) -> tuple[Report, tuple[Fault | None, ...]]:
    """Bring home what `make_bundle` has made; return its report, and the faults of the deliveries."""
    _, plugin = _surroundings(plugin_name)
    faults = (
        None if delivery is None else attempt(delivery, plugin.slides, watch=plugin.watch).fault
        for delivery in made.deliveries
    )
    return made.report, tuple(faults)


def _surroundings(plugin_name: str) -> tuple[Any, SlidesPlugin]:
    worker = get_worker()
    plugin = worker.plugins[plugin_name]
    assert isinstance(plugin, SlidesPlugin)
    plugin.check(worker)
    return worker, plugin


def _report(results: Sequence[TaskResult], *, worked_s: float, rank: int) -> Report:
    outcomes = tuple((result.value, result.fault) for result in results)
    return Report(outcomes=outcomes, worked_s=worked_s, rank=rank)
