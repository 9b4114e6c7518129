"""What makes the stores of a finished data set open: documents of arrays and groups, the index.

Written by the driver at the end of a run, when every shard is there, so that an unfinished store does not open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.model import Split
from wsi_extract.state.layout import MANIFEST, PATCHES, PIXELS, patch_array_folder
from wsi_extract.state.records import BlockDocument
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.zarr_json import (
    group_document,
    patch_array_document,
    patch_attributes,
    sealed,
    write_document,
)


@dataclass(slots=True, kw_only=True)
class _Outline:
    n_patches: int
    first: BlockDocument


def write_patch_documents(output_dir: Path, documents: Iterable[BlockDocument], *, codec: PixelCodec) -> None:
    """Write the document of the array of each split of one slide, from the slide's block records."""
    outlines: dict[Split, _Outline] = {}
    for document in documents:
        outline = outlines.setdefault(Split(document["split"]), _Outline(n_patches=0, first=document))
        outline.n_patches += len(document["patches"])
    for split, outline in outlines.items():
        first = outline.first
        write_document(
            patch_array_folder(output_dir, slide_id=first["slide_id"], split=split),
            sealed(
                patch_array_document(
                    n_patches=outline.n_patches,
                    patch_wh_px=(first["patch_wh_px"][0], first["patch_wh_px"][1]),
                    patches_per_shard=first["shard"]["n_rows"],
                    codecs=codec.to_zarr(),
                    attributes=patch_attributes(
                        slide_id=first["slide_id"],
                        split=split.value,
                        level=first["level"],
                        l0_per_px_xy=_pair(first["l0_per_px_xy"]),
                        um_per_px_xy=None if first["um_per_px_xy"] is None else _pair(first["um_per_px_xy"]),
                    ),
                )
            ),
        )


def _pair(values: list[float]) -> tuple[float, float]:
    return values[0], values[1]


def write_patch_groups(output_dir: Path, *, splits: Iterable[Split]) -> None:
    """Write the groups that hold the patch arrays."""
    for split in splits:
        write_document(output_dir / PATCHES / split.value, group_document({"split": split.value}))
    about = "one array of patches per split and slide; boxes are in index.zarr and annotations/"
    write_document(output_dir / PATCHES, group_document({"about": about, "manifest": MANIFEST}))


def write_pixel_group(output_dir: Path) -> None:
    """Write the group that holds the images of the slides."""
    about = "one OME-Zarr image per slide; patches are windows of it, listed in index.zarr and annotations/"
    write_document(output_dir / PIXELS, group_document({"about": about, "manifest": MANIFEST}))
