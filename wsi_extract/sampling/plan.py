"""The plan of one slide: which patches, in which order, and an account of every patch that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import FloatArray, IntArray
from wsi_extract.errors import SlideError
from wsi_extract.geometry import Rect, out_from_l0_domain
from wsi_extract.model import (
    ANCHOR_ROLE,
    NO_ANCHOR,
    AnnotationTable,
    OutputFrame,
    PatchKind,
    Role,
    SlidePlan,
    Split,
    TissueMask,
)
from wsi_extract.sampling.anchored import Anchors, draw_anchored, find_anchors
from wsi_extract.sampling.draft import QUOTA_KINDS, Draft, account_of, requested_kinds, table_of
from wsi_extract.sampling.grid import MAX_PATCHES, REMEDY_STRIDE, grid_origins
from wsi_extract.sampling.law import effective_shares, quotas
from wsi_extract.sampling.options import SamplingOptions
from wsi_extract.sampling.random_draw import NO_TISSUE, draw_random
from wsi_extract.sampling.randomness import Stream
from wsi_extract.sampling.tissue_rule import TissueRule

SLIDE_SMALLER_THAN_PATCH = "slide_smaller_than_patch"

DRAWING_ORDER = (PatchKind.MITOSIS, PatchKind.HARD_NEGATIVE)
"""The scarce first, random patches last, so that none of them takes an anchor's only origin."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scene:
    """All that the plan of one split of a slide depends on."""

    slide_id: str
    split: Split
    domain_l0: Rect
    frame: OutputFrame
    annotations: AnnotationTable
    tissue: TissueMask
    options: SamplingOptions

    @property
    def domain_out(self) -> Rect:
        return out_from_l0_domain(self.domain_l0, scale=self.frame.scale)

    @property
    def has_room(self) -> bool:
        domain = self.domain_out
        return domain.width >= self.frame.patch_w_out_px and domain.height >= self.frame.patch_h_out_px


def plan_slide(
    slide_id: str,
    *,
    domains: Sequence[tuple[Split, Rect]],
    frame: OutputFrame,
    annotations: AnnotationTable,
    tissue: TissueMask,
    options: SamplingOptions,
) -> SlidePlan:
    """Decide all patches of one slide, without reading it.

    The plan depends on its arguments only, not on the order of annotations or domains. Its rows are ordered by split,
    then by squares of 2048 px of the extraction grid (row of squares, column), then by y and x, so that consecutive
    rows are neighbours on the slide; a row's index is the patch's number.

    Parameters
    ----------
    slide_id
        Stable name; part of the key of every random number.
    domains
        Where the patches of each split may lie, level-0 px, each split at most once. Annotations are anchors of the
        split in whose domain their centre lies.
    options
        Anchored: each split gets ``patches_per_slide`` patches. Grid: all positions with enough tissue.

    Returns
    -------
    The patches and, for each split, what became of every patch asked for.

    Raises
    ------
    ValueError
        When a split has two domains, or ``min_margin_px`` leaves no room in a patch.
    SlideError
        When the grid has more patches than a plan may hold.
    """
    scenes = [
        _Scene(
            slide_id=slide_id,
            split=split,
            domain_l0=domain_l0,
            frame=frame,
            annotations=annotations,
            tissue=tissue,
            options=options,
        )
        for split, domain_l0 in _in_order(domains, slide_id=slide_id)
    ]
    drafts = [_draft_grid(scene) if options.mode == "grid" else _draft_anchored(scene) for scene in scenes]
    table = table_of(drafts, frame=frame, tissue=tissue)
    accounts = tuple(account_of(draft, table=table, options=options) for draft in drafts)
    return SlidePlan(slide_id=slide_id, patches=table, accounts=accounts)


def _in_order(domains: Sequence[tuple[Split, Rect]], *, slide_id: str) -> list[tuple[Split, Rect]]:
    """Return the domains in the order of splits, each of which has one."""
    splits = [split for split, _ in domains]
    if len(set(splits)) != len(splits):
        raise ValueError(f"slide {slide_id}: each split may have one domain, got {[str(split) for split in splits]}")
    return sorted(domains, key=lambda domain: tuple(Split).index(domain[0]))


def _draft_grid(scene: _Scene) -> Draft:
    origins = grid_origins(
        scene.domain_out,
        stride_px=scene.options.stride_px,
        rule=_tissue_rule(scene, unwanted_l0=np.empty((0, 2), dtype=np.float64)),
    )
    if len(origins) > MAX_PATCHES:
        raise SlideError(f"slide {scene.slide_id}: a grid of more than {MAX_PATCHES:,} patches.", REMEDY_STRIDE)
    kind = np.full(len(origins), PatchKind.GRID, dtype=np.int8)
    return Draft(
        split=scene.split,
        n_asked=len(origins),
        origins_out=origins,
        kind=kind,
        requested_kind=kind,
        anchor_row=np.full(len(origins), NO_ANCHOR, dtype=np.int64),
        n_infeasible_anchors=0,
        missing_reason="" if len(origins) else NO_TISSUE if scene.has_room else SLIDE_SMALLER_THAN_PATCH,
    )


def _draft_anchored(scene: _Scene) -> Draft:
    n_asked, options = scene.options.patches_per_slide, scene.options
    anchors = {kind: _find_anchors(scene, kind=kind) for kind in DRAWING_ORDER}
    has_anchors = [kind not in anchors or len(anchors[kind]) > 0 for kind in QUOTA_KINDS]
    counts = quotas(n_asked, shares=effective_shares(options.shares, has_anchors=has_anchors))
    taken: set[int] = set()
    origins, kinds, rows = [], [], []
    for kind in DRAWING_ORDER:
        drawn = draw_anchored(
            _stream(scene, kind=kind),
            n=counts[QUOTA_KINDS.index(kind)],
            anchors=anchors[kind],
            scale=scene.frame.scale,
            max_repeats=options.max_repeats_per_anchor,
            taken=taken,
        )
        origins.append(drawn.origins_out)
        kinds.append(np.full(len(drawn.origins_out), kind, dtype=np.int8))
        rows.append(drawn.anchor_rows)
    n_random = n_asked - sum(len(drawn) for drawn in origins)
    random_origins, missing_reason = _draw_random(scene, n=n_random, taken=taken)
    origins.append(random_origins)
    kinds.append(np.full(len(random_origins), PatchKind.RANDOM, dtype=np.int8))
    rows.append(np.full(len(random_origins), NO_ANCHOR, dtype=np.int64))
    kind_codes = np.concatenate(kinds)
    return Draft(
        split=scene.split,
        n_asked=n_asked,
        origins_out=np.concatenate(origins),
        kind=kind_codes,
        requested_kind=requested_kinds(kind_codes, quotas=quotas(n_asked, shares=options.shares)),
        anchor_row=np.concatenate(rows),
        n_infeasible_anchors=sum(found.n_infeasible for found in anchors.values()),
        missing_reason=missing_reason,
    )


def _find_anchors(scene: _Scene, *, kind: PatchKind) -> Anchors:
    return find_anchors(
        scene.annotations,
        role=ANCHOR_ROLE[kind],
        domain_l0=scene.domain_l0,
        frame=scene.frame,
        options=scene.options,
    )


def _stream(scene: _Scene, *, kind: PatchKind) -> Stream:
    return Stream(
        seed=scene.options.seed,
        slide_id=scene.slide_id,
        split=scene.split,
        epoch=scene.options.epoch,
        kind=kind,
    )


def _draw_random(scene: _Scene, *, n: int, taken: set[int]) -> tuple[IntArray, str]:
    if not scene.has_room:
        return np.empty((0, 2), dtype=np.int64), SLIDE_SMALLER_THAN_PATCH
    unwanted_l0 = np.empty((0, 2), dtype=np.float64)
    if scene.options.random_negatives_only:
        unwanted_l0 = scene.annotations.centres_l0[scene.annotations.role == Role.TARGET]
    drawn = draw_random(
        _stream(scene, kind=PatchKind.RANDOM),
        n=n,
        domain_out=scene.domain_out,
        rule=_tissue_rule(scene, unwanted_l0=unwanted_l0),
        taken=taken,
    )
    return drawn.origins_out, drawn.missing_reason


def _tissue_rule(scene: _Scene, *, unwanted_l0: FloatArray) -> TissueRule:
    return TissueRule(
        frame=scene.frame,
        tissue=scene.tissue,
        min_tissue_fraction=scene.options.min_tissue_fraction,
        unwanted_l0=unwanted_l0,
    )
