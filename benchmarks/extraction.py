"""Whole jobs against the script everyone writes and against the limit: ``python -m benchmarks.extraction --out DIR``.

On one core. Every round runs every contender once, in an order of its own: the program with each store, encoder and
overlap, the naive script, and decoding plus encoding alone. CPU time of all processes from start to end, so start-up,
survey, labels and documents count. Before the rounds each contender runs once, and its patches are compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.discarding import discard
from benchmarks.extraction_report import Comparison, JobFigures, result_of
from benchmarks.jobs import Job, scratch_folder
from benchmarks.limit import ZSTD, Limit, encoders, read_limit
from benchmarks.patch_list import PatchList, check_same_patches, patches_of, write_patch_list
from benchmarks.processes import ProcessCost, run_measured
from benchmarks.report import environment_line
from benchmarks.results import write_result
from benchmarks.rounds import Contender, one_core, run_limit, run_naive, run_rounds
from benchmarks.scanned_slides import (
    DEFAULT_HEIGHT_PX,
    DEFAULT_WIDTH_PX,
    annotations_of,
    default_folder,
    scanned_slide,
)
from wsi_extract.model import Split
from wsi_extract.state.layout import PATCHES, PIXELS, split_folder
from wsi_extract.storage import PngEncoder, Store

PACKAGES = ("numpy", "openslide-bin", "simplejpeg", "isal", "fpng", "opencv-python-headless", "zstandard", "pillow")
N_COMPARED = 64
"""Patches of each contender whose pixels are compared before anything is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One way to store the same patches."""

    name: str
    flags: tuple[str, ...]
    stores: tuple[Store, ...]
    """What the data set can be read from."""
    encoders: tuple[str, ...]
    """Names of what compresses each patch, as `benchmarks.limit` calls them; empty where pixels are stored once."""


START = Setup(name="start and survey", flags=("--dry_run",), stores=(), encoders=())
"""All that a job does before its first patch; it writes nothing."""


def all_setups() -> tuple[Setup, ...]:
    """Return every store with every PNG encoder that is installed; the first is the default."""
    installed = encoders()
    pngs = tuple(
        Setup(
            name=f"png, {encoder}",
            flags=("--store", "png", "--png_encoder", encoder.value),
            stores=(Store.PNG,),
            encoders=(encoder.value,),
        )
        for encoder in PngEncoder
        if encoder.value in installed
    )
    default = PngEncoder.ISAL.value
    return (
        *pngs,
        Setup(name="zarr", flags=("--store", "zarr"), stores=(Store.ZARR,), encoders=(ZSTD,)),
        Setup(name="png + zarr", flags=("--store", "both"), stores=(Store.PNG, Store.ZARR), encoders=(default, ZSTD)),
        Setup(name="pixels", flags=("--store", "pixels"), stores=(Store.PIXELS,), encoders=()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """The slide, and where output goes."""

    slide: Path
    scratch: Path

    def run(self, setup: Setup, *, overlap: float, out: Path) -> ProcessCost:
        """Run the program on one core; what it wrote stays in ``out``, which a dry run does not make."""
        job = Job(
            name=setup.name,
            slides=self.slide.parent,
            annotations=annotations_of(self.slide),
            settings=("--sampling", "grid", "--overlap", str(overlap), *setup.flags),
        )
        return run_measured(job.command(out), cores=one_core())


def compare_jobs(
    slide: Path, *, overlaps: Sequence[float], setups: Sequence[Setup], n_rounds: int, scratch: Path
) -> tuple[Comparison, ...]:
    """Measure all setups at all overlaps in one series of interleaved rounds.

    Parameters
    ----------
    slide
        A file of `benchmarks.scanned_slides`, alone in its folder.
    scratch
        Folder for output, with room for all patches twice.

    Returns
    -------
    One comparison per overlap.

    Raises
    ------
    RuntimeError
        When a contender makes other patches than the others.
    """
    bench = _Bench(slide=slide, scratch=scratch)
    n_bytes: dict[str, int] = {}
    contenders: dict[str, Contender] = {}
    limits: dict[float, list[Limit]] = {overlap: [] for overlap in overlaps}
    n_patches: dict[float, int] = {}
    for overlap in overlaps:
        patch_list = scratch / f"patches-{overlap}.json"
        patches = _prepare(bench, patch_list, overlap=overlap, setups=setups, n_bytes=n_bytes)
        n_patches[overlap] = len(patches)
        contenders[_key("naive", overlap)] = _naive(patch_list, scratch=scratch)
        contenders[_key(START.name, overlap)] = _job(bench, START, overlap=overlap)
        contenders[_key("limit", overlap)] = _limit(patch_list, scratch=scratch, found=limits[overlap])
        for setup in setups:
            contenders[_key(setup.name, overlap)] = _job(bench, setup, overlap=overlap)
    rounds = run_rounds(contenders, n_rounds=n_rounds, seed=0)
    return tuple(
        Comparison(
            overlap=overlap,
            n_patches=n_patches[overlap],
            naive=rounds[_key("naive", overlap)],
            start=rounds[_key(START.name, overlap)],
            limit=median_limit(limits[overlap]),
            jobs=tuple(
                JobFigures(
                    name=setup.name,
                    encoders=setup.encoders,
                    rounds=rounds[_key(setup.name, overlap)],
                    n_bytes=n_bytes[_key(setup.name, overlap)],
                )
                for setup in setups
            ),
            naive_bytes=n_bytes[_key("naive", overlap)],
        )
        for overlap in overlaps
    )


def _key(name: str, overlap: float) -> str:
    return f"{name}, overlap {overlap:.0%}"


def _prepare(
    bench: _Bench, patch_list: Path, *, overlap: float, setups: Sequence[Setup], n_bytes: dict[str, int]
) -> PatchList:
    """Let every contender work once, compare the patches, and note what they take on disk."""
    out, naive = bench.scratch / "out", bench.scratch / "naive"
    patches = None
    for setup in setups:
        bench.run(setup, overlap=overlap, out=out)
        if patches is None:
            patches = patches_of(out, slides_folder=bench.slide.parent)
            write_patch_list(patch_list, patches)
            run_naive(patch_list, folder=naive)
            n_bytes[_key("naive", overlap)] = bytes_below(naive)
        for store in setup.stores:
            check_same_patches(out, naive, n_compared=N_COMPARED, seed=0, store=store.value)
        n_bytes[_key(setup.name, overlap)] = pixel_bytes(out)
        discard(out)
    discard(naive)
    assert patches is not None, "there is a setup"
    return patches


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pixel_bytes(output_dir: Path) -> int:
    """Return the bytes of the pixels of an extraction, without its documents."""
    return sum(bytes_below(output_dir / name) for name in (split_folder(Split.TRAIN), PATCHES, PIXELS))


def _naive(patch_list: Path, *, scratch: Path) -> Contender:
    def work() -> ProcessCost:
        cost = run_naive(patch_list, folder=scratch / "naive")
        discard(scratch / "naive")
        return cost

    return work


def _limit(patch_list: Path, *, scratch: Path, found: list[Limit]) -> Contender:
    def work() -> ProcessCost:
        cost = run_limit(patch_list, out=scratch / "limit.json")
        found.append(read_limit(scratch / "limit.json"))
        return cost

    return work


def _job(bench: _Bench, setup: Setup, *, overlap: float) -> Contender:
    def work() -> ProcessCost:
        cost = bench.run(setup, overlap=overlap, out=bench.scratch / "out")
        if setup is not START:
            discard(bench.scratch / "out")
        return cost

    return work


def median_limit(found: Sequence[Limit]) -> Limit:
    """Return the medians of several measurements of the same patches."""
    return Limit(
        n_patches=found[0].n_patches,
        n_tiles=found[0].n_tiles,
        decode_s=median(each.decode_s for each in found),
        encode_s={name: median(each.encode_s[name] for each in found) for name in found[0].encode_s},
        encoded_bytes=found[0].encoded_bytes,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, print its tables and write ``extraction.json`` and the chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description="Compare whole jobs.")
    parser.add_argument("--out", type=Path, required=True, help="folder for results, and for output meanwhile")
    parser.add_argument("--slides", type=Path, default=default_folder(), help="folder that keeps slides")
    parser.add_argument("--width-px", type=int, default=DEFAULT_WIDTH_PX)
    parser.add_argument("--height-px", type=int, default=DEFAULT_HEIGHT_PX)
    parser.add_argument("--tile-px", type=int, default=240)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.5, 0.0])
    parser.add_argument("--only", nargs="+", help="names of the setups to measure; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are reported")
    options = parser.parse_args(arguments)
    setups = [setup for setup in all_setups() if options.only is None or setup.name in options.only]
    if not setups:
        parser.error(f"--only: there is {'; '.join(setup.name for setup in all_setups())}")
    slide = scanned_slide(
        options.slides, width_px=options.width_px, height_px=options.height_px, tile_px=options.tile_px
    )
    with scratch_folder(options.out) as scratch:
        found = compare_jobs(slide, overlaps=options.overlaps, setups=setups, n_rounds=options.rounds, scratch=scratch)
    what = (
        f"Generated slide of {options.width_px:,} x {options.height_px:,} px, JPEG tiles of {options.tile_px} px; "
        f"grid of 256 px patches at level 0; one core; {options.rounds} interleaved rounds, medians."
    )
    result, plots = result_of(found, conditions=(what, environment_line(PACKAGES) + "."))
    write_result(options.out, result, plots=plots)
    sys.stdout.write(result.to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
