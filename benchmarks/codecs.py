"""Bytes and time per codec on realistic patches, and who reads it: ``python -m benchmarks.codecs --patches 200``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.codec_cases import CodecCase, all_cases, readers_of
from benchmarks.report import environment_line, markdown_table
from benchmarks.texture import make_textured_slide, tissue_of_slide
from benchmarks.timing import measure
from wsi_extract.arrays import RgbImage

PACKAGES = ("numpy", "zstandard", "numcodecs", "imagecodecs", "opencv-python-headless", "zarr", "tensorstore", "zarrs")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecResult:
    """What one codec costs per patch."""

    name: str
    n_bytes: float
    encode_ms: float
    decode_ms: float
    is_lossless: bool
    readers: tuple[str, ...]


def compare_codecs(patches: RgbImage, *, n_rounds: int, seed: int) -> tuple[CodecResult, ...]:
    """Encode and decode all patches with every codec, interleaved; CPU time, medians of the rounds.

    Parameters
    ----------
    patches
        (N, H, W, 3) uint8, square.

    Raises
    ------
    RuntimeError
        When a lossless codec does not give back the same pixels.
    """
    cases = all_cases(patch_px=patches.shape[1])
    encoded = {case.name: [case.encode(rgb) for rgb in patches] for case in cases}
    for case in cases:
        _check_round_trip(case, patches=patches, encoded=encoded[case.name])
    work: dict[str, Callable[[], int]] = {}
    for case in cases:
        work[f"encode {case.name}"] = _encoding(case, patches)
        work[f"decode {case.name}"] = _decoding(case, encoded[case.name])
    timings = measure(work, n_patches=len(patches), n_rounds=n_rounds, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        readers = {
            case.name: readers_of(case, rgb=patches[0], folder=Path(folder) / str(number))
            for number, case in enumerate(cases)
        }
    return tuple(
        CodecResult(
            name=case.name,
            n_bytes=float(np.mean([len(data) for data in encoded[case.name]])),
            encode_ms=timings[f"encode {case.name}"].cpu_ms,
            decode_ms=timings[f"decode {case.name}"].cpu_ms,
            is_lossless=case.is_lossless,
            readers=readers[case.name],
        )
        for case in cases
    )


def _check_round_trip(case: CodecCase, *, patches: RgbImage, encoded: Sequence[bytes]) -> None:
    for rgb, data in zip(patches, encoded, strict=True):
        if case.is_lossless and not np.array_equal(case.decode(data), rgb):
            raise RuntimeError(f"{case.name} does not give back the same pixels")


def _encoding(case: CodecCase, patches: RgbImage) -> Callable[[], int]:
    return lambda: sum(len(case.encode(rgb)) > 0 for rgb in patches)


def _decoding(case: CodecCase, encoded: Sequence[bytes]) -> Callable[[], int]:
    return lambda: sum(case.decode(data).ndim == 3 for data in encoded)


def pareto_names(results: Sequence[CodecResult], *, cost: Callable[[CodecResult], float]) -> tuple[str, ...]:
    """Return the lossless codecs that no other lossless codec beats in both bytes and ``cost``, smallest first."""
    lossless = sorted((r for r in results if r.is_lossless), key=lambda r: (r.n_bytes, cost(r)))
    best: list[CodecResult] = []
    for result in lossless:
        if not best or cost(result) < cost(best[-1]):
            best.append(result)
    return tuple(result.name for result in best)


def report_of(results: Sequence[CodecResult]) -> str:
    """Return the table and the Pareto fronts."""
    header = ("codec", "KB/patch", "encode ms", "decode ms", "readers")
    rows = [
        (r.name, f"{r.n_bytes / 1e3:.1f}", f"{r.encode_ms:.2f}", f"{r.decode_ms:.3f}", ", ".join(r.readers) or "none")
        for r in sorted(results, key=lambda r: (not r.is_lossless, r.n_bytes))
    ]
    fronts: Mapping[str, Callable[[CodecResult], float]] = {
        "decoding": lambda r: r.decode_ms,
        "encoding": lambda r: r.encode_ms,
    }
    lines = [
        f"Not beaten in bytes and {name}: {'; '.join(pareto_names(results, cost=c))}." for name, c in fronts.items()
    ]
    return markdown_table(header, rows) + "\n" + "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codecs", description=__doc__)
    parser.add_argument("--patches", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7, help="interleaved rounds; medians are reported")
    parser.add_argument("--patch-px", type=int, default=256)
    parser.add_argument("--tissue-fraction", type=float, default=0.9, help="least tissue in a patch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slide", type=Path, help="take tissue of this slide instead of generated texture")
    options = parser.parse_args(arguments)
    if options.slide is None:
        slide = make_textured_slide(
            options.patches,
            patch_px=options.patch_px,
            min_tissue_fraction=options.tissue_fraction,
            seed=options.seed,
        )
        patches, source = slide.patches(), f"generated texture, seed {options.seed}"
    else:
        patches = tissue_of_slide(
            options.slide,
            n_patches=options.patches,
            patch_px=options.patch_px,
            min_tissue_fraction=options.tissue_fraction,
        )
        source = f"tissue of {options.slide.name}"
    lines = (
        f"{len(patches)} patches of {options.patch_px} px, {source}; CPU time, {options.repeats} rounds, medians",
        environment_line(PACKAGES) + "\n",
        report_of(compare_codecs(patches, n_rounds=options.repeats, seed=options.seed)),
    )
    sys.stdout.write("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
