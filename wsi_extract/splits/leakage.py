"""The proof that nothing leaks: no group is in two splits, no pixel of a slide is in patches of two splits."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import FloatArray, IntArray
from wsi_extract.model import OutputFrame, PatchTable, Split
from wsi_extract.splits.assignment import BOTH_HALVES, SplitDecision

TOLERANCE_L0_PX = 1e-6
"""Common strips thinner than this come from rounded scales, not from common pixels."""
PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageReport:
    """What splits have in common."""

    n_groups: int
    n_groups_in_two_splits: int
    same_slide_halves: bool
    """Whether slides were halved on request, so that train and val share stain and patient."""
    n_overlapping_patch_pairs: int = 0
    details: tuple[str, ...] = ()
    """One line per group in two splits."""


def check_leakage(decisions: Sequence[SplitDecision]) -> LeakageReport:
    """Return which groups are in more than one split, through different slides or through halves of one."""
    splits_of: defaultdict[str, set[Split]] = defaultdict(set)
    for decision in decisions:
        splits_of[decision.group].update(decision.splits)
    shared = {group: splits for group, splits in sorted(splits_of.items()) if len(splits) > 1}
    details = (f"group {group}: {', '.join(split for split in Split if split in shared[group])}" for group in shared)
    return LeakageReport(
        n_groups=len(splits_of),
        n_groups_in_two_splits=len(shared),
        same_slide_halves=any(decision.splits == BOTH_HALVES for decision in decisions),
        details=tuple(details),
    )


def overlaps_between_splits(patches: PatchTable, *, frame: OutputFrame) -> int:
    """Return how many pairs of patches of one slide overlap, at level 0, though they are in different splits."""
    size_l0 = np.array([frame.patch_w_out_px * frame.scale.x, frame.patch_h_out_px * frame.scale.y])
    by_split = [patches.origins_l0[patches.split == code] for code in range(len(Split))]
    pairs = itertools.combinations(by_split, 2)
    return sum(_count_overlaps(first, second, size_l0=size_l0) for first, second in pairs)


def _count_overlaps(first: IntArray, second: IntArray, *, size_l0: FloatArray) -> int:
    """Count overlapping pairs. Patches are sorted into cells of their own size: only 3 x 3 cells can hold a partner."""
    cells = np.floor(second / size_l0).astype(np.int64)
    keys = (cells[:, 1] << 32) + cells[:, 0]
    order = np.argsort(keys, kind="stable")
    keys, second = keys[order], second[order]
    first_cells = np.floor(first / size_l0).astype(np.int64)
    total = 0
    for row in (-1, 0, 1):
        middle_keys = ((first_cells[:, 1] + row) << 32) + first_cells[:, 0]
        begin = np.searchsorted(keys, middle_keys - 1, side="left")
        n_near = np.searchsorted(keys, middle_keys + 1, side="right") - begin
        ends = np.cumsum(n_near)
        for rows in np.split(np.arange(len(first)), _cuts(ends)):
            repeated = np.repeat(rows, n_near[rows])
            within = np.arange(len(repeated)) - np.repeat(np.cumsum(n_near[rows]) - n_near[rows], n_near[rows])
            distance = np.abs(first[repeated] - second[begin[repeated] + within])
            total += int(np.count_nonzero(np.all(distance < size_l0 - TOLERANCE_L0_PX, axis=1)))
    return total


def _cuts(ends: IntArray) -> IntArray:
    """Return where to cut the rows so that each part has about `PAIRS_AT_ONCE` pairs."""
    n_pairs = int(ends[-1]) if len(ends) else 0
    return np.searchsorted(ends, np.arange(PAIRS_AT_ONCE, n_pairs, PAIRS_AT_ONCE)).astype(np.int64)
