"""The files of one task on their way from the node that made them to the one that keeps the data set.

A worker of another node does its task as ever, but into an empty folder of its own that belongs to no run. All that it
finds there afterwards is the parcel. At home it is brought into the output folder the way a task does it there: claim,
files durable under temporary names, comparison with what an earlier attempt recorded, claim, names, record last.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from wsi_extract import pixels
from wsi_extract.disk.files import FileBatch, open_batch, write_atomically
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.extract import ExtractJob
from wsi_extract.pixels import PixelDocument, PixelJob
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state import records
from wsi_extract.state.layout import pixel_record_path, record_path, survey_path
from wsi_extract.state.records import BlockDocument
from wsi_extract.state.run_claims import check_claim
from wsi_extract.survey import SurveyJob

Bytes = npt.NDArray[np.uint8]

PIECE_BYTES = 2**22
"""Long files are written in pieces of this size."""


class ParcelKind(Enum):
    """What the record of a parcel records, which decides what it is compared with at home."""

    PLAN = "survey"
    BLOCK = "block"
    SHARD = "shard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where the files of a task belong."""

    kind: ParcelKind
    output_dir: Path
    run_digest: str | None
    """Of the run that claimed the folder, see `wsi_extract.state.run_claims`."""
    record: str
    """Path of the record below the folder; it is written last, and its existence means that all else is there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parcel:
    """Files and where they belong. Travels without being copied: its content is one array."""

    destination: Destination
    names: tuple[str, ...]
    """Paths below the output folder, the record last."""
    sizes_bytes: tuple[int, ...]
    content: Bytes
    """(n,) uint8: one file after the other."""
    checksum: int
    """CRC-32 of the content: the network's own notices less."""

    def __sizeof__(self) -> int:
        """Tell Dask, which limits how much it moves at a time, how large this is."""
        return sys.getsizeof(self.names) + self.content.nbytes

    def files(self) -> Iterator[tuple[str, memoryview]]:
        """Yield the path of each file below the output folder, and what it holds."""
        start = 0
        for name, n_bytes in zip(self.names, self.sizes_bytes, strict=True):
            yield name, self.content[start : start + n_bytes].data
            start += n_bytes


def destination_of(item: object) -> Destination | None:
    """Return where a task with this item writes, ``None`` when it writes nothing."""
    if isinstance(item, ExtractJob):
        block, target = item.block, item.target
        path = record_path(Path(), slide_id=block.slide.slide_id, index=block.index)
        return _destination(ParcelKind.BLOCK, target.output_dir, target.run_digest, path)
    if isinstance(item, PixelJob):
        path = pixel_record_path(Path(), slide_id=item.source.slide.slide_id, row=item.row, column=item.column)
        return _destination(ParcelKind.SHARD, item.output_dir, item.run_digest, path)
    if isinstance(item, SurveyJob) and item.output_dir is not None:
        path = survey_path(Path(), slide_id=item.slide.slide_id)
        return _destination(ParcelKind.PLAN, item.output_dir, item.run_digest, path)
    return None


def _destination(kind: ParcelKind, output_dir: Path, run_digest: str | None, record: Path) -> Destination:
    return Destination(kind=kind, output_dir=output_dir, run_digest=run_digest, record=record.as_posix())


def moved_to(item: object, folder: Path) -> object:
    """Return the item of a task that writes, so that it writes to ``folder``, which nobody claims."""
    if isinstance(item, ExtractJob):
        return replace(item, target=replace(item.target, output_dir=folder, run_digest=None))
    assert isinstance(item, PixelJob | SurveyJob)
    return replace(item, output_dir=folder, run_digest=None)


def pack(folder: Path, destination: Destination) -> Parcel:
    """Return all files below ``folder`` as a parcel.

    Raises
    ------
    OSError
        When one cannot be read, or there is no record among them.
    """
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in found if name != destination.record]
    names.append(destination.record)
    sizes = [(folder / name).stat().st_size for name in names]
    content: Bytes = np.empty(sum(sizes), dtype=np.uint8)
    start = 0
    for name, n_bytes in zip(names, sizes, strict=True):
        with (folder / name).open("rb") as stream:
            n_read = stream.readinto(content[start : start + n_bytes].data)
        assert n_read == n_bytes  # nobody else knows the folder
        start += n_bytes
    return Parcel(
        destination=destination,
        names=tuple(names),
        sizes_bytes=tuple(sizes),
        content=content,
        checksum=zlib.crc32(content.data),
    )


def deliver(parcel: Parcel, _slides: SlideCache) -> None:
    """Bring the files of a parcel into the output folder; a task that runs there.

    No file gets its name before all are durable, and the record says what it said if there was one; the record comes
    last.

    Raises
    ------
    IntegrityError
        When the same was written before after the same plan, and differs now.
    EnvironmentFaultError
        When the folder does not belong to the run any more, or the parcel was damaged on its way.
    OSError
        When the output cannot be written.
    """
    goal = parcel.destination
    if zlib.crc32(parcel.content.data) != parcel.checksum:
        raise EnvironmentFaultError(
            f"the files of {goal.record} were damaged on their way from another node, or in memory.",
            "Look at the network and the memory of the nodes, then run the same command again; finished work is kept.",
        )
    *files, (_, record) = parcel.files()
    still_ours = partial(check_claim, goal.output_dir, goal.run_digest)
    still_ours()
    with open_batch(record=goal.output_dir / goal.record, still_ours=still_ours) as batch:
        for name, data in files:
            _add(batch, str(goal.output_dir / name), data)
        batch.make_durable()
        _check_repeated(goal, record.tobytes())
        still_ours()
    still_ours()
    write_atomically(goal.output_dir / goal.record, record.tobytes())


def _add(batch: FileBatch, path: str, data: memoryview) -> None:
    if data.nbytes <= PIECE_BYTES:
        batch.add(path, data.tobytes())
        return
    with batch.open_file(path) as stream:
        for start in range(0, data.nbytes, PIECE_BYTES):
            stream.write(data[start : start + PIECE_BYTES].tobytes())


def _check_repeated(goal: Destination, record: bytes) -> None:
    """Sound the determinism alarm where a task at home would; plans are made anew without one."""
    path = goal.output_dir / goal.record
    if goal.kind is ParcelKind.BLOCK:
        records.check_repeated(cast("BlockDocument", json.loads(record)[goal.kind.value]), path=path)
    elif goal.kind is ParcelKind.SHARD:
        pixels.check_repeated(cast("PixelDocument", json.loads(record)[goal.kind.value]), path=path)
