"""The manifest of a slide on disk: the records that make it up. Its existence means that the slide is done.

Its digest is what the slide adds to the content digest of the data set, see `wsi_extract.content_digest`. Nothing in
it depends on who read the slide, when, or in which order its blocks were done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

from wsi_extract.disk.files import open_batch
from wsi_extract.errors import IntegrityError
from wsi_extract.state.layout import slide_manifest_path
from wsi_extract.state.record_files import encode_record, read_record

SCHEMA = 1
KIND = "slide"

ShardDigest = list[int | str]
"""Row and column of a shard of pixels, and the SHA-256 of its record."""


class SlideManifest(TypedDict):
    """What a finished slide consists of."""

    schema: int
    slide_id: str
    fingerprint: str
    """Of the slide's file."""
    plan_digest: str
    coverage_digest: str
    """Of which chunks the pixel store holds; empty for other stores."""
    n_patches: int
    blocks: list[str]
    """SHA-256 of the record of each block, in plan order."""
    pixels: list[ShardDigest]
    """Of every shard of the pixel store, row by row; empty for other stores."""


def encode_slide_manifest(manifest: SlideManifest) -> bytes:
    """Return the bytes of the manifest, see `wsi_extract.state.record_files`."""
    return encode_record(manifest, kind=KIND)


def read_slide_manifest(output_dir: Path, *, slide_id: str) -> tuple[SlideManifest, str] | None:
    """Return the manifest of a slide and its digest, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    path = slide_manifest_path(output_dir, slide_id=slide_id)
    return cast("tuple[SlideManifest, str] | None", read_record(path, kind=KIND, schema=SCHEMA))


def commit_slide_manifests(output_dir: Path, manifests: Sequence[SlideManifest]) -> None:
    """Write manifests of slides, durably and together; those that are there already are left alone.

    Raises
    ------
    IntegrityError
        When a slide was done before, by the same plan, and came out otherwise. None is written then.
    """
    missing = [manifest for manifest in manifests if not _is_committed(output_dir, manifest)]
    if not missing:
        return
    with open_batch() as batch:
        for manifest in missing:
            path = slide_manifest_path(output_dir, slide_id=manifest["slide_id"])
            batch.add(str(path), encode_slide_manifest(manifest))


def _is_committed(output_dir: Path, manifest: SlideManifest) -> bool:
    slide_id = manifest["slide_id"]
    try:
        found = read_slide_manifest(output_dir, slide_id=slide_id)
    except IntegrityError:
        return False  # damaged: made anew from records that carry digests of their own
    if found is None or found[0]["plan_digest"] != manifest["plan_digest"]:
        return False
    known, _ = found
    if known == manifest:
        return True
    raise IntegrityError(
        f"determinism alarm: slide {slide_id} came out otherwise than before, although its plan is the same: "
        f"{_first_difference(known, manifest)} differs from "
        f"{slide_manifest_path(output_dir, slide_id=slide_id)}, which was not replaced.",
        "The slide may have changed without a trace, memory may be damaged, or a library gives other results each "
        "time. Extract to another --output_dir and compare the two with verify --same.",
    )


def _first_difference(known: SlideManifest, manifest: SlideManifest) -> str:
    if len(known["blocks"]) == len(manifest["blocks"]):
        for index, (old, new) in enumerate(zip(known["blocks"], manifest["blocks"], strict=True)):
            if old != new:
                return f"block {index}"
    if len(known["pixels"]) == len(manifest["pixels"]):
        for old_shard, new_shard in zip(known["pixels"], manifest["pixels"], strict=True):
            if old_shard != new_shard:
                return f"the shard of pixels in row {new_shard[0]}, column {new_shard[1]}"
    return next(key for key in manifest if known.get(key) != manifest.get(key))
