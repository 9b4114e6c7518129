"""A cluster of nodes without processes, network or clock: what Dask promises the driver, and what goes wrong there."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed import KilledWorker
from distributed.core import Status

from wsi_extract.cluster.bundles import Bundle
from wsi_extract.cluster.cluster_calls import DELIVERY, ResultLostError
from wsi_extract.cluster.node_group import HOME, rank_of, worker_name
from wsi_extract.cluster.worker_calls import Report
from wsi_extract.model import Fault, FaultClass
from wsi_extract.tasks import Task

GIVE_UP_S = 30.0
END_S = 20_000.0
"""A run that takes longer does not end."""


@dataclass(kw_only=True)
class Clock:
    """Stands in for the module ``time``."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s


@dataclass(kw_only=True, eq=False)
class FakeWorker:
    name: str
    address: str
    seen_s: float
    clock: Clock
    is_cut: bool = False
    status: Status = Status.running
    queue: deque[FakeFuture] = field(default_factory=deque)
    holds: list[FakeFuture] = field(default_factory=list)
    is_alive: bool = True

    @property
    def last_seen(self) -> float:
        return self.seen_s if self.is_cut else self.clock.now_s


@dataclass(kw_only=True, eq=False)
class FakeFuture:
    """A call: pending, finished or error, as in `distributed.Future`."""

    bundle: Bundle
    stage: str
    places: Sequence[str] | None
    """Addresses that are preferred; ``None`` for any."""
    is_home_only: bool
    needs: FakeFuture | None = None
    status: str = "pending"
    result: object = None
    worker: FakeWorker | None = None
    arrivals: list[Arrivals] = field(default_factory=list)
    has_arrived: bool = False
    is_released: bool = False
    was_alone: bool = False

    def release(self) -> None:
        self.is_released = True
        if self.worker is not None and self in self.worker.holds:
            self.worker.holds.remove(self)

    def cancel(self) -> None:
        self.release()

    def end(self, status: str, result: object) -> None:
        self.status, self.result = status, result
        if not self.has_arrived:
            self.has_arrived = True
            for each in self.arrivals:
                each.ready.append(self)


class Arrivals:
    """As `distributed.as_completed`."""

    def __init__(self) -> None:
        self.ready: deque[FakeFuture] = deque()

    def add(self, future: FakeFuture) -> None:
        if future.has_arrived:
            self.ready.append(future)
        else:
            future.arrivals.append(self)

    def __next__(self) -> FakeFuture:
        return self.ready.popleft()


@dataclass(kw_only=True)
class Trouble:
    """How often what goes wrong; per second of the clock, but for the shares of tasks."""

    crashes: float = 0.0
    """Workers that die of nothing."""
    losses: float = 0.0
    """Nodes that lose their power, or are taken away."""
    cuts: float = 0.0
    """Lines that are cut; half of them heal before the scheduler notices."""
    lost_results: float = 0.0
    """Share of calls whose result does not come."""
    killers: frozenset[tuple[int, int]] = frozenset()
    """(slide, index) of tasks that kill their worker, wherever."""
    bad_nodes: frozenset[int] = frozenset()
    """Their disks are full."""
    blind_share: float = 0.0
    """Share of tasks that nodes other than home cannot read."""
    deadly_nodes: frozenset[int] = frozenset()
    """Workers there die of every task: of too little memory, say."""


class FakeCluster:
    """Stands in for `wsi_extract.cluster.cluster_calls.ClusterCalls`, with all that lies behind it."""

    def __init__(self, *, n_workers: Sequence[int], seed: int, trouble: Trouble) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.trouble = trouble
        self.client = self
        self.status = "running"
        self.plugin_name = "none"
        self.workers: dict[str, FakeWorker] = {}
        self.n_workers = dict(enumerate(n_workers))
        self.waiting: list[FakeFuture] = []
        self.deaths_alone: Counter[tuple[str, int, int]] = Counter()
        self.most_held = 0
        self._metadata: dict[str, Any] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._n = 0
        for index in range(n_workers[HOME]):
            self._join(worker_name(HOME, index))
        for rank in range(1, len(n_workers)):
            self._at(self.random.uniform(0, 20), lambda rank=rank: self._start_node(rank))  # type: ignore[misc]
        self._at(1.0, self._misfortune)

    # --- what the driver asks for

    def run_on_scheduler(self, function: Callable[..., Any]) -> Any:
        return function(dask_scheduler=self)

    def get_metadata(self, *, keys: list[str], default: Any) -> Any:
        return self._metadata.get(keys[0], default)

    def set_metadata(self, *, keys: list[str], value: Any) -> None:
        self._metadata[keys[0]] = value

    def arrivals(self) -> Arrivals:
        return Arrivals()

    def begin(self) -> None:
        pass

    def run_anywhere(self, bundle: Bundle) -> FakeFuture:
        return self._submit(FakeFuture(bundle=bundle, stage="run", places=None, is_home_only=False))

    def run_at_home(self, bundle: Bundle) -> FakeFuture:
        return self._submit(FakeFuture(bundle=bundle, stage="run", places=None, is_home_only=True))

    def run_near(self, bundle: Bundle, *, addresses: Sequence[str]) -> FakeFuture:
        return self._submit(FakeFuture(bundle=bundle, stage="run", places=addresses, is_home_only=False))

    def make_near(self, bundle: Bundle, *, addresses: Sequence[str]) -> FakeFuture:
        return self._submit(FakeFuture(bundle=bundle, stage="make", places=addresses, is_home_only=False))

    def deliver(self, made: FakeFuture, bundle: Bundle) -> FakeFuture:
        return self._submit(FakeFuture(bundle=bundle, stage=DELIVERY, places=None, is_home_only=True, needs=made))

    def wait(self, arrivals: Arrivals, *, until_s: float | None = None) -> bool:
        while not arrivals.ready:
            if until_s is not None and self.clock.now_s >= until_s:
                return False
            self._advance(until_s)
        return True

    def fetch(self, future: FakeFuture) -> Any:
        is_lost = self.random.random() < self.trouble.lost_results
        until_s = self.clock.now_s + GIVE_UP_S
        while future.status == "pending" or is_lost:
            if self.clock.now_s >= until_s:
                raise ResultLostError
            self._advance(until_s)
        if future.status == "error":
            assert isinstance(future.result, Exception)
            raise future.result
        return future.result

    # --- the cluster

    def _submit(self, future: FakeFuture) -> FakeFuture:
        future.was_alone = not self.waiting and not any(worker.queue for worker in self.workers.values())
        self._assign(future)
        return future

    def _assign(self, future: FakeFuture) -> None:
        if future.needs is not None and future.needs.status != "finished":
            if future.needs.status == "error":
                future.end("error", future.needs.result)
            else:
                self.waiting.append(future)
            return
        able = [each for each in self.workers.values() if not future.is_home_only or rank_of(each.name) == HOME]
        near = [each for each in able if future.places is None or each.address in future.places]
        if not (near or able):
            self.waiting.append(future)
            return
        worker = min(near or able, key=lambda each: len(each.queue))
        future.worker = worker
        worker.queue.append(future)
        if len(worker.queue) == 1:
            self._begin(worker)

    def _take_back_deliveries(self, lost: FakeFuture) -> None:
        for worker in self.workers.values():
            first = worker.queue[0] if worker.queue else None
            waiting = [each for each in worker.queue if each.needs is lost]
            self.waiting += waiting
            worker.queue = deque(each for each in worker.queue if each.needs is not lost)
            if worker.queue and worker.queue[0] is not first:
                self._begin(worker)

    def _begin(self, worker: FakeWorker) -> None:
        future = worker.queue[0]
        self._at(self.random.choice([0.01, 0.1, 0.5, 3.0]), lambda: self._finish(worker, future))

    def _finish(self, worker: FakeWorker, future: FakeFuture) -> None:
        if not worker.is_alive or not worker.queue or worker.queue[0] is not future:
            return
        if worker.is_cut:
            self._at(1.0, lambda: self._finish(worker, future))
            return
        is_deadly = rank_of(worker.name) in self.trouble.deadly_nodes or any(
            (task.slide_ordinal, task.index) in self.trouble.killers for task in future.bundle
        )
        if future.stage != DELIVERY and is_deadly:
            self._die(worker)
            return
        worker.queue.popleft()
        if not future.is_released:
            if future.stage == "make":
                worker.holds.append(future)
                self.most_held = max(self.most_held, len(worker.holds))
            future.end("finished", self._answer(worker, future))
        self._reassign()
        if worker.queue:
            self._begin(worker)

    def _answer(self, worker: FakeWorker, future: FakeFuture) -> object:
        if future.needs is not None:
            return future.needs.result, (None,) * len(future.bundle)
        rank = rank_of(worker.name)
        outcomes = [(None, fault) if (fault := self._fault(task, rank)) else (rank, None) for task in future.bundle]
        return Report(outcomes=tuple(outcomes), worked_s=0.05 * len(future.bundle), rank=rank)

    def _fault(self, task: Task, rank: int) -> Fault | None:
        if rank == HOME or not (rank in self.trouble.bad_nodes or self.random.random() < self.trouble.blind_share):
            return None
        fault_class = FaultClass.ENVIRONMENT if rank in self.trouble.bad_nodes else FaultClass.SLIDE
        return Fault(
            slide_id=task.slide_id,
            stage=task.stage,
            fault_class=fault_class,
            error_type="OSError",
            message="no",
            remedy="none",
            errno_name="ENOENT",
        )

    def _die(self, worker: FakeWorker, *, restarts: bool = True) -> None:
        worker.is_alive = False
        del self.workers[worker.address]
        lost, held = list(worker.queue), list(worker.holds)
        worker.queue.clear()
        worker.holds.clear()
        for future in lost:
            if future.was_alone:
                first = future.bundle[0]
                self.deaths_alone[first.stage, first.slide_ordinal, first.index] += 1
            future.end("error", KilledWorker("key", worker, 0))  # type: ignore[arg-type]
        for future in held:  # the scheduler has what is wanted done again, before whatever waits for it
            future.status = "pending"
            self._take_back_deliveries(future)
            self._assign(future)
        if restarts:
            self._at(self.random.uniform(0.5, 3.0), lambda: self._join(worker.name))
        self._reassign()

    def _reassign(self) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.is_released:
                self._assign(future)

    def _join(self, name: str) -> None:
        self._n += 1
        address = f"tcp://{self._n}"
        self.workers[address] = FakeWorker(name=name, address=address, seen_s=self.clock.now_s, clock=self.clock)
        self._reassign()

    def _start_node(self, rank: int) -> None:
        if not self._of(rank):
            for index in range(self.n_workers[rank]):
                self._join(worker_name(rank, index))

    def _of(self, rank: int) -> list[FakeWorker]:
        return [worker for worker in self.workers.values() if rank_of(worker.name) == rank]

    # --- what happens to it

    def _misfortune(self) -> None:
        self._at(1.0, self._misfortune)
        others = sorted({rank_of(worker.name) for worker in self.workers.values()} - {HOME})
        if self.random.random() < self.trouble.crashes:
            self._die(self.random.choice(list(self.workers.values()))) if self.workers else None
        if others and self.random.random() < self.trouble.losses:
            self._lose(self.random.choice(others))
        if others and self.random.random() < self.trouble.cuts:
            self._cut(self.random.choice(others))

    def _lose(self, rank: int) -> None:
        for worker in self._of(rank):
            self._at(self.random.uniform(0, 1), lambda worker=worker: self._die_for_good(worker))  # type: ignore[misc]
        if self.random.random() < 0.7:
            self._at(self.random.uniform(20, 100), lambda: self._start_node(rank))

    def _die_for_good(self, worker: FakeWorker) -> None:
        if worker.is_alive:
            self._die(worker, restarts=False)

    def _cut(self, rank: int) -> None:
        cut = self._of(rank)
        for worker in cut:
            worker.is_cut, worker.seen_s = True, self.clock.now_s
        if self.random.random() < 0.5:
            self._at(self.random.uniform(1, 29), lambda: self._heal(cut))
        else:
            for worker in cut:
                self._at(30.0, lambda worker=worker: self._die_for_good(worker))  # type: ignore[misc]
            self._at(self.random.uniform(40, 100), lambda: self._start_node(rank))

    def _heal(self, cut: Sequence[FakeWorker]) -> None:
        for worker in cut:
            worker.is_cut = False

    def _at(self, after_s: float, action: Callable[[], object]) -> None:
        self._n += 1
        heapq.heappush(self._events, (self.clock.now_s + after_s, self._n, action))  # type: ignore[misc]

    def _advance(self, until_s: float | None) -> None:
        """Let the next thing happen, or it become ``until_s``."""
        assert self.clock.now_s < END_S, "the run does not end"
        at_s, _, action = self._events[0]
        if until_s is not None and at_s > until_s:
            self.clock.now_s = until_s
            return
        heapq.heappop(self._events)
        self.clock.now_s = max(self.clock.now_s, at_s)
        action()
