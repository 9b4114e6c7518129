"""What lies in an output folder: nothing half-written, nothing that belongs to nobody."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from wsi_extract.model import Split
from wsi_extract.state.layout import (
    OWNED,
    SLIDES_TABLE,
    claim_path,
    fault_path,
    instances_name,
    plan_path,
    record_path,
    run_path,
    slide_manifest_path,
    survey_path,
)
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.manifest import Manifest
from wsi_extract.verify.patch_files import files_below, is_leftover
from wsi_extract.verify.strays import BELONGS_TO_NOBODY, Owners, find_stray

RECORDS = record_path(Path(), slide_id="any", index=0).parents[1].as_posix() + "/"
GUARDED = (
    RECORDS,
    plan_path(Path(), slide_id="any").parent.as_posix() + "/",
    slide_manifest_path(Path(), slide_id="any").parent.as_posix() + "/",
    fault_path(Path(), slide_id="any").parent.as_posix() + "/",
    instances_name(Split.TRAIN).split("/", maxsplit=1)[0] + "/",
)
"""Where every file is known."""
LEFT_BEHIND = "left behind by an interrupted write"
MAX_DIGITS = 18
"""Of the number of a block; longer ones are none."""


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
            findings.add(Check.FOLDER, path, LEFT_BEHIND)
    for path, message in find_strays(output_dir, manifest):
        findings.add(Check.FOLDER, path, message)


def find_strays(output_dir: Path, manifest: Manifest) -> Iterator[tuple[Path, str]]:
    """Yield (path, why) of files that belong to nobody, as far as the manifest tells; half-written ones are among them.

    Among the pixels of a slide its records tell more.
    """
    owners = Owners.of(manifest)
    known = {path.as_posix() for path in _known_files(Path(), manifest)}
    n_blocks = {slide.slide_id: slide.n_blocks for slide in manifest.complete_slides}
    for name in OWNED:
        for below in files_below(output_dir / name):
            file = f"{name}/{below}"
            if is_leftover(file):
                message = LEFT_BEHIND
            elif file.startswith(GUARDED):
                is_known = file in known or _is_record(file, n_blocks=n_blocks, tolerated=owners.failed)
                message = "" if is_known else BELONGS_TO_NOBODY
            else:
                message = find_stray(file, owners)
            if message:
                yield output_dir / file, message


def _is_record(file: str, *, n_blocks: Mapping[str, int], tolerated: Container[str]) -> bool:
    """Tell whether a file is the record of a block of a slide, or lies among those of a slide that failed."""
    folder, _, name = file.rpartition("/")
    above, _, slide_id = folder.rpartition("/")
    if f"{above}/" != RECORDS:
        return False
    number = name.removesuffix(".json")
    is_number = number.isascii() and number.isdecimal() and len(number) <= MAX_DIGITS
    if slide_id in n_blocks and is_number and int(number) < n_blocks[slide_id]:
        return record_path(Path(), slide_id=slide_id, index=int(number)).as_posix() == file
    return slide_id in tolerated


def _contract_files(output_dir: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield the files that every finished data set has, except those whose readers report their absence."""
    yield output_dir / SLIDES_TABLE
    yield run_path(output_dir)
    yield claim_path(output_dir)
    for split in sorted({Split.TRAIN, Split.VAL, *manifest.splits}):
        yield output_dir / instances_name(split)


def _known_files(output_dir: Path, manifest: Manifest) -> Iterator[Path]:
    for split in manifest.splits:
        yield output_dir / instances_name(split)
    for slide in manifest.slides:
        yield plan_path(output_dir, slide_id=slide.slide_id)
        yield survey_path(output_dir, slide_id=slide.slide_id)
        yield slide_manifest_path(output_dir, slide_id=slide.slide_id)
        yield fault_path(output_dir, slide_id=slide.slide_id)
