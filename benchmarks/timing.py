"""Interleaved measurements: every round runs every case once, in an order of its own, so that drift hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

Case = Callable[[], int]
"""Does the work once and returns how many patches it handled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What the rounds of one case cost per patch."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    """Of this process with all its threads, not of its children."""

    @property
    def wall_ms(self) -> float:
        """Median of the rounds, milliseconds per patch."""
        return 1e3 * median(self.wall_s)

    @property
    def cpu_ms(self) -> float:
        """Median of the rounds, milliseconds per patch."""
        return 1e3 * median(self.cpu_s)

    @property
    def spread(self) -> float:
        """Slowest round divided by the fastest one, wall time."""
        return max(self.wall_s) / min(self.wall_s)


def measure(cases: Mapping[str, Case], *, n_patches: int, n_rounds: int, seed: int) -> dict[str, Timing]:
    """Time all cases in ``n_rounds`` interleaved rounds.

    Raises
    ------
    RuntimeError
        When a case did not handle exactly ``n_patches`` patches: an empty loop is no result.
    """
    if n_patches < 1 or n_rounds < 1:
        raise ValueError(f"nothing to measure: {n_patches} patches, {n_rounds} rounds")
    rng = np.random.default_rng(seed)
    names = list(cases)
    wall_s: dict[str, list[float]] = {name: [] for name in names}
    cpu_s: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(n_rounds):
        for place in rng.permutation(len(names)).tolist():
            name = names[place]
            wall, cpu = time.perf_counter(), time.process_time()
            n_handled = cases[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if n_handled != n_patches:
                raise RuntimeError(f"{name} handled {n_handled} of {n_patches} patches")
            wall_s[name].append(wall / n_patches)
            cpu_s[name].append(cpu / n_patches)
    return {name: Timing(wall_s=tuple(wall_s[name]), cpu_s=tuple(cpu_s[name])) for name in names}


def latencies_s(read: Callable[[int], object], numbers: list[int]) -> list[float]:
    """Return what each single read takes, seconds of wall time."""
    taken: list[float] = []
    for number in numbers:
        start = time.perf_counter()
        read(number)
        taken.append(time.perf_counter() - start)
    return taken
