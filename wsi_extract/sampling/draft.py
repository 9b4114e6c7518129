"""From drawn patches to the rows of the plan and the account of one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import CodeArray, IntArray
from wsi_extract.geometry import l0_from_out_origins
from wsi_extract.model import OutputFrame, PatchKind, PatchTable, Split, SplitAccount, TissueMask
from wsi_extract.sampling.options import SamplingOptions
from wsi_extract.sampling.tissue_rule import tissue_fractions

CELL_SIDE_PX = 2048
"""Side of the squares of the extraction grid whose patches stand together in the plan."""
QUOTA_KINDS = (PatchKind.RANDOM, PatchKind.HARD_NEGATIVE, PatchKind.MITOSIS)
"""The order of shares and quotas."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """The patches of one split, in the order of drawing."""

    split: Split
    n_asked: int
    origins_out: IntArray
    """(N, 2) int64, extraction grid px."""
    kind: CodeArray
    requested_kind: CodeArray
    anchor_row: IntArray
    n_infeasible_anchors: int
    missing_reason: str


def requested_kinds(kinds: CodeArray, *, quotas: Sequence[int]) -> CodeArray:
    """Return what each drawn patch was asked for as, in the order of drawing.

    The patches of a kind fill its own quota first; those beyond it stand for quotas that could not be filled, in the
    order of `QUOTA_KINDS`.

    Parameters
    ----------
    kinds
        (N,) int8, values of `PatchKind`; N is at most the sum of the quotas.
    quotas
        Patches asked for of each of `QUOTA_KINDS`, before any share moved.
    """
    requested = kinds.copy()
    beyond = np.zeros(len(kinds), dtype=np.bool_)
    unfilled: list[int] = []
    for kind, quota in zip(QUOTA_KINDS, quotas, strict=True):
        rows = np.flatnonzero(kinds == kind)
        beyond[rows[quota:]] = True
        unfilled += [kind] * (quota - len(rows))
    requested[beyond] = unfilled[: np.count_nonzero(beyond)]
    return requested


def table_of(drafts: Sequence[Draft], *, frame: OutputFrame, tissue: TissueMask) -> PatchTable:
    """Return the plan's rows: by split, square of `CELL_SIDE_PX` (row, column), y and x."""
    origins = np.concatenate([np.empty((0, 2), dtype=np.int64), *(draft.origins_out for draft in drafts)])
    codes = [np.full(len(draft.origins_out), tuple(Split).index(draft.split), dtype=np.int8) for draft in drafts]
    no_codes, no_rows = np.empty(0, dtype=np.int8), np.empty(0, dtype=np.int64)
    table = PatchTable(
        origins_out=origins,
        origins_l0=l0_from_out_origins(origins, scale=frame.scale),
        split=np.concatenate([no_codes, *codes]),
        kind=np.concatenate([no_codes, *(draft.kind for draft in drafts)]),
        requested_kind=np.concatenate([no_codes, *(draft.requested_kind for draft in drafts)]),
        anchor_row=np.concatenate([no_rows, *(draft.anchor_row for draft in drafts)]),
        tissue_fraction=tissue_fractions(origins, frame=frame, tissue=tissue),
    )
    x, y = origins.T
    order = np.lexsort((x, y, x // CELL_SIDE_PX, y // CELL_SIDE_PX, table.split))
    return table.take(order.astype(np.int64))


def account_of(draft: Draft, *, table: PatchTable, options: SamplingOptions) -> SplitAccount:
    """Return the account of one split, counted from the rows of the plan."""
    rows = table.take(np.flatnonzero(table.split == tuple(Split).index(draft.split)).astype(np.int64))
    kinds = (PatchKind.GRID,) if options.mode == "grid" else QUOTA_KINDS
    is_moved = (rows.kind == PatchKind.RANDOM) & (rows.requested_kind != PatchKind.RANDOM)
    is_anchored = (rows.kind == PatchKind.HARD_NEGATIVE) | (rows.kind == PatchKind.MITOSIS)
    return SplitAccount(
        split=draft.split,
        n_asked=draft.n_asked,
        n_planned={kind.label: int(np.count_nonzero(rows.kind == kind)) for kind in kinds},
        moved_to_random={
            kind.label: int(np.count_nonzero(is_moved & (rows.requested_kind == kind)))
            for kind in (PatchKind.HARD_NEGATIVE, PatchKind.MITOSIS)
        },
        n_infeasible_anchors=draft.n_infeasible_anchors,
        n_anchored_below_tissue=int(
            np.count_nonzero(is_anchored & (rows.tissue_fraction < options.min_tissue_fraction))
        ),
        n_missing=draft.n_asked - len(rows),
        missing_reason=draft.missing_reason,
    )
