"""The files of pixels of one block, in whichever store: PNG files, one shard of an array, or both from one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.arrays import RgbImage
from wsi_extract.layout import patch_shard_path, split_folder
from wsi_extract.model import Split
from wsi_extract.records import BlockDocument
from wsi_extract.storage import PngEncoder, Store
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.png import write_patches
from wsi_extract.stores.shards import open_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTarget:
    """Where blocks are written, and how."""

    output_dir: Path
    store: Store
    codec: PixelCodec
    """Of Zarr stores."""
    png: PngEncoder = PngEncoder.ISAL
    """Of PNG files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """Where a block lies in the array of its slide and split."""

    number: int
    """Of the shard."""
    n_rows: int
    """Patches a shard of the array has room for."""


def write_block_files(
    document: BlockDocument, patches: Iterable[tuple[int, RgbImage]], *, target: BlockTarget, place: ShardPlace
) -> None:
    """Write the pixels of one block and note sizes and digests of its files in ``document``.

    Memory holds one patch at a time. When ``patches`` raises, no file of the block appears.

    Parameters
    ----------
    patches
        Pairs of the row within the block and the pixels ``(h, w, 3)``, in any order.

    Raises
    ------
    OSError
        When the output cannot be written.
    """
    if target.store.has_patch_arrays:
        _write_arrays(document, patches, target=target, place=place)
    elif target.store.has_png:
        _write_png(document, patches, target=target)


def _write_arrays(
    document: BlockDocument, patches: Iterable[tuple[int, RgbImage]], *, target: BlockTarget, place: ShardPlace
) -> None:
    """Write the block's shard, and its PNG files from the same pixels when both are asked for."""
    with open_shard(_shard_path(document, target=target, number=place.number), n_chunks=place.n_rows) as shard:

        def added() -> Iterator[tuple[int, RgbImage]]:
            for row, pixels in patches:
                shard.add(row, target.codec.encode(pixels))
                yield row, pixels

        if target.store.has_png:
            _write_png(document, added(), target=target)
        else:
            deque(added(), maxlen=0)
        stored = shard.finish(n_expected=len(document["patches"]))
    document["shard"] = {
        "number": place.number,
        "n_rows": place.n_rows,
        "bytes": stored.n_bytes,
        "sha256": stored.sha256,
    }


def _write_png(document: BlockDocument, patches: Iterable[tuple[int, RgbImage]], *, target: BlockTarget) -> None:
    """Write the block's PNG files and note their sizes and digests in its document."""
    by_name = {entry["file_name"]: entry for entry in document["patches"]}
    names = list(by_name)
    folder = target.output_dir / split_folder(Split(document["split"]))
    named = ((names[row], pixels) for row, pixels in patches)
    for stored in write_patches(folder, named, encoder=target.png):
        by_name[stored.file_name]["bytes"] = stored.n_bytes
        by_name[stored.file_name]["sha256"] = stored.sha256


def files_of_block(document: BlockDocument, *, target: BlockTarget) -> Iterator[tuple[Path, int | None]]:
    """Yield the files of pixels that a finished block has in the target, with their recorded sizes.

    The size is ``None`` where the record tells of no such file: it was written for another store.
    """
    if target.store.has_patch_arrays:
        shard = document.get("shard")
        if shard is None:
            yield _shard_path(document, target=target, number=0), None
        else:
            yield _shard_path(document, target=target, number=shard["number"]), shard["bytes"]
    if target.store.has_png:
        folder = target.output_dir / split_folder(Split(document["split"]))
        for patch in document["patches"]:
            yield folder / patch["file_name"], patch.get("bytes")


def _shard_path(document: BlockDocument, *, target: BlockTarget, number: int) -> Path:
    split = Split(document["split"])
    return patch_shard_path(target.output_dir, slide_id=document["slide_id"], split=split, shard=number)
