"""Signals in the middle of everything: one line, the right code; a second one ends the program at once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsi_extract.interrupts import SAME_EVENT_S, HungUp, Terminated, exit_code_of, held, stoppable

ROOT = Path(__file__).resolve().parents[1]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
STOPPING = """
import sys, time
from contextlib import nullcontext
from wsi_extract import interrupts
from wsi_extract.interrupts import exit_code_of, held, stoppable
interrupts.SAME_EVENT_S = {same_event_s}
try:
    with stoppable():
        try:
            with {block}:
                print("working", flush=True)
                time.sleep({work_s})
        finally:
            print("stopping", flush=True)
            time.sleep({stop_s})
            print("stopped", flush=True)
except KeyboardInterrupt as error:
    sys.exit(exit_code_of(error))
"""


@pytest.fixture(autouse=True)
def _loggers_speak_again() -> Iterator[None]:
    hook = sys.unraisablehook
    yield
    logging.disable(logging.NOTSET)
    sys.unraisablehook = hook


def start(
    *, block: str = "nullcontext()", work_s: float = 60, stop_s: float = 0.0, same_event_s: float = SAME_EVENT_S
) -> subprocess.Popen[str]:
    script = STOPPING.format(block=block, work_s=work_s, stop_s=stop_s, same_event_s=same_event_s)
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def insist(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal until the process has ended; on a busy machine it may see the first two as one event."""
    for _ in range(20):
        time.sleep(0.7)
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
            return


@pytest.mark.parametrize("number", CODES)
def test_each_signal_has_its_class_and_code(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, stoppable():
        signal.raise_signal(number)
    assert caught.type is {signal.SIGTERM: Terminated, signal.SIGHUP: HungUp}.get(number, KeyboardInterrupt)
    assert exit_code_of(caught.value) == CODES[number]


@pytest.mark.parametrize("second", CODES)
def test_a_second_signal_ends_the_program_at_once_with_the_code_of_the_first(second: signal.Signals) -> None:
    process = start(stop_s=60)
    process.terminate()
    assert process.stdout is not None
    assert process.stdout.readline() == "stopping\n"
    insist(process, second)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 143


def test_signals_of_one_event_count_once() -> None:
    """Ctrl-C often arrives twice: from the terminal, and from the program that started this one."""
    process = start(stop_s=0.3, same_event_s=60)  # on a busy machine a process may sleep for longer than usual
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.02)
    assert process.communicate(timeout=250) == ("stopping\nstopped\n", "")
    assert process.returncode == 130


def test_a_second_signal_ends_what_puts_signals_off() -> None:
    process = start(block="held()")
    process.send_signal(signal.SIGINT)
    insist(process, signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as check, held():
            signal.raise_signal(signal.SIGHUP)
            check()
    finally:
        signal.signal(signal.SIGHUP, before)


def stop_while_held(reached: list[str]) -> None:
    with held(), held():
        signal.raise_signal(signal.SIGTERM)
        reached.append("end of the blocks")


def test_blocks_within_blocks_put_a_signal_off_to_the_end_of_the_outer_one() -> None:
    reached: list[str] = []
    with stoppable() as check:
        with pytest.raises(Terminated):
            stop_while_held(reached)
        with pytest.raises(Terminated):
            check()  # remembered, wherever it was caught
    assert reached == ["end of the blocks"]


def fail_while_held() -> None:
    with held():
        signal.raise_signal(signal.SIGTERM)
        raise OSError("workers are gone")


def test_what_fails_because_of_the_signal_is_no_news() -> None:
    with stoppable(), pytest.raises(Terminated) as caught:
        fail_while_held()
    assert isinstance(caught.value.__context__, OSError)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in CODES]
    with stoppable(), held():
        assert os.getpid()
    assert [signal.getsignal(number) for number in CODES] == before


def test_what_python_drops_of_a_signal_is_not_shown() -> None:
    """A collection of garbage runs callbacks, Dask's for one, out of which no exception gets."""
    code = """
import gc, os, signal
from wsi_extract.interrupts import stoppable
def stop(phase, info):
    if phase == "start":
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10_000))
with stoppable() as check:
    gc.callbacks.append(stop)
    gc.collect()
    gc.callbacks.clear()
    try:
        check()
    except KeyboardInterrupt:
        print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
