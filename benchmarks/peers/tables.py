"""Tables and chart of the comparison with other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.peers.comparison import Comparison, Figures
from benchmarks.report import bar_chart_svg
from benchmarks.results import BenchmarkResult, Json, Table

TARGET = 5.0
"""Patches per CPU second, as a multiple of every peer's, that this package is to reach."""
PLOT = "peers.svg"
_WHAT_COUNTS = (
    "CPU time of whole processes from start to end. This package also finds the patches, labels them, synchronises the "
    "disk and writes its documents; the others are told where the patches are."
)
_COLUMNS = (
    "Start: importing and opening; read and save: the loop over the patches, CPU time. "
    "x ours: CPU time per patch by that of this package with its default settings, and with its fastest encoder; "
    "loop alone: without the program's start, by the whole of this package with default settings. "
    "Pixels: greatest difference from this package's patches, grey levels, in a sample."
)


def result_of(
    comparisons: Sequence[Comparison], *, left_out: Mapping[str, str], conditions: Sequence[str], notes: Sequence[str]
) -> tuple[BenchmarkResult, dict[str, str]]:
    """Return the report and its plot by file name.

    Parameters
    ----------
    left_out
        Name: reason. Programs that were not measured.
    notes
        What a reader has to know of single programs.
    """
    refused = {name: reason for each in comparisons for name, reason in each.refused.items()}
    tables = [_table_of(each) for each in comparisons]
    missing = [(name, reason) for name, reason in {**refused, **left_out}.items()]
    if missing:
        tables.append(Table(caption="Not compared.", header=("program", "reason"), rows=tuple(missing)))
    plots = {PLOT: _chart_of(comparisons[0])}
    result = BenchmarkResult(
        name="peers",
        conditions=tuple(conditions),
        tables=tuple(tables),
        figures=_figures_of(comparisons, left_out={**refused, **left_out}),
        notes=(_WHAT_COUNTS, _COLUMNS, *(sentence for each in comparisons for sentence in _sentences_of(each)), *notes),
        plots=tuple(plots),
    )
    return result, plots


def _table_of(comparison: Comparison) -> Table:
    base = comparison.ours[0]
    header = (
        *("program", "version", "CPU ms per patch", "start", "read", "save", "x ours", "x ours, fastest", "loop alone"),
        *("wall s per 1,000", "KB per patch", "peak MB", "pixels"),
    )
    others = sorted((comparison.naive, *comparison.peers), key=lambda each: each.cpu_ms)
    rows = tuple(_row_of(each, base=base, fastest=fastest_of(comparison)) for each in (*comparison.ours, *others))
    caption = f"Overlap {comparison.overlap:.0%}, {base.n_patches:,} patches."
    return Table(caption=caption, header=header, rows=rows)


def fastest_of(comparison: Comparison) -> Figures:
    """Return the cheapest way to run this package."""
    return min(comparison.ours, key=lambda each: each.cpu_ms)


def _row_of(figures: Figures, *, base: Figures, fastest: Figures) -> tuple[str, ...]:
    steps, loop_ms, n = figures.steps, figures.loop_ms, figures.n_patches
    parts = ("", "", "")
    if steps is not None and loop_ms is not None:
        parts = (
            f"{figures.cpu_ms - loop_ms:.2f}",
            f"{1e3 * steps.read_s / n:.2f}",
            f"{1e3 * steps.save_s / n:.2f}",
        )
    return (
        figures.name,
        figures.version,
        f"{figures.cpu_ms:.2f}",
        *parts,
        f"{times_ours(figures, base=base):.1f}",
        f"{times_ours(figures, base=fastest):.1f}",
        "" if loop_ms is None else f"{loop_ms / base.cpu_ms:.1f}",
        f"{1e3 * figures.rounds.wall_median_s / n:.1f}",
        f"{figures.n_bytes / n / 1e3:.0f}",
        f"{figures.rounds.peak_bytes / 1e6:.0f}",
        "equal" if figures.most_different == 0 else f"{figures.most_different} off",
    )


def times_ours(figures: Figures, *, base: Figures) -> float:
    """Return the CPU time per patch as a multiple of this package's, both from start to end."""
    return figures.cpu_ms / base.cpu_ms


def _sentences_of(comparison: Comparison) -> list[str]:
    """Say which programs the target is reached against, by default and with the fastest encoder."""
    where = f"At an overlap of {comparison.overlap:.0%}"
    if not comparison.peers:
        return [f"{where} no other program was measured."]
    default, fastest = comparison.ours[0], fastest_of(comparison)
    bases = [default] if fastest is default else [default, fastest]
    return [f"{where} {base.name} {_verdict_on(comparison.peers, base=base)}" for base in bases]


def _verdict_on(peers: Sequence[Figures], *, base: Figures) -> str:
    ratios = {each.name: times_ours(each, base=base) for each in peers}
    missed = [f"{name} ({ratio:.1f})" for name, ratio in ratios.items() if ratio < TARGET]
    text = f"reaches the target, {TARGET:g} times the patches per CPU second, against"
    if not missed:
        nearest = min(ratios, key=lambda name: ratios[name])
        return f"{text} every program; the nearest is {nearest} ({ratios[nearest]:.1f})."
    return f"{text} {len(ratios) - len(missed)} of {len(ratios)} programs, not against {', '.join(missed)}."


def _chart_of(comparison: Comparison) -> str:
    ours = {each.name for each in comparison.ours}
    bars = [(each.name, each.cpu_ms) for each in (*comparison.ours, comparison.naive, *comparison.peers)]
    title = f"PNG patches of 256 px, overlap {comparison.overlap:.0%}: CPU ms per patch (logarithmic)"
    return bar_chart_svg(title, bars, unit="ms", highlighted=frozenset(ours))


def _figures_of(comparisons: Sequence[Comparison], *, left_out: Mapping[str, str]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for each in comparisons:
        base = each.ours[0]
        everyone = (*each.ours, each.naive, *each.peers)
        found[f"overlap {each.overlap:g}"] = {figures.name: _numbers_of(figures, base=base) for figures in everyone}
    return {**found, "left_out": dict(left_out)}


def _numbers_of(figures: Figures, *, base: Figures) -> dict[str, Json]:
    steps = figures.steps
    return {
        "version": figures.version,
        "n_patches": figures.n_patches,
        "cpu_s": list(figures.rounds.cpu_s),
        "wall_s": list(figures.rounds.wall_s),
        "read_s": None if steps is None else steps.read_s,
        "save_s": None if steps is None else steps.save_s,
        "times_ours": times_ours(figures, base=base),
        "n_bytes": figures.n_bytes,
        "peak_bytes": figures.rounds.peak_bytes,
        "most_different": figures.most_different,
    }
