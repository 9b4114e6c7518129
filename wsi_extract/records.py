"""The record of a block on disk: what was written, from where, with which boxes. Its existence means done.

A document per block, so that COCO files, tables and audits are made from small pieces in plan order, without the
driver ever holding a data set in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from wsi_extract.errors import IntegrityError
from wsi_extract.files import canonical_json, sha256_of

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
    """Return the bytes of the record: canonical JSON with the digest of its content in front."""
    body = canonical_json(document)
    return canonical_json({"sha256": sha256_of(body)})[:-1] + b',"block":' + body + b"}\n"


def read_document(path: Path) -> BlockDocument | None:
    """Return the record at ``path``, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        envelope: Mapping[str, Any] = json.loads(data)
        document: BlockDocument = envelope["block"]
        is_whole = sha256_of(canonical_json(document)) == envelope["sha256"] and document["schema"] == SCHEMA
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"the record {path} is damaged: {error}.", "Delete it and run again.") from error
    if not is_whole:
        raise IntegrityError(f"the record {path} does not match its own digest.", "Delete it and run again.")
    return document
