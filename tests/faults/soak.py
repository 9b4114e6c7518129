"""Disturb hundreds of runs, count what was lost: ``python -m tests.faults.soak [--share 0.1] [--out results.json]``.

``python -m tests.faults.soak --document`` writes the figures of the results into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchmarks.document import fill_sections
from tests.faults import clusters, flips, kills, machine
from tests.faults.shop import Outcome, Shop
from wsi_extract.disk.files import write_atomically
from wsi_extract.disk.mounts import COMMIT_VARIABLE, CommitForm
from wsi_extract.storage import Store

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
RESULTS = Path("faults.json")
SECTIONS = {CommitForm.RENAME: "faults", CommitForm.DIRECT: "faults_direct"}
"""Of the document, by the form in which files are committed."""
MAX_PROBLEMS_KEPT = 20
SEED = 20
Trial = Callable[[], Iterator[Outcome]]


@dataclass(slots=True, kw_only=True)
class Row:
    """All faults of one kind."""

    fault: str
    n_injected: int = 0
    n_survived: int = 0
    n_resumed: int = 0
    """How many ended the run, which then was resumed; the others did not even do that."""
    n_lost: int = 0
    n_duplicated: int = 0
    n_redone: int = 0
    seconds: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    """Why it was not tried; empty when it was."""

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.n_injected += outcome.n_faults
        self.n_survived += outcome.n_faults * outcome.is_survived
        self.n_resumed += outcome.n_faults * (outcome.n_resumes > 0)
        self.n_lost += outcome.verdict.n_lost
        self.n_duplicated += outcome.verdict.n_duplicated
        self.n_redone += outcome.verdict.n_redone
        self.codes[str(outcome.code)] = self.codes.get(str(outcome.code), 0) + 1
        if not outcome.is_survived and len(self.problems) < MAX_PROBLEMS_KEPT:
            self.problems.append(f"{outcome.fault}: {' | '.join(outcome.verdict.problems)[:1000]}")


def trials(shop: Shop, *, share: float) -> Iterator[tuple[str, Trial]]:
    """Yield everything that is tried, by the name of its row; of what could go on for ever, this share."""
    every = tuple(Store)
    yield from _kills(shop, share=share)
    yield from _failing_machines(shop, share=share)
    if not shop.is_direct:  # it is the same in both forms
        yield from _native_code_and_schedulers(shop, share=share)
        yield "flipped bit, found by verify", _on(every, lambda s: flips.bit_flips(shop, s, n_per_file=1, seed=SEED))
    yield "two drivers in one folder", _on(every, lambda s: clusters.two_drivers(shop, s))
    yield "output folder deleted while running", _on(every, lambda s: clusters.folder_deleted(shop, s))
    yield (
        "flipped, cut or lost file, mended by verify --repair",
        _on(every, lambda s: flips.repairs(shop, s, seed=SEED)),
    )
    numbers = kills.thinned(range(1, 60, 5), share=share)
    yield (
        "kill -9 while verify --repair mends",
        _on(every, lambda s: flips.killed_repairs(shop, s, numbers=numbers, seed=SEED)),
    )


def _on(stores: Sequence[Store], trial: Callable[[Store], Iterator[Outcome]]) -> Trial:
    return lambda: (outcome for store in stores for outcome in trial(store))


def _some(n: int, share: float) -> int:
    return max(1, round(n * share))


def _kills(shop: Shop, *, share: float) -> Iterator[tuple[str, Trial]]:
    every, two = tuple(Store), (Store.PNG, Store.ZARR)
    kill, term, interrupt = signal.SIGKILL, signal.SIGTERM, signal.SIGINT

    def at_random(number: signal.Signals, n: int) -> Trial:
        n_here = _some(n, share)
        return _on(every, lambda s: kills.signals_at_random(shop, s, signal_number=number, n=n_here, seed=SEED))

    yield "kill -9 of a run in one process, at random", at_random(kill, 40)
    yield (
        "kill -9 of the driver of two workers, at random",
        _on(two, lambda s: clusters.kill_drivers(shop, s, n=_some(8, share), seed=SEED)),
    )
    yield (
        "kill -9 of one of two workers, at random",
        _on(two, lambda s: clusters.kill_workers(shop, s, n=_some(8, share), seed=SEED)),
    )
    yield "kill -9 at every crash point", lambda: kills.kill_at_every_point(shop, every, share=share)
    yield (
        "kill -9 while resuming a finished run",
        _on(every, lambda s: kills.kill_in_the_clean_up(shop, s, share=share)),
    )
    yield (
        "kill -9 while --fresh deletes",
        _on(every, lambda s: kills.kill_while_starting_over(shop, s, share=share)),
    )
    yield "SIGTERM, at random", at_random(term, 5)
    yield "SIGINT, at random", at_random(interrupt, 5)


def _native_code_and_schedulers(shop: Shop, *, share: float) -> Iterator[tuple[str, Trial]]:
    two = (Store.PNG, Store.ZARR)
    yield (
        "kill -9 of the scheduler, at random",
        _on(two, lambda s: clusters.kill_schedulers(shop, s, n=_some(4, share), seed=SEED)),
    )
    yield (
        "SIGTERM to the driver of two workers",
        _on((Store.PNG,), lambda s: clusters.kill_drivers(shop, s, n=3, seed=SEED, number=signal.SIGTERM)),
    )
    yield "segmentation fault in a worker", _on(two, lambda s: clusters.segfaults(shop, s))
    yield "damaged tiles in a slide", _on(tuple(Store), lambda s: clusters.damaged_slide(shop, s))


def _failing_machines(shop: Shop, *, share: float) -> Iterator[tuple[str, Trial]]:
    every = tuple(Store)
    yield "power loss", _on(every, lambda s: machine.power_losses(shop, s, n=_some(25, share), seed=SEED))
    yield (
        "power loss while resuming a finished run",
        _on(every, lambda s: machine.power_losses(shop, s, n=_some(15, share), seed=SEED, is_resumed=True)),
    )
    yield (
        "n-th operation fails: ENOSPC, EDQUOT, EROFS, EACCES, EMFILE, EIO, EINTR, ESTALE",
        _on(every, lambda s: machine.io_failures(shop, s, n_each=max(2, _some(12, share)))),
    )
    yield "a full disk (tmpfs)", _on(every, lambda s: machine.full_small_disk(shop, s))
    yield (
        "clock jumps, interrupted and short writes, slow disk, wrong file times",
        _on(every, lambda s: machine.odd_machines(shop, s)),
    )


def run_soak(folder: Path, *, forms: Sequence[CommitForm], share: float, only: str, out: Path) -> list[Row]:
    """Try everything in each form, tell how it goes, and write the results after each row."""
    results: dict[str, Any] = {}
    tried: list[Row] = []
    for form in forms:
        rows: list[Row] = []
        facts = {**_surroundings(), "started": datetime.now(UTC).isoformat(timespec="seconds")}
        with pytest.MonkeyPatch.context() as patch:  # for all processes that a shop starts
            patch.setenv(COMMIT_VARIABLE, form.value)
            with Shop(folder=folder / form.value, is_direct=form is CommitForm.DIRECT) as shop:
                for name, trial in trials(shop, share=share):
                    if only in name:
                        rows.append(_try(name, trial, form=form))
                        results[form.value] = {**facts, "rows": [asdict(row) for row in rows]}
                        write_atomically(out, json.dumps(results, indent=1).encode())
        tried += rows
    return tried


def _try(name: str, trial: Trial, *, form: CommitForm) -> Row:
    row, started_s = Row(fault=name), time.monotonic()
    try:
        for outcome in trial():
            row.add(outcome)
            if not outcome.is_survived:
                print(f"  NOT SURVIVED: {outcome.fault}: {outcome.verdict.problems[:3]}", flush=True)
    except PermissionError as error:
        row.skipped = str(error)
    row.seconds = round(time.monotonic() - started_s, 1)
    lost = f"{row.n_lost} lost, {row.n_duplicated} duplicated, {row.n_redone} done twice"
    print(
        f"{form.value}: {name}: {row.n_survived} of {row.n_injected} survived, {lost}, {row.seconds:.0f} s", flush=True
    )
    return row


def _surroundings() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "distributed": version("distributed"),
        "system": f"{platform.system()} {platform.release()}",
        "n_cores": os.cpu_count(),
    }


def table_of(results: dict[str, Any]) -> str:
    """Return the results as a table in Markdown, with a line about the machine."""
    lines = [
        "| fault | injected | survived | resumed | patches lost | duplicated | blocks done twice | exit codes |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    sums: Counter[str] = Counter()
    for row in results["rows"]:
        if row["skipped"]:
            lines.append(f"| {row['fault']} | not tried: {row['skipped']} | | | | | | |")
            continue
        numbers = [row[key] for key in ("n_injected", "n_survived", "n_resumed", "n_lost", "n_duplicated", "n_redone")]
        sums.update(dict(enumerate(numbers)))  # type: ignore[arg-type]
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(row["codes"].items(), key=lambda item: int(item[0])))
        lines.append(f"| {row['fault']} | {' | '.join(map(str, numbers))} | {codes} |")
    lines.append(f"| **all** | {' | '.join(f'**{sums[n]}**' for n in range(6))} | |")  # type: ignore[index]
    seconds = sum(row["seconds"] for row in results["rows"])
    where = f"{results['system']}, {results['n_cores']} cores, Python {results['python']}"
    about = f"{results['started'][:10]}, {seconds / 60:.0f} minutes, {where}, distributed {results['distributed']}."
    return "\n".join([*lines, "", about, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak, or document its results; return 1 when a fault was not survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, metavar="F", help="share of the faults to try (default 1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose name contains this")
    values = [form.value for form in CommitForm]
    parser.add_argument("--form", choices=values, help="how files are committed (default: both, one after the other)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help=f"results (default {RESULTS})")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where to work (default: a temporary folder)")
    parser.add_argument("--document", action="store_true", help=f"write the results into {DOCUMENT.name}")
    asked = parser.parse_args(argv)
    if asked.document:
        results = json.loads(asked.out.read_bytes())
        tables = {SECTIONS[CommitForm(form)]: table_of(of_form) for form, of_form in results.items()}
        write_atomically(DOCUMENT, fill_sections(DOCUMENT.read_text(), tables).encode())
        return 0
    with tempfile.TemporaryDirectory(prefix="wsi-soak-", dir=asked.scratch) as folder:
        forms = tuple(CommitForm) if asked.form is None else (CommitForm(asked.form),)
        rows = run_soak(Path(folder), forms=forms, share=asked.share, only=asked.only, out=asked.out)
    return int(any(row.n_survived < row.n_injected for row in rows))


if __name__ == "__main__":
    sys.exit(main())
