"""Two output folders against each other: the same inputs, settings and seed must give the same bytes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

from wsi_extract.model import Split
from wsi_extract.state.layout import (
    DASK_REPORT,
    MANIFEST,
    SLIDES_TABLE,
    fault_path,
    lock_path,
    patch_array_folder,
    pixel_image_folder,
    pixel_record_path,
    record_path,
    run_path,
    slide_manifest_path,
    split_folder,
    survey_path,
)
from wsi_extract.verify.entries import check_entries
from wsi_extract.verify.findings import AuditReport, Check, Findings, read_json_object
from wsi_extract.verify.patch_files import files_below
from wsi_extract.verify.threads import map_in_threads

IGNORED_FILES = frozenset({DASK_REPORT, "report.html", lock_path(Path()).as_posix()})
IGNORED_FOLDERS = ("qc/", fault_path(Path(), slide_id="any").parent.as_posix() + "/")
"""Reports for people, which hold times; and what a run remembers of how it or the one before went."""
IGNORED_KEYS = frozenset({"run", "versions", "sha256"})
"""Parts of the manifest that differ from run to run without touching the data; the last is over all of it."""
FACTS_OF_READING = frozenset({"reader", "reader_reason", "reader_mode"})
"""Who decoded the tiles of a slide, in the manifest, in slides.csv and beside its plan: the pixels are the same."""
SETTINGS = "settings"
STAIN_TARGET = "stain_target"
NAME = "name"
"""Of a stain target; for people, the pixels depend on its method and values."""
CHUNK_BYTES = 1 << 20
LINE_END = re.compile(r"\r\n|\r|\n|\Z")


def compare(first: Path, second: Path) -> AuditReport:
    """Compare two output folders byte for byte, and report every setting, else every file, that differs.

    Reports are left out, and so is what was written of slides that failed, which depends on when they failed; the
    manifests are compared as JSON without `IGNORED_KEYS`.

    Parameters
    ----------
    first, second
        Output folders of this program.

    Returns
    -------
    A report whose problems are the differences; paths are those of ``first``, or of ``second`` for files only there.
    """
    findings = Findings(done={Check.COMPARISON})
    for folder in (first, second):
        if not check_entries(folder, findings=findings):
            continue
        if not (folder / MANIFEST).is_file():
            findings.add(Check.COMPARISON, folder, f"not a finished output folder: it holds no {MANIFEST}")
    if findings.problems:
        return findings.report()
    with findings.reading(Check.COMPARISON, first / MANIFEST):
        for message in _settings_differences(first / MANIFEST, second / MANIFEST):
            findings.add(Check.COMPARISON, first / MANIFEST, f"the settings differ from those of {second}: {message}")
    if findings.problems:
        return findings.report()  # other settings make another data set: no file of it need be the same
    _compare_files(first, second, findings=findings)
    with findings.reading(Check.COMPARISON, first / MANIFEST):
        for message in _manifest_differences(first / MANIFEST, second / MANIFEST):
            findings.add(Check.COMPARISON, first / MANIFEST, message)
    return findings.report()


def _compare_files(first: Path, second: Path, *, findings: Findings) -> None:
    ours, theirs = set(_compared_files(first)), set(_compared_files(second))
    for name in sorted(ours - theirs):
        findings.add(Check.COMPARISON, first / name, f"is missing in {second}")
    for name in sorted(theirs - ours):
        findings.add(Check.COMPARISON, second / name, f"is missing in {first}")
    shared = sorted((ours & theirs) - {MANIFEST})
    findings.n_files = len(shared) + 1
    differences = map_in_threads(lambda name: _difference(first, second, name), shared)
    for name, difference in zip(shared, differences, strict=True):
        if difference:
            findings.add(Check.COMPARISON, first / name, f"{difference} from {second / name}")


def _difference(first: Path, second: Path, name: str) -> str:
    """Return how a file differs in two output folders, but for who read the slides and names for people.

    The text is empty if it does not differ.
    """
    difference = find_difference(first / name, second / name)
    read = _reader_of(name)
    if not difference or read is None:
        return difference
    try:
        return "" if read(first / name) == read(second / name) else difference
    except (OSError, ValueError, KeyError, TypeError):
        return difference


def _reader_of(name: str) -> Callable[[Path], object] | None:
    """Return what reads a file without what the data do not depend on, ``None`` for files that hold nothing else."""
    if name == SLIDES_TABLE:
        return _read_slides_table
    if name == run_path(Path()).as_posix():
        return _without_target_name
    below = survey_path(Path(), slide_id="")
    return _read_survey if Path(name).parent == below.parent and name.endswith(".json") else None


def _read_slides_table(path: Path) -> tuple[list[list[str]], list[str]]:
    """Return the rows, header first, with the cells of `FACTS_OF_READING` empty, and how the lines end."""
    text = path.read_bytes().decode("utf-8")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    blank = {column for column, name in enumerate(header) if name in FACTS_OF_READING}
    cells = [["" if column in blank else cell for column, cell in enumerate(row)] for row in rows]
    return [header, *cells], LINE_END.findall(text)


def _read_survey(path: Path) -> dict[str, object]:
    survey = read_json_object(path)["survey"]
    if not isinstance(survey, dict):
        raise TypeError("survey is not an object")
    return {key: value for key, value in survey.items() if key not in FACTS_OF_READING}


def _compared_files(folder: Path) -> Iterator[str]:
    ignored = (*IGNORED_FOLDERS, *_folders_of_failed_slides(folder))
    for name in files_below(folder):
        if name not in IGNORED_FILES and not name.startswith(ignored):
            yield name


def _folders_of_failed_slides(folder: Path) -> Iterator[str]:
    try:
        slides = read_json_object(folder / MANIFEST)["slides"]
        if not isinstance(slides, list):
            return
        failed = [slide["slide_id"] for slide in slides if slide["status"] == "failed"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # a damaged manifest is a difference of its own
    for slide_id in failed:
        below = Path()
        yield slide_manifest_path(below, slide_id=slide_id).as_posix()
        yield record_path(below, slide_id=slide_id, index=0).parent.as_posix() + "/"
        yield pixel_record_path(below, slide_id=slide_id, row=0, column=0).parent.as_posix() + "/"
        yield pixel_image_folder(below, slide_id=slide_id).as_posix() + "/"
        for split in Split:
            yield f"{split_folder(split)}/{slide_id}/"
            yield patch_array_folder(below, slide_id=slide_id, split=split).as_posix() + "/"


def find_difference(first: Path, second: Path) -> str:
    """Return how the content of two files differs, an empty text when it does not."""
    try:
        with first.open("rb") as ours, second.open("rb") as theirs:
            offset = 0
            while True:
                mine, other = ours.read(CHUNK_BYTES), theirs.read(CHUNK_BYTES)
                if mine != other:
                    pairs = enumerate(zip_longest(mine, other))
                    return f"differs at byte {offset + next(n for n, (a, b) in pairs if a != b)}"
                if not mine:
                    return ""
                offset += len(mine)
    except OSError as error:
        return f"cannot be compared ({error.strerror})"


def _settings_differences(first: Path, second: Path) -> Iterator[str]:
    ours, theirs = (_read_manifest(path) for path in (first, second))
    yield from find_json_differences(ours.get(SETTINGS, {}), theirs.get(SETTINGS, {}), where="")
    # A manifest without a target lacks the key.
    yield from find_json_differences(ours.get(STAIN_TARGET), theirs.get(STAIN_TARGET), where=STAIN_TARGET)


def _manifest_differences(first: Path, second: Path) -> Iterator[str]:
    ours, theirs = (_read_manifest(path) for path in (first, second))
    yield from find_json_differences(ours, theirs, where="")


def _without_target_name(path: Path) -> dict[str, object]:
    document = read_json_object(path)
    target = document.get(STAIN_TARGET)
    if not isinstance(target, dict):
        return document
    return {**document, STAIN_TARGET: {key: value for key, value in target.items() if key != NAME}}


def _read_manifest(path: Path) -> dict[str, object]:
    manifest = {key: value for key, value in _without_target_name(path).items() if key not in IGNORED_KEYS}
    slides = manifest.get("slides")
    if isinstance(slides, list):
        manifest["slides"] = [
            {key: value for key, value in slide.items() if key not in FACTS_OF_READING}
            if isinstance(slide, dict)
            else slide
            for slide in slides
        ]
    return manifest


def find_json_differences(ours: object, theirs: object, *, where: str) -> Iterator[str]:
    """Yield the places in which two JSON values differ, as dotted paths."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            place = f"{where}.{key}" if where else str(key)
            if key not in ours or key not in theirs:
                yield f"{place} is only in the {'first' if key in ours else 'second'}"
            else:
                yield from find_json_differences(ours[key], theirs[key], where=place)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from find_json_differences(mine, other, where=f"{where}[{index}]")
    elif json.dumps(ours) != json.dumps(theirs):
        yield f"{where}: {json.dumps(ours)[:100]} against {json.dumps(theirs)[:100]}"
