"""What tests of clusters share: slides enough that things can happen in the middle of a run, and another process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.helpers_run import Inputs, content_of, extract, make_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRun:
    """A run of some hundred blocks."""

    inputs: Inputs
    settings: dict[str, Any]
    alone: dict[str, bytes]
    """The data set that one process makes."""


@pytest.fixture(scope="session")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> LongRun:
    """Made once; nothing of it is written to."""
    folder = tmp_path_factory.mktemp("long_run")
    inputs = make_inputs(folder / "input", n_slides=10)
    settings: dict[str, Any] = {"patches_per_slide": 150, "patch_size": 64}
    extract(inputs, folder / "alone", **settings)
    return LongRun(inputs=inputs, settings=settings, alone=content_of(folder / "alone"))


@pytest.fixture(scope="module")
def other_process() -> Iterator[Executor]:
    """For what leaves something behind that would be found in the middle of another test."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield process
