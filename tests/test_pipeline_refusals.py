"""A run that is refused leaves nothing behind, and is refused before any slide is opened where that is possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_run import MEMORY_BYTES, Inputs, extract, make_inputs
from wsi_extract.errors import EnvironmentFaultError, InputError, WsiExtractError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.claim import refuse_foreign
from wsi_extract.state.folder_lock import ended_hard, refuse_locked
from wsi_extract.tasks import SerialExecutor, Task, TaskResult


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


@dataclass(kw_only=True)
class Watcher:
    """Looks at the lock as each stage begins."""

    out: Path
    n_workers: int = 1
    worker_memory_bytes: int = MEMORY_BYTES
    n_locked: int = 0
    n_runs: int = 0

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        self.n_runs += 1
        try:
            refuse_locked(self.out)
        except EnvironmentFaultError:
            self.n_locked += 1
        with SlideCache() as slides:
            yield from SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES).run(tasks)


def test_the_folder_is_locked_before_the_first_slide_is_opened(inputs: Inputs, tmp_path: Path) -> None:
    watcher = Watcher(out=tmp_path / "out")
    extract(inputs, tmp_path / "out", executor=watcher)
    assert watcher.n_locked == watcher.n_runs == 2
    assert not ended_hard(tmp_path / "out")


def test_a_dry_run_touches_nothing(inputs: Inputs, tmp_path: Path) -> None:
    watcher = Watcher(out=tmp_path / "out")
    extract(inputs, tmp_path / "out", executor=watcher, dry_run=True)
    assert (watcher.n_locked, list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize("settings", [{"level": 7}, {"test_slides": ["nobody"]}])
def test_a_run_that_is_refused_leaves_nothing(inputs: Inputs, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(WsiExtractError):
        extract(inputs, tmp_path / "new" / "out", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "foreign", "link"])
def test_a_folder_that_no_run_can_use_is_refused_before_slides_are_opened(
    inputs: Inputs, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "train2017").mkdir() if kind == "foreign" else (out / "train2017").symlink_to(tmp_path)
    watcher = Watcher(out=out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError):
        extract(inputs, out, executor=watcher)
    with pytest.raises(InputError):
        refuse_foreign(out)
    assert watcher.n_runs == 0
    assert sorted(tmp_path.rglob("*")) == before
