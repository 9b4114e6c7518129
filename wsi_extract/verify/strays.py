"""Files of pixels and of the index that belong to nobody: of no slide, of another store, of an unfinished slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wsi_extract.index.splits import COLUMNS
from wsi_extract.model import Split
from wsi_extract.state.layout import INDEX, PATCHES, PIXELS, pixel_record_path, split_folder
from wsi_extract.storage import Store
from wsi_extract.stores.zarr_json import DOCUMENT_NAME, PIXEL_ARRAY
from wsi_extract.verify.manifest import Manifest

BELONGS_TO_NOBODY = "belongs to no slide and no split of the manifest"
UNFINISHED_OPENS = "makes the pixels of a slide open that is not part of the data set"
SCENES = "slides"
"""The group of `wsi_extract.state.layout.scene_folder`."""
RECORDS_OF_PIXELS = list(pixel_record_path(Path(), slide_id="any", row=0, column=0).parents[1].parts)
SPLIT_FOLDERS = frozenset(split_folder(split) for split in Split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Whom files may belong to."""

    store: Store
    splits: frozenset[str]
    """Of the data set."""
    splits_of: Mapping[str, tuple[Split, ...]]
    """Of each complete slide."""
    failed: frozenset[str]
    """Slides that failed; what they left behind is tolerated."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return those that the manifest names."""
        return cls(
            store=manifest.settings.store,
            splits=frozenset(manifest.splits),
            splits_of={slide.slide_id: slide.splits for slide in manifest.complete_slides},
            failed=manifest.failed_slide_ids,
        )


def find_stray(file: str, owners: Owners) -> str:
    """Return why a file of pixels or of the index, given by its path below the output folder, belongs to nobody.

    Empty when it belongs to a slide that is complete, whose files are compared with its records elsewhere, or to one
    that failed; of that, nothing may open.
    """
    top, *below = file.split("/")
    store = owners.store
    judge: Callable[[list[str], Owners], str] = _accept
    if top == INDEX:
        return "" if _is_of_index(below, owners) else BELONGS_TO_NOBODY
    if top == PIXELS:
        is_there, judge = store is Store.PIXELS, _stray_of_pixels
    elif [top, *below[:1]] == RECORDS_OF_PIXELS:
        is_there, judge, below = store is Store.PIXELS, _stray_of_slide, below[1:]
    elif top == PATCHES:
        is_there, judge = store.has_patch_arrays, _stray_of_arrays
    else:
        is_there = store.has_png or top not in SPLIT_FOLDERS
    return judge(below, owners) if is_there else f"is no part of a data set of store {store}"


def _accept(_: list[str], __: Owners) -> str:
    return ""


def _is_of_index(below: list[str], owners: Owners) -> bool:
    group, *rest = below
    if not rest:
        return group == DOCUMENT_NAME
    name, *deeper = rest
    if group == SCENES:
        is_known = name in owners.splits_of if deeper else name == DOCUMENT_NAME
        return owners.store is Store.PIXELS and is_known
    return group in owners.splits and (name in COLUMNS if deeper else name == DOCUMENT_NAME)


def _stray_of_pixels(below: list[str], owners: Owners) -> str:
    return "" if below == [DOCUMENT_NAME] else _stray_of_slide(below, owners)


def _stray_of_arrays(below: list[str], owners: Owners) -> str:
    """Judge a file below the patch arrays: of a group, or of a slide in one of its splits."""
    split, *rest = below
    if below == [DOCUMENT_NAME] or (rest == [DOCUMENT_NAME] and split in owners.splits):
        return ""
    slide_id = rest[0] if rest else ""
    if split not in owners.splits_of.get(slide_id, tuple(Split)):
        return BELONGS_TO_NOBODY
    return _stray_of_slide(rest, owners)


def _stray_of_slide(below: list[str], owners: Owners) -> str:
    slide_id, *rest = below
    if rest and slide_id in owners.splits_of:
        return ""
    if not rest or slide_id not in owners.failed:
        return BELONGS_TO_NOBODY
    return UNFINISHED_OPENS if rest in ([DOCUMENT_NAME], [PIXEL_ARRAY, DOCUMENT_NAME]) else ""
