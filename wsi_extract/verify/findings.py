"""What an audit can find, and how findings are collected. Knows no file of the contract."""

from __future__ import annotations

import csv
import json
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from wsi_extract.errors import WsiExtractError

MAX_PROBLEMS_PER_CHECK = 20
"""So that one broken block does not bury everything else; all problems are counted."""

DAMAGE = (
    OSError,
    ValueError,  # JSON, UTF-8, pydantic
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,  # an array whose damaged header claims terabytes
    RuntimeError,  # JSON nested too deeply, archives that claim to be encrypted
    csv.Error,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    WsiExtractError,
)
"""What reading a damaged file can raise."""


class Check(StrEnum):
    """What is checked. The order is the order of the audit."""

    FOLDER = "folder"
    """The folder is an output folder, nothing of the contract is missing, nothing half-written is left."""
    MANIFEST = "manifest"
    """The manifest can be read, and its numbers agree with each other."""
    TABLES = "tables"
    """slides.csv, errors.jsonl and run.json agree with the manifest."""
    LEAKAGE = "leakage"
    """No group, no slide content and no pixel is in two splits."""
    PLANS = "plans"
    """Plans match their digests and the manifest; patches lie on the slide."""
    RECORDS = "records"
    """Block records match their digests, the plan and the manifest."""
    TISSUE = "tissue"
    """Random and grid patches hold enough tissue, recomputed from the stored mask."""
    LABELS = "labels"
    """An object has one place and one class on the slide, and is labelled wherever its centre is shown."""
    ANCHORS = "anchors"
    """Anchored patches show the object they are placed around."""
    ARRAYS = "arrays"
    """Arrays of patches open, hold the recorded patches and nothing else, and every patch can be decoded."""
    PIXELS = "pixels"
    """Images of slides open, hold every pixel that patches need and nothing else, and every chunk can be decoded."""
    SCENES = "scenes"
    """What sampling during training knows of a slide is what the plan, the records and the settings say."""
    INDEX = "index"
    """The index has the manifest's digest, and holds what the COCO documents hold."""
    COCO = "coco"
    """COCO documents: keys and types, unique ids, references, file names, counts; equal to the records."""
    BOXES = "boxes"
    """Boxes are xywh, finite, not empty, inside their image, with their area."""
    EVALUATION = "evaluation"
    """pycocotools loads the document, and gives the ground truth as predictions an average precision of 1."""
    PATCHES = "patches"
    """Every image is a whole 8-bit RGB PNG of the stated size with the recorded digest; no file is left over."""
    COMPARISON = "comparison"
    """Two output folders hold the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    check: Check
    path: Path
    """The file or folder it was found in."""
    message: str

    def __str__(self) -> str:
        return f"{self.check}: {self.path}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The result of an audit."""

    problems: tuple[Problem, ...]
    """At most `MAX_PROBLEMS_PER_CHECK` of each check, in the order found."""
    n_problems: int
    """All of them, also those left out of `problems`."""
    n_images: int
    """Images of all COCO documents."""
    n_boxes: int
    """Annotations of all COCO documents."""
    n_files: int
    """Files read or compared."""
    content_sha256: str = ""
    """The content digest of the data set, recomputed from what lies on disk; empty where that was not possible."""
    checks: tuple[str, ...]
    """Names of the checks that were carried out."""
    notes: tuple[str, ...] = ()
    """What could not be checked although nothing is wrong, and why."""
    n_slides: int = 0
    """Slides that should be in the data set."""
    failed_slides: tuple[str, ...] = ()
    """Of these, the ids of those that are not, because they failed."""
    empty_splits: tuple[str, ...] = ()
    """Splits without a patch."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with what is there."""
        return self.n_problems == 0

    @property
    def is_complete(self) -> bool:
        """Whether no slide failed; a data set without it may be sound all the same."""
        return not self.failed_slides


@dataclass(kw_only=True)
class Findings:
    """Collects problems while the audit goes on: counts all, keeps the first of each check."""

    problems: list[Problem] = field(default_factory=list)
    n_by_check: Counter[Check] = field(default_factory=Counter)
    done: set[Check] = field(default_factory=set)
    n_images: int = 0
    n_boxes: int = 0
    n_files: int = 0
    content_sha256: str = ""
    """Set by `wsi_extract.verify.digest`."""
    n_slides: int = 0
    failed_slides: tuple[str, ...] = ()
    empty_splits: tuple[str, ...] = ()
    """Set by `wsi_extract.verify.manifest`, like the two above."""
    notes: dict[str, None] = field(default_factory=dict)
    """In the order of their first appearance."""

    def note(self, message: str) -> None:
        """Note what cannot be checked; the same note counts once."""
        self.notes[message] = None

    def add(self, check: Check, path: Path, message: str) -> None:
        """Note a problem."""
        self.n_by_check[check] += 1
        if self.n_by_check[check] <= MAX_PROBLEMS_PER_CHECK:
            self.problems.append(Problem(check=check, path=path, message=message))

    def expect(self, check: Check, path: Path, *, what: str, stated: object, found: object) -> None:
        """Note a problem unless what a file states is what was found."""
        if stated != found:
            self.add(check, path, f"{what}: states {_short(stated)}, found {_short(found)}")

    @contextmanager
    def reading(self, check: Check, path: Path) -> Iterator[None]:
        """Turn an error that damaged data causes into a problem, and go on after the ``with`` block."""
        try:
            yield
        except FileNotFoundError as error:
            self.add(check, path, f"missing: {error.filename}")
        except DAMAGE as error:
            self.add(check, path, f"cannot be read: {type(error).__name__}: {_short(str(error))}")

    def report(self) -> AuditReport:
        """Return everything found."""
        return AuditReport(
            problems=tuple(self.problems),
            n_problems=self.n_by_check.total(),
            n_images=self.n_images,
            n_boxes=self.n_boxes,
            n_files=self.n_files,
            content_sha256=self.content_sha256,
            checks=tuple(check.value for check in Check if check in self.done or check in self.n_by_check),
            notes=tuple(self.notes),
            n_slides=self.n_slides,
            failed_slides=self.failed_slides,
            empty_splits=self.empty_splits,
        )


def read_json_object(path: Path) -> dict[str, object]:
    """Return the JSON object in ``path``.

    Raises
    ------
    ValueError
        When the file is not JSON, or not an object.
    """
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError(f"holds a JSON {type(document).__name__}, not an object")
    return document


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
