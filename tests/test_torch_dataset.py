"""Plain tensors and samplers: batches without copies, orders that resume, errors that reach the training process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler

from tests.helpers_dataset import SETTING_OF, STORES, file_of, open_store, own_dataset, shared_dataset
from wsi_extract.epochs import EpochOrder, OnlineOrder, weights_of
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.sampling import OnlineOptions
from wsi_extract.storage import Store
from wsi_extract.torch_dataset import EpochSampler, OnlineDetectionDataset, PatchTensors

each_store = pytest.mark.parametrize("store", STORES)
each_loader = pytest.mark.parametrize(
    "loader_settings",
    [
        pytest.param({"num_workers": 0}, id="no workers"),
        pytest.param({"num_workers": 2, "multiprocessing_context": "fork"}, id="fork"),
    ],
)


def tensors(tmp_path: Path, store: Store = Store.ZARR) -> PatchTensors:
    return PatchTensors(shared_dataset(tmp_path, setting=SETTING_OF[store]), "train", store.value)


@each_store
@each_loader
def test_batches_hold_the_patches_asked_for(tmp_path: Path, store: Store, loader_settings: dict[str, Any]) -> None:
    dataset = tensors(tmp_path, store)
    order = EpochOrder(n_rows=len(dataset), seed=1)
    for collate in (PatchTensors.collate, None):
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=7, sampler=EpochSampler(order), collate_fn=collate, **loader_settings
        )
        batches = list(loader)
        assert torch.cat([numbers for _, numbers in batches]).tolist() == order.keys(0, slice(None))
        for pixels, numbers in batches:
            assert pixels.dtype == torch.uint8
            assert np.array_equal(pixels.numpy(), dataset.patches.read_many(numbers.tolist()))


def test_batches_of_another_data_set_are_refused() -> None:
    with pytest.raises(TypeError, match="leave collate_fn out"):
        PatchTensors.collate([(torch.zeros(2), 0)])


def test_a_batch_is_decoded_where_it_stays(tmp_path: Path) -> None:
    dataset = tensors(tmp_path)
    batch = dataset.__getitems__([4, 2])
    pixels, numbers = PatchTensors.collate(batch)
    assert [image.data_ptr() for image, _ in batch] == [pixels[0].data_ptr(), pixels[1].data_ptr()]
    assert [number for _, number in batch] == numbers.tolist() == [4, 2]
    image, number = dataset[2]
    assert torch.equal(image, pixels[1])
    assert number == 2


def test_spawned_processes_read_too(tmp_path: Path) -> None:
    dataset = tensors(tmp_path)
    settings: dict[str, Any] = {"batch_size": 7, "collate_fn": PatchTensors.collate}
    spawned = list(DataLoader(dataset, num_workers=1, multiprocessing_context="spawn", **settings))
    for (pixels, numbers), (expected, expected_numbers) in zip(spawned, DataLoader(dataset, **settings), strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(numbers, expected_numbers)


@each_store
@each_loader
def test_a_lost_patch_stops_the_training_and_is_named(
    tmp_path: Path, store: Store, loader_settings: dict[str, Any]
) -> None:
    out = own_dataset(tmp_path, setting=SETTING_OF[store])
    patches = open_store(out, store)
    path = file_of(patches, 0)
    path.write_bytes(path.read_bytes()[:-5])
    loader: DataLoader[Any] = DataLoader(PatchTensors(out, "train", store.value), batch_size=4, **loader_settings)
    batches: Any = iter(loader)
    with pytest.raises(IntegrityError, match=r"patch slide_\d/slide_\d_x\d+_y\d+\.png of slide slide_\d \(train\)"):
        list(batches)
    if loader_settings["num_workers"]:
        batches._shutdown_workers()  # or the garbage collector does it, which takes torch ten seconds


@given(
    n=st.integers(min_value=1, max_value=100),
    world_size=st.integers(min_value=1, max_value=6),
    batch_size=st.integers(min_value=1, max_value=9),
    n_steps=st.integers(min_value=0, max_value=30),
    new_world_size=st.integers(min_value=1, max_value=6),
)
def test_a_stopped_job_goes_on_with_the_next_sample(
    n: int, world_size: int, batch_size: int, n_steps: int, new_world_size: int
) -> None:
    order = EpochOrder(n_rows=n, seed=2)
    samplers = [EpochSampler(order, rank=rank, world_size=world_size) for rank in range(world_size)]
    used: list[int] = []
    for sampler in samplers:
        sampler.set_epoch(5)
    streams = [iter(sampler) for sampler in samplers]
    for _ in range(n_steps):
        n_now = min(batch_size, len(samplers[0]))
        for sampler, stream in zip(samplers, streams, strict=True):
            used += [next(stream) for _ in range(n_now)]
            sampler.advance(n_now)
    state = samplers[0].state_dict()
    assert all(sampler.state_dict() == state for sampler in samplers), "every rank knows where the job is"
    rest: list[int] = []
    for rank in range(new_world_size):
        sampler = EpochSampler(order, rank=rank, world_size=new_world_size, tail="keep")
        sampler.load_state_dict(state)
        sampler.set_epoch(5)
        rest += list(sampler)
        assert len(sampler) == len(list(sampler))
    assert sorted(used + rest) == list(range(n))
    assert used == order.keys(5, slice(None))[: len(used)] or batch_size > 1


@given(n=st.integers(min_value=0, max_value=60), world_size=st.integers(min_value=1, max_value=7))
def test_ranks_take_equally_many_steps_unless_told_to_keep_all(n: int, world_size: int) -> None:
    order = EpochOrder(n_rows=n, seed=2)
    even = [EpochSampler(order, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(list(sampler)) for sampler in even} == {n // world_size}
    every = [EpochSampler(order, rank=rank, world_size=world_size, tail="keep") for rank in range(world_size)]
    assert sorted(row for sampler in every for row in sampler) == list(range(n))


@each_loader
def test_prefetched_batches_do_not_count_as_used(tmp_path: Path, loader_settings: dict[str, Any]) -> None:
    dataset = tensors(tmp_path)
    order = EpochOrder(n_rows=len(dataset), seed=7)
    sampler = EpochSampler(order)
    sampler.set_epoch(3)

    def batches() -> Any:
        return iter(
            DataLoader(dataset, batch_size=5, sampler=sampler, collate_fn=PatchTensors.collate, **loader_settings)
        )

    seen: list[int] = []
    stream = batches()
    for _ in range(2):
        _, numbers = next(stream)
        seen += numbers.tolist()
        sampler.advance(len(numbers))
    del stream
    state = sampler.state_dict()
    assert (state["epoch"], state["n_consumed"]) == (3, 10)
    sampler = EpochSampler(order)
    sampler.load_state_dict(state)
    for _, numbers in batches():
        seen += numbers.tolist()
    assert seen == order.keys(3, slice(None))


def test_epochs_begin_where_they_should() -> None:
    sampler = EpochSampler(EpochOrder(n_rows=20, seed=1))
    first = list(sampler)
    assert list(sampler) == first
    sampler.advance(15)
    sampler.set_epoch(0)
    assert list(sampler) == first[15:], "the epoch it is in goes on"
    sampler.set_epoch(1)
    assert sorted(sampler) == sorted(first)
    assert list(sampler) != first
    sampler.advance(20)
    assert list(sampler) == []
    assert (sampler.epoch, sampler.n_consumed) == (1, 20)


def test_states_that_cannot_be_are_refused() -> None:
    sampler = EpochSampler(EpochOrder(n_rows=20, seed=1))
    with pytest.raises(InputError, match="21 samples cannot have been used: 20 were left of epoch 0"):
        sampler.advance(21)
    with pytest.raises(InputError, match="21 positions of an epoch of 20 cannot be used already"):
        sampler.load_state_dict({**sampler.state_dict(), "n_consumed": 21})
    assert (sampler.epoch, sampler.n_consumed) == (0, 0)
    with pytest.raises(InputError, match="rank 1 is not one of the 1 ranks"):
        EpochSampler(EpochOrder(n_rows=20, seed=1), rank=1)


def test_weights_reach_the_loader(tmp_path: Path) -> None:
    dataset = tensors(tmp_path)
    index = dataset.patches.index
    order = EpochOrder(
        n_rows=len(dataset), seed=1, weights=weights_of(index, kind_shares={"mitosis": 1}), n_per_epoch=50
    )
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=10, sampler=EpochSampler(order), collate_fn=PatchTensors.collate
    )
    numbers = torch.cat([numbers for _, numbers in loader]).numpy()
    assert len(numbers) == 50
    assert {index.kind[number] for number in numbers} == {2}


def test_the_samplers_of_torch_work_too(tmp_path: Path) -> None:
    dataset = tensors(tmp_path)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=8, sampler=RandomSampler(dataset), collate_fn=PatchTensors.collate
    )
    assert sorted(torch.cat([numbers for _, numbers in loader]).tolist()) == list(range(len(dataset)))


def _first_of_each(batch: list[Any]) -> list[Any]:
    return [(np.asarray(image), target) for image, target in batch]


@each_loader
def test_online_patches_come_with_targets(tmp_path: Path, loader_settings: dict[str, Any]) -> None:
    out = shared_dataset(tmp_path, setting="pixels")
    dataset = OnlineDetectionDataset(out, "train", options=OnlineOptions(seed=4))
    sampler = EpochSampler(OnlineOrder(n_per_epoch=30))
    sampler.set_epoch(2)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=8, sampler=sampler, collate_fn=_first_of_each, **loader_settings
    )
    items = [item for batch in loader for item in batch]
    assert len(items) == 30
    for number, (pixels, target) in enumerate(items):
        patch = dataset.patches.read(2, number)
        boxes = [label for label in patch.labels if not label.is_crowd]
        assert np.array_equal(pixels, patch.pixels)
        assert list(target) == ["boxes", "labels", "image_id", "area", "iscrowd", "orig_size", "size"]
        assert target["labels"].tolist() == [label.category_id for label in boxes]
        assert target["image_id"].tolist() == [number + 1]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (label.xywh_out for label in boxes)]
        assert torch.allclose(target["boxes"], torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    assert any(len(target["labels"]) for _, target in items)


def test_online_items_pass_through_transforms(tmp_path: Path) -> None:
    def sized(image: Any, target: Any) -> tuple[Any, Any]:
        return image.size, target

    dataset = OnlineDetectionDataset(
        shared_dataset(tmp_path, setting="pixels"), "val", sized, options=OnlineOptions(seed=4)
    )
    assert dataset[0, 0][0] == (128, 128)


_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import wsi_extract.dataset, wsi_extract.epochs, wsi_extract.deformable_detr, wsi_extract.online_patches
try:
    import wsi_extract.torch_dataset
except ImportError as error:
    print(error)
"""


def test_without_torch_only_this_module_fails_and_says_what_to_do() -> None:
    result = subprocess.run([sys.executable, "-c", _WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert "needs PyTorch: pip install torch" in result.stdout


def test_nothing_else_imports_torch() -> None:
    code = "import sys, wsi_extract.pipeline, wsi_extract.deformable_detr; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"epoch": -1}, "epochs count from 0", id="negative epoch"),
        pytest.param({"order": 0}, "another seed", id="another order"),
    ],
)
def test_states_that_do_not_fit_are_refused(change: dict[str, int], expected: str) -> None:
    sampler = EpochSampler(EpochOrder(n_rows=20, seed=1))
    with pytest.raises(InputError, match=expected):
        sampler.load_state_dict({**sampler.state_dict(), **change})
    with pytest.raises(InputError, match="lacks epoch, n_consumed, order"):
        sampler.load_state_dict({})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(EpochOrder(n_rows=20, seed=2), id="seed"),
        pytest.param(EpochOrder(n_rows=21, seed=1), id="rows"),
        pytest.param(EpochOrder(n_rows=20, seed=1, weights=np.ones(20)), id="weights"),
        pytest.param(OnlineOrder(n_per_epoch=20), id="online"),
    ],
)
def test_a_state_of_another_order_is_refused(other: EpochOrder | OnlineOrder) -> None:
    state = EpochSampler(EpochOrder(n_rows=20, seed=1)).state_dict()
    with pytest.raises(InputError, match="another seed"):
        EpochSampler(other).load_state_dict(state)


def test_seeds_may_be_numpy_integers() -> None:
    plain, numpy = EpochOrder(n_rows=20, seed=1), EpochOrder(n_rows=20, seed=int(np.int64(1)))
    assert numpy.identity == plain.identity
    by_numpy = EpochOrder(n_rows=20, seed=np.int64(1))  # type: ignore[arg-type]  # what users pass
    assert by_numpy.keys(0, slice(None)) == plain.keys(0, slice(None))
