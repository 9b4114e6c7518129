"""Tasks that go to a worker together, so that the way there and back costs little. Knows no scheduler."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from wsi_extract.cluster.node_group import HOME
from wsi_extract.tasks import Task

Bundle = tuple[Task, ...]

BUNDLE_S = 0.5
"""Work that is worth a way of its own: Dask spends 5 to 9 ms of processor time on each."""
TAIL_SHARE = 0.05
"""A bundle holds at most this share of what each worker has done so far: at the end the others wait for the last."""
MAX_TASKS = 32


class Bundler:
    """Takes tasks for a node, several at once as soon as they prove to be short.

    Parameters
    ----------
    take
        Returns the next task of a node, ``None`` when there is none for it now.
    n_workers
        Processes that share the work.
    """

    def __init__(self, take: Callable[[int], Task | None], *, n_workers: int) -> None:
        self._take = take
        self.n_workers = n_workers
        self._suspects: deque[Task] = deque()
        self.is_on_trial = False
        """Whether the bundle handed out last is a suspect, hence alone on all workers."""
        self._worked_s = 0.0
        self._task_s: dict[str, float] = {}
        """How long a task of each stage took of late."""

    @property
    def n_suspects(self) -> int:
        """Tasks that are still to go alone."""
        return len(self._suspects)

    def next(self, *, n_in_flight: int, node: int = HOME) -> Bundle:
        """Return the tasks that go to a worker next, none when there are none now, or a suspect is to be alone.

        The last may be of another stage than the first: which stage it is of shows only once it was taken. A suspect
        is handed out whichever node is asked for.
        """
        if n_in_flight and (self._suspects or self.is_on_trial):
            return ()
        self.is_on_trial = bool(self._suspects)
        if self._suspects:
            return (self._suspects.popleft(),)
        bundle: list[Task] = []
        while (task := self._take(node)) is not None:
            bundle.append(task)
            if task.stage != bundle[0].stage or len(bundle) >= self._size(task.stage):
                break
        return tuple(bundle)

    def _size(self, stage: str) -> int:
        task_s = self._task_s.get(stage)
        if task_s is None:
            return 1
        wanted_s = min(BUNDLE_S, TAIL_SHARE * self._worked_s / self.n_workers)
        return max(1, min(MAX_TASKS, math.ceil(wanted_s / max(task_s, BUNDLE_S / MAX_TASKS))))

    def learn(self, bundle: Bundle, *, worked_s: float) -> None:
        """Note how long a worker took for a bundle."""
        stage, task_s = bundle[0].stage, worked_s / len(bundle)
        self._worked_s += worked_s
        self._task_s[stage] = (self._task_s.get(stage, task_s) + task_s) / 2

    def put_back(self, bundle: Bundle) -> None:
        """Let each task go the next time while no other is in flight: some are innocent of the death of a worker.

        The scheduler counts a death against every task that waited at the worker, whichever of them it ran.
        """
        self._suspects.extend(bundle)
