"""What lies in an output folder: nothing half-written, nothing that belongs to nobody."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

from wsi_extract.layout import OWNED, SLIDES_TABLE, instances_name, plan_path, record_path, run_path, survey_path
from wsi_extract.model import Split
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.manifest import Manifest
from wsi_extract.verify.patch_files import files_below, is_leftover
from wsi_extract.verify.strays import BELONGS_TO_NOBODY, Owners, find_stray

RECORDS = record_path(Path(), slide_id="any", index=0).parents[1].as_posix() + "/"
GUARDED = (
    RECORDS,
    plan_path(Path(), slide_id="any").parent.as_posix() + "/",
    instances_name(Split.TRAIN).split("/", maxsplit=1)[0] + "/",
)
"""Where every file is known."""


def check_folder(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Report missing files of the contract, half-written files, and plans, records and documents of nobody.

    Files of pixels are compared with the records of their slide elsewhere; what is not of the contract is the user's
    own.
    """
    findings.done.add(Check.FOLDER)
    for path in _contract_files(output_dir, manifest):
        if not path.is_file():
            findings.add(Check.FOLDER, path, "missing")
    for path in output_dir.iterdir():
        if is_leftover(path.name):
            findings.add(Check.FOLDER, path, "left behind by an interrupted write")
    owners = Owners.of(manifest)
    known = {path.as_posix() for path in _known_files(Path(), manifest)}
    for name in OWNED:
        for below in files_below(output_dir / name):
            file = f"{name}/{below}"
            if is_leftover(file):
                message = "left behind by an interrupted write"
            elif file.startswith(GUARDED):
                message = "" if file in known or _is_record_of(file, owners.failed) else BELONGS_TO_NOBODY
            else:
                message = find_stray(file, owners)
            if message:
                findings.add(Check.FOLDER, output_dir / file, message)


def _is_record_of(file: str, slide_ids: Container[str]) -> bool:
    folder, _, rest = file.rpartition("/")[0].rpartition("/")
    return f"{folder}/" == RECORDS and rest in slide_ids


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
