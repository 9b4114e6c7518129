"""What exported patches are called, and which hold a mitosis: pure functions of the index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import BoolArray, IntArray
from wsi_extract.export.options import Classes
from wsi_extract.index import SplitIndex
from wsi_extract.model import PatchKind, Role
from wsi_extract.targets import CATEGORY_IDS

MITOSIS, NON_MITOSIS, HARD_NEGATIVE, OTHER = "mitosis", "non_mitosis", "hard_negative", "other"
CLASS_NAMES = {Classes.TWO: (MITOSIS, NON_MITOSIS), Classes.THREE: (HARD_NEGATIVE, MITOSIS, OTHER)}
"""Folders of an ImageFolder in the order in which torchvision numbers them, which is that of the alphabet."""


def patch_name(index: SplitIndex, i: int) -> str:
    """Return ``<slide_id>_<count>``: the count of the patch within its slide and split, in plan order, from 0.

    Unique within a split: what follows the last underscore is the count, what precedes it the slide.
    """
    return f"{index.slides[int(index.slide[i])].slide_id}_{int(index.row[i]):06d}"


def patches_of_boxes(index: SplitIndex) -> IntArray:
    """Return the number of the patch each box lies in, ``(M,)`` int64."""
    return np.repeat(np.arange(len(index), dtype=np.int64), np.diff(index.box_offsets))


def mitosis_flags(index: SplitIndex) -> BoolArray:
    """Return which patches hold a box of category 1 that is not a crowd, ``(N,)`` bool."""
    return _holds(index, (index.category_id == CATEGORY_IDS[Role.TARGET]) & (index.is_crowd == 0))


def unclear_flags(index: SplitIndex) -> BoolArray:
    """Return which patches hold crowd boxes but no mitosis, ``(N,)`` bool.

    A crowd box is a mitosis cut off by the patch's edge, or an object of unknown truth: such a patch is no mitosis
    by the labels, and no clean negative either.
    """
    return _holds(index, index.is_crowd != 0) & ~mitosis_flags(index)


def _holds(index: SplitIndex, chosen: BoolArray) -> BoolArray:
    flags = np.zeros(len(index), dtype=np.bool_)
    flags[patches_of_boxes(index)[chosen]] = True
    return flags


def class_names(index: SplitIndex, *, classes: Classes) -> list[str]:
    """Return the class of each patch, one of `CLASS_NAMES`.

    What a patch holds decides, not why it was planned: a patch around a look-alike that happens to hold a mitosis
    is a mitosis. Only among the others does `Classes.THREE` tell those planned around a look-alike apart.
    """
    flags = mitosis_flags(index).tolist()
    if classes is Classes.TWO:
        return [MITOSIS if flag else NON_MITOSIS for flag in flags]
    around_look_alike = (index.kind == PatchKind.HARD_NEGATIVE).tolist()
    return [
        MITOSIS if flag else HARD_NEGATIVE if look_alike else OTHER
        for flag, look_alike in zip(flags, around_look_alike, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCounts:
    """What an exported split holds; written to export.json."""

    n_patches: int
    n_with_mitosis: int
    n_unclear: int
    """Patches with crowd boxes only, see `unclear_flags`."""
    n_boxes: int
    """Boxes that are no crowd."""
    n_crowd: int


def count_split(index: SplitIndex) -> SplitCounts:
    """Return what a split holds."""
    n_crowd = int(np.count_nonzero(index.is_crowd))
    return SplitCounts(
        n_patches=len(index),
        n_with_mitosis=int(np.count_nonzero(mitosis_flags(index))),
        n_unclear=int(np.count_nonzero(unclear_flags(index))),
        n_boxes=len(index.is_crowd) - n_crowd,
        n_crowd=n_crowd,
    )
