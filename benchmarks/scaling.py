"""What a second worker brings, and what Dask costs per block: ``python -m benchmarks.scaling --out DIR``.

Whole jobs with 0 (serial, without Dask), 1 and 2 workers alternate; each has as many cores as workers. Dask's own cost
is measured with tasks that do nothing but carry what a block carries.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.charts import stacked_bars_svg
from benchmarks.jobs import (
    GRID,
    HALF_OVERLAP,
    Job,
    JobCost,
    benchmark_parser,
    cores_for,
    disturbance,
    run_job,
    scratch_folder,
)
from benchmarks.report import environment_line
from benchmarks.results import BenchmarkResult, Json, Table, write_result
from benchmarks.scanned_slides import annotations_of, scanned_slide
from wsi_extract.cluster.schedule import dask_executor, local_cluster
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Executor, Task

PACKAGES = ("dask", "distributed", "numpy", "simplejpeg", "isal", "openslide-bin", "zstandard")
CASES: Mapping[str, tuple[str, ...]] = {
    "PNG": (*GRID, *HALF_OVERLAP),
    "Zarr": (*GRID, *HALF_OVERLAP, "--store", "zarr"),
}
WORKERS = (0, 1, 2)
N_EMPTY_TASKS = 500
PAYLOAD_BYTES = 50_000
"""What the task of a block of 512 patches carries: origins, kinds, annotations; pickled."""
_WORKER_BYTES = 500_000_000
PLOT = "scaling.svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What Dask costs per task, seconds."""

    n_workers: int
    wall_s: float
    """Wall time per task when all workers are busy with nothing: the scheduler's own pace."""
    driver_cpu_s: float
    """Of this process, in which client and scheduler live."""


def compare_workers(
    jobs: Sequence[Job], *, scratch: Path, tile_px: int, n_rounds: int, seed: int
) -> dict[tuple[str, int], list[JobCost]]:
    """Run all jobs in interleaved rounds, each on as many cores as it has workers; costs by name and workers."""
    rng = np.random.default_rng(seed)
    costs: dict[tuple[str, int], list[JobCost]] = {(job.name, job.n_workers): [] for job in jobs}
    for _ in range(n_rounds):
        for place in rng.permutation(len(jobs)).tolist():
            job = jobs[place]
            cost = run_job(job, scratch=scratch, tile_px=tile_px, cores=cores_for(job.n_workers))
            costs[job.name, job.n_workers].append(cost)
    check_same_work(costs)
    return costs


def check_same_work(costs: Mapping[tuple[str, int], Sequence[JobCost]]) -> None:
    """Refuse to compare jobs of one name that made different numbers of patches.

    Raises
    ------
    RuntimeError
        With the numbers.
    """
    for name in {name for name, _ in costs}:
        made = {cost.n_patches for key, each in costs.items() if key[0] == name for cost in each}
        if len(made) != 1:
            raise RuntimeError(f"the jobs {name} made different numbers of patches: {sorted(made)}")


def measure_overhead(*, n_workers: int, n_tasks: int) -> Overhead:
    """Send tasks that do nothing through the program's own executor on a cluster of this machine."""
    with (
        local_cluster(n_workers=n_workers, memory_bytes=_WORKER_BYTES, dashboard_address="127.0.0.1:0") as client,
        dask_executor(client, worker_memory_bytes=_WORKER_BYTES, report_path=None) as executor,
    ):
        _run_empty(executor, n_tasks=5 * n_workers)  # workers have imported what they need
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        _run_empty(executor, n_tasks=n_tasks)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return Overhead(n_workers=n_workers, wall_s=wall_s / n_tasks, driver_cpu_s=cpu_s / n_tasks)


def _run_empty(executor: Executor, *, n_tasks: int) -> None:
    results = [result.value for result in executor.run(_empty_tasks(n_tasks))]
    if results != [PAYLOAD_BYTES] * n_tasks:
        raise RuntimeError(f"{len(results)} of {n_tasks} empty tasks came back")


def _empty_tasks(n_tasks: int) -> Iterator[Task]:
    rng = np.random.default_rng(0)
    for index in range(n_tasks):
        item = rng.bytes(PAYLOAD_BYTES)
        yield Task(stage="empty", slide_ordinal=0, slide_id="none", index=index, function=weigh, item=item)


def weigh(item: bytes, _slides: SlideCache) -> int:
    """Do nothing with what arrived, and show that it did."""
    return len(item)


def speed_up(costs: Mapping[tuple[str, int], Sequence[JobCost]], name: str, *, n_workers: int, against: int) -> float:
    """Return how many times faster the work goes, from first survey to last block: median of the rounds' ratios."""
    pairs = zip(costs[name, against], costs[name, n_workers], strict=True)
    return median(one.working_s / several.working_s for one, several in pairs)


def workers_table(costs: Mapping[tuple[str, int], Sequence[JobCost]]) -> Table:
    """Return the phases of each job, how busy its cores were, and its gain over one worker."""
    header = (
        *("job, workers", "patches/s", "wall s", "start s", "work s", "finish s", "CPU s", "busy", "busy, all"),
        *("x one worker", "largest worker MB", "driver MB"),
    )
    rows = []
    for (name, n_workers), each in costs.items():
        n_cores = max(1, n_workers)
        rows.append(
            (
                f"{name}, {n_workers or 'serial'}",
                f"{median(cost.n_patches / cost.process.wall_s for cost in each):.0f}",
                f"{median(cost.process.wall_s for cost in each):.2f}",
                f"{median(cost.started_s for cost in each):.2f}",
                f"{median(cost.working_s for cost in each):.2f}",
                f"{median(cost.finishing_s for cost in each):.2f}",
                f"{median(cost.process.cpu_s for cost in each):.2f}",
                f"{100 * median(cost.cores_used / n_cores for cost in each):.0f} %",
                f"{100 * median(cost.process.cpu_s / cost.process.wall_s / n_cores for cost in each):.0f} %",
                f"{speed_up(costs, name, n_workers=n_workers, against=1):.2f}",
                f"{max(cost.process.worker_peak_bytes for cost in each) / 1e6:.0f}",
                f"{max(cost.process.driver_peak_bytes for cost in each) / 1e6:.0f}",
            )
        )
    return Table(header=header, rows=tuple(rows))


def overhead_table(overheads: Sequence[Overhead], *, block_s: Mapping[str, float]) -> Table:
    """Return what Dask costs per task, also as a share of what one block takes a worker.

    Parameters
    ----------
    block_s
        Seconds of a worker per block, by name of the job.
    """
    header = ("empty tasks, workers", "wall ms", "driver CPU ms", *(f"of a block, {name}" for name in block_s))
    rows = [
        (
            str(each.n_workers),
            f"{1e3 * each.wall_s:.2f}",
            f"{1e3 * each.driver_cpu_s:.2f}",
            *(f"{100 * each.wall_s * each.n_workers / seconds:.2f} %" for seconds in block_s.values()),
        )
        for each in overheads
    ]
    blocks = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in block_s.items())
    return Table(caption=f"A block takes a worker, on average: {blocks}.", header=header, rows=tuple(rows))


def block_seconds(costs: Mapping[tuple[str, int], Sequence[JobCost]]) -> dict[str, float]:
    """Return the mean seconds of a worker per block, from the jobs with one worker."""
    return {
        name: median(cost.working_s / cost.n_blocks for cost in each)
        for (name, n_workers), each in costs.items()
        if n_workers == 1
    }


def scaling_plot(costs: Mapping[tuple[str, int], Sequence[JobCost]]) -> str:
    """Return a bar of phases per job."""
    bars = {
        f"{name}, {n_workers or 'serial'}": {
            "start": median(cost.started_s for cost in each),
            "work": median(cost.working_s for cost in each),
            "finish": median(cost.finishing_s for cost in each),
        }
        for (name, n_workers), each in costs.items()
    }
    return stacked_bars_svg("Wall time of the whole job by number of workers", bars, unit="s")


def describe(
    costs: Mapping[tuple[str, int], Sequence[JobCost]], overheads: Sequence[Overhead], *, conditions: Sequence[str]
) -> BenchmarkResult:
    """Return what is kept of the comparison."""
    figures: dict[str, Json] = {
        f"{name}, {n_workers}": {
            "n_patches": each[0].n_patches,
            "n_blocks": each[0].n_blocks,
            "wall_s": [cost.process.wall_s for cost in each],
            "working_s": [cost.working_s for cost in each],
            "cpu_s": [cost.process.cpu_s for cost in each],
            "cores_used": [cost.cores_used for cost in each],
            "worker_peak_bytes": max(cost.process.worker_peak_bytes for cost in each),
            "driver_peak_bytes": max(cost.process.driver_peak_bytes for cost in each),
            "x_one_worker": speed_up(costs, name, n_workers=n_workers, against=1),
        }
        for (name, n_workers), each in costs.items()
    }
    figures["dask_s_per_task"] = {str(each.n_workers): each.wall_s for each in overheads}
    figures["driver_cpu_s_per_task"] = {str(each.n_workers): each.driver_cpu_s for each in overheads}
    notes = (
        "start: until the folder is claimed, with Dask's cluster; work: surveys and blocks; finish: after them.",
        "busy: share of the cores' time that was used between the ends of the first and the last block.",
        "busy, all: the same over the whole job.",
    )
    return BenchmarkResult(
        name="scaling",
        conditions=tuple(conditions),
        tables=(workers_table(costs), overhead_table(overheads, block_s=block_seconds(costs))),
        figures=figures,
        notes=notes,
        plots=(PLOT,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure jobs and empty tasks, print the tables and write the result."""
    parser = benchmark_parser("scaling", description=__doc__)
    parser.add_argument("--tasks", type=int, default=N_EMPTY_TASKS, help="empty tasks that Dask's cost is taken from")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    slide = scanned_slide(
        options.slides, width_px=options.width_px, height_px=options.height_px, tile_px=options.tile_px, seed=1
    )
    jobs = [
        Job(name=name, slides=slide.parent, annotations=annotations_of(slide), settings=settings, n_workers=n_workers)
        for name, settings in CASES.items()
        for n_workers in WORKERS
    ]
    with scratch_folder(options.scratch) as scratch:
        costs = compare_workers(
            jobs, scratch=scratch, tile_px=options.tile_px, n_rounds=options.rounds, seed=options.seed
        )
    overheads = [measure_overhead(n_workers=n, n_tasks=options.tasks) for n in WORKERS if n]
    conditions = (
        f"One slide of {options.width_px:,} x {options.height_px:,} px, grid with 50 % overlap, patches of 256 px.",
        f"As many cores as workers; medians of {options.rounds} interleaved rounds.",
        disturbance(cost.process for each in costs.values() for cost in each),
        f"{environment_line(PACKAGES)}.",
    )
    result = describe(costs, overheads, conditions=conditions)
    write_result(options.out, result, plots={PLOT: scaling_plot(costs)})
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
