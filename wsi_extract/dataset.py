"""Read a finished data set from any of its stores, without any training library.

A patch has one number per split, its position in the split's index: 0 for the first, one less than its COCO image
id. Everything here goes by that number.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import IntArray, RgbImage
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.index import SplitIndex, read_index
from wsi_extract.model import Split
from wsi_extract.sources import PatchSource, PixelSource, PngSource, ShardSource
from wsi_extract.state.layout import COMPLETE, FAILED, MANIFEST, patch_file_name
from wsi_extract.storage import CodecName, Coverage, Store

logger = logging.getLogger(__name__)

RgbBatch = npt.NDArray[np.uint8]
"""(B, H, W, 3) uint8, RGB."""


SOURCES: dict[Store, type[PngSource | ShardSource | PixelSource]] = {
    Store.PNG: PngSource,
    Store.ZARR: ShardSource,
    Store.PIXELS: PixelSource,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchDataset:
    """The patches of one split: pixels from one store, everything else from the index.

    Use it from one thread. Any number of processes may read the same folder, also while others do; a process made
    by fork or spawn opens its files itself, because a pickled data set is the three values it was opened with.
    """

    output_dir: Path
    store: Store
    index: SplitIndex
    source: PatchSource = field(repr=False)

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple[object, tuple[Path, str, str]]:
        return open_dataset, (self.output_dir, str(self.index.split), self.store.value)

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Shape of one patch, ``(H, W, 3)``."""
        width, height = self.index.patch_wh_px
        return height, width, 3

    def read(self, i: int) -> RgbImage:
        """Return the pixels of patch ``i``, ``(H, W, 3)`` uint8.

        Raises
        ------
        IntegrityError
            When the patch is missing or damaged; the message names slide and file name.
        IndexError
            When there is no such patch.
        """
        out = np.empty(self.patch_shape, dtype=np.uint8)
        self.read_into(i, out)
        return out

    def read_into(self, i: int, out: RgbImage) -> None:
        """Write the pixels of patch ``i`` to ``out``, ``(H, W, 3)`` uint8, C-contiguous; see `read`."""
        self._check(i, i)
        _check_array(out, shape=self.patch_shape)
        self.source.read_into(i, out)

    def read_many(self, indices: Sequence[int] | IntArray) -> RgbBatch:
        """Return the pixels of several patches in the order given, ``(B, H, W, 3)`` uint8; see `read`."""
        out = np.empty((len(indices), *self.patch_shape), dtype=np.uint8)
        self.read_many_into(indices, out)
        return out

    def read_many_into(self, indices: Sequence[int] | IntArray, out: RgbBatch) -> None:
        """Write the pixels of several patches to ``out``, ``(B, H, W, 3)`` uint8, C-contiguous; see `read`.

        Patches are read in the order that suits the store and arrive in the order given.
        """
        rows = np.asarray(indices, dtype=np.int64)
        _check_array(out, shape=(len(rows), *self.patch_shape))
        if not len(rows):
            return
        self._check(int(rows.min()), int(rows.max()))
        for position in self.source.reading_order(rows).tolist():
            self.source.read_into(int(rows[position]), out[position])

    def _check(self, lowest: int, highest: int) -> None:
        if lowest < 0 or highest >= len(self.index):
            wrong = lowest if lowest < 0 else highest
            raise IndexError(f"there is no patch {wrong}: the split {self.index.split} holds {len(self.index)}")


def _check_array(out: npt.NDArray[np.uint8], *, shape: tuple[int, ...]) -> None:
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"pixels go to a C-contiguous uint8 array of shape {shape}, got {out.dtype} {out.shape}")


def open_dataset(output_dir: Path | str, split: str, store: str | None = None) -> PatchDataset:
    """Open one split of a finished data set.

    Parameters
    ----------
    output_dir
        The output folder of an extraction.
    split
        ``train``, ``val`` or ``test``.
    store
        ``png``, ``zarr`` or ``pixels``; ``None`` takes the fastest of those that the data set has, but never lossy
        arrays where exact PNG files lie beside them.

    Raises
    ------
    InputError
        When there is no such split or store.
    IntegrityError
        When the extraction is not finished, or the index is damaged.
    """
    folder = Path(output_dir).absolute()
    facts = read_facts(folder)
    if facts.failed_slides:
        logger.warning(
            "%s is partial: %d slides failed and are not in it, see errors.jsonl", folder, len(facts.failed_slides)
        )
    stores = facts.readable_stores
    if store is not None and store not in stores:
        raise InputError(
            f"{folder} has no store {store!r}.", f"It was extracted with: {', '.join(stores)}; leave `store` out."
        )
    chosen = stores[0] if store is None else Store(store)
    index = read_index(folder, facts.split_of(split))
    return PatchDataset(output_dir=folder, store=chosen, index=index, source=SOURCES[chosen](folder, index=index))


def readable_stores(store: Store, *, is_lossy: bool) -> tuple[Store, ...]:
    """Return what a data set can be read from; first the fastest, unless that alone changed the pixels."""
    if store is not Store.BOTH:
        return (store,)
    return (Store.PNG, Store.ZARR) if is_lossy else (Store.ZARR, Store.PNG)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """What the manifest of a finished data set says that readers need."""

    output_dir: Path
    store: Store
    coverage: Coverage | None
    """Which pixels the pixel store holds; ``None`` for other stores."""
    slides: Mapping[str, tuple[Split, ...]]
    """Splits of every slide that is in the data set, by slide id."""
    failed_slides: tuple[str, ...]
    """Slides that should be in the data set, but failed."""
    is_lossy: bool
    """Whether the arrays hold pixels that differ from the slide's."""
    splits: tuple[Split, ...]

    @property
    def readable_stores(self) -> tuple[Store, ...]:
        """What the data set can be read from; the first is the best."""
        return readable_stores(self.store, is_lossy=self.is_lossy)

    def split_of(self, name: str) -> Split:
        """Return the split of the given name; raises InputError when the data set has none."""
        for split in self.splits:
            if split == name:
                return split
        raise InputError(f"{self.output_dir} has no split {name!r}.", f"Its splits are {', '.join(self.splits)}.")


def read_facts(output_dir: Path) -> DatasetFacts:
    """Return what the manifest says.

    Raises
    ------
    IntegrityError
        When the folder holds no finished data set, or its manifest is damaged.
    """
    path = output_dir / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        coverage = manifest["settings"].get("coverage")
        return DatasetFacts(
            output_dir=output_dir,
            store=Store(manifest["settings"]["store"]),
            coverage=None if coverage is None else Coverage(coverage),
            slides={
                slide["slide_id"]: tuple(Split(split) for split in slide["splits"])
                for slide in manifest["slides"]
                if slide["status"] == COMPLETE
            },
            failed_slides=tuple(slide["slide_id"] for slide in manifest["slides"] if slide["status"] == FAILED),
            is_lossy=manifest["settings"].get("codec") == CodecName.JPEG,
            splits=tuple(Split(split) for split in manifest["splits"]),
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IntegrityError(
            f"{output_dir} is no finished data set: it has no {MANIFEST}.",
            "Give the output folder of an extraction; run an interrupted extraction again to finish it.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged: {error!r}.", "Run the extraction again.") from error


class NameLookup:
    """Finds patches by their file name, with 16 bytes of memory per patch rather than a table of names."""

    def __init__(self, index: SplitIndex) -> None:
        x_l0, y_l0 = index.origins_l0.T
        self._index = index
        self._order = np.lexsort((x_l0, y_l0, index.slide))
        self._keys = (y_l0 << 32)[self._order] + x_l0[self._order]
        self._ends = np.searchsorted(index.slide[self._order], np.arange(len(index.slides) + 1))
        self._slides = {slide.slide_id: number for number, slide in enumerate(index.slides)}

    def row_of(self, file_name: str) -> int:
        """Return the number of the patch with the given ``file_name``, as in the COCO document.

        Raises
        ------
        InputError
            When the split has no such patch.
        """
        slide_id, _, name = file_name.partition("/")
        stem = name.removeprefix(f"{slide_id}_x").removesuffix(".png")
        x_text, _, y_text = stem.partition("_y")
        slide = self._slides.get(slide_id)
        if slide is not None and x_text.isdecimal() and y_text.isdecimal():
            x_l0, y_l0 = int(x_text), int(y_text)
            start, stop = self._ends[slide : slide + 2].tolist()
            place = start + int(np.searchsorted(self._keys[start:stop], (y_l0 << 32) + x_l0))
            is_found = place < stop and self._keys[place] == (y_l0 << 32) + x_l0
            if is_found and file_name == patch_file_name(slide_id, x_l0=x_l0, y_l0=y_l0):
                return int(self._order[place])
        raise InputError(f"the split {self._index.split} has no patch {file_name!r}.")
