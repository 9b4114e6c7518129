"""Minutes and money of a job on Azure nodes of several sizes: ``python -m benchmarks.node_costs``.

The time of the work comes from the cost model that `benchmarks.cost_model` has measured, as docs/performance.md states
it. What no measurement here can know is an option: the rates of the mount and of the upload, and the price. Phases
follow each other, because a run opens every slide before it extracts the first patch, a mount with a cache of whole
files brings a slide to the node when it is opened, and the output is uploaded after the end:

    wall = start + download + max(work, tasks, output / disk) + finish + upload

``--document docs/azure.md`` writes the tables there, between the marks that `benchmarks.document` explains.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cost_fit import CostModel
from benchmarks.document import DOCUMENT, fill_sections
from benchmarks.projection import CCMCT_BYTES, CCMCT_SLIDES, PATCH_PX, Scenario, ccmct_scenarios
from benchmarks.results import BenchmarkResult, Table
from wsi_extract.blocks import patches_per_block
from wsi_extract.disk.files import write_atomically
from wsi_extract.errors import InputError

SECTION = "node_costs"
JOBS: Mapping[str, str] = {
    "100 anchored per slide, png": "100 patches per slide, PNG (default)",
    "grid, 50 % overlap, png": "grid, 50 % overlap, PNG",
    "grid, 50 % overlap, zarr": "grid, 50 % overlap, Zarr",
}
"""Scenarios of `benchmarks.projection` that are shown, and how they are called here."""
PATCHES_PER_FILE: Mapping[str, int] = {"png": 1, "zarr": 256}
RATES_MB_PER_S = (50, 100, 200, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A size of machine: cores as its name counts them, and its local disk as Microsoft documents it."""

    name: str
    n_cores: int
    disk_gib: int
    disk_mb_per_s: int


NODES = tuple(
    Node(name=f"Standard_D{n}ds_v5", n_cores=n, disk_gib=gib, disk_mb_per_s=rate)
    for n, gib, rate in ((4, 150, 250), (8, 300, 500), (16, 600, 1000), (32, 1200, 2000), (64, 2400, 4000))
)
"""The Ddsv5 series: general purpose, with a local SSD; size and greatest throughput of that SSD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What docs/performance.md says of jobs and slides."""

    model: CostModel
    patch_bytes: Mapping[str, float]
    """By store, on disk."""
    bytes_per_mpx: float
    """Of slide files, level 0, glass included."""
    dispatch_s: float
    """Of the scheduler, for one task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What depends on the workspace, and the price."""

    download_mb_per_s: float
    upload_mb_per_s: float
    upload_files_per_s: float
    usd_per_core_hour: float

    def __post_init__(self) -> None:
        values = (self.download_mb_per_s, self.upload_mb_per_s, self.upload_files_per_s)
        if min(values) <= 0 or self.usd_per_core_hour < 0:
            raise InputError(f"rates must be above 0 and prices not below it: {self}.", "Give other rates.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCost:
    """A job on a node, seconds."""

    start_s: float
    """Start and finish: nothing else runs meanwhile."""
    download_s: float
    working_s: float
    upload_s: float
    is_disk_bound: bool
    """Whether the local disk, not the cores, decides how long the work takes."""
    disk_bytes: float
    """What has to fit on the local disk: slides and output."""

    @property
    def wall_s(self) -> float:
        """Seconds of the whole job, without waiting for the node."""
        return self.start_s + self.download_s + self.working_s + self.upload_s

    @property
    def limit(self) -> str:
        """Which phase is the longest."""
        phases = {
            "start and finish": self.start_s,
            "download": self.download_s,
            "local disk" if self.is_disk_bound else "CPU": self.working_s,
            "upload": self.upload_s,
        }
        return max(phases, key=lambda name: phases[name])

    def fits(self, node: Node) -> bool:
        """Return whether slides and output have room on the node's local disk."""
        return self.disk_bytes <= node.disk_gib * 2**30


def node_cost(scenario: Scenario, node: Node, *, measured: Measured, assumed: Assumed) -> NodeCost:
    """Return what a job takes on a node with one worker per core.

    Parameters
    ----------
    scenario
        For one worker; see `benchmarks.projection.ccmct_scenarios`.
    """
    work = replace(scenario.work, n_workers=node.n_cores)
    started_s, cpu_s, finishing_s = measured.model.phases_s(work)
    output_bytes = measured.patch_bytes[work.store] * work.n_patches
    disk_s = output_bytes / (node.disk_mb_per_s * 1e6)
    per_task = patches_per_block(work.n_patches // work.n_slides, patch_bytes=3 * PATCH_PX**2)
    tasks_s = measured.dispatch_s * work.n_patches / per_task
    slide_bytes = work.slide_mpx * measured.bytes_per_mpx
    download_mb_per_s = min(assumed.download_mb_per_s, node.disk_mb_per_s)
    n_files = work.n_patches / PATCHES_PER_FILE[work.store]
    return NodeCost(
        start_s=started_s + finishing_s,
        download_s=slide_bytes / (download_mb_per_s * 1e6),
        working_s=max(cpu_s, tasks_s, disk_s),
        upload_s=max(output_bytes / (assumed.upload_mb_per_s * 1e6), n_files / assumed.upload_files_per_s),
        is_disk_bound=disk_s > max(cpu_s, tasks_s),
        disk_bytes=slide_bytes + output_bytes,
    )


def read_measured(text: str) -> Measured:
    """Return what a document says of the measured cost model: the tables that `benchmarks.cost_report` writes.

    Raises
    ------
    InputError
        When a figure is missing.
    """
    section = text.partition("<!-- begin cost_model -->")[2].partition("<!-- end cost_model -->")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in section.splitlines() if line[:1] == "|"]
    times = {row[0]: _seconds(row[1]) for row in rows if len(row) == 3 and re.match(r"[\d.]+ (s|ms|us)$", row[1])}
    patch_bytes = {
        row[0].rpartition(" ")[2]: 1e9 * float(row[2].replace(",", "")) / int(row[1].replace(",", ""))
        for row in rows
        if row[0].startswith("grid, 50 % overlap, ")
    }
    try:
        model = CostModel(
            start_s=times["start: Python, cluster, checks"],
            start_per_slide_s=times["start of each slide: open, fingerprint"],
            per_slide_s=times["survey of a slide"],
            per_slide_mpx_s=times["the same, of a million pixels of level 0"],
            per_patch_s={store: times[f"patch, {store}"] for store in PATCHES_PER_FILE},
            per_mpx_s=times["million pixels of tiles touched"],
            finish_s=times["finish"],
            finish_per_patch_s=times["finish of a patch"],
        )
        return Measured(
            model=model,
            patch_bytes={store: patch_bytes[store] for store in PATCHES_PER_FILE},
            bytes_per_mpx=CCMCT_BYTES / 1e3 / _number(section, r"slides of ([\d,]+) billion pixels"),
            dispatch_s=_number(section, r"One task costs the scheduler ([\d.]+) ms") / 1e3,
        )
    except KeyError as error:
        remedy = "Run python -m benchmarks.cost_model and python -m benchmarks.document."
        raise InputError(f"the document does not state {error} of the cost model.", remedy) from error


def _seconds(text: str) -> float:
    value, unit = text.split()
    return float(value) * {"s": 1.0, "ms": 1e-3, "us": 1e-6}[unit]


def _number(text: str, pattern: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise KeyError(pattern)
    return float(match[1].replace(",", ""))


def jobs_table(measured: Measured, assumed: Assumed) -> Table:
    """Return minutes, seconds per slide and price, by job and node."""
    scenarios = {each.name: each for each in ccmct_scenarios(["png", "zarr"], bytes_per_mpx=measured.bytes_per_mpx)}
    rows = []
    for name, title in JOBS.items():
        for node in NODES:
            cost = node_cost(scenarios[name], node, measured=measured, assumed=assumed)
            usd = cost.wall_s / 3600 * node.n_cores * assumed.usd_per_core_hour
            phases = (cost.download_s, cost.working_s, cost.upload_s, cost.wall_s)
            rows.append(
                (
                    title,
                    f"{node.n_cores}",
                    *map(_duration, phases),
                    f"{cost.wall_s / CCMCT_SLIDES:,.1f}",
                    cost.limit,
                    f"{cost.disk_bytes / 1e9:,.0f}" + ("" if cost.fits(node) else ", too much"),
                    f"{usd:,.2f}",
                )
            )
    header = ("job, 32 slides", "cores", "download", "work", "upload", "all")
    more = ("s per slide", "longest", "GB on the disk", "USD")
    return Table(header=(*header, *more), rows=tuple(rows))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rates_table() -> Table:
    """Return how long 44 GB take by the rate of the mount."""
    row = tuple(_duration(CCMCT_BYTES / (rate * 1e6)) for rate in RATES_MB_PER_S)
    caption = f"The download of {CCMCT_BYTES / 1e9:.0f} GB alone, by the rate of the mount:"
    return Table(caption=caption, header=("", *(f"{rate} MB/s" for rate in RATES_MB_PER_S)), rows=(("time", *row),))


def describe(measured: Measured, assumed: Assumed) -> BenchmarkResult:
    """Return the tables with what was assumed for them."""
    conditions = (
        f"{CCMCT_SLIDES} slides, {CCMCT_BYTES / 1e9:.0f} GB ({CCMCT_BYTES / CCMCT_SLIDES / 1e9:.1f} GB each).",
        "Work: the cost model of docs/performance.md, one worker per core, every core as fast as those measured.",
        f"Assumed, not measured: a mount that brings {assumed.download_mb_per_s:,.0f} MB/s to the node, an upload of",
        f"{assumed.upload_mb_per_s:,.0f} MB/s and {assumed.upload_files_per_s:,.0f} files/s, a price of",
        f"{assumed.usd_per_core_hour:g} USD per core and hour.",
    )
    notes = (
        f"Nodes: {NODES[0].name} to {NODES[-1].name} with local disks of "
        + ", ".join(f"{node.disk_gib:,}" for node in NODES)
        + " GiB and at most "
        + ", ".join(f"{node.disk_mb_per_s:,}" for node in NODES)
        + " MB/s, as Microsoft documents them.",
        '"Too much": slides and output together do not fit on the local disk; take a larger node or another store.',
        "Waiting for a node, pulling the image and the start step come on top, and the node is paid for meanwhile.",
    )
    return BenchmarkResult(
        name=SECTION,
        conditions=conditions,
        tables=(jobs_table(measured, assumed), rates_table()),
        figures={},
        notes=notes,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, and put them into a document when one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node_costs", description="Time and price on Azure.")
    parser.add_argument("--download-mb-per-s", type=float, default=200.0, help="of the mount, to the node")
    parser.add_argument("--upload-mb-per-s", type=float, default=200.0, help="of the output, after the run")
    parser.add_argument("--upload-files-per-s", type=float, default=53.0, help="the same, of small files")
    parser.add_argument("--usd-per-core-hour", type=float, default=0.0565, help="price of the node by its cores")
    parser.add_argument("--model", type=Path, default=DOCUMENT, help="document that states the measured cost model")
    parser.add_argument("--document", type=Path, help=f"document whose section {SECTION} is filled")
    options = parser.parse_args(arguments)
    assumed = Assumed(
        download_mb_per_s=options.download_mb_per_s,
        upload_mb_per_s=options.upload_mb_per_s,
        upload_files_per_s=options.upload_files_per_s,
        usd_per_core_hour=options.usd_per_core_hour,
    )
    text = describe(read_measured(_read(options.model)), assumed).to_markdown()
    if options.document is not None:
        write_atomically(options.document, fill_sections(_read(options.document), {SECTION: text}).encode())
    sys.stdout.write(text)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error


if __name__ == "__main__":
    raise SystemExit(main())
