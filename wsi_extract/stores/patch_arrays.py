"""The patch store: ``patches.zarr``, one Zarr v3 array per slide and split, one chunk per patch, one shard per block.

Rows of an array are the patches of one slide and split in plan order, so a block is a whole shard and no shard has
two writers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import RESTORE, IntegrityError
from wsi_extract.model import Split
from wsi_extract.state.layout import patch_array_folder, patch_shard_path
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import CRC_BYTES, PixelCodec, checksum_of
from wsi_extract.stores.shards import DamagedShardError, ShardReader, read_place
from wsi_extract.stores.zarr_json import read_document


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchArray:
    """The patches of one slide and split, for reading."""

    output_dir: Path
    slide_id: str
    split: Split
    n_patches: int
    patch_wh_px: tuple[int, int]
    n_rows: int
    """Rows per shard."""
    codec: PixelCodec
    _chunk_root: str = field(init=False, repr=False)
    """Above all shards; paths are put together as text, because pathlib would take as long as reading a raw patch."""

    def __post_init__(self) -> None:
        first = patch_shard_path(self.output_dir, slide_id=self.slide_id, split=self.split, shard=0)
        object.__setattr__(self, "_chunk_root", str(first.parents[3]))

    def place_of(self, row: int) -> tuple[str, int]:
        """Return the shard that holds a row, and the row's number within it."""
        shard, within = divmod(row, self.n_rows)
        return f"{self._chunk_root}/{shard}/0/0/0", within


def open_patch_array(output_dir: Path, *, slide_id: str, split: Split) -> PatchArray:
    """Read what ``zarr.json`` says of the patches of a slide.

    Raises
    ------
    IntegrityError
        When it is missing, damaged, or not an array of this program.
    """
    folder = patch_array_folder(output_dir, slide_id=slide_id, split=split)
    document: dict[str, Any] = read_document(folder)
    try:
        n_patches, height, width, _ = document["shape"]
        sharding = document["codecs"][0]["configuration"]
        return PatchArray(
            output_dir=output_dir,
            slide_id=slide_id,
            split=split,
            n_patches=int(n_patches),
            patch_wh_px=(int(width), int(height)),
            n_rows=int(document["chunk_grid"]["configuration"]["chunk_shape"][0]),
            codec=PixelCodec.from_zarr(sharding["codecs"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise IntegrityError(
            f"slide {slide_id}: {folder} is not an array of patches: {error}.", "Run the extraction again."
        ) from error


def read_patch_into(array: PatchArray, row: int, out: RgbImage, *, shards: ShardReader) -> None:
    """Write the pixels of one patch to ``out``, ``(h, w, 3)`` uint8, C-contiguous.

    Raises
    ------
    IntegrityError
        When the patch is missing or damaged; the message names slide, row and file.
    """
    path, within = array.place_of(row)
    try:
        place = shards.locate(path, within, n_chunks=array.n_rows)
        if place is None:
            raise DamagedShardError(f"the shard {path} does not hold it.")
        if array.codec.name is CodecName.NONE:
            _read_raw(place.descriptor, place.offset, out, n_bytes=place.n_bytes)
        else:
            array.codec.decode_into(read_place(place, path=path), out)
    except (ValueError, IntegrityError) as error:
        reason = error.message if isinstance(error, IntegrityError) else f"its chunk in {path} is damaged: {error}."
        raise IntegrityError(
            f"row {row} of the array of slide {array.slide_id}: {reason}",
            RESTORE,
        ) from error


def _read_raw(descriptor: int, offset: int, out: RgbImage, *, n_bytes: int) -> None:
    """Read raw pixels straight to where they are wanted, and verify them there."""
    checksum, pixels = bytearray(CRC_BYTES), out.reshape(-1).data
    if n_bytes != out.nbytes + CRC_BYTES:
        raise ValueError(f"{n_bytes} bytes, expected {out.nbytes + CRC_BYTES}")
    if os.preadv(descriptor, [pixels, checksum], offset) != n_bytes:
        raise ValueError("the file is truncated")
    if checksum_of(pixels) != checksum:
        raise ValueError("the checksum does not fit")
