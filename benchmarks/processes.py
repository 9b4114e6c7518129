"""What a command costs with all processes it starts: wall and CPU time, memory, and how busy it kept the cores.

CPU time comes from the kernel's account of the whole tree (``wait4``). Memory and the course over time come from
``/proc``, looked at a few times per second, which costs about 1 % of a core; Linux only. Times are seconds.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Thread

LOOK_S = 0.1
"""Between two looks at the processes."""
_TAIL_BYTES = 2000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class FailedCommandError(RuntimeError):
    """A command that was to be measured did not succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The CPU time used so far, at one moment."""

    at_s: float
    """Seconds since the epoch, as files are stamped."""
    cpu_s: Mapping[int, float]
    """By process id, of every process that is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCost:
    """What one command cost."""

    started_s: float
    """Seconds since the epoch."""
    wall_s: float
    cpu_s: float
    """Of the process and all its descendants."""
    driver_cpu_s: float
    """Of the process alone, when it was last looked at."""
    driver_peak_bytes: int
    worker_peak_bytes: int
    """Resident memory of the largest descendant; 0 without descendants."""
    looks: tuple[Look, ...]
    others_cores: float = 0.0
    """Cores that the rest of the machine kept busy meanwhile: what disturbed the measurement."""

    @property
    def ended_s(self) -> float:
        """Seconds since the epoch."""
        return self.started_s + self.wall_s

    def cores_used(self, start_s: float, stop_s: float) -> float:
        """Return the mean number of cores that were busy between two moments, to the nearest look.

        Raises
        ------
        ValueError
            When fewer than two looks fall between them.
        """
        inside = [look for look in self.looks if start_s <= look.at_s <= stop_s]
        if len(inside) < 2:
            raise ValueError(f"{stop_s - start_s:.2f} s are too short to say how busy the cores were")
        used_s, known = 0.0, inside[0].cpu_s
        for look in inside[1:]:
            used_s += sum(max(0.0, cpu_s - known.get(pid, 0.0)) for pid, cpu_s in look.cpu_s.items())
            known = {**known, **look.cpu_s}
        return used_s / (inside[-1].at_s - inside[0].at_s)


def run_measured(command: Sequence[str], *, cores: Collection[int] | None = None) -> ProcessCost:
    """Run a command to its end and return what it cost.

    Python may keep what it compiled, as it does for users: else every start would compile all sources anew.

    Parameters
    ----------
    cores
        Processor numbers the command may use; ``None`` leaves it those of this process.

    Raises
    ------
    FailedCommandError
        When the exit code is not 0; with the end of what it printed.
    """
    with TemporaryFile() as printed:
        start_s, start, busy_s = time.time(), time.perf_counter(), _machine_busy_s()
        with _pinned(cores):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            )
        with _watched(process.pid) as watch:
            _, status, usage = os.wait4(process.pid, 0)
            wall_s, busy_s = time.perf_counter() - start, _machine_busy_s() - busy_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            printed.seek(0)
            tail = printed.read()[-_TAIL_BYTES:].decode(errors="replace")
            raise FailedCommandError(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return ProcessCost(
        started_s=start_s,
        wall_s=wall_s,
        cpu_s=cpu_s,
        driver_cpu_s=watch.driver_cpu_s,
        driver_peak_bytes=watch.peak_bytes.get(process.pid, 0),
        worker_peak_bytes=max((n for pid, n in watch.peak_bytes.items() if pid != process.pid), default=0),
        looks=tuple(watch.looks),
        others_cores=max(0.0, busy_s - cpu_s) / wall_s,
    )


@contextmanager
def _pinned(cores: Collection[int] | None) -> Iterator[None]:
    """Restrict this thread to ``cores``, and with it what it starts; a child could do so itself only after a fork."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, own if cores is None else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@contextmanager
def _watched(root: int) -> Iterator[_Watch]:
    """Look at a process and its descendants from a thread, so that waiting for its end is exact."""
    watch, is_over = _Watch(root), Event()

    def keep_looking() -> None:
        while not is_over.wait(LOOK_S):
            watch.look()

    watcher = Thread(target=keep_looking, daemon=True)
    watcher.start()
    try:
        yield watch
    finally:
        is_over.set()
        watcher.join()


class _Watch:
    """Looks at a process and its descendants."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.looks: list[Look] = []
        self.peak_bytes: dict[int, int] = {}
        self.driver_cpu_s = 0.0

    def look(self) -> None:
        """Note what each process has used so far."""
        cpu_s: dict[int, float] = {}
        for pid in descendants_of(self.root):
            try:
                cpu_s[pid] = _cpu_s(pid)
                self.peak_bytes[pid] = max(self.peak_bytes.get(pid, 0), _peak_bytes(pid))
            except (OSError, ValueError):
                continue  # it ended in between, or is a zombie that has no memory
        self.driver_cpu_s = cpu_s.get(self.root, self.driver_cpu_s)
        self.looks.append(Look(at_s=time.time(), cpu_s=cpu_s))


def descendants_of(root: int) -> list[int]:
    """Return a process and all processes it started that are alive, itself first."""
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue  # the thread has ended
    return found


def _machine_busy_s() -> float:
    """Return the time all processors were busy since the machine began: user, nice, system, interrupts, stolen."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(fields[i]) for i in (1, 2, 3, 6, 7, 8)) / _TICKS_PER_S


def _cpu_s(pid: int) -> float:
    # The name in brackets may hold blanks; user and system time are the 12th and 13th field after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no memory of its own")
