"""The record of a block on disk: what was written, from where, with which boxes. Its existence means done.

A document per block, so that COCO files, tables and audits are made from small pieces in plan order, without the
driver ever holding a data set in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from wsi_extract.record_files import encode_record, read_record

SCHEMA = 2


class LabelEntry(TypedDict):
    """One box: COCO's xywh in patch pixels."""

    bbox: list[float]
    category_id: int
    iscrowd: int
    source_id: str


class PatchEntry(TypedDict):
    """One patch."""

    row: int
    """Number within the slide's plan."""
    file_name: str
    """Its name in every store; the path of its PNG file below the split's folder, where there is one."""
    bytes: NotRequired[int]
    """Size of the PNG file."""
    sha256: NotRequired[str]
    """Of the PNG file."""
    x_l0: int
    y_l0: int
    kind: str
    requested_kind: str
    anchor: str | None
    tissue_fraction: float
    labels: list[LabelEntry]
    look_alikes: NotRequired[list[LabelEntry]]


class ShardEntry(TypedDict):
    """The shard of a Zarr array that holds the block's patches."""

    number: int
    """Number of the shard within the array of the slide and split."""
    n_rows: int
    """Patches a shard of this array has room for."""
    bytes: int
    sha256: str


class BlockDocument(TypedDict):
    """All that is known of one finished block."""

    schema: int
    slide_id: str
    index: int
    split: str
    plan_digest: str
    patch_wh_px: list[int]
    level: int
    l0_per_px_xy: list[float]
    um_per_px_xy: list[float] | None
    patches: list[PatchEntry]
    label_counts: dict[str, int]
    shard: NotRequired[ShardEntry]


def digests_of(document: BlockDocument) -> Iterator[str]:
    """Yield the SHA-256 of every file of pixels of a block, PNG files first, in plan order."""
    for patch in document["patches"]:
        if "sha256" in patch:
            yield patch["sha256"]
    if "shard" in document:
        yield document["shard"]["sha256"]


def encode_document(document: BlockDocument) -> bytes:
    """Return the bytes of the record, see `wsi_extract.record_files`."""
    return encode_record(document, kind="block")


def read_document(path: Path) -> BlockDocument | None:
    """Return the record at ``path``, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    return cast("BlockDocument | None", read_record(path, kind="block", schema=SCHEMA))
