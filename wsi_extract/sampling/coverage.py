"""Which chunks of a slide's pixel store are needed: those that some patch can touch.

A chunk is a square of `CHUNK_SIDE_PX` output pixels. What is left out here can never be read from the store, so a
needed chunk is never missing. What is not needed would cost space only; save for one case below, there is none of it.

Tissue is searched from coarse to fine. A square of origins is dropped when no window of it can hold enough tissue, or
when all chunks it can touch are marked already; else its corners are tried, and what stays open is divided:

    1024 px             128 px                  16 px, 4 px, 1 px
    drops most glass    marks most tissue       follow the outline

Where whole regions hold so nearly the threshold that most squares stay open, the search ends at squares of 16 px, and
what they can touch counts as needed. There alone the answer may hold more than is needed; never does it hold less.

Pure; nothing here opens a slide or a file. All coordinates are pixels of the extraction grid, see
`wsi_extract.geometry`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import BoolArray, BoolImage, CountImage, FloatArray, IntArray
from wsi_extract.geometry import Rect, integral_image, out_from_l0_domain
from wsi_extract.model import ANCHOR_ROLE, AnnotationTable, OutputFrame, Split, TissueMask
from wsi_extract.sampling.anchored import find_anchors
from wsi_extract.sampling.draft import QUOTA_KINDS
from wsi_extract.sampling.options import SamplingOptions
from wsi_extract.sampling.random_draw import origins_in
from wsi_extract.sampling.tissue_rule import TissueRule, has_tissue, may_have_tissue
from wsi_extract.storage import Coverage

CHUNK_SIDE_PX = 128
"""Side of the squares that are stored whole or not at all, output px."""

SIDES_PX = (1024, 128, 16, 4, 1)
"""Sides of the squares of origins in the search for tissue, each a multiple of the next; a matter of speed only."""
SQUARES_AT_ONCE = 1 << 16
"""Bounds the memory of the search to some 100 MB."""
COARSEST_LEFT_PX = 16
MOST_LEFT = 1 << 14
"""When, of `SQUARES_AT_ONCE` squares of at most 16 px, more than this stay open, all their chunks are marked."""
CORNERS_XY = ((0, 0), (1, 1), (0, 1), (1, 0))

NONE_UNWANTED: FloatArray = np.empty((0, 2), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoverageScene:
    """What a slide's coverage depends on, beside its planned patches.

    Raises
    ------
    ValueError
        When the scale is not a whole number, or a domain reaches beyond the stored image.
    """

    width_out_px: int
    """Width of the stored image."""
    height_out_px: int
    domains: tuple[tuple[Split, Rect], ...]
    """Where the patches of each split may lie, level-0 px."""
    frame: OutputFrame
    annotations: AnnotationTable
    tissue: TissueMask
    options: SamplingOptions

    def __post_init__(self) -> None:
        scale = self.frame.scale
        if not (float(scale.x).is_integer() and float(scale.y).is_integer()):
            raise ValueError(f"a coverage needs a whole number of level-0 px per output px, got {scale.x} x {scale.y}")
        for split, domain_l0 in self.domains:
            domain = out_from_l0_domain(domain_l0, scale=scale)
            if min(domain.x0, domain.y0) < 0 or domain.x1 > self.width_out_px or domain.y1 > self.height_out_px:
                size = f"{self.width_out_px} x {self.height_out_px} output px"
                raise ValueError(f"domains must lie in the stored image of {size}, got {domain} for {split}")

    @property
    def patch_wh_out(self) -> IntArray:
        """(2,) int64, (w, h), output px."""
        return np.array([self.frame.patch_w_out_px, self.frame.patch_h_out_px], dtype=np.int64)

    @property
    def chunks_shape(self) -> tuple[int, int]:
        """Rows and columns of chunks; those at the right and bottom edge may reach beyond the image."""
        return -(-self.height_out_px // CHUNK_SIDE_PX), -(-self.width_out_px // CHUNK_SIDE_PX)


def needed_chunks(planned_out: IntArray, *, coverage: Coverage, scene: CoverageScene) -> BoolImage:
    """Return the chunks that the store of a slide must hold.

    Anchors are those of the offline plan: annotations in the domain of a split around which a patch fits. Kinds with
    share 0 have none, whatever the mode of sampling. Random patches are all with enough tissue in the domain of a
    split, those with a target too.

    Parameters
    ----------
    planned_out
        (N, 2) int64, columns (x, y), extraction grid px: origins of the planned patches, of all splits.

    Returns
    -------
    (ceil(H / 128), ceil(W / 128)) bool, row and column = y and x; True = needed.

    Raises
    ------
    ValueError
        When a planned patch reaches beyond the stored image, or the margin leaves no room in a patch.
    """
    size_wh = scene.patch_wh_out
    beyond = (planned_out < 0) | (planned_out + size_wh > (scene.width_out_px, scene.height_out_px))
    if beyond.any():
        x, y = planned_out[np.flatnonzero(beyond.any(axis=1))[0]].tolist()
        size = f"{scene.width_out_px} x {scene.height_out_px} output px"
        raise ValueError(f"planned patches must lie in the stored image of {size}, got one at x {x}, y {y}")
    needed = np.zeros(scene.chunks_shape, dtype=np.bool_)
    mark_chunks(needed, start_xy=planned_out, stop_xy=planned_out + size_wh)
    if coverage is not Coverage.PLANNED:
        for first_xy, last_xy in _anchor_origins(scene):
            mark_chunks(needed, start_xy=first_xy, stop_xy=last_xy + size_wh)
    if coverage is Coverage.TISSUE:
        for _, domain_l0 in scene.domains:
            _mark_tissue(needed, domain_out=out_from_l0_domain(domain_l0, scale=scene.frame.scale), scene=scene)
    return needed


def mark_chunks(needed: BoolImage, *, start_xy: IntArray, stop_xy: IntArray) -> None:
    """Mark the chunks that at least one of the half-open rectangles touches, in place.

    Parameters
    ----------
    needed
        (rows, columns) bool, one per chunk.
    start_xy, stop_xy
        (N, 2) int64, columns (x, y), output px; no rectangle is empty, none reaches beyond the last chunk.
    """
    if len(start_xy) == 0:
        return
    first, stop = start_xy // CHUNK_SIDE_PX, -(-stop_xy // CHUNK_SIDE_PX)
    (left, top), (right, bottom) = first.min(axis=0).tolist(), stop.max(axis=0).tolist()
    (first_x, first_y), (stop_x, stop_y) = (first - (left, top)).T, (stop - (left, top)).T
    # Each rectangle adds 1 at its start and takes it away after its end; sums along both axes fill it.
    changes = np.zeros((bottom - top + 1, right - left + 1), dtype=np.int32)
    np.add.at(changes, (first_y, first_x), 1)
    np.add.at(changes, (first_y, stop_x), -1)
    np.add.at(changes, (stop_y, first_x), -1)
    np.add.at(changes, (stop_y, stop_x), 1)
    touched = changes.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)[:-1, :-1] > 0
    needed[top:bottom, left:right] |= touched


def _anchor_origins(scene: CoverageScene) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the first and last origins (N, 2) around the anchors of each split and kind."""
    for _, domain_l0 in scene.domains:
        for kind, share in zip(QUOTA_KINDS, scene.options.shares, strict=True):
            if kind in ANCHOR_ROLE and share > 0:
                anchors = find_anchors(
                    scene.annotations,
                    role=ANCHOR_ROLE[kind],
                    domain_l0=domain_l0,
                    frame=scene.frame,
                    options=scene.options,
                )
                yield anchors.first_xy, anchors.last_xy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Search:
    """One domain in which tissue is searched."""

    origins: Rect
    rule: TissueRule
    size_wh: IntArray

    def origins_at(self, corners_xy: IntArray) -> IntArray:
        """Move corners of squares that reach beyond the domain to the nearest origin of the domain."""
        lowest, highest = (self.origins.x0, self.origins.y0), (self.origins.x1 - 1, self.origins.y1 - 1)
        return np.clip(corners_xy, lowest, highest)


def _mark_tissue(needed: BoolImage, *, domain_out: Rect, scene: CoverageScene) -> None:
    """Mark the chunks that a patch of the domain with enough tissue touches."""
    size_wh = scene.patch_wh_out
    origins = origins_in(domain_out, w_px=int(size_wh[0]), h_px=int(size_wh[1]))
    rule = TissueRule(
        frame=scene.frame,
        tissue=scene.tissue,
        min_tissue_fraction=scene.options.min_tissue_fraction,
        unwanted_l0=NONE_UNWANTED,
    )
    # Squares begin at whole chunks, so that a window at a square's corner touches the fewest chunks, and exactly those.
    x, y = (
        np.arange(lo // CHUNK_SIDE_PX * CHUNK_SIDE_PX, hi, SIDES_PX[0], dtype=np.int64)
        for lo, hi in ((origins.x0, origins.x1), (origins.y0, origins.y1))
    )
    squares = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    if origins.width and origins.height:
        _search(squares, depth=0, needed=needed, search=_Search(origins=origins, rule=rule, size_wh=size_wh))


def _search(squares: IntArray, *, depth: int, needed: BoolImage, search: _Search) -> None:
    """Mark what the windows of squares of origins touch, given the squares' corners (N, 2)."""
    side_px = SIDES_PX[depth]
    for start in range(0, len(squares), SQUARES_AT_ONCE):
        left = squares[start : start + SQUARES_AT_ONCE]
        left = left[_touches_unmarked(left, side_px=side_px, needed=needed, search=search)]
        left = left[may_have_tissue(left, side_px=side_px, rule=search.rule)]
        for corner_xy in CORNERS_XY if side_px > 1 else CORNERS_XY[:1]:
            tried = search.origins_at(left + np.array(corner_xy) * (side_px - 1))
            hits = tried[has_tissue(tried, rule=search.rule)]
            mark_chunks(needed, start_xy=hits, stop_xy=hits + search.size_wh)
            left = left[_touches_unmarked(left, side_px=side_px, needed=needed, search=search)]
        if side_px <= COARSEST_LEFT_PX and len(left) > MOST_LEFT:
            stop_xy = search.origins_at(left + side_px - 1) + search.size_wh
            mark_chunks(needed, start_xy=search.origins_at(left), stop_xy=stop_xy)
        elif side_px > 1:
            parts = _divide(left, side_px=side_px, part_px=SIDES_PX[depth + 1], origins=search.origins)
            _search(parts, depth=depth + 1, needed=needed, search=search)


def _touches_unmarked(squares: IntArray, *, side_px: int, needed: BoolImage, search: _Search) -> BoolArray:
    """Return which squares hold an origin whose window may touch a chunk that is not marked yet."""
    if len(squares) == 0:
        return np.zeros(0, dtype=np.bool_)
    x0, y0 = (search.origins_at(squares) // CHUNK_SIDE_PX).T
    x1, y1 = ((search.origins_at(squares + side_px - 1) + search.size_wh - 1) // CHUNK_SIDE_PX + 1).T
    top = y0.min()
    y0, y1 = y0 - top, y1 - top
    unmarked: CountImage = integral_image(~needed[top : top + y1.max()])
    touches: BoolArray = unmarked[y1, x1] - unmarked[y0, x1] - unmarked[y1, x0] + unmarked[y0, x0] > 0
    return touches


def _divide(squares: IntArray, *, side_px: int, part_px: int, origins: Rect) -> IntArray:
    """Cut squares into smaller ones; leave out those without an origin of the domain."""
    y, x = np.divmod(np.arange((side_px // part_px) ** 2), side_px // part_px)
    parts = (squares[:, None] + np.stack([x, y], axis=1) * part_px).reshape(-1, 2)
    inside = (parts + part_px > (origins.x0, origins.y0)) & (parts < (origins.x1, origins.y1))
    kept: IntArray = parts[inside.all(axis=1)]
    return kept
