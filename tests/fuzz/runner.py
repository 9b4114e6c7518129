"""Runs a check on bytes that atheris invents, from seeds that are nearly right.

``python -m tests.fuzz.annotations_json -max_total_time=300`` fuzzes for five minutes; further arguments are those of
libFuzzer (llvm.org/docs/LibFuzzer.html). What it finds it leaves as ``crash-...`` in the current folder: add it to the
tests. Where atheris is not installed the program says so and ends well.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

Check = Callable[[bytes], object]
LARGEST_INPUT_BYTES = 65_536


def fuzz(name: str, *, seeds: Iterable[bytes]) -> None:
    """Call the function ``check`` of the module ``name`` until the time is up or it raises."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("skipped: atheris is not installed (pip install atheris)")
        return
    # atheris can follow only what is imported from here on: all of ours anew, so that no error exists twice.
    for module in [module for module in sys.modules if module.partition(".")[0] in {"wsi_extract", "tests"}]:
        del sys.modules[module]
    with atheris.instrument_imports(include=["wsi_extract", "json"]):
        check: Check = importlib.import_module(name).check
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, f"{number:03}").write_bytes(seed)
        atheris.Setup([*sys.argv, f"-max_len={LARGEST_INPUT_BYTES}", "-timeout=20", corpus], check)
        atheris.Fuzz()
