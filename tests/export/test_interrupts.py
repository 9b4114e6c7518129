"""Signals: exports and conversions stop, wherever they are, and can be continued."""

from __future__ import annotations

import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from tests.export.helpers import content_of, export, make_source
from tests.helpers_convert import convert, finished
from wsi_extract.export import hdf5_files
from wsi_extract.export.options import ExportFormat
from wsi_extract.interrupts import Terminated, held, stoppable
from wsi_extract.verify import compare

SIGNALLED = """
import os, sys
from wsi_extract import blocks
from wsi_extract.__main__ import main
from wsi_extract.export import hdf5_files
blocks.MIN_BLOCK_PATCHES = 16  # as in all tests
hdf5_files.PATCHES_PER_PART = 3
number, n_left = int(sys.argv[1]), int(sys.argv[2])
def on_event(event, arguments):
    global n_left
    if event == "open" and str(arguments[0]).endswith(".partial"):
        n_left -= 1
        if n_left == 0:
            os.kill(os.getpid(), number)
sys.addaudithook(on_event)
sys.exit(main(sys.argv[3:]))
"""
"""The program sends itself a signal when it opens its n-th temporary file."""
ADVICE = "interrupted; give the same command again to go on\n"


def run_signalled(number: signal.Signals, n_files: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SIGNALLED, str(number.value), str(n_files), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("number", "code", "export_format"),
    [(signal.SIGINT, 130, ExportFormat.HDF5), (signal.SIGTERM, 143, ExportFormat.YOLO)],
)
def test_an_interrupted_export_stops_and_goes_on(
    tmp_path: Path, number: signal.Signals, code: int, export_format: ExportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, dest = make_source(tmp_path / "out"), tmp_path / "dest"
    result = run_signalled(number, 4, "export", out, "--to", export_format, "--dest", dest)
    assert (result.returncode, result.stderr) == (code, ADVICE)
    assert not (dest / "export.json").exists()
    monkeypatch.setattr(hdf5_files, "PATCHES_PER_PART", 3)
    export(out, dest, export_format)
    export(out, tmp_path / "whole", export_format)
    assert content_of(dest) == content_of(tmp_path / "whole")


def test_an_interrupted_conversion_stops_and_goes_on(tmp_path: Path) -> None:
    out, dest = finished(tmp_path, "png"), tmp_path / "dest"
    result = run_signalled(signal.SIGTERM, 12, "convert", out, "--store", "zarr", "--dest", dest, "--workers", 1)
    assert (result.returncode, result.stderr) == (143, ADVICE)
    assert not (dest / "manifest.json").exists()
    convert(out, dest, "zarr")
    convert(out, tmp_path / "whole", "zarr")
    assert compare(dest, tmp_path / "whole").is_sound


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_signals_raise_at_once(number: signal.Signals, kind: type[KeyboardInterrupt]) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as caught, stoppable():
        signal.raise_signal(number)
    assert caught.type is kind
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_was_swallowed_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what a weakref callback raises, and goes on."""
    swallowed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # which the signal replaces: put it back

    def stop(_reference: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated:
            swallowed.append(Terminated)
            raise

    with stoppable() as check:
        check()
        short_lived = {1, 2}
        watched = weakref.ref(short_lived, stop)
        del short_lived
        assert watched() is None
        assert swallowed == [Terminated]
        with pytest.raises(Terminated):
            check()


def raise_held(number: signal.Signals, reached: list[str]) -> None:
    with held():
        signal.raise_signal(number)
        reached.append("end of the block")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_held_signal_raises_after_the_block(number: signal.Signals) -> None:
    reached: list[str] = []
    with stoppable():
        with pytest.raises(KeyboardInterrupt):
            raise_held(number, reached)
        with held():
            reached.append("nothing arrived")
    assert reached == ["end of the block", "nothing arrived"]


def test_what_goes_wrong_in_a_held_block_comes_through() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="wrong"), held():
        raise ValueError("wrong")
    assert signal.getsignal(signal.SIGINT) is before
