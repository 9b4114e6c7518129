"""The executor that runs tasks on a Dask cluster.

Workers get plain functions of one item; what returns through the scheduler is a record of a few hundred bytes or a
fault. The driver keeps its own bounded window of tasks in flight, so that scheduler memory does not grow with the
number of slides and a dying worker takes few tasks with it.

On a cluster of several nodes only the first, home, writes the data set. What is made elsewhere stays with the worker
that made it until a worker at home fetches it from there and writes it: scheduler and driver see none of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker, performance_report

from wsi_extract.cluster.blame import Blame, fault_of_death
from wsi_extract.cluster.bundles import Bundle, Bundler
from wsi_extract.cluster.casualties import Casualty
from wsi_extract.cluster.cluster_calls import ClusterCalls, ResultLostError, deaths_in
from wsi_extract.cluster.clusters import (
    TlsFiles,
    existing_cluster,
    local_cluster,
    scheduler_lost,
    warning_about,
    workers_of,
)
from wsi_extract.cluster.node_cluster import node_cluster
from wsi_extract.cluster.node_group import HOME, rank_of
from wsi_extract.cluster.parcels import destination_of
from wsi_extract.cluster.placement import WINDOW_PER_THREAD, Placement
from wsi_extract.cluster.roll import call_roll, tell_refusals, wait_for_nodes
from wsi_extract.cluster.shift import Flight, Phase, Shift
from wsi_extract.cluster.worker_calls import ONE_THREAD, SEVERAL_THREADS, Report, SlidesPlugin
from wsi_extract.errors import EnvironmentFaultError, WsiExtractError
from wsi_extract.machine import memory_bytes
from wsi_extract.model import Fault, FaultClass
from wsi_extract.tasks import ATTEMPTS, Task, TaskResult

__all__ = [
    "WINDOW_PER_THREAD",
    "DaskExecutor",
    "TlsFiles",
    "dask_executor",
    "existing_cluster",
    "local_cluster",
    "node_cluster",
    "wait_for_nodes",
    "warning_about",
]

TASK_TIMEOUT_S = 900.0
GRACE_S = 60.0
"""What workers that died may take to come back, beside the time their tasks had."""
LOOK_AT_NODES_S = 3.0
"""How often the driver looks which nodes are there."""
LOOK_AGAIN_S = 1.0
"""How often it does so while it is not clear whether one is lost."""
DELIVERIES_PER_WORKER = 2
"""Bundles of files on their way to a worker at home: one that it writes, one that comes meanwhile."""
TOKEN_DIGITS = 8
"""Of the random part of names on the cluster: two runs on one scheduler must not meet."""

_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster, with a bounded number in flight."""

    calls: ClusterCalls
    n_workers: int
    """The most that were there at a time so far."""
    worker_memory_bytes: int
    has_nodes: bool = False
    """Whether it is a `node_cluster`: workers come and go, and those of other nodes do not see the output folder."""
    say: Callable[[str], None] = _LOG.info
    """Told which nodes come and go, and why one is left out."""
    _crew: dict[int, tuple[str, ...]] = field(default_factory=dict, init=False)
    """Addresses of the workers of each node that takes part."""
    _most: dict[int, int] = field(default_factory=dict, init=False)
    """The most workers that each node had."""
    _refused: set[int] = field(default_factory=set, init=False)
    """Nodes that something is wrong with."""
    _homes: dict[str, int] = field(default_factory=dict, init=False)
    _blame: Blame = field(default_factory=Blame, init=False)
    _n_at_home: int = field(init=False)

    def __post_init__(self) -> None:
        self._n_at_home = self.n_workers

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        """Yield each result as it arrives; take new tasks only as there is room in the window.

        Raises
        ------
        EnvironmentFaultError
            When the scheduler or all workers are gone, or nothing moves any more.
        """
        placement = Placement(tasks, homes=self._homes, n_workers=self._sizes())
        bundler = Bundler(placement.take, n_workers=self.n_workers)
        shift = Shift(placement=placement, bundler=bundler, arrivals=self.calls.arrivals())
        client = self.calls.client
        try:
            self.calls.begin()
            yield from self._look(shift)
            self._fill(shift)
            while not shift.is_over:
                if self.calls.wait(shift.arrivals, until_s=shift.next_look_s if self.has_nodes else None):
                    future = next(shift.arrivals)
                    results = self._results_of(future, shift)
                    yield from results  # before new tasks are taken: which come next may depend on them
                yield from self._look(shift)
                self._fill(shift)
        except Exception as error:
            if client.status == "running" or isinstance(error, WsiExtractError):
                raise
            raise scheduler_lost(client) from error  # Dask has many names for that, some of them bare errors
        finally:
            if client.status == "running":
                for future in shift.futures():
                    future.cancel()

    def _sizes(self) -> dict[int, int]:
        """Return the workers of each node; at home there are as many as ever, however many are starting anew."""
        return {node: len(addresses) for node, addresses in self._crew.items()} | {HOME: self._n_at_home}

    def _look(self, shift: Shift) -> list[TaskResult]:
        """See which nodes are there, and what that says of what was lost; return the results of tasks to blame."""
        now_s = time.monotonic()
        if not self.has_nodes or now_s < shift.next_look_s:
            return []
        roll = call_roll(self.calls.client)
        tell_refusals(roll, say=self.say)
        verdicts = shift.casualties.judge(roll.seen_s, sizes=self._most, now_s=time.monotonic(), loss_s=roll.loss_s)
        out = self._refused | verdicts.lost
        self._set_crew({node: workers for node, workers in roll.addresses.items() if node not in out}, shift)
        for bundle in reversed(verdicts.innocents):
            shift.placement.put_back(bundle)
        shift.next_look_s = time.monotonic() + (LOOK_AGAIN_S if shift.casualties else LOOK_AT_NODES_S)
        results = []
        for each in verdicts.suspects:
            results += self._suspect(each, shift)
        return results

    def _set_crew(self, crew: dict[int, tuple[str, ...]], shift: Shift) -> None:
        for node in sorted((crew.keys() ^ self._crew.keys()) - {HOME}):
            self.say(f"node {node} works with {len(crew[node])} workers" if node in crew else f"node {node} has gone")
        self._crew = crew
        self._most |= {node: max(len(each), self._most.get(node, 0)) for node, each in crew.items()}
        sizes = self._sizes()
        shift.placement.set_workers(sizes)
        shift.bundler.n_workers = sum(sizes.values())
        self.n_workers = max(self.n_workers, shift.bundler.n_workers)

    def _fill(self, shift: Shift) -> None:
        """Send out what there is room for: files that were made first, then each node's next tasks."""
        shift.placement.ask_again()
        while shift.made and shift.n_delivering < DELIVERIES_PER_WORKER * self._n_at_home:
            flight = shift.made.popleft()
            assert flight.made is not None
            shift.add(self.calls.deliver(flight.made, flight.bundle), replace(flight, phase=Phase.DELIVER))
        idle: set[int] = set()
        while (node := self._next_node(shift, idle=idle)) is not None:
            bundle = shift.bundler.next(n_in_flight=shift.n_in_flight, node=node)
            if not bundle:
                idle.add(node)
                continue
            if shift.bundler.is_on_trial:
                # What killed a worker of another node must kill one at home as well before its slide is left out.
                has_killed = self._blame.place_of_death(bundle[0]) is not None
                node = HOME if has_killed else shift.placement.home_of(bundle[0])
            self._send(bundle, shift, node=node)

    def _next_node(self, shift: Shift, *, idle: set[int]) -> int | None:
        """Return the node that has most room for its size; home has none while files wait to be written there."""
        shares = {}
        for node in shift.placement.nodes:
            n_out, window = shift.n_out[node], shift.placement.window_of(node)
            if n_out < window and node not in idle and not (node == HOME and shift.made):
                shares[node] = n_out / window
        return min(shares, key=lambda node: shares[node], default=None)

    def _send(self, bundle: Bundle, shift: Shift, *, node: int) -> None:
        phase, addresses = Phase.RUN, self._crew.get(node, ())
        if not self.has_nodes:
            future = self.calls.run_anywhere(bundle)
        elif node == HOME or not addresses:
            future = self.calls.run_at_home(bundle)
        elif any(destination_of(task.item) is not None for task in bundle):
            future, phase = self.calls.make_near(bundle, addresses=addresses), Phase.MAKE
        else:
            future = self.calls.run_near(bundle, addresses=addresses)
        shift.add(future, Flight(bundle=bundle, node=node, phase=phase, is_alone=shift.bundler.is_on_trial))

    def _results_of(self, future: Future[Any], shift: Shift) -> list[TaskResult]:
        """Return the results of a call that ended, none yet when its tasks have to be delivered or tried again.

        Unless a bundle was alone on all workers it is not known which task killed one, and where the results died
        with their worker it may be none: each task is tried again alone. A dead worker becomes a fault of the task
        that killed two of them alone: one may have died of something else.
        """
        flight = shift.land(future)
        if flight.phase is Phase.MAKE and future.status not in {"error", "cancelled"}:
            shift.made.append(replace(flight, made=future))
            return []
        shift.n_out[flight.node] -= 1
        try:
            answer = self.calls.fetch(future)  # any other error is ours: tasks hand theirs back
        except KilledWorker as killed:
            casualty = Casualty(
                bundle=flight.bundle,
                node=rank_of(killed.last_worker.name) if self.has_nodes else HOME,
                at_s=time.monotonic(),
                error=killed,
                was_alone=flight.is_alone,
            )
            if casualty.node == HOME:
                return self._suspect(casualty, shift)
            shift.casualties.add(casualty)
            shift.next_look_s = min(shift.next_look_s, time.monotonic() + LOOK_AGAIN_S)
            return []
        except ResultLostError:
            shift.bundler.put_back(flight.bundle)
            return []
        finally:
            for each in (future, flight.made):
                if each is not None:
                    each.release()
        report, faults = answer if flight.phase is Phase.DELIVER else (answer, (None,) * len(flight.bundle))
        return self._settle(flight.bundle, report, faults, shift)

    def _settle(
        self, bundle: Bundle, report: Report, faults_at_home: Sequence[Fault | None], shift: Shift
    ) -> list[TaskResult]:
        """Return the results of tasks that came to an end; what other nodes complain about is tried again at home."""
        shift.bundler.learn(bundle, worked_s=report.worked_s)
        self._blame.note_end(bundle[-1])
        n_refused = len(self._refused)
        deadly = self._blame.place_of_death(bundle[0])
        if self.has_nodes and report.rank == HOME and deadly not in (None, HOME):
            self._refuse(deadly, why=f"its workers die of what goes well on node {HOME}: they may have less memory")
        results = []
        for task, (value, fault), fault_at_home in zip(bundle, report.outcomes, faults_at_home, strict=True):
            if fault is not None and self._is_of_node(task, fault, rank=report.rank):
                shift.placement.put_back([replace(task, at_home=True)])
            elif fault_at_home is not None:
                results.append(TaskResult(task=task, fault=fault_at_home))
            else:
                results.append(TaskResult(task=task, value=value, fault=fault))
        if len(self._refused) > n_refused:
            shift.next_look_s = 0.0  # a node on which all fails is soon done with whatever it is sent
        return results

    def _is_of_node(self, task: Task, fault: Fault, *, rank: int) -> bool:
        """Tell whether a fault may be another node's, whose disk or mount fails; that node gets no more tasks then."""
        if not self.has_nodes or rank == HOME or task.at_home:
            return False
        if fault.fault_class is FaultClass.ENVIRONMENT:
            self._refuse(rank, why=fault.message)
            return True
        return fault.fault_class is FaultClass.SLIDE and bool(fault.errno_name)

    def _refuse(self, rank: int, *, why: str) -> None:
        if rank not in self._refused:
            self.say(f"node {rank} takes no further part: {why}")
        self._refused.add(rank)

    def _suspect(self, casualty: Casualty, shift: Shift) -> list[TaskResult]:
        """Let tasks that a worker may have died of be tried alone; return the result of one that is to blame."""
        bundle, error = casualty.bundle, casualty.error
        if not casualty.was_alone or not self._blame.is_guilty(
            bundle[0], n_deaths=deaths_in(error), node=casualty.node
        ):
            shift.bundler.put_back(bundle)
            return []
        self._blame.refuse_scapegoat(bundle[0], can_repeat=self._can_repeat)
        return [TaskResult(task=bundle[0], fault=fault_of_death(bundle[0], error=error))]

    def _can_repeat(self, task: Task) -> bool:
        """Whether a worker comes to an end with a task that one has done before; nothing else is in flight."""
        run = self.calls.run_at_home if self.has_nodes else self.calls.run_anywhere
        arrivals = self.calls.arrivals()
        arrivals.add(run((task,)))
        self.calls.wait(arrivals)
        try:
            self.calls.fetch(next(arrivals))
        except (KilledWorker, ResultLostError):
            return False
        return True


@contextmanager
def dask_executor(
    client: Client,
    *,
    worker_memory_bytes: int | None,
    report_path: Path | None,
    task_timeout_s: float = TASK_TIMEOUT_S,
    has_nodes: bool = False,
    say: Callable[[str], None] = _LOG.info,
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
    has_nodes
        Whether it is a `node_cluster`.
    say
        Told which nodes of it come and go.

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
    n_deaths = 1 + int(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures))
    calls = ClusterCalls(
        client=client,
        token=uuid4().hex[:TOKEN_DIGITS],
        # A task that hangs is heard of after so many workers; one that fails was tried several times.
        stall_s=(ATTEMPTS + n_deaths) * task_timeout_s + GRACE_S,
    )
    client.register_plugin(SlidesPlugin(name=calls.plugin_name, task_timeout_s=task_timeout_s))
    executor = DaskExecutor(
        calls=calls,
        n_workers=sum(not has_nodes or rank_of(worker["name"]) == HOME for worker in workers),
        worker_memory_bytes=worker_memory_bytes,
        has_nodes=has_nodes,
        say=say,
    )
    report = None if report_path is None else performance_report(filename=str(report_path), mode="inline")
    if report is not None:
        report.__enter__()
    yield executor
    # Not after a failure: tasks may still be running, and they need their slides; nobody asks for a report then.
    _finish(client, report=report, plugin_name=calls.plugin_name)


def _finish(client: Client, *, report: performance_report | None, plugin_name: str) -> None:
    """Close the slides and write the report; the work is done, whatever Dask, the network or the disk makes of that."""
    try:
        client.unregister_worker_plugin(plugin_name)
        if report is not None:
            report.__exit__(None, None, None)
    except Exception as error:  # noqa: BLE001
        _LOG.warning("the report of Dask could not be written: %s", error)
