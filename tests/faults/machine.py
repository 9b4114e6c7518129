"""Scenarios in which the machine fails: operations return errors, the power goes, the disk is full or slow."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.clusters import wait_for_file
from tests.faults.forker import RunEnd
from tests.faults.plans import FILLING, READING, Action, Plan, Strike, When, struck
from tests.faults.power_loss import Disk, Loss, write_state
from tests.faults.recorder import Recording, read_recording
from tests.faults.shop import COMPLETE, KILLED, RESUMABLE, Outcome, Shop
from wsi_extract.storage import Store

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE)
PASSING = (errno.EIO, errno.EINTR, errno.ESTALE)
DISK_BYTES = 128 * 2**20
"""More than the reserve that a run leaves, see `wsi_extract.disk_room`."""


def failing(operations: str, number: int, code: int, *, is_lasting: bool = False, when: When = When.BEFORE) -> Strike:
    """Return an operation that fails with an errno."""
    return Strike(
        action=Action.ERROR, operation=operations, number=number, errno=code, is_lasting=is_lasting, when=when
    )


def full_disk_at(shop: Shop, store: Store, *, number: int, code: int, is_lasting: bool = True) -> Outcome:
    """Let the n-th operation that needs room fail, and all later ones where the fault lasts."""
    strike = failing(FILLING, number, code, is_lasting=is_lasting)
    return shop.strike(
        f"{errno.errorcode[code]} from operation {number} on, {store}",
        strike,
        store=store,
        codes={RESUMABLE},
    )


def passing_error_at(shop: Shop, store: Store, *, number: int, code: int, operations: str = FILLING) -> Outcome:
    """Let one operation fail once with an error that passes."""
    strike = failing(operations, number, code)
    return shop.strike(
        f"{errno.errorcode[code]} once, at {operations.partition(':')[0]}... {number}, {store}",
        strike,
        store=store,
        codes={COMPLETE, RESUMABLE},
    )


def io_failures(shop: Shop, store: Store, *, n_each: int) -> Iterator[Outcome]:
    """Let operations fail, one after the other from the first to the last, with every errno in turn."""
    n_operations = sum(
        line.partition(":")[0] in ("mkdir", "create", "write", "sync", "rename") for line in shop.trace(store)
    )
    numbers = sorted({1 + round(step * (n_operations - 1) / (n_each - 1)) for step in range(n_each)})
    for turn, number in enumerate(numbers):
        yield full_disk_at(shop, store, number=number, code=FULL[turn % len(FULL)])
        yield passing_error_at(shop, store, number=number, code=PASSING[turn % len(PASSING)])
        yield passing_error_at(shop, store, number=1 + turn * 7, code=errno.EIO, operations=READING)
    for turn, number in enumerate(numbers[::4]):
        strike = failing(FILLING, number, errno.EIO, is_lasting=True)
        yield shop.strike(f"EIO from operation {number} on, {store}", strike, store=store, codes={RESUMABLE})
        late = failing("sync: rename: close:", 1 + turn * 11, errno.EIO, when=When.AFTER)
        what = f"EIO although done, operation {number}, {store}"
        yield shop.strike(what, late, store=store, codes={COMPLETE, RESUMABLE})


def record(shop: Shop, store: Store, *, is_resumed: bool = False) -> Recording:
    """Return all that a run does to its folder; to a finished one, if asked for."""
    out, path = shop.new_folder(), shop.folder / "events"
    if is_resumed:
        shop.run(out, store=store)
    end = shop.run(out, store=store, plan=Plan(output_dir=str(out), events_path=str(path)))
    assert end.code == COMPLETE, end.text
    shutil.rmtree(out)
    return read_recording(path)


def power_loss_at(shop: Shop, store: Store, recording: Recording, *, point: int, loss: Loss, seed: int = 0) -> Outcome:
    """Make the folder what a power loss after a number of events can leave, and resume."""
    disk = Disk(recording)
    disk.play(recording.events[:point])
    out = shop.new_folder()
    write_state(out, disk.state(loss, seed=seed))
    what = f"power loss after event {point} of {len(recording.events)}, lost: {loss}, seed {seed}, {store}"
    return shop.resume(what, out, RunEnd(code=KILLED, text="", seconds=0), store=store)


def power_losses(shop: Shop, store: Store, *, n: int, seed: int, is_resumed: bool = False) -> Iterator[Outcome]:
    """Draw points of time, and for each what was lost."""
    rng = random.Random(f"{store}{seed}")
    recording = record(shop, store, is_resumed=is_resumed)
    losses = [Loss.EVERYTHING, Loss.NAMES, Loss.BYTES, Loss.ANYTHING, Loss.ANYTHING]
    for turn in range(n):
        point = rng.randrange(1, len(recording.events) + 1)
        yield power_loss_at(shop, store, recording, point=point, loss=losses[turn % len(losses)], seed=turn)


def odd_machines(shop: Shop, store: Store) -> Iterator[Outcome]:
    """Run with a clock that jumps, signals that interrupt, writes that stop half-way, and a slow disk."""
    yield shop.disturb(
        f"clock jumps, {store}",
        lambda out: Plan(output_dir=str(out), jumping_clock=True),
        store=store,
        codes={COMPLETE},
    )
    yield shop.disturb(
        f"signals interrupt system calls every ms, {store}",
        lambda out: Plan(output_dir=str(out), signals_every_s=0.001),
        store=store,
        codes={COMPLETE},
    )
    short = Strike(action=Action.SHORT, operation="write:", is_lasting=True)
    yield shop.disturb(
        f"every write is cut short, {store}", lambda out: struck(out, short), store=store, codes={COMPLETE}
    )
    slow = Strike(action=Action.DELAY, operation="sync: write:", is_lasting=True, seconds=0.002)
    yield shop.strike(f"slow disk, {store}", slow, store=store, codes={COMPLETE})
    out = shop.new_folder()
    shop.run(
        out, store=store, plan=struck(out, Strike(action=Action.KILL, operation=shop.appearing("record"), number=3))
    )
    now_s = time.time()
    for number, path in enumerate(sorted(out.rglob("*"))):
        os.utime(path, (now_s, now_s + (-1) ** number * 10**8))  # years ago, or to come
    end = RunEnd(code=KILLED, text="", seconds=0)
    yield shop.resume(f"times of files in past and future, {store}", out, end, store=store)


def full_small_disk(shop: Shop, store: Store) -> Iterator[Outcome]:
    """Fill a real file system of a few MB while a run writes to it, make room, and resume; root only.

    Raises
    ------
    PermissionError
        When a file system cannot be mounted here.
    """
    place = shop.new_folder()
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.strip())
    try:
        for number in (1, 20, 60):
            yield _fill_while_running(shop, store, place=place, number=number)
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def _fill_while_running(shop: Shop, store: Store, *, place: Path, number: int) -> Outcome:
    out, ballast = place / f"out_{number}", place / "ballast"
    pause = Strike(action=Action.DELAY, operation="create:", number=number, seconds=1.0, token=str(place / "paused"))
    pid = shop.forker.start(struck(out, pause), shop.argv(out, store=store))
    wait_for_file(place / "paused")
    os.kill(pid, signal.SIGSTOP)
    try:
        facts = os.statvfs(place)
        with ballast.open("wb") as stream:
            stream.write(bytes((facts.f_bavail - 4) * facts.f_bsize))
    finally:
        os.kill(pid, signal.SIGCONT)
    end = shop.forker.wait()
    ballast.unlink()
    (place / "paused").unlink()
    return shop.resume(f"disk full before file {number}, {store}", out, end, store=store, codes={RESUMABLE})
