"""Which files of a data set are not what was recorded of them: what a repair has to make anew.

Goes by the records on disk, not by the manifest, which may be damaged itself. A file that a damaged record tells of is
not known; the whole block is made anew then. Documents, tables and the index are made anew by every run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.disk.files import sha256_of_file
from wsi_extract.model import Split
from wsi_extract.pixels import read_pixel_document
from wsi_extract.state.layout import (
    patch_shard_path,
    pixel_record_path,
    pixel_shard_path,
    plan_path,
    record_path,
    slide_manifest_path,
    split_folder,
    survey_path,
)
from wsi_extract.state.plans import read_coverage, read_patches, read_survey_record
from wsi_extract.state.record_files import read_record
from wsi_extract.state.records import BlockDocument, read_document
from wsi_extract.storage import Store
from wsi_extract.stores.pixel_array import shards_of
from wsi_extract.verify.documents import is_inside
from wsi_extract.verify.entries import is_slide_id
from wsi_extract.verify.findings import DAMAGE
from wsi_extract.verify.threads import map_in_threads

BLOCK_NAME = re.compile(r"([0-9]{6,18})\.json")
SHARD_NAME = re.compile(r"([0-9]{1,9})_([0-9]{1,9})\.json")
MAX_LOST = 10_000
"""Records of one slide that may be missing; a manifest that claims more is not believed."""
MAX_NAMED = 8
"""Blocks of one slide that are named in a line for people."""
FILES_PER_TASK = 16
SLIDE_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedFile:
    """A file that is missing, or not what was recorded of it."""

    slide_id: str
    part: str
    """What of the slide it belongs to: ``plan``, ``block 3``, ``pixels 0_1``, ``manifest``."""
    path: Path
    is_missing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """A file as a record tells of it."""

    slide_id: str
    part: str
    path: Path
    n_bytes: int
    sha256: str


def find_damage(output_dir: Path, *, store: Store, n_blocks: Mapping[str, int | None]) -> Iterator[DamagedFile]:
    """Yield the damaged and missing files of plans, records and pixels, slide by slide.

    Parameters
    ----------
    n_blocks
        The slides of the data set, and how many blocks each has; ``None`` when nobody knows: then records that are
        missing are not found.
    """
    for slide_id in sorted(n_blocks):
        if is_slide_id(slide_id):
            yield from _damage_of_state(output_dir, slide_id)
            recorded = _recorded_files(output_dir, slide_id, store=store, n_blocks=n_blocks[slide_id])
            yield from _compared(recorded)


def describe_damage(damage: Iterable[DamagedFile]) -> list[str]:
    """Return one line per slide: how many files of which parts of it are damaged or missing."""
    by_slide: defaultdict[str, list[DamagedFile]] = defaultdict(list)
    for file in damage:
        by_slide[file.slide_id].append(file)
    lines = []
    for slide_id, files in by_slide.items():
        parts = list(dict.fromkeys(file.part for file in files))
        more = f" and {len(parts) - MAX_NAMED} more" if len(parts) > MAX_NAMED else ""
        n_missing = sum(file.is_missing for file in files)
        what = f"{len(files) - n_missing} damaged, {n_missing} missing files"
        lines.append(f"slide {slide_id}: {what} of {', '.join(parts[:MAX_NAMED])}{more}")
    return lines


def _damage_of_state(output_dir: Path, slide_id: str) -> Iterator[DamagedFile]:
    """Yield the survey, the plan and the manifest of a slide where they cannot be used."""
    survey_file, plan_file = (path(output_dir, slide_id=slide_id) for path in (survey_path, plan_path))
    survey = None
    try:
        survey = read_survey_record(survey_file)
    except DAMAGE:
        yield DamagedFile(slide_id=slide_id, part="plan", path=survey_file, is_missing=False)
    else:
        if survey is None:
            yield DamagedFile(slide_id=slide_id, part="plan", path=survey_file, is_missing=True)
    if survey is not None:
        try:
            read_patches(plan_file, record=survey)
        except DAMAGE:
            yield DamagedFile(slide_id=slide_id, part="plan", path=plan_file, is_missing=not plan_file.exists())
    path = slide_manifest_path(output_dir, slide_id=slide_id)
    try:
        is_missing = read_record(path, kind="slide", schema=SLIDE_SCHEMA) is None
    except DAMAGE:
        yield DamagedFile(slide_id=slide_id, part="manifest", path=path, is_missing=False)
    else:
        if is_missing:
            yield DamagedFile(slide_id=slide_id, part="manifest", path=path, is_missing=True)


def _compared(recorded: Iterator[_Recorded | DamagedFile]) -> Iterator[DamagedFile]:
    """Yield what is damaged already, and the recorded files that are not on disk as recorded; threads hash."""
    return (
        damaged for damaged in map_in_threads(_compare, recorded, items_per_task=FILES_PER_TASK) if damaged is not None
    )


def _compare(file: _Recorded | DamagedFile) -> DamagedFile | None:
    if isinstance(file, DamagedFile):
        return file
    try:
        is_sound = file.path.stat().st_size == file.n_bytes and sha256_of_file(file.path) == file.sha256
    except FileNotFoundError:
        return DamagedFile(slide_id=file.slide_id, part=file.part, path=file.path, is_missing=True)
    except OSError:  # a disk that cannot read a sector any more
        is_sound = False
    if is_sound:
        return None
    return DamagedFile(slide_id=file.slide_id, part=file.part, path=file.path, is_missing=False)


def _recorded_files(
    output_dir: Path, slide_id: str, *, store: Store, n_blocks: int | None
) -> Iterator[_Recorded | DamagedFile]:
    """Yield the files that the records of a slide tell of, and the records that cannot be read."""
    for index in _block_numbers(output_dir, slide_id, n_blocks=n_blocks):
        path, part = record_path(output_dir, slide_id=slide_id, index=index), f"block {index}"
        try:
            document = read_document(path)
            files = [] if document is None else list(files_of_block(output_dir, document, slide_id=slide_id))
        except DAMAGE:
            yield DamagedFile(slide_id=slide_id, part=part, path=path, is_missing=False)
            continue
        if document is None:
            yield DamagedFile(slide_id=slide_id, part=part, path=path, is_missing=True)
        for file, n_bytes, sha256 in files:
            yield _Recorded(slide_id=slide_id, part=part, path=file, n_bytes=n_bytes, sha256=sha256)
    if store is Store.PIXELS:
        yield from _recorded_pixels(output_dir, slide_id)


def _block_numbers(output_dir: Path, slide_id: str, *, n_blocks: int | None) -> list[int]:
    folder = record_path(output_dir, slide_id=slide_id, index=0).parent
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if n_blocks is not None:
        return list(range(min(n_blocks, len(names) + MAX_LOST)))
    return sorted(int(match.group(1)) for name in names if (match := BLOCK_NAME.fullmatch(name)))


def files_of_block(output_dir: Path, document: BlockDocument, *, slide_id: str) -> Iterator[tuple[Path, int, str]]:
    """Yield path, size and SHA-256 of the files of pixels of a block.

    Raises
    ------
    ValueError
        When the record is that of another slide, or a file lies elsewhere.
    """
    split = Split(document["split"])
    if document["slide_id"] != slide_id:
        raise ValueError("the record is that of another slide")
    for patch in document["patches"]:
        name = patch["file_name"]
        if not (is_inside(name) and name.startswith(f"{slide_id}/")):
            raise ValueError(f"{name} leaves the folder of its slide")
        if "sha256" in patch and "bytes" in patch:
            yield output_dir / split_folder(split) / name, patch["bytes"], patch["sha256"]
    if "shard" in document:
        shard = document["shard"]
        path = patch_shard_path(output_dir, slide_id=slide_id, split=split, shard=int(shard["number"]))
        yield path, shard["bytes"], shard["sha256"]


def _recorded_pixels(output_dir: Path, slide_id: str) -> Iterator[_Recorded | DamagedFile]:
    for row, column in _pixel_shards(output_dir, slide_id):
        record = pixel_record_path(output_dir, slide_id=slide_id, row=row, column=column)
        part = f"pixels {row}_{column}"
        try:
            document = read_pixel_document(record)
        except DAMAGE:
            yield DamagedFile(slide_id=slide_id, part=part, path=record, is_missing=False)
            continue
        if document is None:
            yield DamagedFile(slide_id=slide_id, part=part, path=record, is_missing=True)
            continue
        path = pixel_shard_path(output_dir, slide_id=slide_id, row=row, column=column)
        yield _Recorded(slide_id=slide_id, part=part, path=path, n_bytes=document["bytes"], sha256=document["sha256"])


def _pixel_shards(output_dir: Path, slide_id: str) -> list[tuple[int, int]]:
    """Return the shards that the plan wants, or, when that cannot be read, those that have records."""
    with suppress(*DAMAGE):
        survey = read_survey_record(survey_path(output_dir, slide_id=slide_id))
        if survey is not None:
            return list(shards_of(read_coverage(plan_path(output_dir, slide_id=slide_id), record=survey)))
    folder = pixel_record_path(output_dir, slide_id=slide_id, row=0, column=0).parent
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    matches = [match for name in names if (match := SHARD_NAME.fullmatch(name))]
    return sorted((int(match.group(1)), int(match.group(2))) for match in matches)
