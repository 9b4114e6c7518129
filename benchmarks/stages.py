"""Where the time of a whole job goes, stage by stage: ``python -m benchmarks.stages --out DIR``.

The program runs serially, as a user would run it, and is interrupted 500 times per second to see what it is at. Runs
with other settings alternate; medians of the rounds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import sampled_run
from benchmarks.charts import stacked_bars_svg
from benchmarks.discarding import discard
from benchmarks.jobs import GRID, HALF_OVERLAP, NO_OVERLAP, Job, benchmark_parser, disturbance, scratch_folder
from benchmarks.processes import ProcessCost, run_measured
from benchmarks.report import environment_line
from benchmarks.results import BenchmarkResult, Json, Table, write_result
from benchmarks.scanned_slides import annotations_of, scanned_slide
from benchmarks.stage_rules import Stage, StageTimes, sum_stages
from wsi_extract.index import read_index
from wsi_extract.model import Split

PACKAGES = ("numpy", "simplejpeg", "isal", "fpng", "openslide-bin", "opencv-python-headless", "zstandard")
CASES: Mapping[str, tuple[str, ...]] = {
    "PNG, 50 % overlap": (*GRID, *HALF_OVERLAP),
    "PNG, no overlap": (*GRID, *NO_OVERLAP),
    "PNG by fpng, 50 % overlap": (*GRID, *HALF_OVERLAP, "--png_encoder", "fpng"),
    "Zarr, 50 % overlap": (*GRID, *HALF_OVERLAP, "--store", "zarr"),
    "PNG, 50 % overlap, Macenko": (*GRID, *HALF_OVERLAP, "--stain_norm", "macenko"),
    "PNG, 50 % overlap, OpenSlide": (*GRID, *HALF_OVERLAP, "--reader", "openslide"),
    "PNG, 100 anchored patches": (),
}
OTHER_THREADS = "sync, other threads"
PLOT = "stages.svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """One sampled run."""

    n_patches: int
    process: ProcessCost
    times: StageTimes

    def per_1000_s(self, stage: Stage) -> float:
        """Return the CPU time of a stage for 1,000 patches."""
        return 1e3 * self.times.cpu_s[stage] / self.n_patches


def sample_job(job: Job, *, scratch: Path, core: int) -> StageRun:
    """Run a serial job on one core, look at what it does, remove its output.

    Raises
    ------
    ValueError
        When the job has workers, which nobody looks at.
    FailedCommandError
        When it fails.
    """
    if job.n_workers:
        raise ValueError(f"only serial jobs can be looked at, {job.name} has {job.n_workers} workers")
    output_dir, samples = scratch / "out", scratch / "samples.json"
    discard(output_dir)
    arguments = job.command(output_dir)[2:]
    command = (sys.executable, sampled_run.__file__, str(samples), "--", *arguments)
    cost = run_measured(command, cores=[core])
    try:
        n_patches = len(read_index(output_dir, Split.TRAIN))
        return StageRun(n_patches=n_patches, process=cost, times=sum_stages(json.loads(samples.read_bytes())))
    finally:
        discard(output_dir)


def compare_stages(jobs: Sequence[Job], *, scratch: Path, n_rounds: int, seed: int) -> dict[str, list[StageRun]]:
    """Sample all jobs in interleaved rounds, on one core; the runs of each job by its name."""
    rng = np.random.default_rng(seed)
    core = min(os.sched_getaffinity(0))
    runs: dict[str, list[StageRun]] = {job.name: [] for job in jobs}
    for _ in range(n_rounds):
        for place in rng.permutation(len(jobs)).tolist():
            runs[jobs[place].name].append(sample_job(jobs[place], scratch=scratch, core=core))
    return runs


def stages_table(runs: Mapping[str, Sequence[StageRun]]) -> Table:
    """Return CPU milliseconds per patch of each stage, which is seconds for 1,000 patches; medians of the rounds."""
    stages = [s for s in Stage if any(run.times.cpu_s[s] for each in runs.values() for run in each)]
    rows = [
        (stage.value, *(f"{median(run.per_1000_s(stage) for run in each):.3f}" for each in runs.values()))
        for stage in stages
    ]
    totals: dict[str, list[str]] = {OTHER_THREADS: [], "CPU, all": [], "wall, all": [], "patches": []}
    for each in runs.values():
        n_patches = each[0].n_patches
        totals[OTHER_THREADS].append(_ms([run.times.other_threads_cpu_s for run in each], n_patches=n_patches))
        totals["CPU, all"].append(_ms([run.times.total_cpu_s for run in each], n_patches=n_patches))
        totals["wall, all"].append(_ms([run.process.wall_s for run in each], n_patches=n_patches))
        totals["patches"].append(f"{n_patches:,}")
    rows += [(name, *cells) for name, cells in totals.items()]
    return Table(caption="CPU milliseconds per patch (seconds for 1,000):", header=("stage", *runs), rows=tuple(rows))


def _ms(seconds: Sequence[float], *, n_patches: int) -> str:
    return f"{1e3 * median(seconds) / n_patches:.3f}"


def stages_plot(runs: Mapping[str, Sequence[StageRun]]) -> str:
    """Return a stacked bar per kind of job."""
    bars = {
        name: {
            **{stage.value: median(run.per_1000_s(stage) for run in each) for stage in Stage},
            OTHER_THREADS: 1e3 * median(run.times.other_threads_cpu_s for run in each) / each[0].n_patches,
        }
        for name, each in runs.items()
    }
    return stacked_bars_svg("CPU time per patch by stage, whole job on one core", bars, unit="ms")


def describe(runs: Mapping[str, Sequence[StageRun]], *, conditions: Sequence[str]) -> BenchmarkResult:
    """Return what is kept of the comparison."""
    figures: dict[str, Json] = {
        name: {
            "n_patches": each[0].n_patches,
            "wall_s": [run.process.wall_s for run in each],
            "cpu_s": [run.times.total_cpu_s for run in each],
            "cpu_ms_per_patch": {s.value: round(median(run.per_1000_s(s) for run in each), 5) for s in Stage},
        }
        for name, each in runs.items()
    }
    tables = (stages_table(runs),)
    return BenchmarkResult(name="stages", conditions=tuple(conditions), tables=tables, figures=figures, plots=(PLOT,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample all kinds of jobs, print the table and write the result."""
    parser = benchmark_parser("stages", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    slide = scanned_slide(
        options.slides, width_px=options.width_px, height_px=options.height_px, tile_px=options.tile_px, seed=1
    )
    jobs = [
        Job(name=name, slides=slide.parent, annotations=annotations_of(slide), settings=settings)
        for name, settings in CASES.items()
        if "fpng" not in settings or find_spec("fpng") is not None
    ]
    with scratch_folder(options.scratch) as scratch:
        runs = compare_stages(jobs, scratch=scratch, n_rounds=options.rounds, seed=options.seed)
    conditions = (
        f"One slide of {options.width_px:,} x {options.height_px:,} px, JPEG tiles of {options.tile_px} px.",
        f"Patches of 256 px at level 0, one core, `--workers 0`; medians of {options.rounds} interleaved rounds.",
        disturbance(run.process for each in runs.values() for run in each),
        f"{environment_line(PACKAGES)}.",
    )
    result = describe(runs, conditions=conditions)
    write_result(options.out, result, plots={PLOT: stages_plot(runs)})
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
