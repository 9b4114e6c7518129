"""Where faults are tried: small inputs, undisturbed runs to measure by, and the cycle of disturbing and resuming."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.forker import Forker, RunEnd
from tests.faults.oracle import Facts, Oracle, Verdict
from tests.faults.plans import Plan, Strike, struck
from tests.helpers_run import make_inputs
from wsi_extract.state.layout import ERRORS, FAILED, MANIFEST
from wsi_extract.storage import Store
from wsi_extract.verify import audit

N_SLIDES = 3
STORES = tuple(Store)
MAX_RESUMES = 3
COMPLETE = 0
"""Exit code of a run that finished."""
PARTIAL = 3
RESUMABLE = 5
KILLED = -9
Disturb = Callable[[Path], Plan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one disturbed run."""

    fault: str
    """What was done to it, in words."""
    code: int
    """How the disturbed run ended."""
    n_resumes: int
    """Runs that it took to finish afterwards."""
    verdict: Verdict
    seconds: float = 0.0
    n_faults: int = 1
    """How many faults it took before the run that finished."""

    @property
    def is_survived(self) -> bool:
        return self.verdict.is_good


@dataclass(kw_only=True)
class Shop:
    """Inputs, and the folders that undisturbed runs made of them. A context manager."""

    folder: Path
    n_slides: int = N_SLIDES
    patches_per_slide: int = 20
    is_direct: bool = False
    """Whether runs write files directly, see `wsi_extract.disk.mounts.CommitForm`; the environment, or the file
    system of ``out_root``, has to tell them."""
    out_root: Path | None = None
    """Where output folders of disturbed runs are; beside the inputs unless told otherwise."""
    forker: Forker = field(default_factory=Forker, init=False)
    _oracles: dict[Store, Oracle] = field(default_factory=dict, init=False)
    _numbers: itertools.count[int] = field(default_factory=itertools.count, init=False)

    def __enter__(self) -> Self:
        self.inputs = make_inputs(self.folder / "input", n_slides=self.n_slides)
        self.forker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forker.__exit__(kind, error, trace)

    def argv(self, out: Path, *, store: Store, workers: int = 0) -> list[str]:
        """Return the arguments of a run; in one process unless workers are asked for."""
        return [
            *("--wsi_dir", str(self.inputs.wsi_dir)),
            *("--annotation_json", str(self.inputs.sqlite)),
            *("--output_dir", str(out)),
            *("--patch_size", "64", "--patches_per_slide", str(self.patches_per_slide)),
            *("--train_val_split", "0.5", "--store", store.value, "--workers", str(workers)),
            *("--worker_memory_mb", "1500", "--dashboard_address", "127.0.0.1:0"),
        ]

    def oracle(self, store: Store) -> Oracle:
        """Return the measure of a store; the first time an undisturbed run makes it."""
        if store not in self._oracles:
            out = self.folder / f"undisturbed_{store}"
            end = self.run(out, store=store)
            if end.code != COMPLETE:
                raise AssertionError(f"the undisturbed run failed with {end.code}:\n{end.text}")
            self._oracles[store] = Oracle(expected=out)
        return self._oracles[store]

    def run(self, out: Path, *, store: Store, plan: Plan | None = None) -> RunEnd:
        """Run once in this folder."""
        return self.forker.run(plan or Plan(output_dir=str(out)), self.argv(out, store=store))

    def appearing(self, role: str) -> str:
        """Return the operation with which a file of a role is there: it is renamed, or its bytes are written."""
        return f"{'write' if self.is_direct else 'rename'}:{role}"

    def new_folder(self) -> Path:
        """Return an output folder that is not there yet."""
        return (self.out_root or self.folder) / f"out_{next(self._numbers)}"

    def trace(self, store: Store) -> list[str]:
        """Return the names of the operations of an undisturbed run, in their order, paths behind a tab."""
        out, path = self.new_folder(), self.folder / "trace"
        end = self.run(out, store=store, plan=Plan(output_dir=str(out), trace_path=str(path)))
        assert end.code == COMPLETE, end.text
        lines = path.read_text().splitlines()
        path.unlink()
        shutil.rmtree(out)
        return lines

    def strike(self, fault: str, *strikes: Strike, store: Store, codes: Collection[int] | None = None) -> Outcome:
        """Run with these faults, see `disturb`."""
        return self.disturb(fault, lambda out: struck(out, *strikes), store=store, codes=codes)

    def disturb(self, fault: str, disturb: Disturb, *, store: Store, codes: Collection[int] | None = None) -> Outcome:
        """Run with faults, judge what is left, resume until it is finished, and judge that.

        Parameters
        ----------
        codes
            Exit codes the disturbed run may end with; ``None`` for any.
        """
        out = self.new_folder()
        end = self.run(out, store=store, plan=disturb(out))
        return self.resume(fault, out, end, store=store, codes=codes)

    def strike_in_a_row(self, fault: str, strikes: Sequence[Strike], *, store: Store, code: int) -> Outcome:
        """Run in one folder again and again, each time with the next fault, judge what each run leaves; then finish.

        Parameters
        ----------
        code
            Exit code that every disturbed run has to end with. What was complete before it is not written again by it.
        """
        out, oracle = self.new_folder(), self.oracle(store)
        problems: list[str] = []
        done: Facts = {}
        for strike in strikes:
            end = self.run(out, store=store, plan=struck(out, strike))
            verdict = Verdict(problems=_problems_of_end(out, end, codes={code}))
            if out.is_dir():
                _add(verdict, oracle.judge_unfinished(out, may_be_torn=self.is_direct), when="left")
                before, done = done, oracle.facts_of_records(out)
                verdict.problems += [f"{name} was written again" for name in dict(before.items() - done.items())]
            problems += [f"{strike.when} {strike.operation} {strike.number}: {each}" for each in verdict.problems]
        outcome = self.resume(fault, out, end, store=store, codes={code})
        outcome.verdict.problems[:0] = problems
        return outcome

    def resume(
        self,
        fault: str,
        out: Path,
        end: RunEnd,
        *,
        store: Store,
        codes: Collection[int] | None = None,
        blamed: Collection[str] = (),
    ) -> Outcome:
        """Judge what a disturbed run left, give the same command until it is finished, judge that, and clear away.

        Parameters
        ----------
        blamed
            Slides that a run which ended with exit code 3 has to name as failed, and no others.
        """
        oracle = self.oracle(store)
        verdict = Verdict(problems=_problems_of_end(out, end, codes=codes))
        before: Facts = {}
        n_resumes, code = 0, end.code
        if code == PARTIAL:
            verdict.problems += _problems_of_partial(out, blamed=blamed)
        elif code != COMPLETE and out.is_dir():
            _add(verdict, oracle.judge_unfinished(out, may_be_torn=self.is_direct), when="before resuming")
            before = oracle.facts_of_records(out)
        while code != COMPLETE and n_resumes < MAX_RESUMES:
            again = self.run(out, store=store)
            code, n_resumes = again.code, n_resumes + 1
            if code != COMPLETE:
                verdict.problems.append(f"resuming ended with {code}: {tail(again.text)}")
        _add(verdict, oracle.judge_finished(out, before=before), when="at the end")
        clear(out)
        return Outcome(fault=fault, code=end.code, n_resumes=n_resumes, verdict=verdict, seconds=end.seconds)


def _problems_of_end(out: Path, end: RunEnd, *, codes: Collection[int] | None) -> list[str]:
    """Return what is wrong with how a run ended, and with what it said."""
    problems = []
    if codes is not None and end.code not in codes:
        problems.append(f"exit code {end.code}, not {sorted(codes)}: {tail(end.text)}")
    if end.code == RESUMABLE and (out / ERRORS).exists():
        problems.append(f"the machine failed, but slides are blamed: {(out / ERRORS).read_text()[:500]}")
    if "Traceback" in end.text:
        problems.append(f"shows a traceback: {end.text[end.text.index('Traceback') :][:1500]}")
    return problems


def _problems_of_partial(out: Path, *, blamed: Collection[str]) -> list[str]:
    """Return what is wrong with a data set that should lack some slides."""
    problems = [str(problem) for problem in audit(out).problems]
    slides = json.loads((out / MANIFEST).read_bytes())["slides"]
    failed = {slide["slide_id"] for slide in slides if slide["status"] == FAILED}
    if failed != set(blamed):
        problems.append(f"failed: {sorted(failed)}, not {sorted(blamed)}")
    return problems


def tail(text: str) -> str:
    """Return the last lines of an output."""
    return " / ".join(text.splitlines()[-6:])


def _add(verdict: Verdict, more: Verdict, *, when: str) -> None:
    verdict.problems += [f"{when}: {problem}" for problem in more.problems]
    verdict.n_lost += more.n_lost
    verdict.n_duplicated += more.n_duplicated
    verdict.n_redone += more.n_redone


def clear(out: Path) -> None:
    """Remove an output folder."""
    shutil.rmtree(out, ignore_errors=True)
