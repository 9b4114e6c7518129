"""The block records of one slide, read back and put together.

Raises on anything that is not a record of that slide; what the numbers mean is checked elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_extract.arrays import FloatArray, IntArray
from wsi_extract.errors import IntegrityError
from wsi_extract.geometry import Scale
from wsi_extract.model import PatchKind, Split
from wsi_extract.state.layout import patch_file_name, record_path
from wsi_extract.state.records import BlockDocument, LabelEntry, PatchEntry, digests_of, read_document
from wsi_extract.verify.patch_files import MAX_SIDE_PX

SPLITS = tuple(Split)
KIND_CODES = {kind.label: int(kind) for kind in PatchKind}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFrame:
    """How the patches of a slide were read."""

    patch_wh_px: tuple[int, int]
    l0_per_px_xy: tuple[float, float]
    um_per_px_xy: tuple[float, float] | None
    level: int

    @property
    def footprint_l0_wh(self) -> tuple[float, float]:
        """Extent of a patch, (w, h), level-0 px."""
        return self.patch_wh_px[0] * self.l0_per_px_xy[0], self.patch_wh_px[1] * self.l0_per_px_xy[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sightings:
    """Every box of every patch of one slide, look-alikes included; columns of equal length."""

    row: IntArray
    """(M,) int64, number of the patch."""
    name: tuple[str, ...]
    """Stable name of the annotation."""
    boxes_px: FloatArray
    """(M, 4) float64, columns (x0, y0, x1, y1), patch px."""
    category_id: IntArray
    is_crowd: IntArray

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedShard:
    """The shard of an array of patches, as its block's record tells it."""

    split: Split
    number: int
    """Within the array of the slide and split."""
    n_rows: int
    """Patches it has room for."""
    n_patches: int
    first: int
    """Its first patch, as a row of the columns of `RecordedSlide`."""
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedSlide:
    """All patches of one slide as its records tell them; columns of equal length, in plan order."""

    frame: RecordedFrame
    rows: IntArray
    origins_l0: IntArray
    """(N, 2) int64, columns (x, y)."""
    split: IntArray
    """(N,) int64, index into `SPLITS`."""
    kind: IntArray
    requested_kind: IntArray
    anchors: tuple[str | None, ...]
    tissue_fraction: FloatArray
    sightings: Sightings
    label_counts: Counter[str]
    file_digests: tuple[str, ...]
    """SHA-256 of every file of pixels that a block wrote, in plan order."""
    shards: tuple[RecordedShard, ...]
    """Of arrays of patches, in plan order; none where there are no arrays."""


def documents_of(output_dir: Path, *, slide_id: str, n_blocks: int) -> Iterator[tuple[Path, BlockDocument]]:
    """Yield path and content of the block records of a slide in plan order.

    Raises
    ------
    FileNotFoundError
        When one is missing.
    IntegrityError
        When one is damaged.
    """
    for index in range(n_blocks):
        path = record_path(output_dir, slide_id=slide_id, index=index)
        document = read_document(path)
        if document is None:
            raise FileNotFoundError(errno.ENOENT, "no such record", str(path))
        if document["slide_id"] != slide_id or document["index"] != index:
            raise IntegrityError(f"{path} is the record of block {document['index']} of slide {document['slide_id']}.")
        yield path, document


def gather_slide(documents: list[BlockDocument], *, slide_id: str) -> RecordedSlide:
    """Put the records of one slide together.

    Raises
    ------
    IntegrityError
        When blocks differ in how they were read, or a file name is not the one its patch must have.
    """
    frames = {_frame_of(document) for document in documents}
    if len(frames) != 1:
        raise IntegrityError(f"blocks of slide {slide_id} differ in size, scale or level: {sorted(map(repr, frames))}.")
    pairs = [(document, entry) for document in documents for entry in document["patches"]]
    for _, entry in pairs:
        name = patch_file_name(slide_id, x_l0=entry["x_l0"], y_l0=entry["y_l0"])
        if entry["file_name"] != name:
            raise IntegrityError(f"patch {entry['row']} is called {entry['file_name']}, must be {name}.")
    entries = [entry for _, entry in pairs]
    return RecordedSlide(
        frame=frames.pop(),
        rows=np.array([entry["row"] for entry in entries], dtype=np.int64),
        origins_l0=np.array([(entry["x_l0"], entry["y_l0"]) for entry in entries], dtype=np.int64).reshape(-1, 2),
        split=np.array([SPLITS.index(Split(document["split"])) for document, _ in pairs], dtype=np.int64),
        kind=np.array([KIND_CODES[entry["kind"]] for entry in entries], dtype=np.int64),
        requested_kind=np.array([KIND_CODES[entry["requested_kind"]] for entry in entries], dtype=np.int64),
        anchors=tuple(entry["anchor"] for entry in entries),
        tissue_fraction=np.array([entry["tissue_fraction"] for entry in entries], dtype=np.float64),
        sightings=_gather_sightings(entries),
        label_counts=sum((Counter(document["label_counts"]) for document in documents), Counter()),
        file_digests=tuple(digest for document in documents for digest in digests_of(document)),
        shards=tuple(_gather_shards(documents)),
    )


def digest_over(digests: Iterable[str]) -> str:
    """Return the SHA-256 over digests given as hex; raises ValueError or TypeError for what is none."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(bytes.fromhex(digest))
    return total.hexdigest()


def _gather_shards(documents: list[BlockDocument]) -> Iterator[RecordedShard]:
    first = 0
    for document in documents:
        n_patches = len(document["patches"])
        if "shard" in document:
            shard = document["shard"]
            numbers = (shard["number"], shard["n_rows"], shard["bytes"])
            if not all(isinstance(number, int) and number >= 0 for number in numbers):
                raise IntegrityError(f"the shard of block {document['index']} cannot be: {shard}.")
            yield RecordedShard(
                split=Split(document["split"]),
                number=shard["number"],
                n_rows=shard["n_rows"],
                n_patches=n_patches,
                first=first,
                n_bytes=shard["bytes"],
                sha256=shard["sha256"],
            )
        first += n_patches


def _frame_of(document: BlockDocument) -> RecordedFrame:
    (w_px, h_px), (x_scale, y_scale) = document["patch_wh_px"], document["l0_per_px_xy"]
    scale = Scale(x=x_scale, y=y_scale)
    if not (isinstance(w_px, int) and isinstance(h_px, int) and 1 <= min(w_px, h_px) <= max(w_px, h_px) <= MAX_SIDE_PX):
        raise IntegrityError(f"patches of {w_px} x {h_px} px cannot be.")
    um_per_px = document["um_per_px_xy"]
    return RecordedFrame(
        patch_wh_px=(w_px, h_px),
        l0_per_px_xy=(scale.x, scale.y),
        um_per_px_xy=None if um_per_px is None else (um_per_px[0], um_per_px[1]),
        level=document["level"],
    )


def shown_in(entry: PatchEntry) -> list[LabelEntry]:
    """Return the labels and the look-alikes of a patch."""
    return [*entry["labels"], *entry.get("look_alikes", [])]


def _gather_sightings(entries: list[PatchEntry]) -> Sightings:
    pairs = [(row, label) for row, entry in enumerate(entries) for label in shown_in(entry)]
    boxes = np.array([label["bbox"] for _, label in pairs], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Sightings(
        row=np.array([row for row, _ in pairs], dtype=np.int64),
        name=tuple(str(label["source_id"]) for _, label in pairs),
        boxes_px=boxes,
        category_id=np.array([label["category_id"] for _, label in pairs], dtype=np.int64),
        is_crowd=np.array([label["iscrowd"] for _, label in pairs], dtype=np.int64),
    )
