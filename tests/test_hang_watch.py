"""A task that hangs in native code ends the process, with a word to the user; one that is just stopped does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from wsi_extract.hang_watch import HangWatch

LIMIT_S = 0.5
PROGRAM = """
import ctypes, os, signal, sys, time
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import SerialExecutor, Task

def native(item, slides):
    if item is sys.argv[1]:
        print("ready", flush=True)
    if item == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        return item
    library = ctypes.{library}(None)
    library.usleep(int(float(item) * 1e6))
    return item

tasks = [Task(stage="extract", slide_ordinal=0, slide_id="slide_7", index=i, function=native, item=item)
         for i, item in enumerate(sys.argv[1:])]
with SlideCache() as slides:
    executor = SerialExecutor(slides=slides, worker_memory_bytes=1, task_timeout_s={limit_s})
    print(*[result.value for result in executor.run(tasks)])
"""


def start(*items: float | str, library: str = "CDLL", limit_s: float = LIMIT_S) -> subprocess.Popen[str]:
    """Start a process whose tasks sleep in native code for so many seconds each; return when the first one begins.

    ``PyDLL`` keeps the interpreter's lock. A task that is ``"stop"`` stops the process instead.
    """
    program = PROGRAM.format(library=library, limit_s=limit_s)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, items)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_task_that_hangs_ends_the_process_and_is_named() -> None:
    process = start(0.01, 60)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out) == (5, "")
    assert err.startswith("\nerror: extract of slide slide_7 has not ended for ")
    assert "--workers N" in err  # this one reads in its own process again
    assert err.count("\n") == 2


def test_code_that_does_not_let_go_of_the_interpreter_ends_as_well() -> None:
    process = start(60, library="PyDLL", limit_s=0.15)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Timeout" in err
    assert "in native" in err


def test_many_short_tasks_do_not_hang_together() -> None:
    process = start(*(0.2 + 0.001 * i for i in range(10)), limit_s=1.5)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert len(out.split()) == 10


def test_a_process_that_was_stopped_does_not_hang() -> None:
    """Its clock went on, but it could do nothing."""
    limit_s = 2.0  # within which a busy machine gets round to ending the task
    process = start("stop", limit_s=limit_s)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    time.sleep(1.5 * limit_s)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out


def test_the_watch_leaves_nothing_behind() -> None:
    before = threading.active_count()
    with HangWatch(0.05) as watch:
        assert threading.active_count() == before + 1
        with watch.over(slide_id="s", stage="extract"):
            pass
        time.sleep(0.2)  # nothing is under way: nothing hangs
    assert threading.active_count() == before
    time.sleep(0.1)


def test_without_a_limit_there_is_no_thread() -> None:
    before = threading.active_count()
    with HangWatch(None) as watch, watch.over(slide_id="s", stage="extract"):
        assert threading.active_count() == before


def test_watching_costs_next_to_nothing() -> None:
    with HangWatch(60) as watch:
        started_s = time.thread_time()
        for _ in range(10_000):
            with watch.over(slide_id="s", stage="extract"):
                pass
        assert (time.thread_time() - started_s) / 10_000 < 100e-6


def test_an_error_in_the_block_comes_through() -> None:
    with pytest.raises(KeyError), HangWatch(60) as watch, watch.over(slide_id="s", stage="extract"):
        raise KeyError
