"""What an annotation file says, before slides, classes and box conventions are decided.

Columns of equal length, one row per object, as in `wsi_extract.model`. Knows no file format and no slide on disk.
Coordinates are level-0 px of the named slide, exactly as the file holds them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from wsi_extract.arrays import BoolArray, CodeArray, FloatArray, IntArray
from wsi_extract.errors import AnnotationError

SUPPORTED = "Supported are SlideRunner databases (SQLite) and COCO files (JSON)."
"""The remedy for files of any other kind."""

NO_SLIDE = -1
"""Value of `SourceRows.slide_row` for annotations whose slide the file does not list."""

LARGEST_COORDINATE_PX = 1e9
"""Coordinates beyond it are damage, not data; the largest slides have a few 10^5 px."""

LONGEST_NAME = 4096
"""Bytes of the name of a slide, a folder or a class: the longest path of the system."""
MAX_CLASSES = 10_000
"""The largest published sets have a few dozen."""
MEMORY_SHARE = 0.85
"""Of the machine's memory that reading a file may take."""


_SHORT = reprlib.Repr()  # goes a few levels deep and a few items far: values can be deep lists and large numbers
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


class SourceKind(IntEnum):
    """The geometry of an annotation. Values up to 6 are SlideRunner's own type numbers."""

    SPOT = 1
    """One point: the centre."""
    AREA = 2
    """Two opposite corners, in drawing order."""
    POLYGON = 3
    SPECIAL_SPOT = 4
    """A navigation marker, no annotation of tissue."""
    CIRCLE = 5
    """Two corners of the bounding square."""
    IMAGE = 6
    """The whole image; has no coordinates."""
    BOX = 100
    """Four numbers of a COCO file, stored as two pairs; `bbox_convention` decides what the second pair means."""
    OTHER = 127
    """Any type that is not known."""


class Witness(IntEnum):
    """What an annotation's area or outline says about the convention of its box."""

    NONE = 0
    XYXY = 1
    XYWH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSlide:
    """A slide as the annotation file lists it."""

    uid: int
    file_name: str
    """Empty when the file names none."""
    directory: str | None = None
    width_px: int | None = None
    """A hint: the slide itself wins."""
    height_px: int | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Directory and file name as path components; back-slashes separate too."""
        name = self.file_name.replace("\\", "/")
        path = name if name.startswith("/") or not self.directory else f"{self.directory}/{name}"
        return tuple(part for part in path.replace("\\", "/").split("/") if part not in {"", "."})

    @property
    def label(self) -> str:
        """The name shown to users."""
        return "/".join(self.parts) if self.file_name else f"(slide {self.uid} without a file name)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceRows:
    """Every object of an annotation file, in file order, also those that are no use."""

    source_id: IntArray
    """(N,) int64, the id in the file."""
    part: IntArray
    """(N,) int64, 0, 1, ... for the objects that share an id, in file order."""
    slide_row: IntArray
    """(N,) int64, index into `SourceFile.slides`, or `NO_SLIDE`."""
    class_id: IntArray
    """(N,) int64, the class id in the file, 0 where it gives none."""
    has_class: BoolArray
    """(N,) bool, whether `class_id` is listed in the file's class table."""
    kind: CodeArray
    """(N,) int8, values of `SourceKind`."""
    is_deleted: BoolArray
    is_crowd: BoolArray
    """(N,) bool, COCO's iscrowd: a region that is not one object."""
    witness: CodeArray
    """(N,) int8, values of `Witness`."""
    first_point: IntArray
    """(N,) int64, index of the object's first row in `points_xy`."""
    n_points: IntArray
    points_xy: FloatArray
    """(M, 2) float64, columns (x, y), level-0 px, NaN where the file holds no number."""

    def __post_init__(self) -> None:
        columns = (self.part, self.slide_row, self.class_id, self.has_class, self.kind, self.is_deleted)
        more = (self.is_crowd, self.witness, self.first_point, self.n_points)
        if any(len(column) != len(self.source_id) for column in (*columns, *more)):
            raise ValueError("the columns of source rows must have equal length")

    def __len__(self) -> int:
        return len(self.source_id)

    def points_of(self, row: int) -> FloatArray:
        """Return the points of one object: ``(n, 2)``, columns (x, y), in drawing order."""
        first = int(self.first_point[row])
        return self.points_xy[first : first + int(self.n_points[row])]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceFile:
    """An annotation file, read once and whole."""

    path: Path
    format: str
    """``sliderunner`` or ``coco``."""
    sha256: str
    """Digest of the file's content, followed by that of a non-empty ``-wal`` or ``-journal`` beside it."""
    description: str
    """What the file says it is; empty for SlideRunner."""
    slides: tuple[SourceSlide, ...]
    classes: Mapping[int, str]
    """Name by class id."""
    rows: SourceRows
    notes: tuple[str, ...]
    """What the reader found odd; for people."""


def shortened(value: object) -> str:
    """Return a value for a message: as Python writes it, in at most 40 characters, whatever it holds."""
    text = _SHORT.repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def refuse_too_large(path: Path, *, needed_bytes: float, memory_bytes: int) -> None:
    """Refuse a file that cannot be held.

    Raises
    ------
    AnnotationError
        When more than `MEMORY_SHARE` of the memory would be needed.
    """
    if needed_bytes > memory_bytes * MEMORY_SHARE:
        raise AnnotationError(
            f"{path} is too large: reading it takes about {needed_bytes / 1e9:,.1f} GB of memory, "
            f"this machine has {memory_bytes / 1e9:,.1f} GB.",
            "Divide the file by slides, or use a machine with more memory.",
        )


def number_parts(source_id: IntArray) -> IntArray:
    """Return how many earlier rows have the same id, for each row.

    >>> number_parts(np.array([7, 3, 7, 7]))
    array([0, 0, 1, 2])
    """
    order = np.argsort(source_id, kind="stable")
    ids = source_id[order]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else np.empty(0, dtype=np.int64)
    runs = np.diff(np.r_[starts, len(ids)])
    part = np.empty(len(ids), dtype=np.int64)
    part[order] = np.arange(len(ids)) - np.repeat(starts, runs)
    return part


def slide_rows_of(wanted: IntArray, *, uids: IntArray) -> IntArray:
    """Return the index in ``uids`` (unique) of each wanted uid, `NO_SLIDE` where it is absent."""
    if not len(uids):
        return np.full(len(wanted), NO_SLIDE, dtype=np.int64)
    order = np.argsort(uids)
    place = np.minimum(np.searchsorted(uids, wanted, sorter=order), len(uids) - 1)
    rows = order[place]
    return np.where(uids[rows] == wanted, rows, NO_SLIDE).astype(np.int64)
