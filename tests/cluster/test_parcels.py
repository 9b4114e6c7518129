"""Files that travel: what arrives is what a task at home would have written, in the same way, or nothing at all."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers_run import MEMORY_BYTES, Inputs, content_of, extract, make_inputs
from wsi_extract.cluster.parcels import Parcel, deliver, destination_of, moved_to, pack
from wsi_extract.disk.files import is_temporary
from wsi_extract.errors import EnvironmentFaultError, IntegrityError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.layout import claim_path
from wsi_extract.tasks import Task, TaskResult, attempt


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


def send(parcel: Parcel) -> Parcel:
    """What arrives in another process: buffers apart, as the network carries them."""
    buffers: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(parcel, protocol=5, buffer_callback=buffers.append)
    arrived: Parcel = pickle.loads(frame, buffers=[buffer.raw().tobytes() for buffer in buffers])
    return arrived


@dataclass(kw_only=True)
class TravellingExecutor:
    """Does each task in a folder of its own and delivers what is in it."""

    slides: SlideCache
    scratch: Path
    n_workers: int = 1
    worker_memory_bytes: int = MEMORY_BYTES
    parcels: list[Parcel] = field(default_factory=list)

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        for task in tasks:
            assert task is not None
            yield self.finish(task)

    def finish(self, task: Task) -> TaskResult:
        goal = destination_of(task.item)
        if goal is None:
            return attempt(task, self.slides)
        folder = self.scratch / str(len(list(self.scratch.iterdir())))
        folder.mkdir()
        result = attempt(replace(task, item=moved_to(task.item, folder)), self.slides)
        if result.fault is not None:
            return result
        parcel = send(pack(folder, goal))
        self.parcels.append(parcel)
        fault = attempt(replace(task, function=deliver, item=parcel), self.slides).fault
        return result if fault is None else TaskResult(task=task, fault=fault)


def travel(inputs: Inputs, folder: Path, **settings: Any) -> list[Parcel]:
    """Run the whole job with tasks that travel; return the parcels."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    with SlideCache() as slides:
        executor = TravellingExecutor(slides=slides, scratch=scratch)
        extract(inputs, folder / "out", executor=executor, **settings)
    return executor.parcels


@pytest.mark.parametrize("store", ["png", "zarr", "both", "pixels"])
def test_what_travelled_is_byte_for_byte_what_was_made_at_home(inputs: Inputs, tmp_path: Path, store: str) -> None:
    extract(inputs, tmp_path / "home", store=store)
    parcels = travel(inputs, tmp_path, store=store)
    assert len({parcel.destination.kind for parcel in parcels}) == (3 if store == "pixels" else 2)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "home")
    assert not [path for path in (tmp_path / "out").rglob("*") if is_temporary(path.name)]


def test_what_travels_is_not_copied_into_the_message(inputs: Inputs, tmp_path: Path) -> None:
    largest = max(travel(inputs, tmp_path), key=lambda parcel: parcel.content.nbytes)
    assert largest.content.nbytes > 100_000
    buffers: list[pickle.PickleBuffer] = []
    assert len(pickle.dumps(largest, protocol=5, buffer_callback=buffers.append)) < 10_000
    assert largest.__sizeof__() >= largest.content.nbytes


@pytest.fixture
def block(inputs: Inputs, tmp_path: Path) -> Parcel:
    """A block of PNG files on its way into a folder where it was delivered before."""
    return next(each for each in travel(inputs, tmp_path) if each.destination.kind.value == "block")


def parcel_of(files: dict[str, bytes], parcel: Parcel, folder: Path) -> Parcel:
    """Return the parcel with other files."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return pack(folder, parcel.destination)


def state_of(parcel: Parcel) -> dict[str, bytes]:
    folder = parcel.destination.output_dir
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_may_arrive_twice(block: Parcel) -> None:
    before = state_of(block)
    with SlideCache() as slides:
        deliver(block, slides)
    assert state_of(block) == before


def test_a_block_that_differs_from_its_record_sounds_the_alarm(block: Parcel, tmp_path: Path) -> None:
    before = state_of(block)
    files = {name: bytes(data) for name, data in block.files()}
    record = files[block.destination.record]
    at = record.index(b'"tissue_fraction":') + len(b'"tissue_fraction":')
    files[block.destination.record] = record[:at] + b"9" + record[at + 1 :]
    other = parcel_of(files, block, tmp_path / "other")
    with SlideCache() as slides, pytest.raises(IntegrityError, match="determinism alarm"):
        deliver(other, slides)
    assert state_of(block) == before


def test_nothing_is_written_to_a_folder_of_another_run(block: Parcel) -> None:
    claim = claim_path(block.destination.output_dir)
    claim.write_text("another\n")
    (block.destination.output_dir / block.destination.record).unlink()
    before = state_of(block)
    with SlideCache() as slides, pytest.raises(EnvironmentFaultError, match="taken over"):
        deliver(block, slides)
    assert state_of(block) == before


def test_a_folder_that_has_gone_is_not_made_anew(block: Parcel) -> None:
    shutil.rmtree(block.destination.output_dir)
    with SlideCache() as slides, pytest.raises(EnvironmentFaultError, match="has gone"):
        deliver(block, slides)
    assert not block.destination.output_dir.exists()


def test_what_was_damaged_on_its_way_is_refused(block: Parcel) -> None:
    content = block.content.copy()
    content[len(content) // 2] ^= 1
    (block.destination.output_dir / block.destination.record).unlink()
    before = state_of(block)
    with SlideCache() as slides, pytest.raises(EnvironmentFaultError, match="damaged on their way"):
        deliver(replace(block, content=content), slides)
    assert state_of(block) == before


def test_a_parcel_without_a_record_is_none(block: Parcel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pack(tmp_path, block.destination)


def test_long_files_are_written_in_pieces(block: Parcel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_extract.cluster.parcels.PIECE_BYTES", 1000)
    rng = np.random.default_rng(0)
    name = "train2017/slide_1/long.png"
    data = rng.bytes(12_345)
    record = bytes(list(block.files())[-1][1])
    longer = parcel_of({name: data, block.destination.record: record}, block, tmp_path / "longer")
    with SlideCache() as slides:
        deliver(longer, slides)
    assert (block.destination.output_dir / name).read_bytes() == data


def test_what_writes_nothing_goes_nowhere() -> None:
    assert destination_of("a description") is None
