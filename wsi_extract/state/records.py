"""The record of a block on disk: what was written, from where, with which boxes. Its existence means done.

A document per block, so that COCO files, tables and audits are made from small pieces in plan order, without the
driver ever holding a data set in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from wsi_extract.disk.files import canonical_json
from wsi_extract.errors import IntegrityError
from wsi_extract.model import Split
from wsi_extract.state.layout import patch_shard_path, split_folder
from wsi_extract.state.record_files import determinism_alarm, encode_record, read_record

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


def without_files(document: BlockDocument) -> BlockDocument:
    """Return a copy of a record that tells of no file of pixels: the part that is the same for all stores."""
    bare = copy.deepcopy(document)
    bare.pop("shard", None)
    for patch in bare["patches"]:
        patch.pop("bytes", None)
        patch.pop("sha256", None)
    return bare


def check_repeated(document: BlockDocument, *, path: Path) -> None:
    """Refuse a block that came out otherwise than its record says; to be asked before its files get their names.

    A damaged record, or one of another plan, says nothing, and neither does one about files of another store.

    Parameters
    ----------
    path
        Where the record is, if there is one.

    Raises
    ------
    IntegrityError
        When the same plan gave something else before: the determinism alarm.
    """
    try:
        known = read_document(path)
    except IntegrityError:  # about to be replaced
        return
    if known is None or known["plan_digest"] != document["plan_digest"]:
        return
    difference = _first_difference(known, document)
    if difference is not None:
        what = f"slide {document['slide_id']}, block {document['index']} ({document['split']}),"
        raise determinism_alarm(what, difference=difference, path=path)


def _first_difference(known: BlockDocument, document: BlockDocument) -> str | None:
    """Say what differs first, of that which both records tell of."""
    known_files = dict(_files_of(known))
    for name, file in _files_of(document):
        if known_files.get(name, file) != file:
            return f"{name} has {file}, and had {known_files[name]}"
    old, new = cast("dict[str, object]", without_files(known)), cast("dict[str, object]", without_files(document))
    for key in sorted(old.keys() | new.keys()):
        if canonical_json(old.get(key)) != canonical_json(new.get(key)):
            return f'its "{key}" is not what it was'
    return None


def _files_of(document: BlockDocument) -> Iterator[tuple[str, str]]:
    """Yield the path below the output folder, and size and digest, of each file of pixels that a record tells of."""
    split = Split(document["split"])
    for patch in document["patches"]:
        if "sha256" in patch:
            yield f"{split_folder(split)}/{patch['file_name']}", f"{patch['bytes']} bytes of SHA-256 {patch['sha256']}"
    shard = document.get("shard")
    if shard is not None:
        path = patch_shard_path(Path(), slide_id=document["slide_id"], split=split, shard=shard["number"])
        yield str(path), f"{shard['bytes']} bytes of SHA-256 {shard['sha256']}"


def encode_document(document: BlockDocument) -> bytes:
    """Return the bytes of the record, see `wsi_extract.state.record_files`."""
    return encode_record(document, kind="block")


def read_document(path: Path) -> BlockDocument | None:
    """Return the record at ``path``, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    found = read_document_with_digest(path)
    return None if found is None else found[0]


def read_document_with_digest(path: Path) -> tuple[BlockDocument, str] | None:
    """Return the record at ``path`` and the SHA-256 of its content, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    return cast("tuple[BlockDocument, str] | None", read_record(path, kind="block", schema=SCHEMA))
