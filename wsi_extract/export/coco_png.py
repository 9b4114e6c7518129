"""A data set with the store png, from one with any store: for tools that need files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import sha256_of, write_atomically
from wsi_extract.errors import IntegrityError
from wsi_extract.export.loose_files import LooseFile, write_missing
from wsi_extract.export.source import FinishedDataset, Source
from wsi_extract.model import Split
from wsi_extract.state.layout import instances_name, split_folder


def write_split(source: Source, destination: Path, *, advance: Callable[[int], None]) -> None:
    """Write ``<split>2017/<slide_id>/<slide_id>_x<X>_y<Y>.png``."""
    folder = destination / split_folder(Split(source.index.split))
    make_folder(folder)
    write_missing(_files(source, folder), advance=advance)


def _files(source: Source, folder: Path) -> Iterator[LooseFile]:
    for i in range(len(source.index)):
        yield LooseFile(path=folder / source.index.file_name(i), read=partial(source.png, i))


def copy_document(finished: FinishedDataset, destination: Path, *, split: Split) -> None:
    """Copy the COCO document of a split.

    Raises
    ------
    IntegrityError
        When it is missing, or not the one the manifest speaks of.
    """
    path = finished.output_dir / instances_name(split)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", "Run the extraction again.") from error
    if sha256_of(data) != finished.documents[split].sha256:
        raise IntegrityError(f"{path} was changed after the extraction.", "Run the extraction again.")
    write_atomically(destination / instances_name(split), data)
