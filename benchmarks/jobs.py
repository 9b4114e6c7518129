"""Whole jobs of the program, run as a user runs them, with what they cost and how their time passed.

The phases are read off the files a run writes: ``run.json`` ends the start, each block's record ends a piece of work,
and what follows the last record is the finish. Nothing is built into the program for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from benchmarks.caches import folder_bytes
from benchmarks.discarding import discard
from benchmarks.processes import ProcessCost, run_measured
from benchmarks.scanned_slides import DEFAULT_HEIGHT_PX, DEFAULT_WIDTH_PX, default_folder
from wsi_extract.arrays import IntArray
from wsi_extract.index import read_index
from wsi_extract.model import Split
from wsi_extract.state.layout import STATE, run_path, split_folder

PROGRAM = Path(__file__).resolve().parents[1] / "run_extraction.py"
"""What is measured: the checkout this benchmark belongs to."""
GRID = ("--sampling", "grid")
HALF_OVERLAP = ("--overlap", "0.5")
NO_OVERLAP = ("--overlap", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of the program, all patches in one split."""

    name: str
    slides: Path
    """Folder with the slides."""
    annotations: Path
    settings: tuple[str, ...] = ()
    """Flags of ``run_extraction.py``."""
    n_workers: int = 0

    def command(self, output_dir: Path) -> tuple[str, ...]:
        """Return the command that carries it out."""
        return (
            *(sys.executable, str(PROGRAM), "--wsi_dir", str(self.slides), "--annotation_json", str(self.annotations)),
            *("--output_dir", str(output_dir), "--workers", str(self.n_workers), "--dashboard_address", "127.0.0.1:0"),
            *("--train_val_split", "1", *self.settings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCost:
    """What a job cost, and what it made."""

    process: ProcessCost
    n_patches: int
    n_slides: int
    n_blocks: int
    mpx_touched: float
    """Pixels of the tiles that patches touch, each tile once, millions: what has to be decoded at least."""
    pixel_bytes: int
    """Of the patches on disk."""
    started_s: float
    """Until the folder was claimed, i.e. until the surveys began; seconds of wall time, as the other phases."""
    first_block_s: float
    """From the start of the job to the end of its first block."""
    working_s: float
    """From the first survey to the last block."""
    finishing_s: float
    """From the last block to the end."""
    n_workers: int

    @property
    def cores_used(self) -> float:
        """Cores that were busy between the end of the first and the last block; all of the job when that is short."""
        start_s = self.process.started_s + self.first_block_s
        stop_s = self.process.ended_s - self.finishing_s
        try:
            return self.process.cores_used(start_s, stop_s)
        except ValueError:
            return self.process.cpu_s / self.process.wall_s


def benchmark_parser(name: str, *, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks of whole jobs can be told."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--out", type=Path, required=True, help=f"folder that gets {name}.json and {name}.svg")
    parser.add_argument("--slides", type=Path, default=default_folder(), help="folder that keeps generated slides")
    parser.add_argument("--scratch", type=Path, help="where the jobs write; a temporary folder without it")
    parser.add_argument("--width-px", type=int, default=DEFAULT_WIDTH_PX)
    parser.add_argument("--height-px", type=int, default=DEFAULT_HEIGHT_PX)
    parser.add_argument("--tile-px", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; medians are reported")
    return parser


def cores_for(n_workers: int) -> list[int]:
    """Return the cores a job with so many workers may use: one each, or one for a serial job.

    Raises
    ------
    RuntimeError
        When this machine has fewer.
    """
    cores, n_wanted = sorted(os.sched_getaffinity(0)), max(1, n_workers)
    if len(cores) < n_wanted:
        raise RuntimeError(f"{n_wanted} cores are needed to measure {n_workers} workers, this process has {len(cores)}")
    return cores[:n_wanted]


def disturbance(costs: Iterable[ProcessCost]) -> str:
    """Return a sentence on what else the machine did while these processes were measured."""
    others = [cost.others_cores for cost in costs]
    return f"Other programs kept {median(others):.2f} cores busy meanwhile (median; at most {max(others):.2f})."


@contextmanager
def scratch_folder(folder: Path | None) -> Iterator[Path]:
    """Yield an empty folder for output that is removed at the end, below ``folder`` or where temporaries lie."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="wsi-bench-") as path:
        yield Path(path)


def run_job(job: Job, *, scratch: Path, tile_px: int, cores: Collection[int] | None = None) -> JobCost:
    """Carry out a job below ``scratch``, remove what it wrote, and return what it cost.

    Parameters
    ----------
    tile_px
        Side of the slides' tiles at level 0.
    cores
        Processor numbers the job may use.

    Raises
    ------
    FailedCommandError
        When the job fails.
    """
    output_dir = scratch / "out"
    discard(output_dir)
    process = run_measured(job.command(output_dir), cores=cores)
    try:
        return cost_of_output(output_dir, process=process, tile_px=tile_px, n_workers=job.n_workers)
    finally:
        discard(output_dir)


def cost_of_output(output_dir: Path, *, process: ProcessCost, tile_px: int, n_workers: int) -> JobCost:
    """Read off a finished output folder how the time of the process that made it passed."""
    claimed_s = run_path(output_dir).stat().st_mtime
    records = sorted(path.stat().st_mtime for path in (output_dir / STATE / "records").glob("*/*.json"))
    index = read_index(output_dir, Split.TRAIN)
    stores = [
        folder for folder in (output_dir / split_folder(Split.TRAIN), output_dir / "patches.zarr") if folder.is_dir()
    ]
    return JobCost(
        process=process,
        n_patches=len(index),
        n_slides=len(index.slides),
        n_blocks=len(records),
        mpx_touched=_mpx_touched(index.slide, index.origins_l0, patch_px=max(index.patch_wh_px), tile_px=tile_px),
        pixel_bytes=sum(folder_bytes(folder) for folder in stores),
        started_s=claimed_s - process.started_s,
        first_block_s=records[0] - process.started_s,
        working_s=records[-1] - claimed_s,
        finishing_s=process.ended_s - records[-1],
        n_workers=n_workers,
    )


def _mpx_touched(slide: npt.NDArray[np.int32], origins_l0: IntArray, *, patch_px: int, tile_px: int) -> float:
    """Count the tiles that level-0 patches touch, and return their pixels in millions."""
    first, last = origins_l0 // tile_px, (origins_l0 + patch_px - 1) // tile_px
    steps = range(int((last - first).max()) + 1)
    touched: set[tuple[int, ...]] = set()
    for dx in steps:
        for dy in steps:
            tile = first + np.array((dx, dy))
            inside = (tile <= last).all(axis=1)
            touched.update(zip(slide[inside].tolist(), *tile[inside].T.tolist(), strict=True))
    return len(touched) * tile_px**2 / 1e6
