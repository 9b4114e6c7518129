"""Output folders that a run must not use, or must not finish; nothing in them is touched."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers_run import MEMORY_BYTES, Inputs, content_of, copy_inputs, extract, make_inputs
from wsi_extract.convert.options import ConvertRequest
from wsi_extract.convert.run import convert_dataset
from wsi_extract.errors import EnvironmentFaultError, InputError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.layout import MANIFEST
from wsi_extract.storage import Store
from wsi_extract.tasks import SerialExecutor, Task, TaskResult


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


@pytest.fixture
def out(inputs: Inputs, tmp_path: Path) -> Path:
    extract(inputs, tmp_path / "out", train_val_split=0.5)
    return tmp_path / "out"


def test_starting_over_deletes_no_file_of_a_user(inputs: Inputs, out: Path) -> None:
    mine = [out / "annotations" / "my_corrections.json", out / "train2017" / "slide_1" / "mine.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    before = content_of(out)
    with pytest.raises(InputError, match=r"(?s)my_corrections\.json.*Move them away"):
        extract(inputs, out, train_val_split=0.5, fresh=True)
    assert content_of(out) == before
    for path in mine:
        path.unlink()
    extract(inputs, out, train_val_split=0.5, fresh=True, seed=7)


def test_nothing_is_extracted_into_a_data_set_that_was_converted(inputs: Inputs, out: Path, tmp_path: Path) -> None:
    converted = tmp_path / "converted"
    convert_dataset(ConvertRequest(source_dir=out, destination=converted, store=Store.ZARR))
    before = content_of(converted)
    with pytest.raises(InputError, match="was converted from another data set"):
        extract(inputs, converted, train_val_split=0.5, store="zarr")
    assert content_of(converted) == before


@pytest.mark.parametrize("place", ["/", "~"])
def test_neither_the_root_nor_the_home_becomes_a_data_set(inputs: Inputs, place: str) -> None:
    with pytest.raises(InputError, match="is no place for a data set"):
        extract(inputs, Path(place), dry_run=True)


def test_a_link_to_nowhere_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="is a link to nowhere"):
        extract(inputs, tmp_path / "out")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_mount_that_is_gone_when_a_run_is_resumed_is_the_machines_fault(
    inputs: Inputs, tmp_path: Path, is_there: bool
) -> None:
    mounted = copy_inputs(inputs, tmp_path / "input")
    extract(mounted, tmp_path / "out", train_val_split=0.5)
    shutil.rmtree(mounted.wsi_dir)
    if is_there:
        mounted.wsi_dir.mkdir()
    with pytest.raises(EnvironmentFaultError, match=r"although .* was begun with slides"):
        extract(mounted, tmp_path / "out", train_val_split=0.5)
    with pytest.raises(InputError):
        extract(mounted, tmp_path / "new", train_val_split=0.5)
    assert (tmp_path / "out" / MANIFEST).exists()


class LosingExecutor:
    """Loses the output folder when the last result was handed back."""

    n_workers = 1
    worker_memory_bytes = MEMORY_BYTES

    def __init__(self, slides: SlideCache, *, out: Path, aside: Path) -> None:
        self.serial = SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES)
        self.out, self.aside = out, aside

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        result = None
        for task in tasks:
            if result is not None:
                yield result
            result = replace(next(self.serial.run([task])))
        if result is not None and result.task.stage == "extract":
            yield result
            self.out.rename(self.aside)
        elif result is not None:
            yield result


def test_a_folder_that_was_moved_away_is_not_finished_elsewhere(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with SlideCache() as slides, pytest.raises(EnvironmentFaultError, match="has gone"):
        extract(inputs, out, train_val_split=0.5, executor=LosingExecutor(slides, out=out, aside=tmp_path / "aside"))
    assert not (out / MANIFEST).exists()
    (tmp_path / "aside").rename(out)
    extract(inputs, out, train_val_split=0.5)
    assert (out / MANIFEST).exists()
