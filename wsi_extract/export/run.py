"""One export from beginning to end: refuse, claim the destination, write the splits, and say last that it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from wsi_extract.disk.files import canonical_json
from wsi_extract.errors import InputError, IntegrityError, WsiExtractError
from wsi_extract.export import coco_png, hdf5_files, image_folder, lmdb_files, webdataset_files, yolo
from wsi_extract.export.destination import (
    EXPORT,
    check_destination,
    claim_destination,
    finish_destination,
    held_destination,
)
from wsi_extract.export.names import SplitCounts, count_split
from wsi_extract.export.options import ExportFormat, ExportRequest
from wsi_extract.export.room import check_room, expected_bytes, writing_fault
from wsi_extract.export.source import FinishedDataset, Source, open_source, read_finished
from wsi_extract.index import SplitIndex
from wsi_extract.model import Split
from wsi_extract.state.layout import STATE

SCHEMA = 1

OpenSplit = Callable[[FinishedDataset, Split], Source]
Progress = Callable[[Split, int, int], None]
Notice = Callable[[str], None]


class SplitWriter(Protocol):
    """Writes one split into the destination; what an earlier attempt finished is kept."""

    def __call__(self, source: Source, destination: Path, *, advance: Callable[[int], None]) -> None:
        """Write the split, telling ``advance`` how many more patches are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """A finished export."""

    counts: Mapping[Split, SplitCounts]
    was_finished: bool
    """Whether an earlier attempt had finished it already, so that nothing was done."""


def export_dataset(
    request: ExportRequest,
    *,
    on_progress: Progress = lambda split, n_done, n_total: None,
    on_notice: Notice = lambda text: None,
    open_split: OpenSplit = open_source,
) -> ExportResult:
    """Export a finished data set; an interrupted export of the same data set is continued.

    Patches are read one by one, so that memory stays flat.

    Parameters
    ----------
    on_progress
        Told the split, how many of its patches are done, and how many it has.
    on_notice
        Told, before anything is written, what cannot be checked.
    open_split
        Opens a split of the data set.

    Raises
    ------
    InputError
        When there is no such data set or split, the destination holds something else, or a package is missing.
    IntegrityError
        When the data set is damaged, or the destination holds another export.
    EnvironmentFaultError
        When the destination has no room or cannot be written to, or the data set cannot be read.
    """
    finished = read_finished(request.output_dir)
    splits = _splits(request, finished)
    write_split = _writer(request)
    identity = _identity(request, finished, splits=splits)
    try:
        known = check_destination(request.destination, output_dir=request.output_dir, identity=identity)
        if known is not None:
            return ExportResult(counts=_known_counts(known, request=request, splits=splits), was_finished=True)
        sources = {split: open_split(finished, split) for split in splits}
        needed = expected_bytes(request, [source.index for source in sources.values()])
        check_room(request.destination, n_bytes=needed)
        if not finished.has_records:
            on_notice(
                f"{request.output_dir} has no folder {STATE}, which holds the SHA-256 of its files of pixels: a file "
                "that was replaced by another valid one will not be noticed"
            )
        with held_destination(request.destination):
            claim_destination(request.destination, identity=identity)
            for split, source in sources.items():
                write_split(source, request.destination, advance=_counter(source.index, split, on_progress=on_progress))
            counts = {split: count_split(source.index) for split, source in sources.items()}
            _write_common(request, finished, sources=sources)
            _refuse_new_manifest(finished)
            document = {**identity, "counts": {split.value: asdict(count) for split, count in counts.items()}}
            finish_destination(request.destination, document=document)
    except WsiExtractError:
        raise
    except OSError as error:
        raise writing_fault(request.destination, error) from error
    return ExportResult(counts=counts, was_finished=False)


def _known_counts(
    document: Mapping[str, Any], *, request: ExportRequest, splits: tuple[Split, ...]
) -> dict[Split, SplitCounts]:
    try:
        return {split: SplitCounts(**document["counts"][split.value]) for split in splits}
    except (KeyError, TypeError) as error:
        raise IntegrityError(
            f"{request.destination / EXPORT} is damaged: {error!r}.", "Export to another --dest."
        ) from error


def _splits(request: ExportRequest, finished: FinishedDataset) -> tuple[Split, ...]:
    """Return the splits to export in their usual order, each once."""
    missing = [split.value for split in request.splits if split not in finished.documents]
    if missing:
        raise InputError(
            f"{request.output_dir} has no split {', '.join(missing)}.", f"It has {', '.join(finished.documents)}."
        )
    wanted = request.splits or tuple(finished.documents)
    return tuple(split for split in Split if split in wanted)


def _writer(request: ExportRequest) -> SplitWriter:
    """Return the writer of the format; a missing package is found here, before anything is written."""
    options = request.options
    match request.format:
        case ExportFormat.COCO_PNG:
            return coco_png.write_split
        case ExportFormat.IMAGEFOLDER:
            return partial(image_folder.write_split, classes=options.classes)
        case ExportFormat.LMDB:
            lmdb_files.load_lmdb()
            return partial(lmdb_files.write_split, encoding=options.encoding)
        case ExportFormat.HDF5:
            hdf5_files.load_h5py()
            return partial(hdf5_files.write_split, compression=options.compression)
        case ExportFormat.WEBDATASET:
            return partial(webdataset_files.write_split, shard_mb=options.shard_mb, shuffle_seed=options.shuffle_seed)
        case ExportFormat.YOLO:
            return yolo.write_split


def _identity(request: ExportRequest, finished: FinishedDataset, *, splits: tuple[Split, ...]) -> dict[str, object]:
    """Return all that the content of the destination depends on, as it comes back from JSON."""
    identity: dict[str, object] = json.loads(
        canonical_json(
            {
                "schema": SCHEMA,
                "format": request.format,
                "source_manifest_sha256": finished.sha256,
                "splits": splits,
                "options": request.heeded_options,
            }
        )
    )
    return identity


def _counter(index: SplitIndex, split: Split, *, on_progress: Progress) -> Callable[[int], None]:
    n_done = 0

    def advance(n_patches: int) -> None:
        nonlocal n_done
        n_done += n_patches
        on_progress(split, n_done, len(index))

    return advance


def _write_common(request: ExportRequest, finished: FinishedDataset, *, sources: Mapping[Split, Source]) -> None:
    """Write the files that belong to no single patch."""
    if request.format is ExportFormat.COCO_PNG:
        for split in sources:
            coco_png.copy_document(finished, request.destination, split=split)
    elif request.format is ExportFormat.YOLO:
        names = next(iter(sources.values())).index.category_names
        yolo.write_data_file(request.destination, splits=tuple(sources), category_names=names)


def _refuse_new_manifest(finished: FinishedDataset) -> None:
    if read_finished(finished.output_dir).sha256 != finished.sha256:
        raise IntegrityError(
            f"{finished.output_dir} was extracted again while it was exported.", "Export it to another --dest."
        )
