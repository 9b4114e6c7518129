"""What a repair cannot make right: files that belong to nobody, and folders in the place of files.

A file counts as foreign only where everything that could claim it is whole: the manifest, and the records of a slide.
What is damaged may have claimed it, and is made anew first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wsi_extract.model import Split
from wsi_extract.state.layout import (
    DASK_REPORT,
    ERRORS,
    INDEX,
    MANIFEST,
    OWNED,
    PATCHES,
    PIXELS,
    SLIDES_TABLE,
    STATE,
    patch_array_folder,
    pixel_image_folder,
    pixel_shard_path,
    plan_path,
    record_path,
    split_folder,
    survey_path,
)
from wsi_extract.state.plans import read_coverage, read_survey_record
from wsi_extract.state.records import read_document
from wsi_extract.storage import Store
from wsi_extract.stores.pixel_array import shards_of
from wsi_extract.verify.damage import files_of_block
from wsi_extract.verify.findings import DAMAGE, Findings
from wsi_extract.verify.folder import find_strays
from wsi_extract.verify.manifest import Manifest, ManifestSlide, read_manifest
from wsi_extract.verify.patch_files import files_below, is_leftover

NAME = "[^/]+"
FILE_PLACES = re.compile(
    "|".join(
        (
            "|".join(re.escape(name) for name in (MANIFEST, SLIDES_TABLE, ERRORS, DASK_REPORT)),
            rf"{re.escape(STATE)}/(?:{NAME}\.json|claim|(?:plans|slides|faults)/{NAME}|(?:records|pixels)/{NAME}/{NAME})",
            rf"annotations/{NAME}",
            rf"(?:{'|'.join(split_folder(split) for split in Split)})/{NAME}/{NAME}",
            rf"(?:{re.escape(PATCHES)}|{re.escape(PIXELS)})/(?:.+/)?zarr\.json",
            rf"{re.escape(PATCHES)}/{NAME}/{NAME}/c/{NAME}/{NAME}/{NAME}/{NAME}",
            rf"{re.escape(PIXELS)}/{NAME}/0/c/{NAME}/{NAME}/{NAME}",
        )
    )
)
"""Where only files may be, below an output folder. The index is made anew as a whole, whatever is in it."""


def find_foreign(output_dir: Path) -> list[Path]:
    """Return the files among those of the data set that nothing of it claims, sorted; raises nothing.

    Empty when the manifest is damaged: then nobody knows. What an interrupted write left behind is not among them: a
    repair collects it.
    """
    with suppress(*DAMAGE):
        manifest = read_manifest(output_dir, findings=Findings())
        if manifest is not None and manifest.is_as_written:
            return sorted(set(_find_foreign(output_dir, manifest)))
    return []


def find_folders_as_files(output_dir: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folders that lie where only files may be, and whether they are empty; no link is followed."""
    for name in OWNED:
        for parent, folders, _ in os.walk(output_dir / name):
            below = Path(parent).relative_to(output_dir).as_posix()
            if FILE_PLACES.fullmatch(below):
                folders.clear()
                yield Path(parent), not any(Path(parent).iterdir())


def _find_foreign(output_dir: Path, manifest: Manifest) -> Iterator[Path]:
    index = output_dir / INDEX
    for path, _ in find_strays(output_dir, manifest):
        if not is_leftover(path.name) and not path.is_relative_to(index):
            yield path
    for slide in manifest.complete_slides:
        with suppress(*DAMAGE):
            yield from _foreign_pixels(output_dir, slide, store=manifest.settings.store)
    yield from _foreign_among_slides(output_dir, manifest)


def _foreign_pixels(output_dir: Path, slide: ManifestSlide, *, store: Store) -> Iterator[Path]:
    """Yield the files beside the pixels of a slide that none of its records names.

    Raises
    ------
    Exception
        One of `DAMAGE`, before anything was yielded, when the plan or a record is damaged or missing.
    """
    claimed = set(_claimed_files(output_dir, slide))
    folders = [output_dir / split_folder(split) / slide.slide_id for split in Split] if store.has_png else []
    arrays = [patch_array_folder(output_dir, slide_id=slide.slide_id, split=split) for split in slide.splits]
    if store is Store.PIXELS:
        claimed |= set(_claimed_shards(output_dir, slide))
        arrays = [pixel_image_folder(output_dir, slide_id=slide.slide_id)]
    for folder in (*folders, *arrays):
        for name in files_below(folder):
            path = folder / name
            is_document = folder in arrays and name in {"zarr.json", "0/zarr.json"}
            if path not in claimed and not is_document and not is_leftover(name):
                yield path


def _claimed_files(output_dir: Path, slide: ManifestSlide) -> Iterator[Path]:
    for index in range(slide.n_blocks):
        document = read_document(record_path(output_dir, slide_id=slide.slide_id, index=index))
        if document is None:
            raise FileNotFoundError(f"slide {slide.slide_id}: block {index} has no record")
        for path, _, _ in files_of_block(output_dir, document, slide_id=slide.slide_id):
            yield path


def _claimed_shards(output_dir: Path, slide: ManifestSlide) -> Iterator[Path]:
    survey = read_survey_record(survey_path(output_dir, slide_id=slide.slide_id))
    if survey is None:
        raise FileNotFoundError(f"slide {slide.slide_id} has no plan")
    coverage = read_coverage(plan_path(output_dir, slide_id=slide.slide_id), record=survey)
    for row, column in shards_of(coverage):
        yield pixel_shard_path(output_dir, slide_id=slide.slide_id, row=row, column=column)


def _foreign_among_slides(output_dir: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield the files of splits that lie in the folder of no slide; those of slides that failed are tolerated."""
    if not manifest.settings.store.has_png:
        return
    ours = {slide.slide_id for slide in manifest.complete_slides} | manifest.failed_slide_ids
    for split in Split:
        folder = output_dir / split_folder(split)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file() and not is_leftover(path.name):
                yield path
            elif path.name not in ours:
                yield from (path / name for name in files_below(path) if not is_leftover(name))
