"""Which node works on which slide, where several share a run. Pure: knows tasks and numbers, no cluster.

Every slide has a home, the node that all its tasks go to, so that each node's mount fetches a slide once. The stream of
tasks does not know of homes: it is read ahead for a node that would idle, and what belongs to others waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from wsi_extract.cluster.node_group import HOME
from wsi_extract.tasks import Task

WINDOW_PER_THREAD = 3
"""Tasks in flight per worker thread: enough that no worker waits, few enough that a dying one takes few along."""
LOOK_AHEAD = 1024
"""Tasks that wait for their nodes, at most: a task of many patches and annotations has some 20 kB. When so many do, an
idle node takes over any."""
MOVE_AT = 1
"""Windows of tasks that must wait for a node before an idle one takes a slide over from it, of which no task of the
stage has begun: another node has to fetch it then."""
SHARE_AT = 4
"""Windows of tasks that must wait for a node before an idle one takes single tasks, of any slide."""


class Placement:
    """Deals the tasks of one stream to nodes.

    Parameters
    ----------
    tasks
        As in `wsi_extract.tasks.Executor.run`.
    homes
        Node of each slide seen so far, by slide id; added to, and kept from one stream to the next.
    n_workers
        Of each node that is there, by its rank.
    """

    def __init__(self, tasks: Iterable[Task | None], *, homes: dict[str, int], n_workers: Mapping[int, int]) -> None:
        self._stream = iter(tasks)
        self._homes = homes
        self._n_workers = dict(n_workers)
        self._queues: dict[int, deque[Task]] = {}
        self._returned: deque[Task] = deque()
        """Tasks that have been read before, and go before those that have not."""
        self._begun: set[tuple[str, str]] = set()
        """Stages and slides of which a task was taken."""
        self._waits = False

    @property
    def n_waiting(self) -> int:
        """Tasks that were read from the stream and that no node has taken."""
        return len(self._returned) + sum(len(queue) for queue in self._queues.values())

    @property
    def nodes(self) -> Sequence[int]:
        """The nodes that are there."""
        return tuple(self._n_workers)

    def window_of(self, node: int) -> int:
        """Return how many tasks, or bundles of short ones, a node may have at a time."""
        return WINDOW_PER_THREAD * self._n_workers.get(node, 0)

    def home_of(self, task: Task) -> int:
        """Return the node that a task that was taken before belongs to."""
        home = HOME if task.at_home else self._homes.get(task.slide_id, HOME)
        return home if home in self._n_workers else HOME

    def ask_again(self) -> None:
        """Let the stream be asked again although it said that its next task depends on results."""
        self._waits = False

    def set_workers(self, n_workers: Mapping[int, int]) -> None:
        """Note which nodes are there from now on; slides of those that are not get another home."""
        for node in self._n_workers.keys() - n_workers.keys():
            self._returned.extendleft(reversed(self._queues.pop(node, deque())))
        self._n_workers = dict(n_workers)

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Let tasks that were taken be taken once more, before others."""
        self._returned.extendleft(reversed(tasks))

    def take(self, node: int) -> Task | None:
        """Return the next task of a node, ``None`` when there is none for it now."""
        task = self._next_of(node)
        if task is not None:
            self._begun.add((task.stage, task.slide_id))
        return task

    def _next_of(self, node: int) -> Task | None:
        queue = self._queues.setdefault(node, deque())
        while not queue and (task := self._read()) is not None:
            self._queues.setdefault(self._find_home(task, asker=node), deque()).append(task)
        return queue.popleft() if queue else self._relieve(node)

    def _read(self) -> Task | None:
        if self._returned:
            return self._returned.popleft()
        if self._waits or self.n_waiting >= LOOK_AHEAD:
            return None
        task = next(self._stream, None)
        self._waits = task is None  # also at its end: a stream that has ended says so again
        return task

    def _find_home(self, task: Task, *, asker: int) -> int:
        """Return the home of a task's slide; one that is new, or whose node has gone, belongs to whoever asks.

        The least loaded node asks first.
        """
        if task.at_home:
            return HOME
        home = self._homes.get(task.slide_id)
        if home not in self._n_workers:
            self._homes[task.slide_id] = home = asker
        return home

    def _relieve(self, node: int) -> Task | None:
        """Return a task that waits for another node, if many do: there it would wait longer than a slide travels."""
        donors = [other for other, queue in self._queues.items() if other != node and queue]
        donor = max(donors, key=self._windows_waiting, default=None)
        if donor is None:
            return None
        queue = self._queues[donor]
        place = next((at for at in reversed(range(len(queue))) if not queue[at].at_home), None)
        if place is None:
            return None
        last, is_crowded = queue[place], self.n_waiting >= LOOK_AHEAD
        n_windows = self._windows_waiting(donor)
        if (is_crowded or n_windows > MOVE_AT) and (last.stage, last.slide_id) not in self._begun:
            self._move(last.slide_id, donor=donor, node=node)
            return self._queues[node].popleft()
        if is_crowded or n_windows > SHARE_AT:
            del queue[place]
            return last
        return None

    def _windows_waiting(self, node: int) -> float:
        return len(self._queues[node]) / max(1, self.window_of(node))

    def _move(self, slide_id: str, *, donor: int, node: int) -> None:
        queue = self._queues[donor]
        moved = [task for task in queue if task.slide_id == slide_id and not task.at_home]
        self._queues[donor] = deque(task for task in queue if task.slide_id != slide_id or task.at_home)
        self._queues[node].extend(moved)
        self._homes[slide_id] = node
