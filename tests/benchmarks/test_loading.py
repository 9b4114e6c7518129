from __future__ import annotations

import gc
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from benchmarks.contenders import (
    OURS_DEFAULT,
    OURS_NONE,
    OURS_PIXELS,
    WEBDATASET,
    Contender,
    check_pixels,
    write_contenders,
)
from benchmarks.formats import Payload
from benchmarks.loaders import LoaderOptions, count_patches
from benchmarks.loading import compare_loading, loading_plot, loading_table
from benchmarks.texture import TexturedSlide

CONTENDERS = 17

pytestmark = pytest.mark.filterwarnings(r"ignore:unclosed file .*\.tar:ResourceWarning")  # WebDataset closes no file


@pytest.fixture(scope="module")
def contenders(slide: TexturedSlide, payload: Payload, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Contender]:
    return write_contenders(tmp_path_factory.mktemp("formats"), slide, payload)


def test_every_format_gives_the_same_pixels(contenders: Sequence[Contender], payload: Payload) -> None:
    assert len({contender.name for contender in contenders}) == len(contenders) == CONTENDERS
    check_pixels(contenders, payload)


def test_other_pixels_are_noticed_before_anything_is_timed(contenders: Sequence[Contender], payload: Payload) -> None:
    folder_of_png = next(contender for contender in contenders if contender.name == "PNG folder, Pillow")
    path = folder_of_png.folder / "000003.png"
    whole = path.read_bytes()
    bgr = cv2.imread(str(path))
    assert bgr is not None
    bgr[5, 5, 0] ^= 1
    try:
        cv2.imwrite(str(path), bgr)
        with pytest.raises(RuntimeError, match="PNG folder, Pillow does not give every patch once"):
            check_pixels([folder_of_png], payload)
    finally:
        path.write_bytes(whole)


def test_loading_is_measured_for_every_format(contenders: Sequence[Contender], payload: Payload) -> None:
    results = compare_loading(contenders, shape=payload.patches.shape, n_rounds=1, workers=(0,), seed=0)
    assert [result.name for result in results] == [contender.name for contender in contenders]
    for result in results:
        assert result.by_workers[0].wall_ms > 0
        assert result.cold_ms > 0
        assert result.disk_bytes > 0
        assert (result.single_s == ()) == (result.name == WEBDATASET)
    table, plot = loading_table(results), loading_plot(results)
    assert all(result.name in table and result.name in plot for result in results)
    row = next(line for line in table.splitlines() if OURS_DEFAULT in line)
    assert " 1.00 " in row
    by_name = {result.name: result for result in results}
    assert by_name[OURS_NONE].name in table
    assert by_name[OURS_PIXELS].name in table


def test_loaders_shuffle_anew_in_every_epoch(contenders: Sequence[Contender], payload: Payload) -> None:
    loader = contenders[0].loader(LoaderOptions(n_workers=0, seed=3))
    orders = [[rgb.numpy().tobytes() for batch in loader for rgb in batch] for _ in range(3)]
    assert len(set(map(tuple, orders))) > 1
    assert all(sorted(order) == sorted(rgb.tobytes() for rgb in payload.patches) for order in orders)


@pytest.mark.parametrize("name", [OURS_DEFAULT, "LMDB of raw pixels"])
def test_loader_processes_give_every_patch(contenders: Sequence[Contender], payload: Payload, name: str) -> None:
    gc.collect()
    contender = next(contender for contender in contenders if contender.name == name)
    loader = contender.loader(LoaderOptions(n_workers=1, seed=0))
    assert count_patches(loader) == len(payload)


def test_count_looks_at_every_batch() -> None:
    batches = [torch.zeros((2, 4, 4, 3), dtype=torch.uint8), torch.zeros((1, 4, 4, 3), dtype=torch.uint8)]
    assert count_patches(batches) == 3
    assert np.uint8 == batches[0].numpy().dtype
