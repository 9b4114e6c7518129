"""Patches around annotations: every anchor once before any twice, origins uniform and never used twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import BoolArray, FloatArray, IntArray
from wsi_extract.geometry import Rect, Scale, out_from_l0_domain
from wsi_extract.model import AnnotationTable, OutputFrame, Role
from wsi_extract.sampling.law import AnchorRule, feasible_origins, origin_keys
from wsi_extract.sampling.options import SamplingOptions
from wsi_extract.sampling.randomness import Stream, bit_generator, permutation, uniform_integers

N_REDRAWS = 64
"""Draws of an origin before the free ones are listed; a matter of speed, not of the law."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anchors:
    """The anchors of one kind in one domain, ordered by annotation id."""

    rows: IntArray
    """(N,) int64, rows of the slide's annotation table."""
    first_xy: IntArray
    """(N, 2) int64, columns (x, y): first origin, extraction grid px."""
    last_xy: IntArray
    """(N, 2) int64, last origin, inclusive."""
    n_infeasible: int
    """Further annotations of the role in the domain, around which no patch fits."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnchoredDraw:
    """Drawn patches, in the order of drawing."""

    origins_out: IntArray
    """(N, 2) int64, extraction grid px."""
    anchor_rows: IntArray
    """(N,) int64, rows of the annotation table."""


def centres_in(domain_l0: Rect, *, centres_l0: FloatArray) -> BoolArray:
    """Return which centres ``(N, 2)`` lie in the half-open rectangle."""
    x, y = centres_l0[:, 0], centres_l0[:, 1]
    inside: BoolArray = (x >= domain_l0.x0) & (x < domain_l0.x1) & (y >= domain_l0.y0) & (y < domain_l0.y1)
    return inside


def find_anchors(
    annotations: AnnotationTable, *, role: Role, domain_l0: Rect, frame: OutputFrame, options: SamplingOptions
) -> Anchors:
    """Return the annotations of the role in the domain around which a patch fits, with its possible origins.

    Raises
    ------
    ValueError
        When the margin leaves no room in a patch.
    """
    if 2 * options.min_margin_px >= min(frame.patch_w_out_px, frame.patch_h_out_px):
        size = f"{frame.patch_w_out_px} x {frame.patch_h_out_px} px"
        raise ValueError(f"min_margin_px {options.min_margin_px} leaves no room in a patch of {size}")
    centres_l0 = annotations.centres_l0
    by_id = np.lexsort((annotations.part, annotations.source_id))
    rows = by_id[((annotations.role == role) & centres_in(domain_l0, centres_l0=centres_l0))[by_id]]
    first_x, last_x = feasible_origins(
        centres_l0[rows, 0], rule=_axis_rule(domain_l0, frame=frame, options=options, axis=0)
    )
    first_y, last_y = feasible_origins(
        centres_l0[rows, 1], rule=_axis_rule(domain_l0, frame=frame, options=options, axis=1)
    )
    feasible = (first_x <= last_x) & (first_y <= last_y)
    return Anchors(
        rows=rows[feasible].astype(np.int64),
        first_xy=np.stack([first_x, first_y], axis=1)[feasible],
        last_xy=np.stack([last_x, last_y], axis=1)[feasible],
        n_infeasible=int(np.count_nonzero(~feasible)),
    )


def _axis_rule(domain_l0: Rect, *, frame: OutputFrame, options: SamplingOptions, axis: int) -> AnchorRule:
    domain_out = out_from_l0_domain(domain_l0, scale=frame.scale)
    size_px = (frame.patch_w_out_px, frame.patch_h_out_px)[axis]
    return AnchorRule(
        lo_out=(domain_out.x0, domain_out.y0)[axis],
        hi_out=(domain_out.x1, domain_out.y1)[axis],
        size_px=size_px,
        scale=(frame.scale.x, frame.scale.y)[axis],
        jitter_px=round(options.jitter_fraction * size_px),
        margin_px=options.min_margin_px,
    )


def draw_anchored(
    stream: Stream, *, n: int, anchors: Anchors, scale: Scale, max_repeats: int | None, taken: set[int]
) -> AnchoredDraw:
    """Draw up to ``n`` patches around the anchors; fewer when all origins, or all repeats, are used up.

    Each pass goes through the anchors that still have a free origin in a new random order.

    Parameters
    ----------
    max_repeats
        Most patches around one anchor, ``None`` for no limit.
    taken
        Keys of used origins, see `origin_keys`; those of the drawn patches are added.
    """
    origins: list[tuple[int, int]] = []
    drawn_rows: list[int] = []
    open_anchors = np.arange(len(anchors))
    pass_number = 0
    while len(origins) < n and len(open_anchors) and (max_repeats is None or pass_number < max_repeats):
        exhausted = []
        for anchor in open_anchors[permutation(stream, n=len(open_anchors), pass_number=pass_number)]:
            if len(origins) == n:
                break
            generator = bit_generator(stream, item=(len(origins),))
            origin = _draw_origin(
                generator, first=anchors.first_xy[anchor], last=anchors.last_xy[anchor], scale=scale, taken=taken
            )
            if origin is None:
                exhausted.append(anchor)
            else:
                origins.append(origin)
                drawn_rows.append(int(anchors.rows[anchor]))
        open_anchors = np.setdiff1d(open_anchors, exhausted)
        pass_number += 1
    return AnchoredDraw(
        origins_out=np.array(origins, dtype=np.int64).reshape(-1, 2), anchor_rows=np.array(drawn_rows, dtype=np.int64)
    )


def _draw_origin(
    generator: np.random.Philox, *, first: IntArray, last: IntArray, scale: Scale, taken: set[int]
) -> tuple[int, int] | None:
    """Return a free origin, uniform on each axis, and take it; ``None`` when there is none."""
    n_xy = last - first + 1
    for _ in range(N_REDRAWS):
        origin = first + uniform_integers(generator.random_raw(2), n=n_xy)
        key = int(origin_keys(origin[None], scale=scale)[0])
        if key not in taken:
            taken.add(key)
            return int(origin[0]), int(origin[1])
    y, x = np.divmod(np.arange(int(n_xy.prod())), n_xy[0])
    origins = np.stack([x, y], axis=1) + first
    keys = origin_keys(origins, scale=scale).tolist()
    free = [row for row, key in enumerate(keys) if key not in taken]
    if not free:
        return None
    row = free[int(uniform_integers(generator.random_raw(1), n=len(free))[0])]
    taken.add(keys[row])
    return int(origins[row, 0]), int(origins[row, 1])
