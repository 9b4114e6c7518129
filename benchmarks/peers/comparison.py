"""Other programs and this package in interleaved rounds on one core, after their patches have been compared.

Every contender writes the same patches as PNG files. The others are told where the patches are; this package finds
them, labels them and writes its documents as well. Times are CPU seconds of whole processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.discarding import discard
from benchmarks.jobs import GRID, Job
from benchmarks.patch_list import PatchList, patches_of, read_patch_list, write_patch_list
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.environments import Environment
from benchmarks.peers.same_patches import (
    MOST_DIFFERENT,
    N_COMPARED,
    OtherPatchesError,
    most_different,
    names_of,
    without_far_edges,
)
from benchmarks.processes import FailedCommandError, ProcessCost, run_measured
from benchmarks.rounds import Contender, Rounds, one_core, run_naive, run_rounds
from benchmarks.scanned_slides import annotations_of
from wsi_extract.model import Split
from wsi_extract.state.layout import split_folder

NAIVE = "naive script (OpenSlide, Pillow)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """One way to run this package."""

    name: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """CPU seconds of a program's loop over the patches; the rest of its process is start-up."""

    read_s: float
    save_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one contender cost."""

    name: str
    version: str
    """Empty for what belongs to this checkout."""
    n_patches: int
    rounds: Rounds
    n_bytes: int
    """Of its PNG files."""
    steps: Steps | None
    """``None`` where they are not told apart."""
    most_different: int
    """Greatest difference from the first contender's pixels, grey levels."""

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per patch, start-up included."""
        return 1e3 * self.rounds.cpu_median_s / self.n_patches

    @property
    def loop_ms(self) -> float | None:
        """CPU milliseconds per patch of reading and saving alone."""
        return None if self.steps is None else 1e3 * (self.steps.read_s + self.steps.save_s) / self.n_patches


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All contenders on the patches of one overlap."""

    overlap: float
    ours: tuple[Figures, ...]
    """The default first."""
    naive: Figures
    peers: tuple[Figures, ...]
    refused: dict[str, str]
    """Name: reason. Programs that failed, or made other patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One contender: how to let it work, and where to look afterwards."""

    name: str
    work: Callable[[Path, Path], ProcessCost]
    """From a list of patches and an empty folder to write to; this package makes all patches whatever the list."""
    wanted: Path
    """The list of all its patches."""
    checked: Path
    """The list of the patches that are compared before anything is timed."""
    version: str = ""
    pngs: str = "."
    """Folder of the PNG files, relative to where it wrote."""
    figures: Path | None = None
    """Where it leaves the times of its steps."""


def compare_peers(
    slide: Path,
    *,
    overlap: float,
    ours: Sequence[Ours],
    peers: Sequence[tuple[Peer, Environment]],
    n_rounds: int,
    scratch: Path,
) -> Comparison:
    """Let everyone cut the same grid patches, compare the pixels, then measure in interleaved rounds.

    Parameters
    ----------
    slide
        A file of `benchmarks.scanned_slides`, alone in its folder.
    ours
        The default first: its patches are what the others have to make.
    scratch
        An empty folder with room for all patches twice.

    Raises
    ------
    FailedCommandError, OtherPatchesError
        When this package or the naive script fails, or they differ. A peer that does so is listed as refused.
    """
    lists = _Lists(all=scratch / "all.json", inner=scratch / "inner.json", sample=scratch / "sample.json")
    reference, out = scratch / "reference", scratch / "out"
    first = [_entry_of_ours(each, slide, overlap=overlap, lists=lists) for each in ours]
    naive = _Entry(
        name=NAIVE, work=lambda wanted, to: run_naive(wanted, folder=to), wanted=lists.all, checked=lists.sample
    )
    others = [_entry_of_peer(peer, environment, lists=lists, scratch=scratch) for peer, environment in peers]
    first[0].work(lists.all, reference)
    lists.write(patches_of(reference, slides_folder=slide.parent))
    most = {entry.name: _check(entry, reference, out=out, allowed=0) for entry in (*first, naive)}
    refused: dict[str, str] = {}
    for entry in others:
        try:
            most[entry.name] = _check(entry, reference, out=out, allowed=MOST_DIFFERENT)
        except (FailedCommandError, OtherPatchesError) as error:
            refused[entry.name] = str(error).strip().splitlines()[-1]
    timed = [*first, naive, *(entry for entry in others if entry.name in most)]
    figures = _measure(timed, most, n_rounds=n_rounds, out=out)
    return Comparison(
        overlap=overlap,
        ours=tuple(figures[: len(ours)]),
        naive=figures[len(ours)],
        peers=tuple(figures[len(ours) + 1 :]),
        refused=refused,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lists:
    """Files with lists of patches."""

    all: Path
    inner: Path
    """Without those at the far edges."""
    sample: Path
    """Some of the inner ones."""

    def write(self, patches: PatchList) -> None:
        """Write all three."""
        inner = without_far_edges(patches)
        write_patch_list(self.all, patches)
        write_patch_list(self.inner, inner)
        step = -(-len(inner) // N_COMPARED)
        some = tuple(replace(slide, origins_l0=slide.origins_l0[::step]) for slide in inner.slides)
        write_patch_list(self.sample, replace(inner, slides=some))


def _entry_of_ours(ours: Ours, slide: Path, *, overlap: float, lists: _Lists) -> _Entry:
    job = Job(
        name=ours.name,
        slides=slide.parent,
        annotations=annotations_of(slide),
        settings=(*GRID, "--overlap", str(overlap), "--store", "png", *ours.flags),
    )
    return _Entry(
        name=ours.name,
        work=lambda wanted, out: run_measured(job.command(out), cores=one_core()),
        wanted=lists.all,
        checked=lists.all,
        pngs=split_folder(Split.TRAIN),
    )


def _entry_of_peer(peer: Peer, environment: Environment, *, lists: _Lists, scratch: Path) -> _Entry:
    figures = scratch / f"{peer.script}.json"
    module = f"benchmarks.peers.scripts.{peer.script}"
    command = (str(environment.python), "-W", "ignore", "-m", module, "--figures", str(figures))

    def work(wanted: Path, out: Path) -> ProcessCost:
        return run_measured((*command, "--patches", str(wanted), "--out", str(out)), cores=one_core())

    return _Entry(
        name=peer.name,
        work=work,
        wanted=lists.inner if peer.refuses_far_edges else lists.all,
        checked=lists.sample,
        version=environment.version,
        figures=figures,
    )


def _check(entry: _Entry, reference: Path, *, out: Path, allowed: int) -> int:
    """Let a contender work once, and return by how much its pixels differ at most from those of the first one.

    Raises
    ------
    FailedCommandError, OtherPatchesError
        When it fails, or makes other patches.
    """
    try:
        entry.work(entry.checked, out)
        names = names_of(read_patch_list(entry.checked))
        return most_different(reference, out / entry.pngs, names=names, allowed=allowed)
    finally:
        discard(out)


def _measure(entries: Sequence[_Entry], most: Mapping[str, int], *, n_rounds: int, out: Path) -> list[Figures]:
    """Let all contenders make all their patches in every round; what they wrote is counted and removed."""
    n_bytes: dict[str, int] = {}
    steps: dict[str, list[Steps]] = {entry.name: [] for entry in entries}
    n_patches = {entry.name: len(read_patch_list(entry.wanted)) for entry in entries}

    def contender(entry: _Entry) -> Contender:
        def work() -> ProcessCost:
            cost = entry.work(entry.wanted, out)
            sizes = [path.stat().st_size for path in (out / entry.pngs).rglob("*.png")]
            discard(out)
            if len(sizes) != n_patches[entry.name]:
                raise OtherPatchesError(f"{entry.name} made {len(sizes)} of {n_patches[entry.name]} patches")
            n_bytes[entry.name] = sum(sizes)
            if entry.figures is not None:
                steps[entry.name].append(Steps(**json.loads(entry.figures.read_bytes())))
            return cost

        return work

    rounds = run_rounds({entry.name: contender(entry) for entry in entries}, n_rounds=n_rounds, seed=0)
    return [
        Figures(
            name=entry.name,
            version=entry.version,
            n_patches=n_patches[entry.name],
            rounds=rounds[entry.name],
            n_bytes=n_bytes[entry.name],
            steps=_median_steps(steps[entry.name]),
            most_different=most[entry.name],
        )
        for entry in entries
    ]


def _median_steps(found: Sequence[Steps]) -> Steps | None:
    if not found:
        return None
    return Steps(read_s=median(each.read_s for each in found), save_s=median(each.save_s for each in found))
