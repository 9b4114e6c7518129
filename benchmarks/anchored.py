"""The default job on many slides against the naive script: ``python -m benchmarks.anchored --out DIR``.

100 patches around annotations on each of 32 slides, as PNG files. Wall time from the command to its end on one core:
start-up, survey of every slide, sampling, labels and documents included. The script makes the same patches and
nothing else; what finds their places is not counted against it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.discarding import discard
from benchmarks.jobs import Job, scratch_folder
from benchmarks.patch_list import check_same_patches, patches_of, write_patch_list
from benchmarks.processes import ProcessCost, run_measured
from benchmarks.report import environment_line
from benchmarks.results import BenchmarkResult, Json, Table, write_result
from benchmarks.rounds import Rounds, one_core, run_naive, run_rounds
from benchmarks.scanned_slides import (
    COPIES_ANNOTATIONS,
    DEFAULT_HEIGHT_PX,
    DEFAULT_WIDTH_PX,
    default_folder,
    scanned_copies,
)
from wsi_extract.storage import Store

PACKAGES = ("numpy", "openslide-bin", "simplejpeg", "isal", "opencv-python-headless", "pillow")
WANTED_TIMES = 6.0
"""Least ratio of the wall times."""
N_COMPARED = 64
_OURS, _NAIVE = "default job, PNG", "naive script, Pillow PNG"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchoredComparison:
    """What both cost on the same patches."""

    n_slides: int
    n_patches: int
    ours: Rounds
    naive: Rounds

    @property
    def times(self) -> float:
        """Wall time of the script divided by that of the program, medians."""
        return self.naive.wall_median_s / self.ours.wall_median_s


def compare_anchored(slides: Path, *, patches_per_slide: int, n_rounds: int, scratch: Path) -> AnchoredComparison:
    """Measure both in interleaved rounds, after each has run once and their patches were compared.

    Parameters
    ----------
    slides
        A folder of `benchmarks.scanned_slides.scanned_copies`.

    Raises
    ------
    RuntimeError
        When the two make different patches.
    """
    out, naive, patch_list = scratch / "out", scratch / "naive", scratch / "patches.json"
    job = Job(
        name=_OURS,
        slides=slides,
        annotations=slides / COPIES_ANNOTATIONS,
        settings=("--patches_per_slide", str(patches_per_slide)),
    )

    def run_ours() -> ProcessCost:
        return run_measured(job.command(out), cores=one_core())

    def ours() -> ProcessCost:
        cost = run_ours()
        discard(out)
        return cost

    def script() -> ProcessCost:
        cost = run_naive(patch_list, folder=naive)
        discard(naive)
        return cost

    run_ours()
    patches = patches_of(out, slides_folder=slides)
    write_patch_list(patch_list, patches)
    run_naive(patch_list, folder=naive)
    check_same_patches(out, naive, n_compared=N_COMPARED, seed=0, store=Store.PNG.value)
    discard(out)
    discard(naive)
    rounds = run_rounds({_OURS: ours, _NAIVE: script}, n_rounds=n_rounds, seed=0)
    return AnchoredComparison(
        n_slides=len(patches.slides), n_patches=len(patches), ours=rounds[_OURS], naive=rounds[_NAIVE]
    )


def result_of(found: AnchoredComparison, *, conditions: tuple[str, ...]) -> BenchmarkResult:
    """Return the result with its table."""
    rows = tuple(
        (
            name,
            f"{rounds.wall_median_s:.1f}",
            f"{rounds.cpu_median_s:.1f}",
            f"{1e3 * rounds.wall_median_s / found.n_patches:.2f}",
            f"{found.naive.wall_median_s / rounds.wall_median_s:.1f}",
            f"{rounds.peak_bytes / 1e6:.0f}",
        )
        for name, rounds in ((_NAIVE, found.naive), (_OURS, found.ours))
    )
    figures: dict[str, Json] = {
        "n_slides": found.n_slides,
        "n_patches": found.n_patches,
        "times_naive": found.times,
        "wanted_times": WANTED_TIMES,
        "ours": {"wall_s": list(found.ours.wall_s), "cpu_s": list(found.ours.cpu_s)},
        "naive": {"wall_s": list(found.naive.wall_s), "cpu_s": list(found.naive.cpu_s)},
    }
    return BenchmarkResult(
        name="anchored",
        conditions=conditions,
        tables=(
            Table(
                caption=f"{found.n_patches:,} patches around annotations on {found.n_slides} slides.",
                header=("job", "wall s", "CPU s", "wall ms per patch", "x naive, wall", "peak MB"),
                rows=rows,
            ),
        ),
        figures=figures,
        notes=(f"Wanted: at least {WANTED_TIMES:g} times as fast as the script; reached: {found.times:.2f}.",),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, print its table and write ``anchored.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anchored", description="Compare the default job.")
    parser.add_argument("--out", type=Path, required=True, help="folder for results, and for output meanwhile")
    parser.add_argument("--slides", type=Path, default=default_folder(), help="folder that keeps slides")
    parser.add_argument("--n-slides", type=int, default=32)
    parser.add_argument("--patches-per-slide", type=int, default=100)
    parser.add_argument("--width-px", type=int, default=DEFAULT_WIDTH_PX)
    parser.add_argument("--height-px", type=int, default=DEFAULT_HEIGHT_PX)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are reported")
    options = parser.parse_args(arguments)
    slides = scanned_copies(
        options.slides, n_slides=options.n_slides, width_px=options.width_px, height_px=options.height_px
    )
    with scratch_folder(options.out) as scratch:
        found = compare_anchored(
            slides, patches_per_slide=options.patches_per_slide, n_rounds=options.rounds, scratch=scratch
        )
    what = (
        f"Copies of a generated slide of {options.width_px:,} x {options.height_px:,} px, JPEG tiles of 240 px; "
        f"patches of 256 px at level 0; one core; {options.rounds} interleaved rounds, medians."
    )
    result = result_of(found, conditions=(what, environment_line(PACKAGES) + "."))
    write_result(options.out, result, plots={})
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
