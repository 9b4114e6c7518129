"""Which slides are in work: so that whoever waits can be told what for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from wsi_extract.tasks import Executor, Task, TaskResult


class WorkProgress(Protocol):
    """Is told what goes out and what comes back."""

    def take_up(self, slide_id: str) -> None:
        """Note that a task of a slide was handed out."""

    def put_down(self, slide_id: str) -> None:
        """Note that a task of a slide came back."""


def run_watched(executor: Executor, tasks: Iterable[Task | None], *, progress: WorkProgress) -> Iterator[TaskResult]:
    """Yield what ``executor.run(tasks)`` yields, and tell ``progress`` of each task that goes out and comes back."""

    def handed_out() -> Iterator[Task | None]:
        for task in tasks:
            if task is not None:
                progress.take_up(task.slide_id)
            yield task

    for result in executor.run(handed_out()):
        progress.put_down(result.task.slide_id)
        yield result


class SlidesInWork:
    """Counts the tasks of each slide that are out, and remembers since when nothing was heard of the slide."""

    def __init__(self) -> None:
        self._out: dict[str, tuple[int, float]] = {}
        """By slide id: tasks that are out, and when one of them was heard of last."""

    def take_up(self, slide_id: str, *, now_s: float) -> None:
        """Note that a task of a slide was handed out."""
        n_out, heard_s = self._out.get(slide_id, (0, now_s))
        self._out[slide_id] = (n_out + 1, heard_s)

    def put_down(self, slide_id: str, *, now_s: float) -> None:
        """Note that a task of a slide came back."""
        n_out, _ = self._out.pop(slide_id, (1, now_s))
        if n_out > 1:
            self._out[slide_id] = (n_out - 1, now_s)

    def silences(self, now_s: float) -> list[tuple[str, float]]:
        """Return each slide in work and for how many seconds nothing was heard of it, the longest first.

        May be called from another thread.
        """
        out = self._out.copy()
        return sorted(((name, now_s - heard_s) for name, (_, heard_s) in out.items()), key=lambda pair: -pair[1])
