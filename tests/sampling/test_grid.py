"""Grid mode: cover, tissue, no duplicates, width and height in their places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.test_scenes import SCALES, Scene, assert_inside, frame_of, mask_of, rect
from wsi_extract.arrays import IntArray
from wsi_extract.model import NO_ANCHOR, PatchKind, Split
from wsi_extract.sampling.grid import axis_starts


def cover_of(origins: IntArray, *, width: int, height: int, side: int) -> IntArray:
    """Return how many patches cover each pixel."""
    cover = np.zeros((height, width), dtype=np.int64)
    for x, y in origins.tolist():
        cover[y : y + side, x : x + side] += 1
    return cover


@pytest.mark.parametrize("stride", [128, 256, 200])
def test_grid_covers_every_pixel_of_7215_x_5412(stride: int) -> None:
    plan = Scene(width=7215, height=5412).plan(mode="grid", stride_px=stride)
    origins = plan.patches.origins_l0
    assert origins.max(axis=0).tolist() == [7215 - 256, 5412 - 256]
    assert len({tuple(origin) for origin in origins.tolist()}) == len(origins)
    assert cover_of(origins, width=7215, height=5412, side=256).min() == 1
    assert_inside(plan.patches, domain_l0=rect(7215, 5412), frame=frame_of())
    n_x, n_y = (-(-(side - 256) // stride) + 1 for side in (7215, 5412))
    assert len(origins) == n_x * n_y
    assert plan.accounts[0].n_asked == len(origins)
    assert plan.accounts[0].n_planned == {"grid": len(origins)}
    assert set(plan.patches.kind.tolist()) == set(plan.patches.requested_kind.tolist()) == {PatchKind.GRID}
    assert set(plan.patches.anchor_row.tolist()) == {NO_ANCHOR}


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_grid_covers_the_domain_at_every_scale(data: st.DataObject) -> None:
    scale_x, scale_y = data.draw(st.sampled_from(SCALES)), data.draw(st.sampled_from(SCALES))
    frame = frame_of(data.draw(st.integers(16, 70)), data.draw(st.integers(16, 70)), sx=scale_x, sy=scale_y)
    domain = rect(
        data.draw(st.integers(300, 900)),
        data.draw(st.integers(300, 900)),
        x0=data.draw(st.integers(0, 10)),
        y0=data.draw(st.integers(0, 10)),
    )
    stride = data.draw(st.integers(10, 16))
    scene = Scene(width=900, height=900, frame=frame, domains=((Split.TEST, domain),))
    patches = scene.plan(mode="grid", stride_px=stride).patches
    assert_inside(patches, domain_l0=domain, frame=frame)
    assert len({tuple(origin) for origin in patches.origins_l0.tolist()}) == len(patches)
    for axis, (scale, size) in enumerate(((scale_x, frame.patch_w_out_px), (scale_y, frame.patch_h_out_px))):
        starts = np.unique(patches.origins_l0[:, axis])
        lo, hi = ((domain.x0, domain.x1), (domain.y0, domain.y1))[axis]
        # Of a broken scale, up to one output pixel at each end of the domain is less than a whole one.
        assert starts[0] <= lo + scale
        assert starts[-1] + size * scale > hi - 2 * scale - 1
        assert np.all(np.diff(starts) <= size * scale + 1e-9)


def test_grid_below_scale_1_has_no_two_starts_on_one_level_0_pixel() -> None:
    starts = axis_starts(0, 117, size_px=16, stride_px=4, scale=0.5)
    assert starts.tolist()[-2:] == [96, 100]
    assert axis_starts(0, 33, size_px=16, stride_px=4, scale=0.5).tolist() == [0, 4, 8, 12, 16]


def test_grid_keeps_positions_on_tissue_only() -> None:
    mask = np.zeros((100, 200), dtype=np.bool_)
    mask[20:60, 30:90] = True
    scene = Scene(width=3200, height=1600, tissue=mask_of(mask))
    patches = scene.plan(mode="grid").patches
    every = scene.plan(mode="grid", min_tissue_fraction=0.0).patches
    assert len(every) == 24 * 12
    kept = {tuple(origin) for origin in patches.origins_out.tolist()}
    wanted = every.take(np.flatnonzero(every.tissue_fraction >= 0.1).astype(np.int64))
    assert kept == {tuple(origin) for origin in wanted.origins_out.tolist()}
    assert np.all(patches.tissue_fraction >= 0.1)
    assert 0 < len(kept) < len(every)


@pytest.mark.parametrize("side", [200, 255])
def test_slide_smaller_than_a_patch_has_no_grid(side: int) -> None:
    plan = Scene(width=300, height=side).plan(mode="grid")
    assert len(plan.patches) == 0
    account = plan.accounts[0]
    assert (account.n_asked, account.n_missing, account.missing_reason) == (0, 0, "slide_smaller_than_patch")


def test_millions_of_positions() -> None:
    mask = np.zeros((1250, 1250), dtype=np.bool_)
    mask[500:520, 500:520] = True
    plan = Scene(width=20_000, height=20_000, frame=frame_of(64, 64), tissue=mask_of(mask)).plan(
        mode="grid", stride_px=10
    )
    assert 1000 < len(plan.patches) < 2000
