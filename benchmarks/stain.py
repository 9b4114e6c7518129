"""What stain normalisation costs, and how exact it is: ``python -m benchmarks.stain --out DIR``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from benchmarks.report import bar_chart_svg, environment_line
from benchmarks.results import BenchmarkResult, Table, write_result
from benchmarks.stain_peers import PEERS, Normalise, Peer, install_peers, peer_cases
from benchmarks.stain_reference import macenko_by_the_book, reinhard_by_the_book
from benchmarks.texture import make_textured_slide
from benchmarks.timing import Case, measure
from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.reading import StainNorm
from wsi_extract.stain import StainTransform, default_target, estimate_stain
from wsi_extract.stain.macenko import measure_vectors
from wsi_extract.stain.profile import PixelArray
from wsi_extract.stain.reinhard import measure_statistics

NAME = "stain"
PACKAGES = ("numpy", "opencv-python-headless", "torch")
METHODS = (StainNorm.MACENKO, StainNorm.REINHARD)
CACHE = Path.home() / ".cache" / "wsi_extract" / "benchmarks" / "stain"
N_ESTIMATE_PIXELS = 64 * 64 * 64
"""As many as the survey of a slide looks at."""
_MEANING = (
    "Differences are grey levels from the double-precision result with the slide's fit, before rounding: 0.5 is "
    "rounding, 1 is cutting off. torchstain and staintools measure every patch by itself, and against other targets: "
    "their differences say so, not that they are wrong. HistomicsTK does what our Reinhard does, except on glass."
)

ByTheBook = Callable[[RgbImage], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to normalise a patch."""

    name: str
    method: StainNorm
    normalise: Normalise
    on_window: bool = False
    """Whether all patches are given as one image, as the extraction does with its windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one contender costs per patch, and how far it is from the book."""

    name: str
    method: StainNorm
    cpu_ms: float
    max_difference: float
    """Grey levels from the double-precision result of the slide's fit; at most 0.5 is rounding."""
    mean_difference: float


def our_transform(pixels: PixelArray, method: StainNorm) -> StainTransform:
    """Return the transform of the slide whose pixels these are.

    Raises
    ------
    RuntimeError
        When the estimate is unsafe: there is nothing to measure.
    """
    estimate = estimate_stain(pixels, method=method, target=default_target(method))
    if estimate.transform is None:
        raise RuntimeError(f"the texture has no stain for {method.value}: {estimate.reason}")
    return estimate.transform


def book_of(pixels: PixelArray, method: StainNorm) -> ByTheBook:
    """Return the double-precision function of the slide whose pixels these are."""
    target = default_target(method)
    if method is StainNorm.MACENKO:
        return partial(macenko_by_the_book, source=measure_vectors(pixels)[0], target=target.vectors)
    return partial(reinhard_by_the_book, source=measure_statistics(pixels)[0], target=target.statistics)


def contenders_of(patches: RgbImage, *, installed: Collection[str]) -> list[Contender]:
    """Return all contenders, with the packages ``installed``; ``patches`` is ``(N, H, W, 3)`` of one slide."""
    pixels = sampled_pixels(patches)
    found: list[Contender] = []
    for method in METHODS:
        ours, book = our_transform(pixels, method), book_of(pixels, method)
        title = method.value.title()
        found += [
            Contender(name=f"{title}, whole window", method=method, normalise=ours, on_window=True),
            Contender(name=f"{title}, patch by patch", method=method, normalise=ours),
            Contender(name=f"{title}, float64 by the book", method=method, normalise=_rounded(book)),
        ]
    peers = peer_cases(installed, target=patches[0], source=measure_statistics(pixels)[0])
    return found + [Contender(name=name, method=m, normalise=normalise) for name, (m, normalise) in peers.items()]


def _rounded(book: ByTheBook) -> Normalise:
    return lambda rgb: np.rint(book(rgb)).astype(np.uint8)


def sampled_pixels(patches: RgbImage) -> PixelArray:
    """Return about as many pixels as the survey of a slide looks at, ``(N, 3)``, spread evenly."""
    flat = patches.reshape(-1, 3)
    return np.ascontiguousarray(flat[:: max(1, len(flat) // N_ESTIMATE_PIXELS)])


def compare(patches: RgbImage, contenders: Sequence[Contender], *, n_rounds: int, seed: int) -> list[Cost]:
    """Time all contenders on the same patches, interleaved; CPU time of this process, medians of the rounds."""
    timings = measure(
        {contender.name: _case(contender, patches) for contender in contenders},
        n_patches=len(patches),
        n_rounds=n_rounds,
        seed=seed,
    )
    pixels = sampled_pixels(patches)
    books = {method: book_of(pixels, method) for method in METHODS}
    costs = []
    for contender in contenders:
        differences = [np.abs(contender.normalise(rgb) - books[contender.method](rgb)) for rgb in patches]
        costs.append(
            Cost(
                name=contender.name,
                method=contender.method,
                cpu_ms=timings[contender.name].cpu_ms,
                max_difference=float(max(part.max() for part in differences)),
                mean_difference=float(np.mean([part.mean() for part in differences])),
            )
        )
    return costs


def _case(contender: Contender, patches: RgbImage) -> Case:
    n, side = len(patches), patches.shape[1]
    if contender.on_window:
        window = np.ascontiguousarray(np.concatenate(list(patches)))
        return lambda: contender.normalise(window).shape[0] // side
    return lambda: sum(contender.normalise(patches[i]).shape[0] == side for i in range(n))


def estimate_ms(pixels: PixelArray, method: StainNorm, *, n_rounds: int) -> float:
    """Return the median CPU time of one slide's estimate, milliseconds."""
    taken = []
    for _ in range(n_rounds):
        start = time.process_time()
        our_transform(pixels, method)
        taken.append(1e3 * (time.process_time() - start))
    return median(taken)


def result_of(
    costs: Sequence[Cost],
    *,
    estimates: Mapping[StainNorm, float],
    reasons: Mapping[str, str],
    conditions: tuple[str, ...],
) -> BenchmarkResult:
    """Return the report."""
    base = {cost.method: cost.cpu_ms for cost in reversed(costs) if "window" in cost.name}
    rows = tuple(
        (
            cost.name,
            f"{cost.cpu_ms:.3f}",
            f"{cost.cpu_ms / base[cost.method]:.1f}",
            f"{cost.max_difference:.2f}",
            f"{cost.mean_difference:.2f}",
        )
        for cost in sorted(costs, key=lambda cost: (cost.method.value, cost.cpu_ms))
    )
    header = ("stain normalisation", "CPU ms per patch", "times ours", "max difference", "mean difference")
    estimating = ", ".join(f"{method.value} {ms:.0f} ms" for method, ms in estimates.items())
    notes = (
        f"Estimating a slide, once, from {N_ESTIMATE_PIXELS} pixels: {estimating}.",
        _MEANING,
        *(f"{package} was not measured: {reason}." for package, reason in reasons.items()),
    )
    return BenchmarkResult(
        name=NAME,
        conditions=conditions,
        tables=(Table(header=header, rows=rows),),
        notes=notes,
        plots=(f"{NAME}.svg",),
        figures={
            "cpu_ms": {cost.name: cost.cpu_ms for cost in costs},
            "max_difference": {cost.name: cost.max_difference for cost in costs},
            "mean_difference": {cost.name: cost.mean_difference for cost in costs},
            "estimate_ms": {method.value: ms for method, ms in estimates.items()},
            "not_measured": dict(reasons),
        },
    )


def limit_threads() -> None:
    """Let OpenCV and torch compute in this thread alone, as workers of the extraction do."""
    cv2.setNumThreads(0)
    try:
        import torch  # noqa: PLC0415  # not needed without torchstain
    except ImportError:
        return
    torch.set_num_threads(1)


def _conditions(options: argparse.Namespace, *, n_patches: int) -> str:
    return (
        f"{n_patches} patches of {options.patch_px} px of generated tissue, one thread, {options.repeats} "
        "interleaved rounds, medians."
    )


def main(arguments: Sequence[str] | None = None, *, peers: Sequence[Peer] = PEERS) -> int:
    """Run the comparison, print its table and write ``stain.json`` and its plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for stain.json and its plot")
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument("--patch-px", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7, help="interleaved rounds; medians are reported")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where other packages are kept")
    options = parser.parse_args(arguments)
    limit_threads()
    reasons = install_peers(options.cache, peers=peers)
    slide = make_textured_slide(options.patches, patch_px=options.patch_px, min_tissue_fraction=0.7, seed=options.seed)
    patches = slide.patches()
    installed = {peer.name for peer in peers} - set(reasons)
    costs = compare(
        patches,
        contenders_of(patches, installed=installed),
        n_rounds=options.repeats,
        seed=options.seed,
    )
    pixels = sampled_pixels(patches)
    result = result_of(
        costs,
        estimates={method: estimate_ms(pixels, method, n_rounds=options.repeats) for method in METHODS},
        reasons=reasons,
        conditions=(_conditions(options, n_patches=len(patches)), environment_line(PACKAGES) + "."),
    )
    bars = [(cost.name, cost.cpu_ms) for cost in costs]
    ours = frozenset(cost.name for cost in costs if "window" in cost.name or "patch by patch" in cost.name)
    svg = bar_chart_svg("Stain normalisation: CPU time per patch (logarithmic)", bars, unit="ms", highlighted=ours)
    write_result(options.out, result, plots={f"{NAME}.svg": svg})
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
