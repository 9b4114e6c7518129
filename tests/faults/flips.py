"""Scenarios in which bytes of a finished data set change: found by ``verify``, mended by ``verify --repair``."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.forker import RunEnd
from tests.faults.oracle import Verdict
from tests.faults.plans import CHANGING, Action, Plan, Strike, struck
from tests.faults.roles import role_of_file
from tests.faults.shop import COMPLETE, KILLED, Outcome, Shop, clear, tail
from tests.helpers_bit_flips import committed_files, flipped
from wsi_extract.storage import Store
from wsi_extract.verify import audit

DAMAGED_TOGETHER = frozenset({"patch", "shard", "pixel_shard", "record", "coco", "run"})
"""Roles of the files that a repair is killed over: one of each."""


def bit_flips(shop: Shop, store: Store, *, n_per_file: int, seed: int) -> Iterator[Outcome]:
    """Flip single bits of every file of a finished data set: an audit finds each."""
    rng = random.Random(f"flips{store}{seed}")
    out = _finished_copy(shop, store)
    for path in committed_files(out):
        for _ in range(n_per_file):
            position, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
            with flipped(path, position=position, bit=bit):
                is_found = not audit(out).is_sound
            where = f"bit {bit} of byte {position} of {path.relative_to(out)}, {store}"
            verdict = Verdict() if is_found else Verdict(problems=["not found by verify"])
            yield Outcome(fault=where, code=COMPLETE, n_resumes=0, verdict=verdict)
    clear(out)


def repairs(shop: Shop, store: Store, *, seed: int) -> Iterator[Outcome]:
    """Damage one file of every kind, by a flipped bit, a cut, or a loss, and repair: every byte is as before."""
    rng = random.Random(f"repairs{store}{seed}")
    for turn, (role, names) in enumerate(sorted(_names_by_role(shop.oracle(store).expected).items())):
        out, name = _finished_copy(shop, store), rng.choice(names)
        what = _damage(out / name, turn=turn, rng=rng)
        end = _repair(shop, Plan(output_dir=str(out)), is_told=role == "manifest")
        yield _judge_repair(shop, store, out, end, what=f"{role} {what}, repaired, {store}")


def killed_repairs(shop: Shop, store: Store, *, numbers: Sequence[int], seed: int) -> Iterator[Outcome]:
    """Damage a file of pixels, a record and a document, kill the repair before one of its changes, and repair again."""
    rng = random.Random(f"killed repairs{store}{seed}")
    any_change = " ".join(f"{kind}:" for kind in CHANGING)
    for number in numbers:
        out = _finished_copy(shop, store)
        by_role = _names_by_role(out)
        for turn, role in enumerate(sorted(by_role.keys() & DAMAGED_TOGETHER)):
            _damage(out / rng.choice(by_role[role]), turn=turn + number, rng=rng)
        end = _repair(shop, struck(out, Strike(action=Action.KILL, operation=any_change, number=number)))
        problems = [] if end.code in (KILLED, COMPLETE) else [f"repair ended with {end.code}: {tail(end.text)}"]
        is_killed = end.code == KILLED
        if is_killed:
            again = _repair(shop, Plan(output_dir=str(out)))
            problems += [] if again.code == COMPLETE else [f"the second one with {again.code}: {tail(again.text)}"]
        verdict = shop.oracle(store).judge_finished(out)
        verdict.problems[:0] = problems
        clear(out)
        what = f"repair killed at change {number}, {store}"
        yield Outcome(fault=what, code=end.code, n_resumes=int(is_killed), verdict=verdict)


def _repair(shop: Shop, plan: Plan, *, is_told: bool = False) -> RunEnd:
    """Mend a data set, told where its input is if nothing in it knows."""
    argv = ["verify", plan.output_dir, "--repair"]
    if is_told:
        argv += ["--wsi_dir", str(shop.inputs.wsi_dir), "--annotation_json", str(shop.inputs.sqlite)]
    return shop.forker.run(plan, argv, program="wsi_extract")


def _names_by_role(folder: Path) -> dict[str, list[str]]:
    by_role: dict[str, list[str]] = {}
    for path in committed_files(folder):
        name = path.relative_to(folder).as_posix()
        by_role.setdefault(role_of_file(name), []).append(name)
    return by_role


def _judge_repair(shop: Shop, store: Store, out: Path, end: RunEnd, *, what: str) -> Outcome:
    verdict = shop.oracle(store).judge_finished(out)
    if end.code != COMPLETE:
        verdict.problems.insert(0, f"repair ended with {end.code}: {tail(end.text)}")
    clear(out)
    return Outcome(fault=what, code=end.code, n_resumes=0, verdict=verdict)


def _damage(path: Path, *, turn: int, rng: random.Random) -> str:
    data = path.read_bytes()
    match turn % 3:
        case 0:
            place = rng.randrange(len(data))
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            return "with a flipped bit"
        case 1:
            path.write_bytes(data[: len(data) // 2])
            return "cut"
        case _:
            path.unlink()
            return "lost"


def _finished_copy(shop: Shop, store: Store) -> Path:
    out = shop.new_folder()
    shutil.copytree(shop.oracle(store).expected, out)
    return out
