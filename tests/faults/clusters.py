"""Scenarios with several processes: drivers, workers and schedulers that die, slides that kill workers, two drivers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.forker import RunEnd, run_process, worker_environment
from tests.faults.kills import processes_of_group, workers_of_group
from tests.faults.plans import Action, Strike, struck
from tests.faults.shop import COMPLETE, KILLED, PARTIAL, RESUMABLE, Outcome, Shop, clear
from tests.helpers_cluster import start_scheduler, start_worker
from wsi_extract.state.layout import STATE
from wsi_extract.storage import Store

N_WORKERS = 2
START_S = 120.0
END_S = 20.0
"""Within this time the workers of a driver that was killed have to be gone, and a driver that lost its scheduler."""
SLOW = Strike(action=Action.DELAY, operation="create:", is_lasting=True, seconds=0.03)
"""Makes tiny runs last long enough to be hit."""


def start_on_workers(
    shop: Shop, out: Path, *, store: Store, strikes: Sequence[Strike] = (SLOW,)
) -> subprocess.Popen[str]:
    """Start a run with two workers, in a group of processes of its own."""
    return run_process(struck(out, *strikes), shop.argv(out, store=store, workers=N_WORKERS), folder=shop.folder)


def wait_for_work(process: subprocess.Popen[str], out: Path) -> None:
    """Return when the first plan or record is there, or the run has ended."""
    give_up_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < give_up_s:
        if any((out / STATE).glob("plans/*.json")):
            return
        time.sleep(0.02)


def wait_for_file(path: Path) -> None:
    """Return when a run has made a file.

    Raises
    ------
    TimeoutError
        When it does not.
    """
    give_up_s = time.monotonic() + START_S
    while not path.exists():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"no {path} after {START_S:.0f} s")
        time.sleep(0.01)


def end_of(process: subprocess.Popen[str], *, timeout_s: float = 300.0) -> RunEnd:
    """Wait for a run and return how it ended."""
    started_s = time.monotonic()
    text, _ = process.communicate(timeout=timeout_s)
    return RunEnd(code=process.returncode, text=text, seconds=time.monotonic() - started_s)


def orphans(group: int) -> list[str]:
    """Return the processes of a group that do not end; they are killed then."""
    give_up_s = time.monotonic() + END_S
    while (left := processes_of_group(group)) and time.monotonic() < give_up_s:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return list(left.values())


def kill_drivers(
    shop: Shop, store: Store, *, n: int, seed: int, number: signal.Signals = signal.SIGKILL
) -> Iterator[Outcome]:
    """Signal drivers with two workers at random times, and resume at once, while workers may still be writing."""
    rng = random.Random(f"drivers{store}{seed}{number}")
    expected = {signal.SIGKILL: KILLED, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    for _ in range(n):
        out = shop.new_folder()
        process = start_on_workers(shop, out, store=store)
        wait_for_work(process, out)
        time.sleep(rng.uniform(0, 1.5))
        os.kill(process.pid, number)
        end = _end_without_pipe(process) if number is signal.SIGKILL else end_of(process)
        outcome = shop.resume(
            f"{number.name} to the driver of {N_WORKERS} workers, {store}",
            out,
            end,
            store=store,
            codes={expected, COMPLETE},
        )
        if left := orphans(process.pid):
            outcome.verdict.problems.append(f"processes outlive their driver by {END_S:.0f} s: {left}")
        yield outcome


def _end_without_pipe(process: subprocess.Popen[str]) -> RunEnd:
    """Wait for the driver alone: its workers still hold the other end of the pipe."""
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    return RunEnd(code=process.returncode, text="", seconds=0)


def kill_workers(shop: Shop, store: Store, *, n: int, seed: int) -> Iterator[Outcome]:
    """Kill one of two workers at a random time: the run goes on."""
    rng = random.Random(f"workers{store}{seed}")
    n_left = n
    while n_left:
        out = shop.new_folder()
        process = start_on_workers(shop, out, store=store)
        wait_for_work(process, out)
        time.sleep(rng.uniform(0, 0.8))
        workers = workers_of_group(process.pid)
        if workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
        what = f"kill -9 of one of {N_WORKERS} workers, {store}"
        outcome = shop.resume(what, out, end_of(process), store=store, codes={COMPLETE})
        if workers:  # else the run was quicker
            n_left -= 1
            yield outcome


def kill_schedulers(shop: Shop, store: Store, *, n: int, seed: int) -> Iterator[Outcome]:
    """Kill the scheduler of a cluster that a run was given: the run ends soon, and resumes elsewhere."""
    rng = random.Random(f"schedulers{store}{seed}")
    n_left = n
    while n_left:
        out = shop.new_folder()
        lasted_s, is_hit, end = _lose_scheduler(shop, out, store=store, wait_s=rng.uniform(0, 0.8))
        outcome = shop.resume(f"kill -9 of the scheduler, {store}", out, end, store=store, codes={RESUMABLE, COMPLETE})
        if lasted_s > END_S:
            outcome.verdict.problems.append(f"the driver noticed only after {lasted_s:.0f} s")
        if is_hit:
            n_left -= 1
            yield outcome


def _lose_scheduler(shop: Shop, out: Path, *, store: Store, wait_s: float) -> tuple[float, bool, RunEnd]:
    """Kill the scheduler of a run; return how long the run went on, whether it ran at all, and how it ended."""
    plan = shop.folder / "plan.json"
    plan.write_text(struck(out, SLOW).to_json())
    with pytest.MonkeyPatch.context() as patch:  # the worker's environment is ours
        for name, value in worker_environment(plan).items():
            patch.setenv(name, value)
        scheduler = start_scheduler(shop.folder)
        worker = start_worker(scheduler.address, shop.folder)
    try:
        argv = [*shop.argv(out, store=store)[:-6], "--scheduler", scheduler.address]
        process = run_process(struck(out, SLOW), argv, folder=shop.folder)
        wait_for_work(process, out)
        time.sleep(wait_s)
        is_hit = process.poll() is None
        os.kill(scheduler.process.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        end = end_of(process)
        return time.monotonic() - killed_s, is_hit, end
    finally:
        worker.kill()
        scheduler.kill()


def segfaults(shop: Shop, store: Store) -> Iterator[Outcome]:
    """Let a worker die of a segmentation fault once, and then at every attempt at one slide."""
    operation = "create:shard" if store is Store.ZARR else "create:patch"
    token = shop.folder / "segfault"
    token.unlink(missing_ok=True)
    once = Strike(action=Action.SEGFAULT, operation=operation, path_part="/slide_2/", token=str(token))
    out = shop.new_folder()
    end = end_of(start_on_workers(shop, out, store=store, strikes=(once,)))
    yield shop.resume(f"a worker segfaults once, {store}", out, end, store=store, codes={COMPLETE})
    always = Strike(action=Action.SEGFAULT, operation=operation, path_part="/slide_2/")
    out = shop.new_folder()
    end = end_of(start_on_workers(shop, out, store=store, strikes=(always,)))
    yield shop.resume(
        f"every worker segfaults on slide_2, {store}", out, end, store=store, codes={PARTIAL}, blamed={"slide_2"}
    )


def two_drivers(shop: Shop, store: Store) -> Iterator[Outcome]:
    """Start a second run in the folder of a slow one: the second is refused, the first unharmed."""
    out = shop.new_folder()
    slow = Strike(action=Action.DELAY, operation=shop.appearing("record"), seconds=3.0)
    first = run_process(struck(out, slow), shop.argv(out, store=store), folder=shop.folder)
    wait_for_work(first, out)
    os.kill(first.pid, signal.SIGSTOP)  # however long the second takes to start
    try:
        second = shop.run(out, store=store)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    end = end_of(first)
    outcome = shop.resume(f"two drivers in one folder, {store}", out, end, store=store, codes={COMPLETE})
    _expect_refusal(outcome, second, codes={RESUMABLE})
    yield outcome


def _expect_refusal(outcome: Outcome, end: RunEnd, *, codes: Collection[int]) -> None:
    if end.code not in codes or "is being written by process" not in end.text:
        outcome.verdict.problems.append(f"the second driver ended with {end.code}: {end.text[-500:]}")


def damaged_slide(shop: Shop, store: Store) -> Iterator[Outcome]:
    """Damage tiles in the middle of a slide: it alone fails; when it is mended, the data set is as if nothing was."""
    path = shop.inputs.wsi_dir / "slide_2.svs"
    good, facts = path.read_bytes(), path.stat()
    shop.oracle(store)
    third = len(good) // 3
    path.write_bytes(good[:third] + bytes(third) + good[2 * third :])
    out = shop.new_folder()
    try:
        end = shop.run(out, store=store)
    finally:
        path.write_bytes(good)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    yield shop.resume(
        f"tiles of slide_2 are damaged, {store}", out, end, store=store, codes={PARTIAL}, blamed={"slide_2"}
    )


def folder_deleted(shop: Shop, store: Store) -> Iterator[Outcome]:
    """Delete the output folder under a running driver: it stops, and the next run starts over."""
    out = shop.new_folder()
    token = shop.folder / "paused"
    token.unlink(missing_ok=True)
    pause = Strike(action=Action.DELAY, operation="create:record", number=2, seconds=2.0, token=str(token))
    pid = shop.forker.start(struck(out, pause), shop.argv(out, store=store))
    wait_for_file(token)
    os.kill(pid, signal.SIGSTOP)
    clear(out)
    os.kill(pid, signal.SIGCONT)
    end = shop.forker.wait()
    yield shop.resume(f"output folder deleted while running, {store}", out, end, store=store, codes={RESUMABLE})
