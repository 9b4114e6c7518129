"""One block of a data set -> the same block in another store: read, check, write, record.

A block is what it was at extraction: a slice of a slide's plan in one split, one record, one shard where there are
arrays. Idempotent; the record comes last, and its existence with files of the recorded sizes means done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.blocks import patches_per_block
from wsi_extract.convert.source import SourceDataset, documents_of_slide
from wsi_extract.dataset import PatchDataset
from wsi_extract.disk.files import sha256_of_file, write_atomically
from wsi_extract.errors import RESTORE, IntegrityError
from wsi_extract.model import Split
from wsi_extract.state.layout import record_path
from wsi_extract.state.records import BlockDocument, check_repeated, encode_document, read_document, without_files
from wsi_extract.storage import Store
from wsi_extract.stores.block_files import BlockTarget, ShardPlace, files_of_block, write_block_files

Reader = dict[Split, PatchDataset]
"""The splits of the source, opened for one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJob:
    """One block to convert."""

    document: BlockDocument
    """The source's record."""
    first: int
    """Position of its first patch in the index of its split."""
    place: ShardPlace

    def __len__(self) -> int:
        return len(self.document["patches"])


def jobs_of(source: SourceDataset) -> Iterator[BlockJob]:
    """Yield the blocks of a data set in plan order.

    Raises
    ------
    IntegrityError
        When a record cannot be used, or blocks are not those that arrays can hold as shards.
    """
    n_in_split: Counter[Split] = Counter()
    for slide in source.slides:
        n_in_array: Counter[Split] = Counter()
        for document in documents_of_slide(source, slide):
            split = Split(document["split"])
            place = place_of(document, n_before=n_in_array[split], n_patches=slide.n_patches)
            yield BlockJob(document=document, first=n_in_split[split], place=place)
            n_in_split[split] += len(document["patches"])
            n_in_array[split] += len(document["patches"])


def place_of(document: BlockDocument, *, n_before: int, n_patches: int) -> ShardPlace:
    """Return the shard of a block: the source's own, or the one that extraction would have given it.

    Parameters
    ----------
    n_before
        Patches of the slide in the split that lie in earlier blocks.
    n_patches
        Patches of the slide in all splits, which decide the size of its blocks; see `blocks.cut_blocks`.
    """
    width, height = document["patch_wh_px"]
    shard = document.get("shard")
    n_rows = patches_per_block(n_patches, patch_bytes=width * height * 3) if shard is None else shard["n_rows"]
    number, is_inside = divmod(n_before, n_rows)
    if is_inside or len(document["patches"]) > n_rows or (shard is not None and shard["number"] != number):
        raise IntegrityError(
            f"block {document['index']} of slide {document['slide_id']} ({document['split']}) holds "
            f"{len(document['patches'])} patches after {n_before} others, which is no shard of {n_rows}.",
            "The data set was written by another version, or altered: extract it again.",
        )
    return ShardPlace(number=number, n_rows=n_rows)


class BlockConverter:
    """Converts blocks in up to ``n_threads`` threads at a time, each with files of its own.

    Encoders and decoders release Python's lock, so threads use all cores.
    """

    def __init__(self, source: SourceDataset, *, target: BlockTarget, n_threads: int) -> None:
        self._source = source
        self._target = target
        self._read_target = BlockTarget(
            output_dir=source.output_dir, store=source.read_store, codec=source.codec or target.codec
        )
        self._readers: SimpleQueue[Reader] = SimpleQueue()
        for _ in range(n_threads):
            self._readers.put({split: source.open_split(split) for split in source.indexes})

    def is_done(self, job: BlockJob) -> bool:
        """Whether an earlier attempt finished the block: its record tells the same, and its files are there, whole."""
        try:
            known = read_document(self._record_path(job))
        except IntegrityError:
            return False
        if known is None or without_files(known) != without_files(job.document):
            return False
        shard = known.get("shard")
        if shard is not None and (shard["number"], shard["n_rows"]) != (job.place.number, job.place.n_rows):
            return False
        return all(
            path.is_file() and path.stat().st_size == n_bytes
            for path, n_bytes in files_of_block(known, target=self._target)
        )

    def convert(self, job: BlockJob) -> int:
        """Convert one block and return its number of patches.

        Raises
        ------
        IntegrityError
            When a patch of the source is missing, damaged or not the recorded one, or when the block was converted
            before and differs now; the message names it.
        EnvironmentFaultError
            When the destination does not belong to the conversion any more.
        OSError
            When the destination cannot be written.
        """
        document, path = without_files(job.document), self._record_path(job)
        reader = self._readers.get()
        try:
            patches = self._read(job, reader[Split(document["split"])])
            write_block_files(
                document,
                patches,
                target=self._target,
                place=job.place,
                check=lambda finished: check_repeated(finished, path=path),
            )
        finally:
            self._readers.put(reader)
        self._target.check_claim()
        write_atomically(path, encode_document(document))
        return len(job)

    def _record_path(self, job: BlockJob) -> Path:
        document = job.document
        return record_path(self._target.output_dir, slide_id=document["slide_id"], index=document["index"])

    def _read(self, job: BlockJob, patches: PatchDataset) -> Iterator[tuple[int, RgbImage]]:
        """Yield (row within the block, pixels), then check the files they came from."""
        document, rows = job.document, range(job.first, job.first + len(job))
        places = np.array([(patch["x_l0"], patch["y_l0"]) for patch in document["patches"]], dtype=np.int64)
        if not np.array_equal(patches.index.origins_l0[rows.start : rows.stop], places.reshape(-1, 2)):
            raise IntegrityError(
                f"the index and the record of block {document['index']} of slide {document['slide_id']} "
                f"({document['split']}) name different patches.",
                RESTORE,
            )
        for row, i in enumerate(rows):
            yield row, patches.read(i)
        self._check_files(document)

    def _check_files(self, document: BlockDocument) -> None:
        """Refuse files that decode, yet are not those that were recorded.

        Shards of the pixel store belong to no block; every chunk of them was checked when it was read.
        """
        if self._read_target.store is Store.PIXELS:
            return
        stated = [patch.get("sha256") for patch in document["patches"]]
        if self._read_target.store is Store.ZARR:
            stated = [document["shard"]["sha256"]] if "shard" in document else [None]
        for (path, _), sha256 in zip(files_of_block(document, target=self._read_target), stated, strict=True):
            if sha256_of_file(path) != sha256:
                raise IntegrityError(
                    f"{path} of slide {document['slide_id']} ({document['split']}) is not the file that was recorded.",
                    RESTORE,
                )
