"""Which task worker processes died of, as far as that can be told, and when it is the machine they die of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from wsi_extract.cluster.clusters import RESUME
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.faults import refuse_silent_slide
from wsi_extract.model import Fault, FaultClass
from wsi_extract.tasks import Task

DEATHS_ALONE = 2
"""A task is to blame when this many workers died while it was the only one on all of them."""


class Blame:
    """Counts deaths, and remembers what went well last."""

    def __init__(self) -> None:
        self._deaths: Counter[tuple[str, int, int]] = Counter()
        """Workers that died while a task was alone on all of them, by stage, slide and number of the task."""
        self._places: dict[tuple[str, int, int], int] = {}
        """The node where that happened last."""
        self._proven: Task | None = None
        """What a worker has come to an end with last."""
        self._blamed: str | None = None
        """The slide blamed last, unless a worker has come to an end with something since then."""

    def note_end(self, task: Task) -> None:
        """Note that a worker has come to an end with a task."""
        self._proven, self._blamed = task, None

    def is_guilty(self, task: Task, *, n_deaths: int, node: int) -> bool:
        """Note that workers of a node died while the task was alone on all; return whether these were enough.

        One may have died of something else.
        """
        identity = _identity(task)
        self._deaths[identity] += n_deaths
        self._places[identity] = node
        return self._deaths[identity] >= DEATHS_ALONE

    def place_of_death(self, task: Task) -> int | None:
        """Return the node where a worker died last while the task was alone, ``None`` when none did."""
        return self._places.get(_identity(task))

    def refuse_scapegoat(self, task: Task, *, can_repeat: Callable[[Task], bool]) -> None:
        """Refuse to blame a slide for what the machine does to whatever is read: now to this one, then to the others.

        Parameters
        ----------
        can_repeat
            Whether a worker comes to an end with a task that one has done before.

        Raises
        ------
        EnvironmentFaultError
            When its file does not answer; or it is the second in a row, and workers do not even come to an end with
            what they came to an end with before.
        """
        if task.path is not None:
            refuse_silent_slide(task.path)
        is_second = self._blamed not in (None, task.slide_id)
        if is_second and (self._proven is None or not can_repeat(self._proven)):
            raise EnvironmentFaultError(
                f"worker processes die or hang whatever they read, slides {self._blamed} and {task.slide_id} at last.",
                f"Look at the memory, the disk and the libraries of the machines they run on. {RESUME}",
            )
        self._blamed = task.slide_id


def _identity(task: Task) -> tuple[str, int, int]:
    return task.stage, task.slide_ordinal, task.index


def fault_of_death(task: Task, *, error: Exception) -> Fault:
    """Return the fault of a task that workers died of."""
    return Fault(
        slide_id=task.slide_id,
        stage=task.stage,
        fault_class=FaultClass.WORKER,
        error_type=type(error).__name__,
        message=f"worker processes died on block {task.index} of this slide, or were ended because it hung",
        remedy="Give each worker more memory (fewer --workers), or check the slide for damage.",
    )
