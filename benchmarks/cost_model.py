"""Wall time and memory by patches, overlap, slides and workers: ``python -m benchmarks.cost_model --out DIR``.

Jobs from a thousand to a hundred thousand patches run in interleaved rounds. The model of `benchmarks.cost_fit` is
fitted to them, tested on the largest jobs, which the fit for the test does not see, and projected to larger machines.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cost_report import PLOT, Point, describe
from benchmarks.jobs import (
    GRID,
    HALF_OVERLAP,
    NO_OVERLAP,
    Job,
    JobCost,
    benchmark_parser,
    cores_for,
    disturbance,
    run_job,
    scratch_folder,
)
from benchmarks.report import environment_line
from benchmarks.results import write_result
from benchmarks.scaling import measure_overhead
from benchmarks.scanned_slides import COPIES_ANNOTATIONS, scanned_copies
from wsi_extract.errors import InputError

PACKAGES = ("dask", "distributed", "numpy", "simplejpeg", "isal", "openslide-bin", "zstandard")
STORES = ("png", "zarr")
OVERLAPS: Mapping[str, tuple[str, ...]] = {"no overlap": NO_OVERLAP, "50 % overlap": HALF_OVERLAP}
N_ANCHORED_SLIDES = 10
"""With 100 patches each: the smallest job."""
PROJECTED_CORES = (16, 64)
ROOM_BYTES_PER_PATCH = 300_000
"""Of disk, asked for before the largest job: a raw patch of 256 px and half as much again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of job."""

    name: str
    store: str
    n_slides: int
    settings: tuple[str, ...]
    is_small: bool = False
    """Whether its slides have a quarter of the area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where jobs run, and on what."""

    slides: Path
    scratch: Path
    width_px: int
    height_px: int
    tile_px: int
    n_workers: int

    def measure(self, kinds: Sequence[Kind], *, n_rounds: int, seed: int) -> list[Point]:
        """Run all kinds of jobs in interleaved rounds, each round in an order of its own."""
        rng = np.random.default_rng(seed)
        jobs = [self._job_of(kind) for kind in kinds]
        costs: list[list[JobCost]] = [[] for _ in kinds]
        cores = cores_for(self.n_workers)
        for _ in range(n_rounds):
            for place in rng.permutation(len(jobs)).tolist():
                costs[place].append(run_job(jobs[place], scratch=self.scratch, tile_px=self.tile_px, cores=cores))
        return [self._point_of(kind, job, each) for kind, job, each in zip(kinds, jobs, costs, strict=True)]

    def _size_px(self, kind: Kind) -> tuple[int, int]:
        part = 2 if kind.is_small else 1
        return self.width_px // part, self.height_px // part

    def _job_of(self, kind: Kind) -> Job:
        width_px, height_px = self._size_px(kind)
        folder = scanned_copies(
            self.slides, n_slides=kind.n_slides, width_px=width_px, height_px=height_px, tile_px=self.tile_px
        )
        return Job(
            name=kind.name,
            slides=folder,
            annotations=folder / COPIES_ANNOTATIONS,
            settings=(*kind.settings, "--store", kind.store),
            n_workers=self.n_workers,
        )

    def _point_of(self, kind: Kind, job: Job, costs: Sequence[JobCost]) -> Point:
        width_px, height_px = self._size_px(kind)
        return Point(
            name=kind.name,
            store=kind.store,
            slide_mpx=kind.n_slides * width_px * height_px / 1e6,
            slide_bytes=sum(path.stat().st_size for path in job.slides.glob("*.svs")),
            costs=tuple(costs),
        )


def small_kinds() -> list[Kind]:
    """Return the jobs of few patches: one slide, or several with a hundred patches each."""
    kinds = []
    for store in STORES:
        for name, is_small in (("anchored", False), ("anchored, small slides", True)):
            kinds.append(Kind(name=name, store=store, n_slides=N_ANCHORED_SLIDES, settings=(), is_small=is_small))
        for name, overlap in OVERLAPS.items():
            kinds.append(Kind(name=name, store=store, n_slides=1, settings=(*GRID, *overlap)))
    return kinds


def large_kinds(*, n_slides: int) -> list[Kind]:
    """Return dense grids on a quarter of the slides and on all of them, on two at least."""
    return [
        Kind(name=f"50 % overlap, {n} slides", store=store, n_slides=n, settings=(*GRID, *HALF_OVERLAP))
        for store in STORES
        for n in sorted({max(2, n_slides // 4), max(2, n_slides)})
    ]


def measure_points(bench: Bench, *, largest: int, n_rounds: int, seed: int) -> list[Point]:
    """Run the small jobs ``n_rounds`` times, then the large ones once.

    Parameters
    ----------
    largest
        Least patches of the largest jobs.

    Raises
    ------
    InputError
        When the disk has no room for them.
    """
    free_bytes = shutil.disk_usage(bench.scratch).free
    if free_bytes < largest * ROOM_BYTES_PER_PATCH:
        raise InputError(
            f"{bench.scratch} has {free_bytes / 1e9:.0f} GB free, {largest:,} patches need up to "
            f"{largest * ROOM_BYTES_PER_PATCH / 1e9:.0f} GB.",
            "Give another folder as --scratch, or fewer patches as --largest.",
        )
    points = bench.measure(small_kinds(), n_rounds=n_rounds, seed=seed)
    n_slides = math.ceil(largest / max(point.n_patches / point.costs[0].n_slides for point in points))
    return points + bench.measure(large_kinds(n_slides=n_slides), n_rounds=1, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, fit, project; print the tables and write the result."""
    parser = benchmark_parser("cost_model", description=__doc__)
    parser.add_argument("--largest", type=int, default=100_000, help="least patches of the largest jobs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with scratch_folder(options.scratch) as scratch:
        bench = Bench(
            slides=options.slides,
            scratch=scratch,
            width_px=options.width_px,
            height_px=options.height_px,
            tile_px=options.tile_px,
            n_workers=options.workers,
        )
        points = measure_points(bench, largest=options.largest, n_rounds=options.rounds, seed=options.seed)
    dispatch_s = measure_overhead(n_workers=options.workers, n_tasks=200).wall_s
    conditions = (
        f"Copies of one slide of {options.width_px:,} x {options.height_px:,} px, patches of 256 px at level 0.",
        f"{options.workers} workers; grids on several slides once, the others {options.rounds} times (medians).",
        disturbance(cost.process for point in points for cost in point.costs),
        f"{environment_line(PACKAGES)}.",
    )
    result, plot = describe(points, dispatch_s=dispatch_s, n_cores=PROJECTED_CORES, conditions=conditions)
    write_result(options.out, result, plots={PLOT: plot})
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
