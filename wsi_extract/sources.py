"""Where the pixels of a split's patches come from: PNG files, arrays of patches, or the pixels of whole slides.

All three give the same patches. Files are opened when they are first needed and stay open; a source that was pickled
or forked opens them again. A patch that is missing or damaged is an error that names it, never a blank image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from wsi_extract.arrays import IntArray, RgbImage
from wsi_extract.errors import RESTORE, EnvironmentFaultError, IntegrityError, WsiExtractError
from wsi_extract.index import SplitIndex, read_coverage
from wsi_extract.model import Split
from wsi_extract.state.layout import scene_folder, split_folder
from wsi_extract.stores.patch_arrays import PatchArray, open_patch_array, read_patch_into
from wsi_extract.stores.pixel_array import OutsideCoverageError, PixelArray, open_pixel_array
from wsi_extract.stores.png import decode_png
from wsi_extract.stores.shards import ShardReader
from wsi_extract.stores.zarr_json import PIXEL_SHARD_PX


class PatchSource(Protocol):
    """Gives the pixels of a split's patches by their position in its index."""

    def read_into(self, i: int, out: RgbImage) -> None:
        """Write the pixels of patch ``i`` to ``out``, ``(h, w, 3)`` uint8, C-contiguous.

        Raises
        ------
        IntegrityError
            When the patch is missing or damaged; the message names it.
        EnvironmentFaultError
            When the machine cannot read it: input or output error, too many open files, no permission.
        """

    def reading_order(self, indices: IntArray) -> IntArray:
        """Return the positions of a batch in the order in which reading them is cheapest."""


class PngSource:
    """Patches from one PNG file each."""

    def __init__(self, output_dir: Path, *, index: SplitIndex) -> None:
        self._folder = output_dir / split_folder(Split(index.split))
        self._index = index

    def read_into(self, i: int, out: RgbImage) -> None:
        """Decode the file of the patch; see `PatchSource`."""
        file_name = self._index.file_name(i)
        path = self._folder / file_name
        try:
            pixels = decode_png(path.read_bytes())
        except FileNotFoundError as error:
            raise IntegrityError(f"{_patch_of(self._index, i)}: the file {path} is missing.", RESTORE) from error
        except ValueError as error:
            raise IntegrityError(f"{_patch_of(self._index, i)}: {path} is damaged: {error}.", RESTORE) from error
        except OSError as error:
            raise _failure(error, patch=_patch_of(self._index, i)) from error
        if pixels.shape != out.shape:
            raise IntegrityError(
                f"{_patch_of(self._index, i)}: {path} has the shape {pixels.shape}, expected {out.shape}.", RESTORE
            )
        out[...] = pixels

    def reading_order(self, indices: IntArray) -> IntArray:
        """Return the order as given: every patch is a file of its own."""
        return np.arange(len(indices), dtype=np.int64)


class ShardSource:
    """Patches from the Zarr arrays of `wsi_extract.stores.patch_arrays`."""

    def __init__(self, output_dir: Path, *, index: SplitIndex) -> None:
        self._output_dir = output_dir
        self._index = index
        self._shards = ShardReader()
        self._arrays: list[PatchArray | None] = [None] * len(index.slides)

    def read_into(self, i: int, out: RgbImage) -> None:
        """Read the chunk of the patch; see `PatchSource`."""
        slide = int(self._index.slide[i])
        try:
            array = self._arrays[slide]
            if array is None:
                array = self._open(slide)
            read_patch_into(array, int(self._index.row[i]), out, shards=self._shards)
        except (IntegrityError, OSError) as error:
            raise _failure(error, patch=_patch_of(self._index, i)) from error

    def _open(self, slide: int) -> PatchArray:
        entry = self._index.slides[slide]
        array = open_patch_array(self._output_dir, slide_id=entry.slide_id, split=Split(self._index.split))
        found = (array.n_patches, array.patch_wh_px)
        if found != (entry.n_patches, tuple(self._index.patch_wh_px)):
            raise IntegrityError(
                f"the array of slide {entry.slide_id} holds {found[0]} patches of {found[1]} px, but the index says "
                f"{entry.n_patches} of {tuple(self._index.patch_wh_px)}."
            )
        self._arrays[slide] = array
        return array

    def reading_order(self, indices: IntArray) -> IntArray:
        """Return the batch ordered by slide and row, so that each shard is visited once."""
        return np.lexsort((self._index.row[indices], self._index.slide[indices]))


class PixelSource:
    """Patches cut from the images of `wsi_extract.stores.pixel_array`, which hold each pixel of a slide once."""

    def __init__(self, output_dir: Path, *, index: SplitIndex) -> None:
        self._output_dir = output_dir
        self._index = index
        self._shards = ShardReader()
        self._arrays: list[PixelArray | None] = [None] * len(index.slides)

    def read_into(self, i: int, out: RgbImage) -> None:
        """Cut the window of the patch; see `PatchSource`."""
        slide = int(self._index.slide[i])
        x_l0, y_l0 = self._index.origins_l0[i].tolist()
        scale_x, scale_y = self._index.slides[slide].l0_per_px_xy
        try:
            array = self._arrays[slide]
            if array is None:
                slide_id = self._index.slides[slide].slide_id
                array = open_slide_pixels(self._output_dir, slide_id=slide_id, shards=self._shards)
                self._arrays[slide] = array
            array.read_window(x_l0 // int(scale_x), y_l0 // int(scale_y), out)
        except (IntegrityError, OutsideCoverageError, ValueError, OSError) as error:
            raise _failure(error, patch=_patch_of(self._index, i)) from error

    def reading_order(self, indices: IntArray) -> IntArray:
        """Return the batch ordered by slide, shard and place, so that shards are visited once or nearly so."""
        x_l0, y_l0 = self._index.origins_l0[indices].T
        slide = self._index.slide[indices]
        scales = np.array([entry.l0_per_px_xy for entry in self._index.slides])[slide]
        column, row = (x_l0 // scales[:, 0]) // PIXEL_SHARD_PX, (y_l0 // scales[:, 1]) // PIXEL_SHARD_PX
        return np.lexsort((x_l0, y_l0, column, row, slide))


def open_slide_pixels(output_dir: Path, *, slide_id: str, shards: ShardReader) -> PixelArray:
    """Open the stored pixels of one slide; ``shards`` may serve many slides."""
    coverage = read_coverage(scene_folder(output_dir, slide_id=slide_id))
    return open_pixel_array(output_dir, slide_id=slide_id, coverage=coverage, shards=shards)


def _failure(error: Exception, *, patch: str) -> IntegrityError | EnvironmentFaultError:
    """Return the error that names the patch: what is damaged, or what the machine could not do."""
    reason = error.message if isinstance(error, WsiExtractError) else str(error)
    if isinstance(error, OSError) and not isinstance(error, WsiExtractError):
        return EnvironmentFaultError(f"{patch}: {reason}.", "Check the disk or the network, then start again.")
    return IntegrityError(f"{patch}: {reason}", RESTORE)


def _patch_of(index: SplitIndex, i: int) -> str:
    slide_id = index.slides[int(index.slide[i])].slide_id
    return f"patch {index.file_name(i)} of slide {slide_id} ({index.split})"
