"""What lies in an output folder: nothing half-written, nothing that belongs to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wsi_extract.layout import OWNED, SLIDES_TABLE, instances_name, plan_path, record_path, run_path, survey_path
from wsi_extract.model import Split
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.manifest import Manifest
from wsi_extract.verify.patch_files import files_below, is_leftover


def check_folder(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Report missing files of the contract, half-written files, and plans, records and documents of nobody.

    Patches are compared with the images of their split elsewhere; what is not of the contract is the user's own.
    """
    findings.done.add(Check.FOLDER)
    for file in _contract_files(output_dir, manifest):
        if not file.is_file():
            findings.add(Check.FOLDER, file, "missing")
    for file in output_dir.iterdir():
        if is_leftover(file.name):
            findings.add(Check.FOLDER, file, "left behind by an interrupted write")
    known = set(_known_files(output_dir, manifest))
    tolerated = {record_path(output_dir, slide_id=name, index=0).parent for name in manifest.failed_slide_ids}
    guarded = (
        plan_path(output_dir, slide_id="any").parent,
        record_path(output_dir, slide_id="any", index=0).parents[1],
        output_dir / instances_name(Split.TRAIN).split("/", maxsplit=1)[0],
    )
    for name in OWNED:
        for below in files_below(output_dir / name):
            file = output_dir / name / below
            if is_leftover(file.name):
                findings.add(Check.FOLDER, file, "left behind by an interrupted write")
            elif any(map(file.is_relative_to, guarded)) and file not in known and file.parent not in tolerated:
                findings.add(Check.FOLDER, file, "belongs to no slide and no split of the manifest")


def _contract_files(output_dir: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield the files that every finished data set has, except those whose readers report their absence."""
    yield output_dir / SLIDES_TABLE
    yield run_path(output_dir)
    for split in sorted({Split.TRAIN, Split.VAL, *manifest.splits}):
        yield output_dir / instances_name(split)


def _known_files(output_dir: Path, manifest: Manifest) -> Iterator[Path]:
    for split in manifest.splits:
        yield output_dir / instances_name(split)
    for slide in manifest.slides:
        yield plan_path(output_dir, slide_id=slide.slide_id)
        yield survey_path(output_dir, slide_id=slide.slide_id)
    for slide in manifest.complete_slides:
        for index in range(slide.n_blocks):
            yield record_path(output_dir, slide_id=slide.slide_id, index=index)
