"""What the cost model says of larger machines and of the CCMCT data set, with everything that is assumed for it. Pure.

The published data set holds 32 Aperio slides of 44 GB in all, JPEG tiles of 240 px, 0.2533 um per px, and 4,842 square
millimetres of tumour tissue. The size of its slides in pixels is inferred from their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.cost_fit import CostModel, Work

CCMCT_SLIDES = 32
CCMCT_BYTES = 44e9
CCMCT_TISSUE_MM2 = 4842.0
CCMCT_UM_PER_PX = 0.2533
CCMCT_ANCHORED_PER_SLIDE = 100
PATCH_PX = 256
TILE_PX = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A job on the data set."""

    name: str
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a scenario is expected to take."""

    scenario: Scenario
    wall_s: float
    write_bytes_per_s: float
    """What the storage has to take for this."""
    patches_per_s: float
    dispatch_share: float
    """Share of the wall time in which the scheduler is busy handing out blocks."""


def ccmct_scenarios(stores: Sequence[str], *, bytes_per_mpx: float) -> list[Scenario]:
    """Return the default job and both dense grids over all tumour tissue, for one worker.

    Parameters
    ----------
    bytes_per_mpx
        Size of a slide file per million level-0 pixels, glass included.
    """
    tissue_px = CCMCT_TISSUE_MM2 * 1e6 / CCMCT_UM_PER_PX**2
    scattered = CCMCT_SLIDES * CCMCT_ANCHORED_PER_SLIDE
    # A patch of p px at a random place touches (1 + (p - 1) / t) tiles of t px along each axis, on average.
    mpx_of_one = ((1 + (PATCH_PX - 1) / TILE_PX) * TILE_PX) ** 2 / 1e6
    slide_mpx = CCMCT_BYTES / bytes_per_mpx
    kinds = (
        ("100 anchored per slide", scattered, scattered * mpx_of_one),
        ("grid, no overlap", round(tissue_px / PATCH_PX**2), tissue_px / 1e6),
        ("grid, 50 % overlap", round(4 * tissue_px / PATCH_PX**2), tissue_px / 1e6),
    )
    return [
        Scenario(
            name=f"{name}, {store}",
            work=Work(
                store=store, n_slides=CCMCT_SLIDES, slide_mpx=slide_mpx, n_patches=n_patches, mpx=mpx, n_workers=1
            ),
        )
        for store in stores
        for name, n_patches, mpx in kinds
    ]


def project(
    model: CostModel,
    scenario: Scenario,
    *,
    n_workers: int,
    patch_bytes: Mapping[str, float],
    dispatch_s_per_patch: float,
) -> Projection:
    """Return what a scenario takes with so many workers, all as fast as those measured.

    Parameters
    ----------
    patch_bytes
        Size of a patch on disk, by store.
    dispatch_s_per_patch
        What the scheduler takes for one task, divided by the patches of a block. It hands out one task at a time, so
        the work never takes less than all tasks together.
    """
    work = replace(scenario.work, n_workers=n_workers)
    start_s, working_s, finish_s = model.phases_s(work)
    dispatch_s = dispatch_s_per_patch * work.n_patches
    working_s = max(working_s, dispatch_s)
    wall_s = start_s + working_s + finish_s
    return Projection(
        scenario=scenario,
        wall_s=wall_s,
        write_bytes_per_s=patch_bytes[work.store] * work.n_patches / working_s,
        patches_per_s=work.n_patches / wall_s,
        dispatch_share=dispatch_s / wall_s,
    )
