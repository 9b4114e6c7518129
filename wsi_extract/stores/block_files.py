"""The files of pixels of one block, in whichever store: PNG files, one shard of an array, or both from one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.arrays import RgbImage
from wsi_extract.disk.files import FileBatch, accept, open_batch
from wsi_extract.model import Split
from wsi_extract.state.layout import patch_shard_path, record_path, split_folder
from wsi_extract.state.records import BlockDocument
from wsi_extract.state.run_claims import check_claim
from wsi_extract.storage import PngEncoder, Store
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.png import add_patch
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
    run_digest: str | None = None
    """Of the run that claimed the folder, see `state.run_claims`; ``None`` for a folder that nobody claims."""

    def check_claim(self) -> None:
        """Refuse to write there for a run that the folder does not belong to any more.

        Raises
        ------
        EnvironmentFaultError
            When it belongs to another run, or has gone.
        """
        check_claim(self.output_dir, self.run_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """Where a block lies in the array of its slide and split."""

    number: int
    """Of the shard."""
    n_rows: int
    """Patches a shard of the array has room for."""


def write_block_files(
    document: BlockDocument,
    patches: Iterable[tuple[int, RgbImage]],
    *,
    target: BlockTarget,
    place: ShardPlace,
    check: Callable[[BlockDocument], None] = accept,
) -> None:
    """Write the pixels of one block and note sizes and digests of its files in ``document``.

    Memory holds one patch at a time. When ``patches`` or ``check`` raises, no file of the block appears. A folder that
    belongs to another run, or has gone, is noticed before any folder is made and again before any file has its name.

    Parameters
    ----------
    patches
        Pairs of the row within the block and the pixels ``(h, w, 3)``, in any order.
    check
        Is given the finished document when all files are durable and none has its name yet, so that it can refuse
        them before anything is replaced.

    Raises
    ------
    EnvironmentFaultError
        When the folder does not belong to the run of the target any more.
    OSError
        When the output cannot be written.
    """
    target.check_claim()
    record = record_path(target.output_dir, slide_id=document["slide_id"], index=document["index"])
    with open_batch(record=record, still_ours=target.check_claim) as batch:
        if target.store.has_patch_arrays:
            _write_arrays(batch, document, patches, target=target, place=place)
        elif target.store.has_png:
            _write_png(batch, document, patches, target=target)
        batch.make_durable()
        check(document)
        target.check_claim()


def _write_arrays(
    batch: FileBatch,
    document: BlockDocument,
    patches: Iterable[tuple[int, RgbImage]],
    *,
    target: BlockTarget,
    place: ShardPlace,
) -> None:
    """Write the block's shard, and its PNG files from the same pixels when both are asked for."""
    path = _shard_path(document, target=target, number=place.number)
    with open_shard(batch, path, n_chunks=place.n_rows) as shard:

        def added() -> Iterator[tuple[int, RgbImage]]:
            for row, pixels in patches:
                shard.add(row, target.codec.encode(pixels))
                yield row, pixels

        if target.store.has_png:
            _write_png(batch, document, added(), target=target)
        else:
            deque(added(), maxlen=0)
        stored = shard.finish(n_expected=len(document["patches"]))
    document["shard"] = {
        "number": place.number,
        "n_rows": place.n_rows,
        "bytes": stored.n_bytes,
        "sha256": stored.sha256,
    }


def _write_png(
    batch: FileBatch, document: BlockDocument, patches: Iterable[tuple[int, RgbImage]], *, target: BlockTarget
) -> None:
    """Write the block's PNG files and note their sizes and digests in its document."""
    folder = target.output_dir / split_folder(Split(document["split"]))
    for row, pixels in patches:
        entry = document["patches"][row]
        stored = add_patch(batch, folder, entry["file_name"], pixels, encoder=target.png)
        entry["bytes"], entry["sha256"] = stored.n_bytes, stored.sha256


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
