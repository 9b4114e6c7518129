"""Scenarios in which processes die or are told to stop, at named points and at random times."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tests.faults.plans import CHANGING, Action, Plan, Strike, When, struck
from tests.faults.shop import COMPLETE, KILLED, Outcome, Shop
from wsi_extract.storage import Store

Case = TypeVar("Case")
SPREAD = 1.15
"""Up to which share of an undisturbed run's time a process is killed; later means that it had finished."""
SAME_IN_ALL_STORES = frozenset({"index", "plan", "survey", "coco", "slides_table", "run", "state", "lock", "scratch"})
MAX_KILLS_IN_A_ROW = 3


def crash_points(trace: list[str]) -> Counter[str]:
    """Return the named crash points of a run, and how often each was passed."""
    names = Counter(line.partition("\t")[0] for line in trace)
    return Counter({name: n for name, n in names.items() if name.partition(":")[0] in CHANGING})


def kill(operation: str, *, number: int = 1, when: When = When.BEFORE) -> Strike:
    """Return the death of the process before or after an operation."""
    return Strike(action=Action.KILL, operation=operation, number=number, when=when)


def kill_at_every_point(shop: Shop, stores: Iterable[Store], *, share: float = 1.0) -> Iterator[Outcome]:
    """Kill runs before the first and after the last operation of every name, of what all stores have in one of them."""
    tried: set[str] = set()
    for store in stores:
        points = crash_points(shop.trace(store))
        cases = [
            (name, number, when)
            for name, n_times in points.items()
            if name not in tried
            for number, when in ((1, When.BEFORE), (n_times, When.AFTER))
        ]
        for name, number, when in thinned(cases, share=share):
            what = f"kill -9 {when} {name} {number} of {points[name]}, {store}"
            strike = kill(name, number=number, when=when)
            yield shop.strike(what, strike, store=store, codes={KILLED})
        tried |= {name for name in points if name.partition(":")[2].removesuffix("_folder") in SAME_IN_ALL_STORES}


def kill_in_a_row(shop: Shop, store: Store, points: Iterable[tuple[str, int, When]]) -> Outcome:
    """Kill runs in one folder, each at the next point: an operation, its number in that run, and the side of it."""
    strikes = [kill(operation, number=number, when=when) for operation, number, when in points]
    return shop.strike_in_a_row(f"a row of kills, {store}", strikes, store=store, code=KILLED)


def thinned(cases: Sequence[Case], *, share: float) -> Sequence[Case]:
    """Return about this share of the cases, evenly spread; at least one of them."""
    n_kept = min(len(cases), max(1, round(share * len(cases))))
    return [cases[round((turn + 0.5) * len(cases) / n_kept - 0.5)] for turn in range(n_kept)]


def kill_in_the_clean_up(shop: Shop, store: Store, *, share: float = 1.0) -> Iterator[Outcome]:
    """Kill runs that take up a finished folder at many of the first things they do to it."""
    for number in thinned(range(1, 40, 3), share=share):
        yield kill_while_resuming(shop, store, number=number)


def kill_while_resuming(shop: Shop, store: Store, *, number: int) -> Outcome:
    """Kill a run right after its last change, then the run that resumes, before one of its first changes."""
    out = shop.new_folder()
    shop.run(out, store=store, plan=struck(out, kill(shop.appearing("manifest"), when=When.AFTER)))
    any_change = " ".join(f"{kind}:" for kind in CHANGING)
    end = shop.run(out, store=store, plan=struck(out, kill(any_change, number=number)))
    return shop.resume(f"kill -9 at change {number} of resuming a finished run, {store}", out, end, store=store)


def kill_while_starting_over(shop: Shop, store: Store, *, share: float = 1.0) -> Iterator[Outcome]:
    """Kill runs with ``--fresh`` while they delete a finished data set; the same command without it goes on."""
    for number in thinned(range(1, 400, 30), share=share):
        out = shop.new_folder()
        shop.run(out, store=store)
        plan = struck(out, kill("remove: rmdir: rename: sync:", number=number))
        end = shop.forker.run(plan, [*shop.argv(out, store=store), "--fresh"])
        yield shop.resume(f"kill -9 at change {number} of --fresh, {store}", out, end, store=store)


def signals_at_random(
    shop: Shop, store: Store, *, signal_number: signal.Signals, n: int, seed: int
) -> Iterator[Outcome]:
    """Send a signal to runs in one process at random times, to some of them again while they resume."""
    rng = random.Random(f"{store}{signal_number}{seed}")
    expected = {signal.SIGKILL: KILLED, signal.SIGTERM: 143, signal.SIGINT: 130}[signal_number]
    out = shop.new_folder()
    whole_s = shop.run(out, store=store).seconds
    n_left = n
    while n_left > 0:
        out, n_here = shop.new_folder(), 0
        for _ in range(min(n_left, rng.randint(1, MAX_KILLS_IN_A_ROW))):
            pid = shop.forker.start(Plan(output_dir=str(out)), shop.argv(out, store=store))
            wait_s = rng.uniform(0, whole_s * SPREAD)
            time.sleep(wait_s)
            _send(pid, signal_number)
            end = shop.forker.wait()
            if end.code == COMPLETE:  # too late
                break
            n_here += 1
        n_left -= n_here
        what = f"{signal_number.name} {n_here} in a row, the last after {wait_s * 1000:.0f} ms, {store}"
        outcome = shop.resume(what, out, end, store=store, codes={expected, COMPLETE})
        if n_here:
            n_resumes = outcome.n_resumes + (end.code == COMPLETE)
            yield replace(outcome, n_faults=n_here, n_resumes=n_resumes)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended
        return


def processes_of_group(group: int) -> dict[int, str]:
    """Return the processes of a group that are alive, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, pgrp, *_ = (entry / "stat").read_text().rpartition(") ")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if int(pgrp) == group and state != "Z":
                found[int(entry.name)] = command
    return found


def workers_of_group(group: int) -> list[int]:
    """Return the worker processes of a local cluster that was started by the leader of a group."""
    return [pid for pid, command in sorted(processes_of_group(group).items()) if "spawn_main" in command]
