"""Shuffled batches from every format through torch's DataLoader: the same tensors, made in the same way.

Every data set answers a whole batch with one uint8 tensor (B, H, W, 3), so that no format pays for a collate
function that another one is spared. WebDataset brings its own loading, which is sequential, and is used as it is meant.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from benchmarks.formats import PatchFormat, ReadBatch, ReadPatch
from wsi_extract.arrays import RgbImage
from wsi_extract.torch_dataset import PatchBatch, PatchTensors

BATCH_SIZE = 32
SHUFFLE_BUFFER = 1000
"""Samples WebDataset holds to shuffle among; it suggests this order of magnitude."""
START_METHOD = "forkserver"
"""Of loader processes: tensorstore and other libraries with threads do not survive a fork."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """How batches are asked for."""

    n_workers: int
    seed: int


class FormatPatches(Dataset[torch.Tensor]):
    """Batches of one format, opened in whichever process reads."""

    def __init__(self, patch_format: PatchFormat, folder: Path, *, shape: tuple[int, int, int, int]) -> None:
        self._format = patch_format
        self._folder = folder
        self._shape = shape
        self._pid = 0
        self._read: ReadPatch | None = None
        self._read_batch: ReadBatch | None = None

    def __len__(self) -> int:
        return self._shape[0]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pid": 0, "_read": None, "_read_batch": None}

    def __getitems__(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return the patches of a batch in the order given."""
        batch = torch.empty((len(numbers), *self._shape[1:]), dtype=torch.uint8)
        rows = batch.numpy()
        self._open()
        if self._read_batch is not None:
            for place, rgb in enumerate(self._read_batch(numbers)):
                rows[place] = rgb
        else:
            assert self._read is not None
            for place, number in enumerate(numbers):
                rows[place] = self._read(number)
        return batch

    def read_into(self, number: int, out: RgbImage) -> None:
        """Write one patch to ``out``."""
        self._open()
        assert self._read is not None
        out[...] = self._read(number)

    def _open(self) -> None:
        if self._pid == os.getpid():
            return
        self._read = self._format.open(self._folder)
        if self._format.open_batch is not None:
            self._read_batch = self._format.open_batch(self._folder)
        self._pid = os.getpid()


def _as_it_is(batch: torch.Tensor) -> torch.Tensor:
    return batch


def _pixels(batch: PatchBatch) -> torch.Tensor:
    return PatchTensors.collate(batch)[0]


def format_loader(patches: FormatPatches, options: LoaderOptions) -> Iterable[torch.Tensor]:
    """Return the loader of a format; it can be gone through again and again, each time in another order."""
    return _loader(patches, collate=_as_it_is, options=options)


def our_loader(output_dir: Path, options: LoaderOptions) -> Iterable[torch.Tensor]:
    """Return a loader of this package's `PatchTensors`."""
    patches = PatchTensors(output_dir, "train")
    return _loader(patches, collate=_pixels, options=options)


def webdataset_loader(folder: Path, options: LoaderOptions) -> Iterable[torch.Tensor]:
    """Return WebDataset's pipeline: shards in random order, a buffer to shuffle in, PNG decoded by Pillow."""
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    patches = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), seed=options.seed, empty_check=False)
        .shuffle(SHUFFLE_BUFFER)
        .decode("rgb8")
        .to_tuple("png")
        .batched(BATCH_SIZE, collation_fn=_stacked, partial=True)
    )
    return DataLoader(
        patches,
        batch_size=None,
        num_workers=options.n_workers,
        persistent_workers=options.n_workers > 0,
        multiprocessing_context=START_METHOD if options.n_workers else None,
    )


def _stacked(samples: Sequence[tuple[RgbImage]]) -> torch.Tensor:
    batch = torch.empty((len(samples), *samples[0][0].shape), dtype=torch.uint8)
    rows = batch.numpy()
    for place, (rgb,) in enumerate(samples):
        rows[place] = rgb
    return batch


def _loader(
    patches: Dataset[Any], *, collate: Callable[[Any], torch.Tensor], options: LoaderOptions
) -> DataLoader[torch.Tensor]:
    return DataLoader(
        patches,
        batch_size=BATCH_SIZE,
        shuffle=True,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(options.seed),
        num_workers=options.n_workers,
        persistent_workers=options.n_workers > 0,
        multiprocessing_context=START_METHOD if options.n_workers else None,
    )


def count_patches(loader: Iterable[torch.Tensor]) -> int:
    """Go through an epoch, look at one pixel of every patch, and return how many there were."""
    n_patches = 0
    for batch in loader:
        assert batch.dtype == torch.uint8
        n_patches += len(np.asarray(batch[:, 0, 0, 0]))
    return n_patches
