"""All of a converted data set but its blocks: plans before, then what makes its stores open, tables, the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsi_extract.content_digest import content_digest, digests_of_documents, digests_of_tables, with_own_digest
from wsi_extract.convert.source import SourceDataset
from wsi_extract.disk.files import sha256_of_file, write_atomically
from wsi_extract.errors import RESTORE, IntegrityError
from wsi_extract.finish import write_split_documents
from wsi_extract.index import write_root
from wsi_extract.model import SlidePlan, Split
from wsi_extract.slide_outcomes import SlideOutcome, digests_of_blocks, documents_of, manifest_of_slide
from wsi_extract.state.layout import COMPLETE, ERRORS, INDEX, SLIDES_TABLE, instances_name, plan_path, survey_path
from wsi_extract.state.plans import encode_survey, read_mask, read_patches, write_plan
from wsi_extract.state.records import digests_of
from wsi_extract.state.slide_ledger import SlideLedger
from wsi_extract.stores.block_files import BlockTarget
from wsi_extract.survey import read_survey
from wsi_extract.zarr_documents import write_patch_documents, write_patch_groups


def copy_plans(source: SourceDataset, destination: Path) -> None:
    """Copy the plan of every slide, less the coverage that only the pixel store has.

    Of slides that failed, only plans that are whole.

    Raises
    ------
    IntegrityError
        When the plan of a complete slide is missing or damaged.
    """
    complete = {slide.slide_id for slide in source.slides}
    for slide_id in sorted({row["slide_id"] for row in source.manifest["slides"]}):
        try:
            _copy_plan(source.output_dir, destination, slide_id=slide_id)
        except IntegrityError as error:
            if slide_id in complete:
                raise IntegrityError(error.message, RESTORE) from error


def _copy_plan(output_dir: Path, destination: Path, *, slide_id: str) -> None:
    record = read_survey(output_dir, slide_id=slide_id)
    path = plan_path(output_dir, slide_id=slide_id)
    if record is None:
        raise IntegrityError(f"the survey {survey_path(output_dir, slide_id=slide_id)} is missing or damaged.")
    patches = read_patches(path, record=record)
    if record.coverage_digest:
        plan = SlidePlan(slide_id=slide_id, patches=patches, accounts=record.accounts)
        plan_sha256 = write_plan(plan_path(destination, slide_id=slide_id), plan, tissue=read_mask(path))
        record = replace(record, n_chunks=0, coverage_digest="", plan_sha256=plan_sha256)
    else:
        write_atomically(plan_path(destination, slide_id=slide_id), path.read_bytes())
    write_atomically(survey_path(destination, slide_id=slide_id), encode_survey(record))


def write_slide_manifests(source: SourceDataset, destination: Path) -> list[SlideOutcome]:
    """Write the manifest of every slide, all of whose blocks are converted, and return what each yielded.

    Raises
    ------
    IntegrityError
        When a record of the destination is missing or damaged, or when the slide was converted before and came out
        otherwise.
    """
    ledger = SlideLedger(destination)
    outcomes = []
    for slide in source.slides:
        survey = read_survey(destination, slide_id=slide.slide_id)
        if survey is None:
            path = survey_path(destination, slide_id=slide.slide_id)
            raise IntegrityError(f"the survey {path} has disappeared during the conversion.", "Convert again.")
        blocks = digests_of_blocks(destination, survey)
        ledger.begin(survey, fingerprint=slide.fingerprint, n_units=0, blocks=blocks)
        outcomes.append(SlideOutcome(slide_id=slide.slide_id, survey=survey, n_blocks=slide.n_blocks, fault=None))
    return outcomes


def write_documents(source: SourceDataset, outcomes: Sequence[SlideOutcome], *, target: BlockTarget) -> None:
    """Write what makes the stores open, the COCO documents, the index and the tables.

    Parameters
    ----------
    outcomes
        See `write_slide_manifests`.

    Raises
    ------
    IntegrityError
        When a COCO document is not byte for byte the source's, whose records then do not fit its manifest.
    """
    output_dir = target.output_dir
    if target.store.has_patch_arrays:
        for outcome in outcomes:
            write_patch_documents(output_dir, documents_of(output_dir, [outcome]), codec=target.codec)
        used = {split for slide in source.slides for split in slide.splits}
        write_patch_groups(output_dir, splits=[split for split in Split if split in used])
    for split, index in source.indexes.items():
        write_split_documents(
            output_dir, outcomes, split=split, category_names=index.category_names, patch_px=source.patch_px
        )
        path = output_dir / instances_name(split)
        if sha256_of_file(path) != source.manifest["splits"][split.value]["sha256"]:
            raise IntegrityError(
                f"the records of {source.output_dir} do not give the COCO document of split {split} that its manifest "
                "names.",
                RESTORE,
            )
    write_root(output_dir)
    _copy_tables(source, output_dir)


def _copy_tables(source: SourceDataset, destination: Path) -> None:
    try:
        write_atomically(destination / SLIDES_TABLE, (source.output_dir / SLIDES_TABLE).read_bytes())
    except FileNotFoundError as error:
        raise IntegrityError(f"{source.output_dir / SLIDES_TABLE} is missing.", RESTORE) from error
    if (source.output_dir / ERRORS).exists():
        write_atomically(destination / ERRORS, (source.output_dir / ERRORS).read_bytes())


def manifest_of(
    source: SourceDataset,
    destination: Path,
    outcomes: Sequence[SlideOutcome],
    *,
    settings: Mapping[str, object],
    run: Mapping[str, object],
) -> dict[str, object]:
    """Return the manifest of the new data set: the source's, with other settings and the digests of its own files.

    Parameters
    ----------
    outcomes
        See `write_slide_manifests`.
    settings
        Those that the conversion changed.
    run
        What differs from run to run without touching the data.
    """
    own = {outcome.slide_id: _own_digests(destination, outcome) for outcome in outcomes}
    splits_of = {slide.slide_id: slide.splits for slide in source.slides}
    documents = digests_of_documents(destination, splits=source.indexes, slides=splits_of)
    leaves = {slide_id: digests["content_sha256"] for slide_id, digests in own.items()}
    return with_own_digest(
        {
            **source.manifest,
            "settings": {**source.manifest["settings"], **settings},
            "content_sha256": content_digest(leaves, documents),
            "index_sha256": documents[INDEX],
            "slides": [
                {**row, **own[row["slide_id"]]} if row["status"] == COMPLETE else row
                for row in source.manifest["slides"]
            ],
            "run": {**run, "tables": digests_of_tables(destination)},
        }
    )


def _own_digests(output_dir: Path, outcome: SlideOutcome) -> dict[str, str]:
    """Return the digests in the row of a slide, over all its files of pixels and all of it, as `finish_run` notes."""
    digest = hashlib.sha256()
    for document in documents_of(output_dir, [outcome]):
        for file_digest in digests_of(document):
            digest.update(bytes.fromhex(file_digest))
    return {"pixels_sha256": digest.hexdigest(), "content_sha256": manifest_of_slide(output_dir, outcome)[1]}
