"""Runs of the program in fresh processes, ten times faster than by starting an interpreter for each: by fork.

The server is a process of its own with one thread, in which the program is loaded but was never run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Self

from tests.faults.plans import PLAN_VARIABLE, Plan

EXTRACTION = "run_extraction"
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended."""

    code: int
    """Exit code, or the negative number of the signal that killed it."""
    text: str
    """What it wrote to stdout and stderr."""
    seconds: float


LONGEST_RUN_S = 300
"""Runs take seconds, also on a busy machine."""


class Forker:
    """Starts runs, one at a time. A context manager."""

    def __enter__(self) -> Self:
        self._scratch = TemporaryDirectory(prefix="wsi-faults-")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forker"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _pipe(self._server.stdin).close()
        self._server.wait()
        _pipe(self._server.stdout).close()
        self._scratch.cleanup()

    def start(self, plan: Plan, argv: Sequence[str], *, program: str = EXTRACTION) -> int:
        """Start a run, or another `tests.faults.run.PROGRAMS`, and return its process id; `wait` has to follow."""
        self._log = Path(self._scratch.name) / "log"
        request = {"plan": plan.to_json(), "argv": list(argv), "log": str(self._log), "program": program}
        self._started_s = time.monotonic()
        stdin = _pipe(self._server.stdin)
        stdin.write(f"{json.dumps(request)}\n")
        stdin.flush()
        return int(_pipe(self._server.stdout).readline())

    def wait(self) -> RunEnd:
        """Wait for the end of the run that was started last."""
        code = int(_pipe(self._server.stdout).readline())
        seconds = time.monotonic() - self._started_s
        return RunEnd(code=code, text=self._log.read_text(errors="replace"), seconds=seconds)

    def run(self, plan: Plan, argv: Sequence[str], *, program: str = EXTRACTION) -> RunEnd:
        """Run from beginning to end."""
        self.start(plan, argv, program=program)
        return self.wait()


def run_process(
    plan: Plan, argv: Sequence[str], *, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run in an interpreter of its own, whose cluster's workers get the plan too."""
    path = folder / "plan.json"
    path.write_text(plan.to_json())
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.run", "--plan", str(path), "--", *argv],
        cwd=REPOSITORY,
        env={**os.environ, **worker_environment(path), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def worker_environment(plan_path: Path) -> dict[str, str]:
    """Return what brings a plan to the workers of a cluster."""
    return {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "tests.faults.preload",
        PLAN_VARIABLE: str(plan_path),
        "PYTHONPATH": str(REPOSITORY),
    }


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _serve() -> None:
    # Loaded once, for all runs.
    import wsi_extract.console.heartbeat  # noqa: PLC0415
    import wsi_extract.console.reporters  # noqa: PLC0415
    import wsi_extract.executors  # noqa: PLC0415
    import wsi_extract.pipeline  # noqa: PLC0415
    import wsi_extract.tracking.reporter  # noqa: F401, PLC0415
    from tests.faults.run import carry_out  # noqa: PLC0415

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _become_run(request["log"])
            signal.alarm(LONGEST_RUN_S)  # a run that hangs dies of it, with a code that no trial accepts
            code = 70
            try:
                code = carry_out(Plan.from_json(request["plan"]), request["argv"], program=request["program"])
            except BaseException:  # noqa: BLE001  # shown, and told by the exit code
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become_run(log: str) -> None:
    """Detach from the server's pipes: what the run writes goes to the log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, descriptor), (2, descriptor)):
        os.dup2(source, target)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    _serve()
