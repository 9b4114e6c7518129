"""A folder belongs to one run: workers of another one, or of one whose folder has gone, write nothing there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_run import MEMORY_BYTES, Inputs, content_of, extract, make_inputs
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.layout import claim_path, run_path
from wsi_extract.state.run_claims import check_claim, read_claim, remove_claim, require_claim, run_digest, write_claim
from wsi_extract.tasks import SerialExecutor, Task, TaskResult, attempt
from wsi_extract.verify import audit, compare

DESCRIPTION: dict[str, object] = {
    "program": "p 1",
    "settings": {"seed": 1},
    "libraries": {"numpy": "2"},
    "annotations": "a" * 64,
    "stain_target": {"method": "macenko", "name": "a.png", "values": [0.1, 2]},
    "slides": {"s1": {"fingerprint": "f"}},
}
STORES = pytest.mark.parametrize("store", ["png", "zarr", "pixels"])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


class DriverDiedError(Exception):
    """Ends a run as if its process had been killed."""


@dataclass(kw_only=True)
class DyingDriver:
    """Hands out tasks and dies with the first one of a stage, which some worker still holds."""

    slides: SlideCache
    stage: str
    n_workers: int = 1
    worker_memory_bytes: int = MEMORY_BYTES
    held: list[Task] = field(default_factory=list)

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        for task in tasks:
            assert task is not None
            if task.stage == self.stage:
                self.held.append(task)
                raise DriverDiedError
            yield attempt(task, self.slides)


def late_task(inputs: Inputs, out: Path, *, stage: str, slides: SlideCache, **settings: Any) -> Task:
    driver = DyingDriver(slides=slides, stage=stage)
    with contextlib.suppress(DriverDiedError):
        extract(inputs, out, executor=driver, **settings)
    return driver.held[0]


def stage_of(store: str) -> str:
    return "pixels" if store == "pixels" else "extract"


@pytest.mark.parametrize(("store", "stage"), [("png", "extract"), ("zarr", "extract"), ("pixels", "pixels"),
                                              ("pixels", "label"), ("png", "survey")])  # fmt: skip
def test_a_late_worker_of_an_earlier_run_changes_nothing(
    inputs: Inputs, tmp_path: Path, store: str, stage: str
) -> None:
    out = tmp_path / "out"
    with SlideCache() as slides:
        task = late_task(inputs, out, stage=stage, slides=slides, store=store)
        extract(inputs, out, store=store, seed=7, fresh=True)
        before = content_of(out)
        with pytest.raises(EnvironmentFaultError, match="has been taken over by another run, with other settings"):
            task.function(task.item, slides)
    assert content_of(out) == before
    assert audit(out).is_sound


@STORES
def test_a_late_worker_of_the_same_run_does_no_harm(inputs: Inputs, tmp_path: Path, store: str) -> None:
    out = tmp_path / "out"
    with SlideCache() as slides:
        task = late_task(inputs, out, stage=stage_of(store), slides=slides, store=store)
        extract(inputs, out, store=store)
        before = content_of(out)
        task.function(task.item, slides)
    assert content_of(out) == before


@pytest.mark.parametrize(("store", "stage"), [("png", "extract"), ("zarr", "extract"), ("pixels", "pixels"),
                                              ("pixels", "label"), ("png", "survey")])  # fmt: skip
def test_a_folder_that_has_gone_is_not_made_anew(inputs: Inputs, tmp_path: Path, store: str, stage: str) -> None:
    """It would lie on the disk below the mount point."""
    out = tmp_path / "out"
    with SlideCache() as slides:
        task = late_task(inputs, out, stage=stage, slides=slides, store=store)
        shutil.rmtree(out)
        result = attempt(task, slides)
    assert result.fault is not None
    assert (result.fault.fault_class.value, result.fault.slide_id) == ("environment", task.slide_id)
    assert "has gone, or has been taken over" in result.fault.message
    assert not out.exists()


def test_a_folder_that_is_taken_over_in_the_middle_of_a_block_keeps_what_it_has(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with SlideCache() as slides:
        task = late_task(inputs, out, stage="extract", slides=slides)
        begun = 0

        def take_over(output_dir: Path, digest: str | None) -> None:
            nonlocal begun
            check_claim(output_dir, digest)
            begun += 1
            write_claim(out, {**DESCRIPTION, "settings": {"seed": 9}})

        monkeypatch.setattr("wsi_extract.stores.block_files.check_claim", take_over)
        with pytest.raises(EnvironmentFaultError, match="taken over"):
            task.function(task.item, slides)
    assert begun == 1
    assert [path for name in ("train2017", "val2017") for path in (out / name).rglob("*") if path.is_file()] == []


def test_a_run_ends_when_its_folder_is_taken_over(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Rival(SerialExecutor):
        def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
            for task in tasks:
                assert task is not None
                if task.stage == "extract":
                    write_claim(out, DESCRIPTION)
                yield attempt(task, self.slides)

    with SlideCache() as slides, pytest.raises(EnvironmentFaultError, match="taken over by another run"):
        extract(inputs, out, executor=Rival(slides=slides, worker_memory_bytes=MEMORY_BYTES))


def test_the_digest_is_of_everything_but_slides_and_the_name_of_the_picture() -> None:
    digest = run_digest(DESCRIPTION)
    assert run_digest({**DESCRIPTION, "slides": {}}) == digest
    assert run_digest({**DESCRIPTION, "stain_target": {"method": "macenko", "values": [0.1, 2]}}) == digest
    for name in ("program", "settings", "libraries", "annotations", "stain_target"):
        assert run_digest({**DESCRIPTION, name: "other"}) != digest


def test_a_claim_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_claim(tmp_path) is None
    with pytest.raises(EnvironmentFaultError, match="has gone"):
        require_claim(tmp_path)
    write_claim(tmp_path, DESCRIPTION)
    assert require_claim(tmp_path) == run_digest(DESCRIPTION)
    check_claim(tmp_path, run_digest(DESCRIPTION))
    remove_claim(tmp_path)
    remove_claim(tmp_path)
    assert read_claim(tmp_path) is None
    check_claim(tmp_path, None)


def test_a_file_where_a_folder_was_is_no_claim(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    assert read_claim(tmp_path / "out") is None


def test_verify_knows_the_claim(inputs: Inputs, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    extract(inputs, out)
    extract(inputs, other)
    assert audit(out).is_sound
    assert compare(out, other).is_sound
    whole = claim_path(out).read_bytes()
    for content, message in (
        (None, "missing"),
        (whole[:-1], "is not the claim"),
        (b"\xff" + whole, "is not the claim"),
    ):
        if content is None:
            claim_path(out).unlink()
        else:
            claim_path(out).write_bytes(content)
        assert [message in text for text in _problems(out)] == [True]
    extract(inputs, out)
    assert claim_path(out).read_bytes() == whole
    assert run_path(out).exists()


def _problems(out: Path) -> list[str]:
    return [str(problem) for problem in audit(out).problems if "claim" in str(problem)]
