"""Let a clone of the official Deformable-DETR repository take its images from a store instead of PNG files.

One method of the official data set is replaced, the one that opens an image; annotations, targets, transforms and
evaluation stay the clone's. The clone is handed in, so this module imports neither it nor torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from PIL import Image

from wsi_extract.dataset import NameLookup, open_dataset


class OfficialDataset(Protocol):
    """What `store_backed` needs of the official CocoDetection: the folder of a split's images."""

    root: str | Path

    def get_image(self, path: str) -> Image.Image:
        """Return the image with a ``file_name`` of the COCO document."""


def store_backed(base_class: type, *, store: str | None = None) -> type:
    """Return a subclass of the official CocoDetection that takes pixels from the store instead of files.

    Construct it as the original, with ``img_folder`` = ``<output_dir>/<split>2017`` (which need not exist) and
    ``ann_file`` the exported COCO document. Leave the clone's ``cache_mode`` off, it opens files.

    Parameters
    ----------
    base_class
        ``datasets.coco.CocoDetection`` of a clone of Deformable-DETR, or any class with its attribute ``root`` and
        its method ``get_image(path)``.
    store
        See `wsi_extract.dataset.open_dataset`.
    """

    def get_image(self: OfficialDataset, path: str) -> Image.Image:
        reader = self.__dict__.get(_READER)
        if reader is None:
            reader = self.__dict__[_READER] = _StoreImages(Path(self.root), store=store)
        image: Image.Image = reader.read(path)
        return image

    def reduce(self: OfficialDataset) -> tuple[object, tuple[type, str | None, dict[str, object]]]:
        # A class made by a function cannot be found by its name, which spawned loader processes need.
        return _restore_store_backed, (base_class, store, dict(self.__dict__))

    return type(f"StoreBacked{base_class.__name__}", (base_class,), {"get_image": get_image, "__reduce__": reduce})


_READER = "_wsi_extract_images"


def _restore_store_backed(base_class: type, store: str | None, state: dict[str, object]) -> object:
    restored: object = object.__new__(store_backed(base_class, store=store))
    restored.__dict__.update(state)
    return restored


class _StoreImages:
    """Images of one split by their ``file_name``."""

    def __init__(self, split_folder: Path, *, store: str | None) -> None:
        self._patches = open_dataset(split_folder.parent, split_folder.name.removesuffix("2017"), store)
        self._names = NameLookup(self._patches.index)

    def read(self, file_name: str) -> Image.Image:
        return Image.fromarray(self._patches.read(self._names.row_of(file_name)))
