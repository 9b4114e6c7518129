"""The cost model: wall time of a job from what it has to do, its coefficients fitted to measured jobs. Pure.

    wall = start + per_slide_start * slides                                                  (driver)
         + (per_slide * slides + per_slide_mpx * slide_mpx                                      (workers)
            + per_patch[store] * patches + per_mpx * mpx) / workers
         + finish + per_patch_finish * patches                                                (driver)

``slide_mpx`` is the size of all slides at level 0, which the survey looks at in small, in millions of pixels.
``mpx`` are the pixels of the tiles that patches touch, each tile once, in millions: overlapping patches share them,
scattered ones do not. All coefficients are seconds, and none is negative.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from wsi_extract.arrays import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job has to do."""

    store: str
    n_slides: int
    slide_mpx: float
    """Pixels of all slides at level 0, millions."""
    n_patches: int
    mpx: float
    """Pixels of the touched tiles, millions."""
    n_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredWork:
    """A job and the seconds of its phases; see `benchmarks.jobs.JobCost`."""

    work: Work
    started_s: float
    working_s: float
    finishing_s: float

    @property
    def wall_s(self) -> float:
        """Seconds of the whole job."""
        return self.started_s + self.working_s + self.finishing_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Coefficients, seconds."""

    start_s: float
    start_per_slide_s: float
    per_slide_s: float
    per_slide_mpx_s: float
    per_patch_s: Mapping[str, float]
    """By store: encode, write, label, record."""
    per_mpx_s: float
    """Read and decode."""
    finish_s: float
    finish_per_patch_s: float

    def phases_s(self, work: Work) -> tuple[float, float, float]:
        """Return seconds of start, work and finish."""
        in_workers = (
            self.per_slide_s * work.n_slides
            + self.per_slide_mpx_s * work.slide_mpx
            + self.per_patch_s[work.store] * work.n_patches
            + self.per_mpx_s * work.mpx
        )
        return (
            self.start_s + self.start_per_slide_s * work.n_slides,
            in_workers / max(1, work.n_workers),
            self.finish_s + self.finish_per_patch_s * work.n_patches,
        )

    def wall_s(self, work: Work) -> float:
        """Return seconds of the whole job."""
        return sum(self.phases_s(work))


def fit_cost(measured: Sequence[MeasuredWork]) -> CostModel:
    """Fit each phase by itself; small and large jobs count alike, because relative errors are made small.

    Raises
    ------
    ValueError
        When the jobs do not tell the coefficients apart, e.g. all have one slide and one size.
    """
    stores = sorted({each.work.store for each in measured})
    ones, slides = [1.0] * len(measured), [float(each.work.n_slides) for each in measured]
    patches = [float(each.work.n_patches) for each in measured]
    start = _fit([ones, slides], [each.started_s for each in measured])
    in_workers = _fit(
        [
            slides,
            [each.work.slide_mpx for each in measured],
            *(
                [n if each.work.store == store else 0.0 for n, each in zip(patches, measured, strict=True)]
                for store in stores
            ),
            [each.work.mpx for each in measured],
        ],
        [each.working_s * max(1, each.work.n_workers) for each in measured],
    )
    finish = _fit([ones, patches], [each.finishing_s for each in measured])
    return CostModel(
        start_s=start[0],
        start_per_slide_s=start[1],
        per_slide_s=in_workers[0],
        per_slide_mpx_s=in_workers[1],
        per_patch_s=dict(zip(stores, in_workers[2:-1], strict=True)),
        per_mpx_s=in_workers[-1],
        finish_s=finish[0],
        finish_per_patch_s=finish[1],
    )


def _fit(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return coefficients that are not negative with the least sum of squared relative errors.

    With so few columns every subset that may be positive is tried: the best one is the exact solution.
    """
    matrix = np.array(columns, dtype=np.float64).T / np.array(seconds)[:, None]
    if np.linalg.matrix_rank(matrix) < len(columns):
        raise ValueError(f"{len(seconds)} measured jobs do not tell {len(columns)} coefficients apart: vary them more")
    best, least = np.zeros(len(columns)), float("inf")
    for size in range(1, len(columns) + 1):
        for chosen in itertools.combinations(range(len(columns)), size):
            found, error = _solve(matrix, chosen)
            if (found >= 0).all() and error < least:
                best, least = found, error
    return [float(value) for value in best]


def _solve(matrix: FloatArray, chosen: Sequence[int]) -> tuple[FloatArray, float]:
    part, *_ = np.linalg.lstsq(matrix[:, list(chosen)], np.ones(len(matrix)), rcond=None)
    found = np.zeros(matrix.shape[1])
    found[list(chosen)] = part
    return found, float(((matrix @ found - 1) ** 2).sum())


def relative_errors(model: CostModel, measured: Sequence[MeasuredWork]) -> list[float]:
    """Return predicted / measured - 1 of each job's wall time."""
    return [model.wall_s(each.work) / each.wall_s - 1 for each in measured]


def held_out_error(measured: Sequence[MeasuredWork]) -> float:
    """Return the relative error for the largest job of each store, predicted from all other jobs: the worse store.

    This tells whether the cost per patch stays the same: a model fitted without the large jobs would be too low for
    them if it grew.
    """
    largest = {}
    for each in sorted(measured, key=lambda each: each.work.n_patches):
        largest[each.work.store] = each
    rest = [each for each in measured if each not in largest.values()]
    return max(relative_errors(fit_cost(rest), list(largest.values())), key=abs)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the median slope over all pairs of points (Theil-Sen), which single outliers do not move.

    Raises
    ------
    ValueError
        When all points have one x.
    """
    pairs = itertools.combinations(zip(x, y, strict=True), 2)
    slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairs if x1 != x0]
    if not slopes:
        raise ValueError("a slope needs points at two places at least")
    return median(slopes)
