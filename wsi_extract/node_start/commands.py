"""Programs that the start step runs: with a time limit, patience for networks, and errors that say what to do.

It runs on Python 3.8 and newer, before anything is installed.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

PAUSES_S = (5.0, 20.0)
"""Before the second and the third attempt; pip itself has tried each file several times by then."""
HEARTBEAT_S = 120.0
N_LINES_SHOWN = 12
PR_SET_PDEATHSIG = 1
BAKE = (
    "What always works: build the packages of requirements.txt into the environment's image, for Python 3.11 or newer, "
    'and set job.setup to "never".'
)
NO_ROOM = re.compile(r"no space left on device|errno 28|disk quota exceeded|os error 28", re.IGNORECASE)
NO_TRUST = re.compile(
    r"certificate[ _]verify[ _]failed|unknownissuer|invalid peer certificate|self.signed", re.IGNORECASE
)
NETWORK = re.compile(
    r"temporary failure|name or service not known|name resolution|getaddrinfo|nodename nor servname|dns error"
    r"|new connection|connection (?:refused|reset|aborted|broken|timed out)|timed? ?out|timeout"
    r"|network is unreachable|no route to host|proxyerror|tunnel connection|remote end closed|incomplete ?read"
    r"|error sending request|failed to (?:fetch|download)|do not match the hashes"
    r"|(?:http|status|error|many)\D{0,30}(?:429|50[0234])\b",
    re.IGNORECASE,
)
CULPRITS = (
    re.compile(r"No matching distribution found for (\S+)"),
    re.compile(r"that satisfies the requirement (\S+)"),
    re.compile(r"Failed (?:building wheel for|to build) (\S+)"),
)
LAST_COLLECTED = re.compile(r"^\s*Collecting (\S+)", re.MULTILINE)
PASSWORD = re.compile(r"(?<=://)[^/\s]+(?=@)|(?<=[?&]sig=)[^&\s]+")


class SetupError(Exception):
    """The environment cannot be made.

    Parameters
    ----------
    message
        What failed.
    remedy
        What to do about it.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}".strip()


@dataclass(frozen=True)
class Finished:  # slots and kw_only need Python 3.10
    """How a program has ended."""

    code: int
    output: str
    """What it printed, errors included."""

    @property
    def is_good(self) -> bool:
        """Whether it ended with 0."""
        return self.code == 0


@dataclass(frozen=True)
class Commands:
    """Runs programs; all of them share one time limit."""

    environ: Mapping[str, str]
    ends_at_s: float
    """Of `time.monotonic`: nothing runs any longer."""
    say: Callable[[str], None]
    lock_descriptor: int | None = None
    """Goes to the programs: while one of them lives, so does the lock, whatever has happened to this process."""
    pauses_s: tuple[float, ...] = PAUSES_S

    def run(self, arguments: Sequence[str], *, limit_s: float | None = None) -> Finished:
        """Run a program to its end; that it cannot be started is a result as well.

        Raises
        ------
        SetupError
            When the time of all is over.
        """
        ends_at_s = self.ends_at_s if limit_s is None else min(self.ends_at_s, time.monotonic() + limit_s)
        try:
            process = self._start(arguments)
        except OSError as error:
            return Finished(127, f"{arguments[0]}: {error.strerror}")
        heartbeat_s = HEARTBEAT_S
        while True:
            try:
                output, _ = process.communicate(timeout=max(0.01, min(heartbeat_s, ends_at_s - time.monotonic())))
                return Finished(process.returncode, output)
            except subprocess.TimeoutExpired:
                if time.monotonic() < ends_at_s:
                    self.say(f"still at work, at most {ends_at_s - time.monotonic():.0f} s more")
                    continue
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                if time.monotonic() < self.ends_at_s:
                    return Finished(124, output)
                raise SetupError(
                    f"the time for making an environment is over. {_tail(output)}",
                    f"Start the job again if the network was slow today. {BAKE}",
                ) from None

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        libc = ctypes.CDLL(None)  # loaded here: nothing that takes a lock may happen between fork and exec

        def die_with_parent() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

        return subprocess.Popen(
            list(arguments),
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            pass_fds=() if self.lock_descriptor is None else (self.lock_descriptor,),
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # there are no threads yet
        )

    def insist(self, arguments: Sequence[str], *, what: str) -> str:
        """Run a program that must succeed, again where the network may have failed it, and return what it printed.

        Raises
        ------
        SetupError
            Saying what failed, with the end of the output and what to do.
        """
        for pause_s in (*self.pauses_s, None):
            finished = self.run(arguments)
            if finished.is_good:
                return finished.output
            if pause_s is None or not may_pass(finished.output) or time.monotonic() + pause_s > self.ends_at_s:
                break
            self.say(f"{what} failed, as it seems because of the network; once more in {pause_s:.0f} s")
            time.sleep(pause_s)
        raise explain(finished, what=what)


def may_pass(output: str) -> bool:
    """Tell whether a failure is one of the network, which may work in a moment."""
    return not NO_ROOM.search(output) and not NO_TRUST.search(output) and bool(NETWORK.search(output))


def explain(finished: Finished, *, what: str) -> SetupError:
    """Return the error for a program that has failed."""
    output = finished.output
    name = _culprit(output)
    message = f"{what} failed{f' at {name}' if name else ''} (exit code {finished.code}). {_tail(output)}"
    if NO_ROOM.search(output):
        return SetupError(
            message, f"The disk is full: let WSI_EXTRACT_ENV_DIR (job.environment_variables) name a larger one. {BAKE}"
        )
    if NO_TRUST.search(output):
        return SetupError(message, f"Certificates are not trusted: set PIP_CERT and SSL_CERT_FILE to yours. {BAKE}")
    if may_pass(output):
        return SetupError(
            message,
            "The network failed three times. If the node may reach a mirror only, set PIP_INDEX_URL (and "
            f"UV_PYTHON_INSTALL_MIRROR for Python itself) in job.environment_variables. {BAKE}",
        )
    return SetupError(message, BAKE)


def _culprit(output: str) -> str:
    for pattern in CULPRITS:
        match = pattern.search(output)
        if match is not None:
            return match[1]
    collected = LAST_COLLECTED.findall(output)
    return collected[-1] if collected else ""


def _tail(output: str) -> str:
    lines = [PASSWORD.sub("****", line.rstrip()) for line in output.splitlines() if line.strip()]
    shown = "\n".join(f"  | {line[:500]}" for line in lines[-N_LINES_SHOWN:])
    return f"It printed last:\n{shown}" if shown else "It printed nothing."
