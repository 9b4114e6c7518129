"""Tables, targets and chart of `benchmarks.extraction`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.limit import ZSTD, Limit
from benchmarks.report import bar_chart_svg
from benchmarks.results import BenchmarkResult, Json, Table
from benchmarks.rounds import Rounds
from wsi_extract.storage import PngEncoder

PLOT = "extraction.svg"
NAIVE = "naive script, Pillow PNG"


NOTES = (
    (
        "CPU time of whole processes: start-up, survey, labels, documents and synchronising the disk count. "
        "The script has none of these, and is told where the patches are."
    ),
    (
        "Limit: CPU time of decoding each touched tile once and of encoding each patch once, from and to memory; "
        "with the job's own encoder, and with the fastest one of the file format. After start: without the CPU time "
        "of a dry run, which weighs the less the more patches there are."
    ),
    "KB per patch: of the stored pixels, without documents. Spread: dearest round by cheapest, CPU time.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFigures:
    """What one setup cost."""

    name: str
    encoders: tuple[str, ...]
    """What compresses each patch; empty where each pixel is stored once."""
    rounds: Rounds
    n_bytes: int
    """Of the stored pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All contenders on the patches of one overlap."""

    overlap: float
    n_patches: int
    naive: Rounds
    naive_bytes: int
    start: Rounds
    """A dry run: start-up, survey and planning, which do not grow with the patches."""
    limit: Limit
    jobs: tuple[JobFigures, ...]

    def job(self, name: str) -> JobFigures | None:
        """Return what was measured of a setup, ``None`` when it was left out."""
        return next((job for job in self.jobs if job.name == name), None)

    def times_naive(self, job: JobFigures) -> float:
        """Return patches per CPU second relative to the naive script."""
        return self.naive.cpu_median_s / job.rounds.cpu_median_s

    def times_limit(self, job: JobFigures) -> float | None:
        """Return CPU time relative to decoding once plus the same encoders; ``None`` where pixels are stored once."""
        if not job.encoders:
            return None
        return job.rounds.cpu_median_s / (self.limit.decode_s + sum(self.limit.encode_s[e] for e in job.encoders))

    def times_limit_after_start(self, job: JobFigures) -> float | None:
        """Return `times_limit` of what remains of the job's CPU time without that of a dry run."""
        times = self.times_limit(job)
        return None if times is None else times * (1 - self.start.cpu_median_s / job.rounds.cpu_median_s)

    def times_fastest_limit(self, job: JobFigures) -> float | None:
        """Return the same relative to the limit with the fastest encoder of the file format, whatever the job used."""
        if len(job.encoders) != 1:
            return None
        if job.encoders == (ZSTD,):
            return self.times_limit(job)
        fastest_s = min(self.limit.encode_s[e.value] for e in PngEncoder if e.value in self.limit.encode_s)
        return job.rounds.cpu_median_s / (self.limit.decode_s + fastest_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing to reach: a job against the naive script, or against the limit."""

    overlap: float
    job: str
    least_times_naive: float
    most_times_limit: float


TARGETS = (
    Target(overlap=0.5, job="png, fpng", least_times_naive=18, most_times_limit=1.7),
    Target(overlap=0.5, job="png, isal", least_times_naive=12, most_times_limit=1.7),
    Target(overlap=0.0, job="png, fpng", least_times_naive=12, most_times_limit=1.7),
    Target(overlap=0.0, job="png, isal", least_times_naive=9, most_times_limit=1.7),
    Target(overlap=0.5, job="zarr", least_times_naive=25, most_times_limit=1.8),
)


def _table_of(comparison: Comparison) -> Table:
    n = comparison.n_patches
    header = (
        *("job", "CPU s per 1,000", "patches per CPU s", "wall s", "x naive", "x limit, same encoder"),
        *("the same after start", "x limit, fastest encoder", "KB per patch", "peak MB", "spread"),
    )
    rows = [_row(NAIVE, comparison.naive, n=n, ratios=("1.0", "", "", ""), n_bytes=comparison.naive_bytes)]
    for job in comparison.jobs:
        ratios = (
            f"{comparison.times_naive(job):.1f}",
            _ratio(comparison.times_limit(job)),
            _ratio(comparison.times_limit_after_start(job)),
            _ratio(comparison.times_fastest_limit(job)),
        )
        rows.append(_row(job.name, job.rounds, n=n, ratios=ratios, n_bytes=job.n_bytes))
    caption = (
        f"Overlap {comparison.overlap:.0%}, {n:,} patches; start, survey and planning alone take "
        f"{comparison.start.cpu_median_s:.2f} s of CPU time."
    )
    return Table(caption=caption, header=header, rows=tuple(rows))


def _row(name: str, rounds: Rounds, *, n: int, ratios: tuple[str, str, str, str], n_bytes: int) -> tuple[str, ...]:
    return (
        name,
        f"{1e3 * rounds.cpu_median_s / n:.3f}",
        f"{n / rounds.cpu_median_s:,.0f}",
        f"{rounds.wall_median_s:.1f}",
        *ratios,
        f"{n_bytes / n / 1e3:.1f}",
        f"{rounds.peak_bytes / 1e6:.0f}",
        f"{rounds.spread:.2f}",
    )


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _limit_table(found: Sequence[Comparison]) -> Table:
    names = tuple(found[0].limit.encode_s)
    rows = []
    for comparison in found:
        limit, n = comparison.limit, comparison.n_patches
        encode = (
            f"{1e3 * limit.encode_s[name] / n:.3f}, {limit.encoded_bytes[name] / n / 1e3:.0f} KB" for name in names
        )
        rows.append((f"{comparison.overlap:.0%}", f"{limit.n_tiles:,}", f"{1e3 * limit.decode_s / n:.3f}", *encode))
    return Table(
        caption="The limit, CPU ms per patch: each touched tile decoded once from memory, each patch encoded once.",
        header=("overlap", "tiles", "decode", *names),
        rows=tuple(rows),
    )


def _target_table(found: Sequence[Comparison]) -> Table:
    rows = []
    for target in TARGETS:
        for comparison in found:
            job = comparison.job(target.job)
            if comparison.overlap != target.overlap or job is None:
                continue
            times, limit, fastest = (
                comparison.times_naive(job),
                comparison.times_limit(job),
                comparison.times_fastest_limit(job),
            )
            assert limit is not None
            rows.append(
                (
                    f"{target.job}, overlap {target.overlap:.0%}",
                    f"{target.least_times_naive:g}",
                    _judged(times, is_met=times >= target.least_times_naive),
                    f"{target.most_times_limit:g}",
                    _judged(limit, is_met=limit <= target.most_times_limit),
                    _ratio(comparison.times_limit_after_start(job)),
                    _ratio(fastest),
                )
            )
    header = ("job", "x naive, wanted", "reached", "x limit, at most", "reached", "after start", "fastest encoder")
    return Table(caption="Against what was wanted.", header=header, rows=tuple(rows))


def _judged(value: float, *, is_met: bool) -> str:
    return f"{value:.2f} {'yes' if is_met else 'NO'}"


def _figures_of(comparison: Comparison) -> dict[str, Json]:
    limit = comparison.limit
    return {
        "overlap": comparison.overlap,
        "n_patches": comparison.n_patches,
        "naive": {**_rounds_figures(comparison.naive), "n_bytes": comparison.naive_bytes},
        "start": _rounds_figures(comparison.start),
        "limit": {
            "n_tiles": limit.n_tiles,
            "decode_s": limit.decode_s,
            "encode_s": dict(limit.encode_s),
            "encoded_bytes": dict(limit.encoded_bytes),
        },
        "jobs": {
            job.name: {
                **_rounds_figures(job.rounds),
                "n_bytes": job.n_bytes,
                "times_naive": comparison.times_naive(job),
                "times_limit": comparison.times_limit(job),
                "times_limit_after_start": comparison.times_limit_after_start(job),
                "times_fastest_limit": comparison.times_fastest_limit(job),
            }
            for job in comparison.jobs
        },
    }


def _rounds_figures(rounds: Rounds) -> dict[str, Json]:
    return {"cpu_s": list(rounds.cpu_s), "wall_s": list(rounds.wall_s), "peak_bytes": rounds.peak_bytes}


def _bars(comparison: Comparison) -> tuple[tuple[str, float], ...]:
    n, limit = comparison.n_patches, comparison.limit
    jobs = [(job.name, 1e3 * job.rounds.cpu_median_s / n) for job in comparison.jobs]
    limits = [
        (f"limit: decode + {name}", 1e3 * limit.cpu_s(name) / n)
        for name in limit.encode_s
        if any(job.encoders == (name,) for job in comparison.jobs)
    ]
    return ((NAIVE, 1e3 * comparison.naive.cpu_median_s / n), *jobs, *limits)


def result_of(found: Sequence[Comparison], *, conditions: tuple[str, ...]) -> tuple[BenchmarkResult, Mapping[str, str]]:
    """Return the result with its tables, and the chart by file name: the first overlap, CPU time per patch."""
    shown = found[0]
    chart = bar_chart_svg(
        f"CPU time per patch, grid, overlap {shown.overlap:.0%} (logarithmic)",
        _bars(shown),
        unit="ms",
        highlighted=frozenset(job.name for job in shown.jobs),
    )
    tables = [_table_of(comparison) for comparison in found] + [_limit_table(found)]
    targets = _target_table(found)
    result = BenchmarkResult(
        name="extraction",
        conditions=conditions,
        tables=(*tables, *([targets] if targets.rows else [])),
        figures={"comparisons": [_figures_of(comparison) for comparison in found]},
        notes=NOTES,
        plots=(PLOT,),
    )
    return result, {PLOT: chart}
