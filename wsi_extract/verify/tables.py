"""slides.csv, errors.jsonl and run.json against the manifest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsi_extract.csv_table import without_formula
from wsi_extract.disk.files import sha256_of_file
from wsi_extract.slides_table import TEXT_COLUMNS
from wsi_extract.state.fault_records import read_fault
from wsi_extract.state.layout import ERRORS, SLIDES_TABLE, claim_path, fault_path, run_path
from wsi_extract.state.run_claims import claim_content
from wsi_extract.verify.findings import Check, Findings, read_json_object
from wsi_extract.verify.manifest import Manifest

COLUMNS_WITHOUT_MANIFEST = frozenset({"file"})
"""Columns of slides.csv that the manifest does not repeat."""
COLUMNS_NEEDED = frozenset({"slide_id", "file", "status", "group", "splits", "n_planned", "n_written", "n_failed"})
PAIRS = {"um_per_px_xy": "um_per_px", "l0_per_px_xy": "l0_per_px"}
"""Pairs of the manifest, and how their two columns begin."""


def check_tables(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Check everything that repeats what the manifest says."""
    findings.done.add(Check.TABLES)
    _check_claim(output_dir, findings=findings)
    with findings.reading(Check.TABLES, output_dir):
        for name, message in find_changed_tables(output_dir, manifest.raw):
            findings.add(Check.TABLES, output_dir / name, message)
    _check_faults(output_dir, manifest, findings=findings)
    for path, check in (
        (output_dir / SLIDES_TABLE, _check_slides_table),
        (output_dir / ERRORS, _check_errors),
        (run_path(output_dir), _check_run),
    ):
        with findings.reading(Check.TABLES, path):
            check(path, manifest, findings=findings)


def find_changed_tables(output_dir: Path, manifest: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield (path below the folder, what is wrong) of the tables that are not those the manifest was written for.

    Raises
    ------
    KeyError, TypeError
        When the manifest does not state their digests.
    """
    run = manifest["run"]
    stated = run["tables"] if isinstance(run, dict) else None
    if not isinstance(stated, dict):
        raise TypeError("the manifest states no digests of tables")
    paths = (output_dir / SLIDES_TABLE, output_dir / ERRORS, run_path(output_dir))
    found = {path.relative_to(output_dir).as_posix(): sha256_of_file(path) for path in paths if path.exists()}
    for name in sorted(stated.keys() | found.keys()):
        if stated.get(name) != found.get(name):
            yield name, f"the manifest states the digest {stated.get(name)}, found {found.get(name)}"


def _flat(row: Mapping[str, object]) -> dict[str, str]:
    """Return a slide of the manifest as the texts of its row in slides.csv."""
    flat: dict[str, str] = {}
    for key, value in row.items():
        if key == "splits" and isinstance(value, list):
            flat[key] = "+".join(str(split) for split in value)
        elif key in {"patches_by_kind", "label_counts"} and isinstance(value, dict):
            flat |= {str(name): str(n) for name, n in value.items()}
        elif key in PAIRS and isinstance(value, list):
            flat |= {f"{PAIRS[key]}_{axis}": str(part) for axis, part in zip("xy", value, strict=True)}
        elif not isinstance(value, list | dict):
            flat[key] = "" if value is None else str(value)
    return {key: without_formula(text) if key in TEXT_COLUMNS else text for key, text in flat.items()}


def _check_slides_table(path: Path, manifest: Manifest, *, findings: Findings) -> None:
    reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), strict=True)
    findings.n_files += 1
    rows = list(reader)
    columns = list(reader.fieldnames or ())
    if missing := COLUMNS_NEEDED.difference(columns):
        findings.add(Check.TABLES, path, f"columns {', '.join(sorted(missing))} are missing")
        return
    slides = manifest.raw["slides"]
    assert isinstance(slides, list)  # the manifest's shape was checked
    findings.expect(Check.TABLES, path, what="number of slides", stated=len(rows), found=len(slides))
    for row, slide in zip(rows, slides, strict=False):
        expected = _flat(slide)
        for column in columns:
            if column not in COLUMNS_WITHOUT_MANIFEST and row[column] != expected.get(column, ""):
                findings.add(
                    Check.TABLES,
                    path,
                    f"slide {expected['slide_id']}: {column} is {row[column]!r}, in the manifest "
                    f"{expected.get(column, '')!r}",
                )


def _check_errors(path: Path, manifest: Manifest, *, findings: Findings) -> None:
    failed = sorted(manifest.failed_slide_ids)
    if not path.exists():
        if failed:
            findings.add(Check.TABLES, path, f"missing, although slides failed: {', '.join(failed)}")
        return
    findings.n_files += 1
    listed = []
    for number, line in enumerate(path.read_bytes().decode("utf-8").splitlines(), start=1):
        fault = json.loads(line)
        if not isinstance(fault, dict) or not all(fault.get(key) for key in ("slide_id", "stage", "message")):
            findings.add(Check.TABLES, path, f"line {number} does not name slide, stage and message")
            continue
        listed.append(str(fault["slide_id"]))
    if not listed:
        findings.add(Check.TABLES, path, "holds no failure; it must be absent then")
    findings.expect(Check.TABLES, path, what="failed slides", stated=sorted(listed), found=failed)


def _check_faults(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Check what is remembered of slides that failed; that it belongs to one of them is checked with the folder."""
    for slide in manifest.slides:
        path = fault_path(output_dir, slide_id=slide.slide_id)
        with findings.reading(Check.TABLES, path):
            findings.n_files += read_fault(output_dir, slide_id=slide.slide_id) is not None


def _check_claim(output_dir: Path, *, findings: Findings) -> None:
    """Check that the claim is that of the run; that it is there is checked with the folder."""
    path = claim_path(output_dir)
    with findings.reading(Check.TABLES, path):
        if path.exists():
            findings.n_files += 1
            if path.read_bytes() != claim_content(read_json_object(run_path(output_dir))):
                findings.add(Check.TABLES, path, f"is not the claim of the run that {run_path(Path())} tells of")


def _check_run(path: Path, manifest: Manifest, *, findings: Findings) -> None:
    run = read_json_object(path)
    findings.n_files += 1
    if run["settings"] != manifest.raw["settings"]:
        findings.add(Check.TABLES, path, "its settings differ from those of the manifest")
    slides = run["slides"]
    if not isinstance(slides, dict):
        raise TypeError("slides is not an object")
    for slide in manifest.complete_slides:
        known = slides.get(slide.slide_id)
        if not isinstance(known, dict):
            findings.add(Check.TABLES, path, f"slide {slide.slide_id} of the manifest is not part of this run")
            continue
        findings.expect(
            Check.TABLES,
            path,
            what=f"slide {slide.slide_id}: fingerprint",
            stated=known["fingerprint"],
            found=slide.fingerprint,
        )
