"""What the measured jobs and the cost model say: tables, plot and result of `benchmarks.cost_model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.charts import Series, log_log_svg
from benchmarks.cost_fit import CostModel, MeasuredWork, Work, fit_cost, held_out_error, relative_errors, slope
from benchmarks.jobs import JobCost
from benchmarks.projection import CCMCT_BYTES, CCMCT_SLIDES, CCMCT_TISSUE_MM2, ccmct_scenarios, project
from benchmarks.results import BenchmarkResult, Json, Table

PLOT = "cost_model.svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One kind of job and its runs."""

    name: str
    store: str
    slide_mpx: float
    """Of all slides together, level 0, millions of pixels."""
    slide_bytes: int
    """Of all slides together."""
    costs: tuple[JobCost, ...]

    @property
    def n_patches(self) -> int:
        """Patches of one run."""
        return self.costs[0].n_patches

    @property
    def measured(self) -> MeasuredWork:
        """Medians of the runs."""
        first = self.costs[0]
        return MeasuredWork(
            work=Work(
                store=self.store,
                n_slides=first.n_slides,
                slide_mpx=self.slide_mpx,
                n_patches=first.n_patches,
                mpx=first.mpx_touched,
                n_workers=first.n_workers,
            ),
            started_s=median(cost.started_s for cost in self.costs),
            working_s=median(cost.working_s for cost in self.costs),
            finishing_s=median(cost.finishing_s for cost in self.costs),
        )


def points_table(points: Sequence[Point], model: CostModel) -> Table:
    """Return what was measured and what the model says of it."""
    header = (
        *("job", "slides", "patches", "Mpx touched", "wall s", "model s", "error", "patches/s"),
        *("working, patches/s", "driver MB", "worker MB"),
    )
    rows = []
    for point in points:
        measured = point.measured
        work = measured.work
        rows.append(
            (
                f"{point.store}, {point.name}",
                f"{work.n_slides}",
                f"{work.n_patches:,}",
                f"{work.mpx:,.0f}",
                f"{measured.wall_s:.1f}",
                f"{model.wall_s(work):.1f}",
                f"{100 * relative_errors(model, [measured])[0]:+.0f} %",
                f"{work.n_patches / measured.wall_s:,.0f}",
                f"{work.n_patches / measured.working_s:,.0f}",
                f"{max(cost.process.driver_peak_bytes for cost in point.costs) / 1e6:.0f}",
                f"{max(cost.process.worker_peak_bytes for cost in point.costs) / 1e6:.0f}",
            )
        )
    return Table(header=header, rows=tuple(rows))


def model_table(model: CostModel) -> Table:
    """Return the coefficients in words."""
    rows = [
        ("start: Python, cluster, checks", f"{model.start_s:.2f} s", "once"),
        ("start of each slide: open, fingerprint", f"{1e3 * model.start_per_slide_s:.1f} ms", "once"),
        ("survey of a slide", f"{1e3 * model.per_slide_s:.1f} ms", "over workers"),
        ("the same, of a million pixels of level 0", f"{1e3 * model.per_slide_mpx_s:.3f} ms", "over workers"),
        *(
            (f"patch, {store}", f"{1e3 * seconds:.3f} ms", "over workers")
            for store, seconds in model.per_patch_s.items()
        ),
        ("million pixels of tiles touched", f"{1e3 * model.per_mpx_s:.2f} ms", "over workers"),
        ("finish", f"{model.finish_s:.2f} s", "once"),
        ("finish of a patch", f"{1e6 * model.finish_per_patch_s:.1f} us", "once"),
    ]
    return Table(caption="The model, fitted to the jobs above:", header=("what", "time", "how often"), rows=tuple(rows))


def projection_table(points: Sequence[Point], model: CostModel, *, dispatch_s: float, n_cores: Sequence[int]) -> Table:
    """Return what the CCMCT data set would take; see `benchmarks.projection`."""
    largest = {point.store: point for point in sorted(points, key=lambda point: point.n_patches)}
    patch_bytes = {store: point.costs[0].pixel_bytes / point.n_patches for store, point in largest.items()}
    per_block = min(point.n_patches / point.costs[0].n_blocks for point in largest.values())
    header = ("32 slides of CCMCT", "patches", "GB", *(f"{n} cores" for n in n_cores), f"MB/s to disk, {n_cores[-1]}")
    rows = []
    bytes_per_mpx = points[0].slide_bytes / points[0].slide_mpx
    for scenario in ccmct_scenarios(list(largest), bytes_per_mpx=bytes_per_mpx):
        work = scenario.work
        found = [
            project(model, scenario, n_workers=n, patch_bytes=patch_bytes, dispatch_s_per_patch=dispatch_s / per_block)
            for n in n_cores
        ]
        rows.append(
            (
                scenario.name,
                f"{work.n_patches:,}",
                f"{patch_bytes[work.store] * work.n_patches / 1e9:,.1f}",
                *(_duration(each.wall_s) for each in found),
                f"{found[-1].write_bytes_per_s / 1e6:,.0f}",
            )
        )
    caption = "Projected, where storage and memory bandwidth keep up and every core is as fast as those measured:"
    return Table(caption=caption, header=header, rows=tuple(rows))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cost_plot(points: Sequence[Point], model: CostModel) -> str:
    """Return measured jobs as dots and the model of each store as a line through the grids with 50 % overlap."""
    series: list[Series] = []
    for store in dict.fromkeys(point.store for point in points):
        own = sorted((point.measured for point in points if point.store == store), key=lambda m: m.work.n_patches)
        dots = tuple((float(each.work.n_patches), each.wall_s) for each in own)
        line = tuple((float(each.work.n_patches), model.wall_s(each.work)) for each in own)
        series += [
            Series(name=f"{store}, measured", points=dots, is_line=False),
            Series(name=f"{store}, model", points=line, is_line=True),
        ]
    title = "Wall time of whole jobs on two workers"
    return log_log_svg(title, series, x_label="patches", y_label="seconds")


def describe(
    points: Sequence[Point], *, dispatch_s: float, n_cores: Sequence[int], conditions: Sequence[str]
) -> tuple[BenchmarkResult, str]:
    """Return what is kept, and the plot."""
    measured = [point.measured for point in points]
    model = fit_cost(measured)
    sizes = [float(point.n_patches) for point in points]
    driver = [float(max(cost.process.driver_peak_bytes for cost in point.costs)) for point in points]
    growth, error = slope(sizes, driver), held_out_error(measured)
    figures: dict[str, Json] = {
        "model": asdict(model),
        "largest_predicted_error": error,
        "driver_bytes_per_patch": growth,
        "dispatch_s_per_block": dispatch_s,
        "points": [{"name": point.name, **asdict(point.measured)} for point in points],
    }
    bytes_per_mpx = points[0].slide_bytes / points[0].slide_mpx
    size = f"{CCMCT_BYTES / bytes_per_mpx / 1e3:,.0f} billion pixels, as their {CCMCT_BYTES / 1e9:.0f} GB suggest"
    notes = (
        f"Fitted without the largest jobs, the model is off by {100 * error:+.0f} % for the worse of them.",
        f"The driver's memory grows by {growth:.0f} bytes per patch.",
        f"CCMCT: {CCMCT_SLIDES} slides of {size}; grids cover all {CCMCT_TISSUE_MM2:,.0f} mm2 of its tumour tissue.",
        "The survey is taken to grow with the slide, although the tissue mask has a largest size: an upper estimate.",
        f"One task costs the scheduler {1e3 * dispatch_s:.1f} ms, the least a block can take; respected above.",
    )
    result = BenchmarkResult(
        name="cost_model",
        conditions=tuple(conditions),
        tables=(
            points_table(points, model),
            model_table(model),
            projection_table(points, model, dispatch_s=dispatch_s, n_cores=n_cores),
        ),
        figures=figures,
        notes=notes,
        plots=(PLOT,),
    )
    return result, cost_plot(points, model)
