"""Whole processes in interleaved rounds: each round runs every contender once, in an order of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.processes import ProcessCost, run_measured

Contender = Callable[[], ProcessCost]
"""Does the work once, removes what it wrote, and returns what it cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What the rounds of one contender cost."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    """Of all its processes."""
    peak_bytes: int
    """Largest resident memory of any of its processes in any round."""

    @property
    def wall_median_s(self) -> float:
        """Median of the rounds."""
        return median(self.wall_s)

    @property
    def cpu_median_s(self) -> float:
        """Median of the rounds."""
        return median(self.cpu_s)

    @property
    def spread(self) -> float:
        """Dearest round divided by the cheapest, CPU time."""
        return max(self.cpu_s) / min(self.cpu_s)


def run_rounds(contenders: Mapping[str, Contender], *, n_rounds: int, seed: int) -> dict[str, Rounds]:
    """Run all contenders ``n_rounds`` times and return what they cost, in the order given.

    Raises
    ------
    ValueError
        When there is nothing to run.
    """
    if n_rounds < 1 or not contenders:
        raise ValueError(f"nothing to measure: {len(contenders)} contenders, {n_rounds} rounds")
    rng = np.random.default_rng(seed)
    names = list(contenders)
    costs: dict[str, list[ProcessCost]] = {name: [] for name in names}
    for number in range(n_rounds):
        for place in rng.permutation(len(names)).tolist():
            name = names[place]
            costs[name].append(contenders[name]())
            cost = costs[name][-1]
            sys.stderr.write(f"round {number + 1} of {n_rounds}: {name}: {cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s\n")
    return {
        name: Rounds(
            wall_s=tuple(cost.wall_s for cost in each),
            cpu_s=tuple(cost.cpu_s for cost in each),
            peak_bytes=max(max(cost.driver_peak_bytes, cost.worker_peak_bytes) for cost in each),
        )
        for name, each in costs.items()
    }


def one_core() -> tuple[int]:
    """Return the number of the core that measurements run on: the last one, because the system prefers the first."""
    return (max(os.sched_getaffinity(0)),)


def run_naive(patch_list: Path, *, folder: Path) -> ProcessCost:
    """Run `benchmarks.naive` on one core; its files stay in ``folder``."""
    command = (sys.executable, "-m", "benchmarks.naive", "--patches", str(patch_list), "--out", str(folder))
    return run_measured(command, cores=one_core())


def run_limit(patch_list: Path, *, out: Path) -> ProcessCost:
    """Run `benchmarks.limit` on one core; ``out`` gets its figures."""
    command = (sys.executable, "-m", "benchmarks.limit", "--patches", str(patch_list), "--out", str(out))
    return run_measured(command, cores=one_core())
