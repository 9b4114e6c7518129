"""Run the program in this process and note, many times per second, which function is at work.

    python -m benchmarks.sampled_run samples.json -- --wsi_dir ... --workers 0

A timer interrupts; the time since the last interruption is put down to the stack it finds. Native code, such as the
decoder of a tile, cannot be interrupted, but its time is not lost: it goes to the function that called it. The work of
other threads is counted apart. Imports nothing that the program would import itself, so that its start is seen too.
"""

from __future__ import annotations

import json
import linecache
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

SAMPLE_S = 0.002
SEPARATOR = ";"
PROGRAM = Path(__file__).resolve().parents[1] / "run_extraction.py"


Place = tuple[str, str, int]
"""A stack, ``file:function`` outermost first, and file and line of its innermost function."""


class Sampler:
    """Adds up the time of each place the main thread is found at."""

    def __init__(self) -> None:
        self._cpu_s: dict[Place, float] = {}
        self._wall_s: dict[Place, float] = {}
        self._last_cpu_s = self._last_wall_s = 0.0

    def start(self) -> None:
        """Begin; what the process has done until now was its start."""
        self._cpu_s["python:start", "", 0] = time.thread_time()
        self._last_cpu_s, self._last_wall_s = time.thread_time(), time.perf_counter()
        signal.signal(signal.SIGALRM, self._note)
        signal.setitimer(signal.ITIMER_REAL, SAMPLE_S, SAMPLE_S)

    def stop(self) -> None:
        """End."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _note(self, _number: int, frame: FrameType | None) -> None:
        cpu_s, wall_s = time.thread_time(), time.perf_counter()
        place = _place_of(frame)
        self._cpu_s[place] = self._cpu_s.get(place, 0.0) + cpu_s - self._last_cpu_s
        self._wall_s[place] = self._wall_s.get(place, 0.0) + wall_s - self._last_wall_s
        self._last_cpu_s, self._last_wall_s = cpu_s, wall_s

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return CPU and wall seconds by stack, whose last entry is the innermost function's line of source."""
        return {"cpu_s": _by_stack(self._cpu_s), "wall_s": _by_stack(self._wall_s)}


def _place_of(frame: FrameType | None) -> Place:
    file, line = ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno or 0)
    names: list[str] = []
    while frame is not None:
        names.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return SEPARATOR.join(reversed(names)), file, line


def _by_stack(seconds: dict[Place, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for (stack, file, line), each in seconds.items():
        # Two native calls of one function are told apart by their lines.
        source = linecache.getline(file, line).strip().replace(SEPARATOR, ",") if line else ""
        key = f"{stack}{SEPARATOR}line:{source}" if source else stack
        sums[key] = sums.get(key, 0.0) + each
    return sums


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and write what was noted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) < 2 or given[1] != "--":
        sys.stderr.write("usage: python -m benchmarks.sampled_run OUT.json -- ARGUMENTS OF run_extraction.py\n")
        return 2
    out, sys.argv = Path(given[0]), [str(PROGRAM), *given[2:]]
    sys.path[0] = str(PROGRAM.parent)  # where Python would look had the program been started itself
    sampler = Sampler()
    sampler.start()
    try:
        runpy.run_path(str(PROGRAM), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sampler.stop()
    others_s = max(0.0, time.process_time() - time.thread_time())
    out.write_text(json.dumps({**sampler.to_json(), "other_threads_cpu_s": others_s}))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
