"""Patches without an anchor: the tissue rule, its map, and draws that are uniform by either way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.test_scenes import SCALES, Scene, all_tissue, frame_of, looks_uniform, mask_of, rect, table_of
from wsi_extract.arrays import BoolArray, IntArray
from wsi_extract.geometry import Rect
from wsi_extract.model import PatchKind, Role, Split, TissueMask
from wsi_extract.sampling.law import origin_keys
from wsi_extract.sampling.random_draw import draw_random, origins_in
from wsi_extract.sampling.randomness import Stream
from wsi_extract.sampling.tissue_rule import TissueRule, clear_unwanted, holds_centre, is_admissible, tissue_map

STREAM = Stream(seed=42, slide_id="a", split=Split.TRAIN, epoch=0, kind=PatchKind.RANDOM)
NONE_UNWANTED = np.empty((0, 2), dtype=np.float64)


def all_origins(origins: Rect) -> IntArray:
    y, x = np.divmod(np.arange(origins.width * origins.height), max(1, origins.width))
    return np.stack([x + origins.x0, y + origins.y0], axis=1)


def speck(width: int, height: int, *, x_px: int, y_px: int, side_px: int) -> TissueMask:
    """Glass with one square of tissue; mask px of 16 level-0 px."""
    mask = np.zeros((height // 16, width // 16), dtype=np.bool_)
    mask[y_px : y_px + side_px, x_px : x_px + side_px] = True
    return mask_of(mask)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_map_says_the_same_as_the_rule(data: st.DataObject) -> None:
    scale_x, scale_y = data.draw(st.sampled_from(SCALES)), data.draw(st.sampled_from(SCALES))
    frame = frame_of(data.draw(st.integers(16, 90)), data.draw(st.integers(16, 90)), sx=scale_x, sy=scale_y)
    origins = rect(data.draw(st.integers(6, 80)), data.draw(st.integers(6, 80)), x0=5, y0=3)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    blobs = np.repeat(np.repeat(rng.random((7, 7)) < data.draw(st.sampled_from([0.1, 0.5, 0.9])), 3, axis=0), 3, axis=1)
    extent = np.array([scale_x * 170, scale_y * 170])
    rule = TissueRule(
        frame=frame,
        tissue=mask_of(blobs, l0_per_px=float(extent.max()) / 21),
        min_tissue_fraction=data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])),
        unwanted_l0=rng.random((data.draw(st.integers(0, 3)), 2)) * extent,
    )
    image = clear_unwanted(tissue_map(origins, rule=rule), origins=origins, rule=rule)
    assert image.shape == (origins.height, origins.width)
    assert np.array_equal(image.ravel(), is_admissible(all_origins(origins), rule=rule))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_holds_centre_says_the_same_as_comparing_all(data: st.DataObject) -> None:
    frame = frame_of(data.draw(st.integers(16, 90)), 33, sx=data.draw(st.sampled_from(SCALES)))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    centres = np.floor(rng.uniform(0, 1500, (data.draw(st.integers(0, 40)), 2)) * 2) / 2
    origins = rng.integers(0, 300, (50, 2))
    s = frame.scale.x
    local = (centres[None] - np.floor(origins * s)[:, None]) / s
    expected: BoolArray = np.any(
        np.all((local >= 0) & (local < [frame.patch_w_out_px, frame.patch_h_out_px]), axis=2), axis=1
    )
    assert np.array_equal(holds_centre(origins, centres_l0=centres, frame=frame), expected)


def test_random_origins_are_uniform_over_all_tissue() -> None:
    """Up to the borders of the domain, so nothing piles up there."""
    rule = TissueRule(
        frame=frame_of(16, 16), tissue=all_tissue(2016, 1016), min_tissue_fraction=0.1, unwanted_l0=NONE_UNWANTED
    )
    drawn = draw_random(STREAM, n=20_000, domain_out=rect(2015, 1015), rule=rule, taken=set())
    x, y = drawn.origins_out.T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 1999, 0, 999)
    assert looks_uniform(np.bincount(x // 20, minlength=100))
    assert looks_uniform(np.bincount(y // 10, minlength=100))


def test_draws_by_number_are_uniform_over_the_admissible_origins() -> None:
    rule = TissueRule(
        frame=frame_of(32, 32),
        tissue=speck(4000, 4000, x_px=100, y_px=60, side_px=1),
        min_tissue_fraction=0.2,
        unwanted_l0=NONE_UNWANTED,
    )
    domain = rect(4000, 4000)
    near = rect(1650, 1000, x0=1550, y0=900)
    admissible = all_origins(near)[is_admissible(all_origins(near), rule=rule)]
    counts = dict.fromkeys(map(tuple, admissible.tolist()), 0)
    for epoch in range(300):
        stream = dataclasses.replace(STREAM, epoch=epoch)
        drawn = draw_random(stream, n=20, domain_out=domain, rule=rule, taken=set())
        assert not drawn.missing_reason
        for origin in map(tuple, drawn.origins_out.tolist()):
            counts[origin] += 1
    rows = np.array([list(counts)[i][1] for i in range(len(counts))])
    per_row = np.array([sum(n for (_, y), n in counts.items() if y == row) for row in np.unique(rows)])
    n_origins = np.array([np.count_nonzero(rows == row) for row in np.unique(rows)])
    expected = per_row.sum() * n_origins / n_origins.sum()
    # Each count is within five standard deviations: 300 draws of 20 without replacement vary less than Poisson.
    assert np.all(np.abs(per_row - expected) < 5 * np.sqrt(expected))


def test_specks_of_tissue_on_a_huge_slide_are_found_and_used_up_exactly() -> None:
    """100,000 px square: nearly ten thousand million origins, few of them admissible, in tiles far apart."""
    mask = np.zeros((6250, 6250), dtype=np.bool_)
    corners = ((79_950, 15_950), (29_950, 63_950), (31_950, 63_950))
    for x, y in corners:
        mask[(y + 50) // 16, (x + 50) // 16] = True
    rule = TissueRule(frame=frame_of(32, 32), tissue=mask_of(mask), min_tissue_fraction=0.2, unwanted_l0=NONE_UNWANTED)
    near = np.concatenate([all_origins(rect(x + 100, y + 100, x0=x, y0=y)) for x, y in corners])
    admissible = {tuple(origin) for origin in near[is_admissible(near, rule=rule)].tolist()}
    taken: set[int] = set()
    first = draw_random(STREAM, n=100, domain_out=rect(100_000, 100_000), rule=rule, taken=taken)
    stream = dataclasses.replace(STREAM, epoch=1)
    rest = draw_random(stream, n=10_000, domain_out=rect(100_000, 100_000), rule=rule, taken=taken)
    drawn = [tuple(origin) for origin in np.concatenate([first.origins_out, rest.origins_out]).tolist()]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == admissible
    assert (first.missing_reason, rest.missing_reason) == ("", "tissue_exhausted")


@pytest.mark.parametrize("scale", [0.5, 0.987])
def test_below_scale_1_no_two_patches_are_read_from_one_pixel(scale: float) -> None:
    """Distinct file names: with scale 0.5, four grid origins share a level-0 pixel."""
    rule = TissueRule(
        frame=frame_of(16, 16, sx=scale), tissue=all_tissue(64, 64), min_tissue_fraction=0.1, unwanted_l0=NONE_UNWANTED
    )
    domain = rect(48, 40)
    drawn = draw_random(STREAM, n=2000, domain_out=domain, rule=rule, taken=set())
    every = origin_keys(all_origins(origins_in(domain, w_px=16, h_px=16)), scale=rule.frame.scale)
    keys = origin_keys(drawn.origins_out, scale=rule.frame.scale).tolist()
    assert len(keys) == len(set(keys))
    assert set(keys) == set(every.tolist())
    assert drawn.missing_reason == "tissue_exhausted"


@pytest.mark.parametrize(
    ("threshold", "n_expected"), [pytest.param(0.25, 1, id="exactly"), pytest.param(0.250001, 0, id="a little more")]
)
def test_the_threshold_is_inclusive(threshold: float, n_expected: int) -> None:
    """One mask pixel of 16 x 16 px in the only possible patch of 32 x 32 px is a quarter."""
    scene = Scene(width=32, height=32, frame=frame_of(32, 32), tissue=speck(32, 32, x_px=1, y_px=0, side_px=1))
    plan = scene.plan(min_tissue_fraction=threshold)
    assert len(plan.patches) == n_expected
    assert plan.patches.tissue_fraction.tolist() == [0.25] * n_expected
    assert plan.accounts[0].missing_reason == ("tissue_exhausted" if n_expected else "no_tissue")


def test_random_patches_hold_enough_tissue() -> None:
    tissue = speck(20_000, 16_000, x_px=200, y_px=300, side_px=100)
    plan = Scene(width=20_000, height=16_000, tissue=tissue).plan(min_tissue_fraction=0.4)
    fractions = tissue.fractions(plan.patches.origins_l0, w_l0=256, h_l0=256)
    assert len(plan.patches) == 100
    assert plan.patches.tissue_fraction.tolist() == fractions.tolist()
    assert np.all(plan.patches.tissue_fraction >= 0.4)


def test_random_negatives_hold_no_target() -> None:
    rng = np.random.default_rng(3)
    annotations = table_of(rng.uniform(0, 6000, (300, 2)), roles=[Role.TARGET] * 200 + [Role.HARD_NEGATIVE] * 100)
    scene = Scene(width=6000, height=6000, annotations=annotations)
    targets = annotations.centres_l0[:200]
    for only, at_least, at_most in ((True, 0, 0), (False, 100, 300)):
        origins = scene.plan(
            shares=(1.0, 0.0, 0.0), patches_per_slide=400, random_negatives_only=only
        ).patches.origins_l0
        local = targets[None] - origins[:, None]
        n_with_target = int(np.count_nonzero(np.any(np.all((local >= 0) & (local < 256), axis=2), axis=1)))
        assert at_least <= n_with_target <= at_most


def test_random_negatives_that_cannot_be_had_are_accounted_for() -> None:
    scene = Scene(width=300, height=300, annotations=table_of([(150, 150)], roles=[Role.TARGET]))
    account = scene.plan(shares=(1.0, 0.0, 0.0), random_negatives_only=True).accounts[0]
    assert (account.n_missing, account.missing_reason) == (100, "no_tissue_without_target")


def test_ten_thousand_patches_are_drawn_in_order_of_their_cells() -> None:
    plan = Scene(width=60_000, height=50_000).plan(patches_per_slide=10_000)
    cells = (plan.patches.origins_out // 2048)[:, ::-1]
    assert len(plan.patches) == 10_000
    assert cells.tolist() == sorted(cells.tolist())
