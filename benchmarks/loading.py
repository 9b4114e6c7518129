"""Loading patches for training, format by format: ``python -m benchmarks.loading --patches 2000 --out docs``.

Every format holds the same realistic patches. Before anything is timed, every reader must give the same pixels. One
round runs every format once with every number of loader processes, in an order of its own; medians are reported.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import set_forkserver_preload
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.caches import bytes_read_from_disk, drop_from_page_cache, folder_bytes
from benchmarks.contenders import OURS_DEFAULT, ZSTD_LEVELS, Contender, check_pixels, write_contenders
from benchmarks.formats import payload_of
from benchmarks.index_opening import OpeningTimes, compare_opening
from benchmarks.loaders import BATCH_SIZE, LoaderOptions, count_patches
from benchmarks.report import bar_chart_svg, environment_line, markdown_table
from benchmarks.texture import TexturedSlide, make_textured_slide
from benchmarks.timing import Case, Timing, latencies_s, measure
from benchmarks.writing import CODEC_ALONE, WritingCost, compare_writers
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import PixelCodec

PACKAGES = (
    "torch",
    "numpy",
    "zstandard",
    "zarr",
    "tensorstore",
    "pillow",
    "opencv-python-headless",
    "h5py",
    "lmdb",
    "webdataset",
)
N_LATENCIES = 300
N_COLD_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingResult:
    """What one format costs per patch."""

    name: str
    disk_bytes: float
    by_workers: dict[int, Timing]
    """Shuffled batches, page cache warm."""
    cold_ms: float
    cold_read_fraction: float | None
    """Bytes that came from disk during a cold pass, as a share of the format's size; ``None`` when unknown."""
    single_s: tuple[float, ...]
    """Single random reads, page cache warm; empty without random access."""


def compare_loading(
    contenders: Sequence[Contender], *, shape: tuple[int, ...], n_rounds: int, workers: Sequence[int], seed: int
) -> tuple[LoadingResult, ...]:
    """Measure warm batches, single reads and cold batches of formats that hold patches of ``shape`` (N, H, W, 3)."""
    n_patches = shape[0]
    warm = _measure_warm(contenders, n_patches=n_patches, n_rounds=n_rounds, workers=workers, seed=seed)
    single = _measure_single(contenders, shape=shape, n_rounds=n_rounds, seed=seed)
    results: list[LoadingResult] = []
    for contender in contenders:
        cold = [_cold_pass(contender, n_patches=n_patches, seed=seed + k) for k in range(min(n_rounds, N_COLD_ROUNDS))]
        disk_bytes = folder_bytes(contender.folder)
        read_bytes = [n for _, n in cold if n is not None]
        results.append(
            LoadingResult(
                name=contender.name,
                disk_bytes=disk_bytes / n_patches,
                by_workers={n: warm[n, contender.name] for n in workers},
                cold_ms=1e3 * median(seconds for seconds, _ in cold),
                cold_read_fraction=median(read_bytes) / disk_bytes if read_bytes else None,
                single_s=tuple(single.get(contender.name, ())),
            )
        )
    return tuple(results)


def _measure_warm(
    contenders: Sequence[Contender], *, n_patches: int, n_rounds: int, workers: Sequence[int], seed: int
) -> dict[tuple[int, str], Timing]:
    timings: dict[tuple[int, str], Timing] = {}
    for n_workers in workers:
        # Loader processes stay alive over the rounds, and their start belongs to no round.
        options = LoaderOptions(n_workers=n_workers, seed=seed)
        cases = {contender.name: _epoch(contender, options) for contender in contenders}
        for case in cases.values():
            case()
        measured = measure(cases, n_patches=n_patches, n_rounds=n_rounds, seed=seed)
        timings |= {(n_workers, name): timing for name, timing in measured.items()}
        del cases
        gc.collect()
    return timings


def _epoch(contender: Contender, options: LoaderOptions) -> Case:
    loader = contender.loader(options)
    return lambda: count_patches(loader)


def _measure_single(
    contenders: Sequence[Contender], *, shape: tuple[int, ...], n_rounds: int, seed: int
) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    readers: dict[str, Callable[[int], object]] = {}
    for contender in contenders:
        if contender.open_single is not None:
            readers[contender.name] = _reading(contender, shape=shape[1:])
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(n_rounds):
        for place in rng.permutation(len(readers)).tolist():
            name = list(readers)[place]
            numbers = rng.integers(0, shape[0], N_LATENCIES).tolist()
            readers[name](0)  # files are open, as they are after the first patch of a training
            taken[name].extend(latencies_s(readers[name], numbers))
    return taken


def _reading(contender: Contender, *, shape: tuple[int, ...]) -> Callable[[int], object]:
    assert contender.open_single is not None
    read_into, out = contender.open_single(), np.empty(shape, dtype=np.uint8)
    return lambda number: read_into(number, out)


def _cold_pass(contender: Contender, *, n_patches: int, seed: int) -> tuple[float, int | None]:
    """Return seconds per patch and bytes from disk of an epoch whose files the kernel was asked to forget."""
    gc.collect()  # mapped files of earlier passes are closed, else their pages stay
    drop_from_page_cache(contender.folder)
    loader = contender.loader(LoaderOptions(n_workers=0, seed=seed))
    before = bytes_read_from_disk()
    timing = measure({contender.name: lambda: count_patches(loader)}, n_patches=n_patches, n_rounds=1, seed=seed)
    after = bytes_read_from_disk()
    return timing[contender.name].wall_s[0], None if before is None or after is None else after - before


# --- reports


def loading_table(results: Sequence[LoadingResult]) -> str:
    """Return times per patch and their ratios to our patch store, fastest loader without workers first."""
    base = next(result for result in results if result.name == OURS_DEFAULT)
    workers = sorted(base.by_workers)
    first = workers[0]
    header = [
        "format",
        "KB/patch",
        *(f"{n} workers ms" for n in workers),
        f"CPU ms, {first} workers",
        f"x ours, {first} workers",
        "one patch ms",
        "p95 ms",
        "cold ms",
        "from disk",
    ]
    rows = []
    for result in sorted(results, key=lambda r: r.by_workers[first].wall_ms):
        single = np.percentile(result.single_s, (50, 95)) * 1e3 if result.single_s else None
        rows.append(
            [
                result.name,
                f"{result.disk_bytes / 1e3:.0f}",
                *(f"{result.by_workers[n].wall_ms:.3f}" for n in workers),
                f"{result.by_workers[first].cpu_ms:.3f}",
                f"{result.by_workers[first].wall_ms / base.by_workers[first].wall_ms:.2f}",
                "sequential" if single is None else f"{single[0]:.3f}",
                "" if single is None else f"{single[1]:.3f}",
                f"{result.cold_ms:.3f}",
                "unknown" if result.cold_read_fraction is None else f"{100 * result.cold_read_fraction:.0f} %",
            ]
        )
    return markdown_table(header, rows)


def writing_table(costs: Mapping[str, Sequence[WritingCost]]) -> str:
    """Return the cost of writing per codec, with ratios to the codec alone."""
    rows = []
    for codec, of_codec in costs.items():
        base = next(cost for cost in of_codec if cost.name == CODEC_ALONE).timing
        for cost in sorted(of_codec, key=lambda c: c.timing.cpu_ms):
            ratio = cost.timing.cpu_ms / base.cpu_ms
            times = f"{cost.timing.cpu_ms:.3f}", f"{cost.timing.wall_ms:.3f}", f"{ratio:.2f}"
            rows.append([f"{codec}, {cost.name}", *times])
    return markdown_table(["writer", "CPU ms/patch", "wall ms/patch", "x codec (CPU)"], rows)


def opening_table(times: OpeningTimes) -> str:
    """Return what it takes to have a large data set's index in memory."""
    rows = [
        ["index.zarr", f"{times.index_s:.2f}", f"{times.index_bytes / 1e6:.0f}"],
        ["COCO JSON, Python's json", f"{times.json_s:.2f}", f"{times.json_bytes / 1e6:.0f}"],
    ]
    title = f"{times.n_patches:,} patches, {times.n_boxes:,} boxes"
    return markdown_table([title, "open s", "MB"], rows)


def loading_plot(results: Sequence[LoadingResult]) -> str:
    """Return a bar chart of shuffled batches read in one process."""
    bars = [(result.name, result.by_workers[0].wall_ms) for result in results]
    title = f"Shuffled batches of {BATCH_SIZE}, one process, ms per patch (logarithmic)"
    return bar_chart_svg(
        title, bars, unit="ms", highlighted=frozenset(name for name, _ in bars if name.startswith("ours"))
    )


# --- command line


def run(slide: TexturedSlide, folder: Path, options: argparse.Namespace) -> str:
    """Write all formats below ``folder``, measure, and return the report."""
    payload = payload_of(slide.patches())
    contenders = write_contenders(folder / "formats", slide, payload)
    check_pixels(contenders, payload)
    results = compare_loading(
        contenders,
        shape=payload.patches.shape,
        n_rounds=options.repeats,
        workers=(0, 2),
        seed=options.seed,
    )
    codecs = [PixelCodec.of(CodecName.ZSTD, level) for level in ZSTD_LEVELS] + [PixelCodec.of(CodecName.NONE)]
    costs = {
        f"{codec.name} {codec.level}": compare_writers(
            folder / "writing" / f"{codec.name}{codec.level}",
            payload.patches[: options.written_patches],
            codec=codec,
            n_rounds=options.repeats,
            seed=options.seed,
        )
        for codec in codecs
    }
    opening = compare_opening(folder / "index", n_patches=options.index_patches, n_rounds=3)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "loading.svg").write_text(loading_plot(results))
    parts = (
        f"{len(slide)} patches of {slide.patch_px} px, batches of {BATCH_SIZE}; wall time, {options.repeats} rounds",
        environment_line(PACKAGES) + "\n",
        loading_table(results),
        writing_table(costs),
        opening_table(opening),
    )
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the whole comparison and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds; medians are reported")
    parser.add_argument("--patch-px", type=int, default=256)
    parser.add_argument("--tissue-fraction", type=float, default=0.9, help="least tissue in a patch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--written-patches", type=int, default=512, help="patches of the comparison of writers")
    parser.add_argument("--index-patches", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the formats are written; a temporary folder without it")
    parser.add_argument("--out", type=Path, help="folder that gets the plot, loading.svg")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    set_forkserver_preload(["torch", "benchmarks.loaders"])
    slide = make_textured_slide(
        options.patches,
        patch_px=options.patch_px,
        min_tissue_fraction=options.tissue_fraction,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sys.stdout.write(run(slide, Path(folder), options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
