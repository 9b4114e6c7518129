"""Scenes that the tests of sampling share, and the chi-square test they use. Holds no test of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from wsi_extract.arrays import BoolImage, FloatArray, IntArray
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import AnnotationTable, OutputFrame, PatchTable, Role, SlidePlan, Split, TissueMask
from wsi_extract.sampling import SamplingOptions, plan_slide

SCALES = (1.0, 2.0, 4.0, 2.001, 3.99, 4.016, 0.987)
"""Whole and broken scales, and one below 1."""
OPTIONS = SamplingOptions(mode="anchored", patches_per_slide=100, shares=(0.1, 0.4, 0.5), stride_px=128, seed=42)


def rect(x1: int, y1: int, *, x0: int = 0, y0: int = 0) -> Rect:
    return Rect(x0=x0, y0=y0, x1=x1, y1=y1)


def frame_of(w: int = 256, h: int = 256, *, sx: float = 1.0, sy: float | None = None) -> OutputFrame:
    return OutputFrame(
        patch_w_out_px=w,
        patch_h_out_px=h,
        scale=Scale(x=sx, y=sx if sy is None else sy),
        level=0,
        level_downsample=1.0,
        um_per_px_out_xy=None,
    )


def table_of(centres_l0: Sequence[tuple[float, float]] | FloatArray, *, roles: Sequence[Role]) -> AnnotationTable:
    """Boxes of 50 x 50 px around the centres; ids are 100, 101, ..."""
    n = len(roles)
    centres = np.asarray(centres_l0, dtype=np.float64).reshape(n, 2)
    return AnnotationTable(
        source_id=np.arange(100, 100 + n, dtype=np.int64),
        part=np.zeros(n, dtype=np.int64),
        role=np.array(roles, dtype=np.int8),
        class_id=np.array(roles, dtype=np.int64),
        boxes_l0=np.concatenate([centres - 25, centres + 25], axis=1),
    )


def scattered(n_targets: int, n_look_alikes: int, *, width: int, height: int, seed: int = 0) -> AnnotationTable:
    """Annotations spread evenly over the whole slide, up to its edges."""
    n = n_targets + n_look_alikes
    centres = np.random.default_rng(seed).uniform(0, 1, (n, 2)) * np.array([width, height])
    return table_of(centres, roles=[Role.TARGET] * n_targets + [Role.HARD_NEGATIVE] * n_look_alikes)


def mask_of(mask: BoolImage, *, l0_per_px: float = 16.0) -> TissueMask:
    return TissueMask(mask=mask, l0_per_mask_px=Scale(x=l0_per_px, y=l0_per_px))


def all_tissue(width: int, height: int) -> TissueMask:
    return mask_of(np.ones((math.ceil(height / 16), math.ceil(width / 16)), dtype=np.bool_))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One slide, all tissue unless said otherwise."""

    width: int
    height: int
    annotations: AnnotationTable = field(default_factory=AnnotationTable.empty)
    frame: OutputFrame = field(default_factory=frame_of)
    tissue: TissueMask | None = None
    domains: tuple[tuple[Split, Rect], ...] | None = None
    slide_id: str = "slide"
    options: SamplingOptions = OPTIONS

    def plan(self, **changes: object) -> SlidePlan:
        """Plan the slide, with some options changed."""
        return plan_slide(
            self.slide_id,
            domains=self.domains or ((Split.TRAIN, rect(self.width, self.height)),),
            frame=self.frame,
            annotations=self.annotations,
            tissue=self.tissue or all_tissue(self.width, self.height),
            options=replace(self.options, **changes),  # type: ignore[arg-type]  # names and types are the caller's
        )


def local_centres_of(patches: PatchTable, *, annotations: AnnotationTable, frame: OutputFrame) -> FloatArray:
    """Return where each patch holds its anchor's centre, (N, 2), computed from what is read: the level-0 origin."""
    centres = annotations.centres_l0[patches.anchor_row]
    local: FloatArray = (centres - patches.origins_l0) / np.array([frame.scale.x, frame.scale.y])
    return local


def assert_inside(patches: PatchTable, *, domain_l0: Rect, frame: OutputFrame) -> None:
    """Check the level-0 footprints against a domain."""
    size_l0 = np.array([frame.patch_w_out_px * frame.scale.x, frame.patch_h_out_px * frame.scale.y])
    ends = patches.origins_l0 + size_l0
    assert np.all(patches.origins_l0 >= [domain_l0.x0, domain_l0.y0])
    assert np.all(ends <= np.array([domain_l0.x1, domain_l0.y1]) + 1e-6)


def rows_of(plan: SlidePlan) -> list[tuple[object, ...]]:
    """Return every column of the plan as comparable rows."""
    table = plan.patches
    columns = (table.origins_out, table.origins_l0, table.split, table.kind, table.requested_kind)
    return list(zip(*(column.tolist() for column in (*columns, table.anchor_row, table.tissue_fraction)), strict=True))


def looks_uniform(counts: IntArray) -> bool:
    """Whether equal chances give such counts with p > 0.001, by the chi-square test.

    The distribution is approximated by Wilson and Hilferty (1931): the cube root of chi-square / k is about normal
    with mean 1 - 2/(9k) and variance 2/(9k). 3.0902 is the normal deviate of p = 0.001.
    """
    k = len(counts) - 1
    expected = counts.sum() / len(counts)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    deviate = ((chi_square / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))
    return bool(deviate < 3.0902)
