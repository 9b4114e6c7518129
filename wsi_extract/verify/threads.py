"""Work through many files with several threads, in order, without holding more than a few results at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

TASKS_PER_THREAD = 4
"""Tasks waiting for a thread, so that memory does not grow with the data set."""


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, items_per_task: int = 1, n_threads: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` of every item, in order; worthwhile where it releases the interpreter lock.

    Parameters
    ----------
    items_per_task
        Items one thread takes at a time.
    n_threads
        All processors when not given.
    """
    n_threads = n_threads or os.cpu_count() or 1

    def work(group: list[Item]) -> list[Result]:
        return [function(item) for item in group]

    with ThreadPoolExecutor(n_threads) as pool:
        running: deque[Future[list[Result]]] = deque()
        pending = iter(items)
        while group := list(islice(pending, items_per_task)):
            running.append(pool.submit(work, group))
            if len(running) > TASKS_PER_THREAD * n_threads:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
