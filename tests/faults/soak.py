"""Disturb hundreds of runs, count what was lost: ``python -m tests.faults.soak [--kills 200] [--out results.json]``.

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

from benchmarks.document import fill_sections
from tests.faults import clusters, flips, kills, machine
from tests.faults.shop import Outcome, Shop
from wsi_extract.disk.files import write_atomically
from wsi_extract.storage import Store

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
RESULTS = Path("faults.json")
SECTION = "faults"
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


def trials(shop: Shop, *, n_kills: int) -> Iterator[tuple[str, Trial]]:
    """Yield everything that is tried, by the name of its row."""

    def on(stores: Sequence[Store], trial: Callable[[Store], Iterator[Outcome]]) -> Trial:
        return lambda: (outcome for store in stores for outcome in trial(store))

    every, one = tuple(Store), (Store.PNG,)
    share = max(1, n_kills // 200)  # of kills on clusters, which take ten times as long
    n_alone = max(1, (n_kills - 40 * share) // len(every))
    two = (Store.PNG, Store.ZARR)
    kill, term, interrupt = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
    yield (
        "kill -9 of a run in one process, at random",
        on(every, lambda s: kills.signals_at_random(shop, s, signal_number=kill, n=n_alone, seed=SEED)),
    )
    yield (
        "kill -9 of the driver of two workers, at random",
        on(two, lambda s: clusters.kill_drivers(shop, s, n=8 * share, seed=SEED)),
    )
    yield (
        "kill -9 of one of two workers, at random",
        on(two, lambda s: clusters.kill_workers(shop, s, n=8 * share, seed=SEED)),
    )
    yield (
        "kill -9 of the scheduler, at random",
        on(two, lambda s: clusters.kill_schedulers(shop, s, n=4 * share, seed=SEED)),
    )
    yield "kill -9 at every crash point", lambda: kills.kill_at_every_point(shop, every)
    yield "kill -9 while resuming a finished run", on(every, lambda s: kills.kill_in_the_clean_up(shop, s))
    yield "kill -9 while --fresh deletes", on(every, lambda s: kills.kill_while_starting_over(shop, s))
    yield (
        "SIGTERM, at random",
        on(every, lambda s: kills.signals_at_random(shop, s, signal_number=term, n=5, seed=SEED)),
    )
    yield (
        "SIGINT, at random",
        on(every, lambda s: kills.signals_at_random(shop, s, signal_number=interrupt, n=5, seed=SEED)),
    )
    yield (
        "SIGTERM to the driver of two workers",
        on(one, lambda s: clusters.kill_drivers(shop, s, n=3, seed=SEED, number=term)),
    )
    yield "power loss", on(every, lambda s: machine.power_losses(shop, s, n=25, seed=SEED))
    yield (
        "power loss while resuming a finished run",
        on(every, lambda s: machine.power_losses(shop, s, n=15, seed=SEED, is_resumed=True)),
    )
    yield (
        "n-th operation fails: ENOSPC, EDQUOT, EROFS, EACCES, EMFILE, EIO, EINTR, ESTALE",
        on(every, lambda s: machine.io_failures(shop, s, n_each=12)),
    )
    yield "a full disk (tmpfs)", on(every, lambda s: machine.full_small_disk(shop, s))
    yield (
        "clock jumps, interrupted and short writes, slow disk, wrong file times",
        on(every, lambda s: machine.odd_machines(shop, s)),
    )
    yield "segmentation fault in a worker", on(two, lambda s: clusters.segfaults(shop, s))
    yield "damaged tiles in a slide", on(every, lambda s: clusters.damaged_slide(shop, s))
    yield "two drivers in one folder", on(every, lambda s: clusters.two_drivers(shop, s))
    yield "output folder deleted while running", on(every, lambda s: clusters.folder_deleted(shop, s))
    yield "flipped bit, found by verify", on(every, lambda s: flips.bit_flips(shop, s, n_per_file=1, seed=SEED))
    yield "flipped, cut or lost file, mended by verify --repair", on(every, lambda s: flips.repairs(shop, s, seed=SEED))


def run_soak(folder: Path, *, n_kills: int, only: str, out: Path) -> list[Row]:
    """Try everything, tell how it goes, and write the results after each row."""
    rows: list[Row] = []
    started = datetime.now(UTC)
    with Shop(folder=folder) as shop:
        for name, trial in trials(shop, n_kills=n_kills):
            if only in name:
                rows.append(_try(name, trial))
                facts = {**_surroundings(), "started": started.isoformat(timespec="seconds")}
                write_atomically(out, json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1).encode())
    return rows


def _try(name: str, trial: Trial) -> Row:
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
    print(f"{name}: {row.n_survived} of {row.n_injected} survived, {lost}, {row.seconds:.0f} s", flush=True)
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
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="kill -9 at random times (default 200)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help=f"results (default {RESULTS})")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where to work (default: a temporary folder)")
    parser.add_argument("--document", action="store_true", help=f"write the results into {DOCUMENT.name}")
    asked = parser.parse_args(argv)
    if asked.document:
        text = fill_sections(DOCUMENT.read_text(), {SECTION: table_of(json.loads(asked.out.read_bytes()))})
        write_atomically(DOCUMENT, text.encode())
        return 0
    with tempfile.TemporaryDirectory(prefix="wsi-soak-", dir=asked.scratch) as folder:
        rows = run_soak(Path(folder), n_kills=asked.kills, only=asked.only, out=asked.out)
    return int(any(row.n_survived < row.n_injected for row in rows))


if __name__ == "__main__":
    sys.exit(main())
