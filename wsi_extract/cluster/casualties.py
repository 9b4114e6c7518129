"""Tasks that were lost with a worker of another node: did one of them kill it, or is the whole node gone? Pure.

A task that kills its worker is tried alone, and the others that were there as well. When a node is gone, nothing is
known against any of them, and hundreds of trials would stop the run: they go on as if nothing had happened. A node is
gone when none of its workers gives a sign of life after the death, not even the one that takes the place of the dead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from wsi_extract.cluster.bundles import Bundle
from wsi_extract.tasks import Task

LOSS_S = 10.0
"""How long a node may be silent after a death before it counts as gone: starting a worker anew takes less."""
SURE_LOSS_S = 2.0
"""How long if it had several workers and all of them died: they do not die of one task."""
CLOCK_SLACK_S = 0.1
"""A sign of life may have been on its way before the death was heard of."""
MAX_LOSSES = 2
"""A task that was on board of so many nodes that were lost is tried alone: it may be what they died of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Casualty:
    """A bundle that was lost with its worker."""

    bundle: Bundle
    node: int
    """Where the worker was."""
    at_s: float
    """When the death was heard of."""
    error: Exception
    """What the scheduler says of it."""
    was_alone: bool
    """Whether nothing else was in flight on any worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What has become clear."""

    suspects: tuple[Casualty, ...]
    """Their node lives: they may have killed the worker."""
    innocents: tuple[Bundle, ...]
    """Their node is gone."""
    lost: frozenset[int]
    """Nodes that are gone."""

    def __bool__(self) -> bool:
        return bool(self.suspects or self.innocents)


class Casualties:
    """Keeps lost bundles until it is clear why they were lost."""

    def __init__(self) -> None:
        self._pending: list[Casualty] = []
        self._losses: Counter[tuple[str, int, int]] = Counter()
        """Lost nodes that a task was on board of."""
        self._heard_s: dict[int, float] = {}
        """When each node gave its last sign of life, also of those that have gone since."""

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, casualty: Casualty) -> None:
        """Take a bundle in."""
        self._pending.append(casualty)

    def judge(
        self, seen_s: Mapping[int, float], *, sizes: Mapping[int, int], now_s: float, loss_s: float = LOSS_S
    ) -> Verdicts:
        """Let go whatever is clear by now.

        Parameters
        ----------
        seen_s
            When each node gave its last sign of life; nodes without any worker are missing.
        sizes
            The most workers that each node had.
        loss_s
            How long a node may be silent.
        """
        suspects: list[Casualty] = []
        innocents: list[Bundle] = []
        lost: set[int] = set()
        pending: list[Casualty] = []
        self._heard_s |= seen_s
        for each in self._pending:
            silent_from_s = min(self._heard_s.get(each.node, each.at_s), each.at_s)
            are_all_dead = each.node not in seen_s and sizes.get(each.node, 0) > 1
            if seen_s.get(each.node, each.at_s) > each.at_s + CLOCK_SLACK_S:
                suspects.append(each)
            elif now_s - silent_from_s < loss_s and not (are_all_dead and now_s - each.at_s >= SURE_LOSS_S):
                pending.append(each)
            elif self._is_unlucky(each):
                suspects.append(each)
                lost.add(each.node)
            else:
                innocents.append(each.bundle)
                lost.add(each.node)
        self._pending = pending
        return Verdicts(suspects=tuple(suspects), innocents=tuple(innocents), lost=frozenset(lost))

    def _is_unlucky(self, casualty: Casualty) -> bool:
        self._losses.update(map(_identity, casualty.bundle))
        return any(self._losses[_identity(task)] >= MAX_LOSSES for task in casualty.bundle)


def _identity(task: Task) -> tuple[str, int, int]:
    return task.stage, task.slide_ordinal, task.index
