"""The driver tells the executor what follows each block, so that it can decide how many processes are worth it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers_run import MEMORY_BYTES, extract, make_inputs
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task, TaskResult, attempt


@dataclass(kw_only=True)
class NotingExecutor:
    """Notes how much each block holds, and what is said to follow it."""

    slides: SlideCache
    n_workers: int = 1
    worker_memory_bytes: int = MEMORY_BYTES
    seen: list[tuple[int, int | None]] = field(default_factory=list)

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        for task in tasks:
            assert task is not None
            if task.stage == "extract":
                self.seen.append((task.n_units, task.n_units_after))
            yield attempt(task, self.slides)


def test_what_follows_a_block_is_what_was_planned_less_what_was_handed_out(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=3)
    with SlideCache() as slides:
        executor = NotingExecutor(slides=slides)
        result = extract(inputs, tmp_path / "out", executor=executor, split_mode="half")
    assert len(executor.seen) >= 6
    n_left = result.plan.n_patches
    for n_units, n_after in executor.seen:
        n_left -= n_units
        assert n_after in {n_left, None}
    assert executor.seen[-1][1] == 0
