"""PyTorch over a finished data set: for Deformable DETR, for plain tensors, and samplers that can resume.

Images and targets of `DetectionDataset` are those of the official Deformable-DETR loader, tensor by tensor. Every
class may be used with any number of loader processes, made by fork, spawn or forkserver. Nothing else in the package
imports torch, and torchvision is not needed.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.coco import AREA_DECIMALS
from wsi_extract.dataset import open_dataset
from wsi_extract.deformable_detr import store_backed
from wsi_extract.epochs import KeyOrder, positions_of
from wsi_extract.errors import InputError
from wsi_extract.index import coco_dict
from wsi_extract.online_patches import OnlinePatches
from wsi_extract.sampling import OnlineOptions

try:
    import torch
    from torch import Tensor
    from torch.utils.data import Dataset, Sampler, get_worker_info
except ImportError as error:
    raise ImportError(
        "wsi_extract.torch_dataset needs PyTorch: pip install torch "
        "(without a GPU: pip install torch --index-url https://download.pytorch.org/whl/cpu)"
    ) from error

if TYPE_CHECKING:
    from pycocotools.coco import COCO

__all__ = [
    "DetectionDataset", "EpochSampler", "OnlineDetectionDataset", "PatchBatch", "PatchTensors", "store_backed",
]  # fmt: skip

KeyT = TypeVar("KeyT")
Target: TypeAlias = dict[str, Tensor]
Transforms: TypeAlias = Callable[[Image.Image, Target], tuple[object, Target]]
"""The official transforms: what they return for the image, usually a float tensor, goes to the training."""


class DetectionDataset(Dataset[tuple[object, Target]]):
    """Images and targets of one split, as the official Deformable-DETR loader gives them.

    ``dataset[i]`` is a Pillow RGB image and a target of tensors: ``boxes`` float32 (N, 4) x0 y0 x1 y1 patch px,
    ``labels`` int64 (N,), ``image_id`` int64 (1,), ``area`` float32 (N,), ``iscrowd`` int64 (N,) (float32 in images
    without boxes, as there), ``orig_size`` and ``size`` int64 (2,) height and width. Objects to ignore are left out.

    Parameters
    ----------
    output_dir
        The output folder of an extraction.
    split
        ``train``, ``val`` or ``test``.
    transforms
        Called with image and target; what it returns is the item. ``None`` gives them as they are.
    store
        See `wsi_extract.dataset.open_dataset`.
    """

    def __init__(
        self,
        output_dir: Path | str,
        split: str = "train",
        transforms: Transforms | None = None,
        store: str | None = None,
    ) -> None:
        self.patches = open_dataset(output_dir, split, store)
        self.transforms = transforms
        self._coco: COCO | None = None

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, i: int) -> tuple[object, Target]:
        return self._item(i, self.patches.read(i))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[object, Target]]:
        """Return a batch; its pixels are read in the order that suits the store."""
        pixels = self.patches.read_many(indices)
        return [self._item(i, rgb) for i, rgb in zip(indices, pixels, strict=True)]

    def _item(self, i: int, rgb: RgbImage) -> tuple[object, Target]:
        image, target = Image.fromarray(rgb), self.target(i)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_coco": None}

    def target(self, i: int) -> Target:
        """Return the target of image ``i`` before transforms, without reading its pixels."""
        index = self.patches.index
        rows = index.labels_of(i)
        keep = index.is_crowd[rows] == 0
        return _official_target(
            index.boxes_xywh[rows][keep],
            labels=index.category_id[rows][keep],
            image_id=index.image_id(i),
            wh_px=index.patch_wh_px,
        )

    @property
    def ids(self) -> list[int]:
        """The COCO image ids in the order of the items."""
        return list(range(1, len(self) + 1))

    @property
    def coco(self) -> COCO:
        """The annotations as pycocotools, which evaluation needs; made when first asked for."""
        if self._coco is None:
            from pycocotools.coco import COCO  # noqa: PLC0415  # evaluation alone needs it

            coco = COCO()
            coco.dataset = coco_dict(self.patches.index)
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
                coco.createIndex()
            self._coco = coco
        return self._coco


def _official_target(
    boxes_xywh: FloatArray, *, labels: npt.NDArray[np.integer], image_id: int, wh_px: tuple[int, int]
) -> Target:
    """Return the target of boxes ``(N, 4)``, patch px, in the order and the types of the official loader."""
    width, height = wh_px
    areas = [round(w * h, AREA_DECIMALS) for _, _, w, h in boxes_xywh.tolist()]
    # Sums and limits in float32, as there: the last bit of a corner depends on it.
    boxes = torch.from_numpy(boxes_xywh.astype(np.float32))
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(min=0, max=width)
    boxes[:, 1::2].clamp_(min=0, max=height)
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    # An empty list becomes float32 there, and evaluation and losses have been written around that.
    is_crowd = torch.tensor([0] * len(areas)) if areas else torch.tensor([])
    return {
        "boxes": boxes[keep],
        "labels": torch.from_numpy(labels.astype(np.int64))[keep],
        "image_id": torch.tensor([image_id]),
        "area": torch.tensor(areas)[keep],
        "iscrowd": is_crowd[keep],
        "orig_size": torch.tensor([height, width]),
        "size": torch.tensor([height, width]),
    }


class PatchBatch(list[tuple[Tensor, int]]):
    """A batch of `PatchTensors` whose images lie in one piece of memory; as a list, pairs of image and number."""

    def __init__(self, pixels: Tensor, indices: Sequence[int]) -> None:
        super().__init__(zip(pixels, indices, strict=True))
        self.pixels = pixels
        self.indices = torch.tensor(list(indices), dtype=torch.int64)


class PatchTensors(Dataset[tuple[Tensor, int]]):
    """Pixels of one split as plain tensors, the fastest form: for classifiers and measurements.

    ``dataset[i]`` is a uint8 tensor (H, W, 3) and ``i``; labels follow from ``i`` through ``dataset.patches.index``.
    Give ``collate_fn=PatchTensors.collate`` to the loader: a batch is decoded to where it will be used, and arrives
    as uint8 (B, H, W, 3) and int64 (B,). ``pixels.permute(0, 3, 1, 2)`` is (B, 3, H, W) in channels-last memory,
    without a copy.

    Parameters are those of `DetectionDataset`.
    """

    def __init__(self, output_dir: Path | str, split: str = "train", store: str | None = None) -> None:
        self.patches = open_dataset(output_dir, split, store)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.patches.read(i)), i

    def __getitems__(self, indices: Sequence[int]) -> PatchBatch:
        """Return a batch in one piece of memory."""
        pixels = _batch_memory((len(indices), *self.patches.patch_shape))
        self.patches.read_many_into(indices, pixels.numpy())
        return PatchBatch(pixels, indices)

    @staticmethod
    def collate(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Return the pixels (B, H, W, 3) uint8 and numbers (B,) int64 of a batch, without copying.

        Raises
        ------
        TypeError
            When the batch was not made by `PatchTensors.__getitems__`, as when the data set was wrapped in another.
        """
        if not isinstance(batch, PatchBatch):
            raise TypeError("PatchTensors.collate takes the batches of PatchTensors only; leave collate_fn out")
        return batch.pixels, batch.indices


def _batch_memory(shape: tuple[int, ...]) -> Tensor:
    """Return an uninitialised uint8 tensor, in shared memory where a batch is on its way to another process.

    A worker's tensors are moved there anyhow, which takes as long as decoding them; torch's default_collate avoids it
    in the same way.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    shared = torch.UntypedStorage._new_shared
    storage: torch.UntypedStorage = shared(math.prod(shape))  # type: ignore[no-untyped-call]  # torch gives no types
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


class OnlineDetectionDataset(Dataset[tuple[object, Target]]):
    """Images and targets as `DetectionDataset` gives them, of patches that are drawn anew in every epoch.

    Items are asked for by ``(epoch, number)``, which ``EpochSampler(OnlineOrder(n_per_epoch=...))`` yields.
    ``image_id`` is the number plus one.

    Parameters
    ----------
    output_dir, split, options, domains
        See `wsi_extract.online_patches.OnlinePatches`.
    transforms
        Called with image and target; what it returns is the item. ``None`` gives them as they are.
    """

    def __init__(
        self,
        output_dir: Path | str,
        split: str = "train",
        transforms: Transforms | None = None,
        *,
        options: OnlineOptions,
        domains: Mapping[str, str] | None = None,
    ) -> None:
        self.patches = OnlinePatches(output_dir, split, options=options, domains=domains)
        self.transforms = transforms

    def __getitem__(self, key: tuple[int, int]) -> tuple[object, Target]:
        if not isinstance(key, tuple):
            raise TypeError(
                f"patches that are drawn are asked for by (epoch, number), got {key!r}; "
                "give the loader sampler=EpochSampler(OnlineOrder(n_per_epoch=...))"
            )
        epoch, number = key
        patch = self.patches.read(epoch, number)
        labels = [label for label in patch.labels if not label.is_crowd]
        target = _official_target(
            np.array([label.xywh_out for label in labels], dtype=np.float64).reshape(-1, 4),
            labels=np.array([label.category_id for label in labels], dtype=np.int64),
            image_id=number + 1,
            wh_px=self.patches.patch_wh_px,
        )
        image = Image.fromarray(patch.pixels)
        return (image, target) if self.transforms is None else self.transforms(image, target)


class EpochSampler(Sampler[KeyT]):
    """Feeds one rank with its share of an epoch, and can go on where a stopped job was.

    Loader processes fetch batches ahead, so a sampler cannot know what was trained on: call `advance` after each
    step, and `set_epoch` before each epoch, as with torch's DistributedSampler. `state_dict` then holds the two
    integers that say where the whole job is, and one that tells its order from others.

    Parameters
    ----------
    order
        The order of all epochs: `wsi_extract.epochs.EpochOrder`, or `OnlineOrder` for `OnlineDetectionDataset`.
    rank, world_size
        Which of how many training processes this is.
    tail
        ``drop`` leaves out up to ``world_size - 1`` samples at the end of an epoch, so that every rank takes equally
        many steps: else collective operations wait for ever. ``keep`` uses every sample, for evaluation.
    """

    def __init__(
        self, order: KeyOrder[KeyT], *, rank: int = 0, world_size: int = 1, tail: Literal["drop", "keep"] = "drop"
    ) -> None:
        self.order = order
        self.rank = rank
        self.world_size = world_size
        self.tail = tail
        self.epoch = 0
        self.n_consumed = 0
        self._identity = order.identity
        self._positions()  # refuses a rank that is none

    def _positions(self) -> slice:
        n_total = len(self.order)
        if self.tail == "drop":
            n_total -= (n_total - self.n_consumed) % self.world_size
        return positions_of(self.rank, n_consumed=self.n_consumed, n_total=n_total, world_size=self.world_size)

    def __len__(self) -> int:
        """Return how many samples of the epoch are left for this rank."""
        return len(range(len(self.order))[self._positions()])

    def __iter__(self) -> Iterator[KeyT]:
        """Go through what is left of the epoch for this rank."""
        return iter(self.order.keys(self.epoch, self._positions()))

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, but stay where the sampler is when it is within that epoch already."""
        if epoch != self.epoch:
            self.epoch, self.n_consumed = epoch, 0

    def advance(self, n_samples: int) -> None:
        """Note that every rank has trained on ``n_samples`` more.

        Raises
        ------
        InputError
            When fewer are left in the epoch.
        """
        if not 0 <= n_samples <= len(self):
            raise InputError(f"{n_samples} samples cannot have been used: {len(self)} were left of epoch {self.epoch}.")
        self.n_consumed = min(self.n_consumed + n_samples * self.world_size, len(self.order))

    def state_dict(self) -> dict[str, int]:
        """Return ``{"epoch", "n_consumed", "order"}`` of rank 0: valid for every rank and any number of them."""
        return {"epoch": self.epoch, "n_consumed": self.n_consumed, "order": self._identity}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to where `state_dict` was taken.

        Raises
        ------
        InputError
            When the state is not one of `state_dict`, or belongs to another order: other data, seed or weights.
        """
        missing = sorted({"epoch", "n_consumed", "order"} - state.keys())
        if missing:
            raise InputError(f"the state {dict(state)} lacks {', '.join(missing)}.", "Give what state_dict returned.")
        epoch, n_consumed = int(state["epoch"]), int(state["n_consumed"])
        if epoch < 0:
            raise InputError(f"the state names epoch {epoch}; epochs count from 0.")
        if state["order"] != self._identity:
            raise InputError(
                "the state belongs to an order with another seed, other weights or another data set.",
                "Resume with the settings of the job that was stopped, or start a new job without the state.",
            )
        positions_of(self.rank, n_consumed=n_consumed, n_total=len(self.order), world_size=self.world_size)
        self.epoch, self.n_consumed = epoch, n_consumed
