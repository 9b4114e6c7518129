"""The plan of one slide: what anchored patches promise, and an account of every patch asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.test_scenes import (
    SCALES,
    Scene,
    all_tissue,
    assert_inside,
    frame_of,
    local_centres_of,
    looks_uniform,
    mask_of,
    rect,
    rows_of,
    scattered,
    table_of,
)
from wsi_extract.config import MIXTURES
from wsi_extract.geometry import l0_from_out_origins
from wsi_extract.model import ANCHOR_ROLE, NO_ANCHOR, AnnotationTable, PatchKind, Role, SlidePlan, Split
from wsi_extract.sampling.anchored import draw_anchored, find_anchors
from wsi_extract.sampling.law import origin_keys
from wsi_extract.sampling.randomness import Stream
from wsi_extract.splits import half_domains

ANCHORED = (PatchKind.HARD_NEGATIVE, PatchKind.MITOSIS)


def kinds_of(plan: SlidePlan) -> tuple[int, int, int]:
    """Return the numbers of random, hard negative and mitosis patches."""
    counts = np.bincount(plan.patches.kind, minlength=3).tolist()
    return counts[0], counts[1], counts[2]


def assert_accounted(plan: SlidePlan) -> None:
    """Re-derive every number of the accounts from the rows."""
    splits = tuple(Split)
    for account in plan.accounts:
        rows = plan.patches.take(np.flatnonzero(plan.patches.split == splits.index(account.split)).astype(np.int64))
        assert account.n_asked == sum(account.n_planned.values()) + account.n_missing
        assert bool(account.n_missing) == bool(account.missing_reason)
        for kind in (PatchKind.RANDOM, *ANCHORED):
            assert account.n_planned[kind.label] == np.count_nonzero(rows.kind == kind)
        for kind in ANCHORED:
            is_moved = (rows.kind == PatchKind.RANDOM) & (rows.requested_kind == kind)
            assert account.moved_to_random[kind.label] == np.count_nonzero(is_moved)


def assert_anchored_rows_hold_their_anchor(plan: SlidePlan, scene: Scene, *, margin: int = 0) -> None:
    anchored = plan.patches.take(np.flatnonzero(plan.patches.anchor_row != NO_ANCHOR).astype(np.int64))
    local = local_centres_of(anchored, annotations=scene.annotations, frame=scene.frame)
    assert np.all(local >= margin)
    assert np.all(local < np.array([scene.frame.patch_w_out_px, scene.frame.patch_h_out_px]) - margin)
    roles = [ANCHOR_ROLE[PatchKind(kind)] for kind in anchored.kind.tolist()]
    assert scene.annotations.role[anchored.anchor_row].tolist() == roles


@pytest.mark.parametrize(
    ("mixture", "expected"), [("ccmct", (10, 40, 50)), ("midog", (50, 0, 50)), ("midog25", (25, 25, 50))]
)
def test_a_hundred_patches_are_divided_exactly(mixture: str, expected: tuple[int, int, int]) -> None:
    scene = Scene(width=9000, height=7000, annotations=scattered(30, 20, width=9000, height=7000))
    plan = scene.plan(shares=MIXTURES[mixture])
    assert kinds_of(plan) == expected
    assert np.array_equal(plan.patches.kind, plan.patches.requested_kind)
    assert_accounted(plan)


def test_b01_every_mitosis_patch_holds_its_anchors_centre() -> None:
    scene = Scene(width=80_000, height=60_000, annotations=scattered(4000, 3000, width=80_000, height=60_000))
    plan = scene.plan(patches_per_slide=8000)
    assert kinds_of(plan) == (800, 3200, 4000)
    assert_anchored_rows_hold_their_anchor(plan, scene)
    assert_anchored_rows_hold_their_anchor(scene.plan(min_margin_px=25), scene, margin=25)


def test_b02_hard_negatives_are_uniform_and_all_reachable() -> None:
    scene = Scene(width=9000, height=9000, annotations=scattered(5, 40, width=9000, height=9000))
    counts = np.zeros(45, dtype=np.int64)
    for epoch in range(300):
        patches = scene.plan(patches_per_slide=10, shares=(0.0, 1.0, 0.0), epoch=epoch).patches
        np.add.at(counts, patches.anchor_row, 1)
    assert counts[:5].tolist() == [0] * 5
    assert counts[5:].min() > 0
    assert looks_uniform(counts[5:])


def test_every_anchor_is_used_once_before_any_is_used_twice() -> None:
    scene = Scene(width=9000, height=9000, annotations=scattered(30, 7, width=9000, height=9000))
    patches = scene.plan(patches_per_slide=200).patches
    for role, n_passes in ((Role.TARGET, 100 / 30), (Role.HARD_NEGATIVE, 80 / 7)):
        anchors = patches.anchor_row[patches.anchor_row != NO_ANCHOR]
        used = np.bincount(anchors, minlength=37)[scene.annotations.role == role]
        assert used.min() == int(n_passes)
        assert used.max() == int(n_passes) + 1


def test_b03_b04_half_mode_neither_leaks_nor_crosses() -> None:
    for width, height in ((7000, 5000), (900, 900)):
        annotations = scattered(60, 60, width=width, height=height)
        domains = half_domains(rect(width, height), guard_px=10)
        scene = Scene(width=width, height=height, annotations=annotations, domains=domains)
        plan = scene.plan()
        for split, domain in domains:
            rows = np.flatnonzero(plan.patches.split == tuple(Split).index(split)).astype(np.int64)
            patches = plan.patches.take(rows)
            assert len(patches) == 100
            assert_inside(patches, domain_l0=domain, frame=scene.frame)
            y = annotations.centres_l0[patches.anchor_row[patches.anchor_row != NO_ANCHOR], 1]
            assert np.all((y >= domain.y0) & (y < domain.y1))
        assert_anchored_rows_hold_their_anchor(plan, scene)
        assert_accounted(plan)
        # Annotations of the other half are not anchors of this one, so none of them counts as infeasible.
        assert [account.n_infeasible_anchors for account in plan.accounts] == [0, 0]


def test_b05_b07_small_slides_are_never_left_and_corners_do_not_pile_up() -> None:
    scene = Scene(width=900, height=900, annotations=scattered(20, 20, width=900, height=900))
    patches = scene.plan(patches_per_slide=2000, shares=(0.2, 0.4, 0.4)).patches
    assert len(patches) == 2000
    assert_inside(patches, domain_l0=rect(900, 900), frame=scene.frame)
    # An anchor in the corner: 41 x 11 origins, each as likely as the next.
    corner = Scene(width=900, height=900, annotations=table_of([(40.3, 10.0)], roles=[Role.TARGET]))
    drawn = [
        corner.plan(patches_per_slide=40, shares=(0.0, 0.0, 1.0), epoch=epoch).patches.origins_out
        for epoch in range(100)
    ]
    x, y = np.concatenate(drawn).T
    assert (x.max(), y.max()) == (40, 10)
    assert looks_uniform(np.bincount(x, minlength=41))
    assert looks_uniform(np.bincount(y, minlength=11))


def test_offsets_around_interior_anchors_are_uniform() -> None:
    """10^5 draws around 200 anchors: uniform over 256 offsets on each axis, and the axes are independent."""
    rng = np.random.default_rng(1)
    centres = rng.uniform(300, 9700, (200, 2))
    scene = Scene(width=10_000, height=10_000, annotations=table_of(centres, roles=[Role.TARGET] * 200))
    patches = scene.plan(patches_per_slide=100_000, shares=(0.0, 0.0, 1.0)).patches
    offsets = np.floor(centres[patches.anchor_row]).astype(np.int64) - patches.origins_out
    assert (offsets.min(), offsets.max()) == (0, 255)
    for axis in (0, 1):
        assert looks_uniform(np.bincount(offsets[:, axis], minlength=256))
    assert looks_uniform(np.bincount(offsets[:, 0] // 16 * 16 + offsets[:, 1] // 16, minlength=256))


@pytest.mark.parametrize(
    ("n_targets", "n_look_alikes", "expected"),
    [
        pytest.param(20, 0, (50, 0, 50), id="no hard negatives"),
        pytest.param(0, 20, (60, 40, 0), id="no mitoses"),
        pytest.param(0, 0, (100, 0, 0), id="no anchors"),
    ],
)
def test_b06_b08_missing_kinds_move_to_random(
    n_targets: int, n_look_alikes: int, expected: tuple[int, int, int]
) -> None:
    annotations = scattered(n_targets, n_look_alikes, width=9000, height=7000)
    plan = Scene(width=9000, height=7000, annotations=annotations).plan()
    assert kinds_of(plan) == expected
    moved = plan.accounts[0].moved_to_random
    assert moved == {"hard_negative": 0 if n_look_alikes else 40, "mitosis": 0 if n_targets else 50}
    assert np.bincount(plan.patches.requested_kind, minlength=3).tolist() == [10, 40, 50]
    assert_accounted(plan)


def test_b09_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="holdout"):
        Split("holdout")


def test_b12_slide_without_targets_is_planned() -> None:
    plan = Scene(width=5000, height=5000).plan()
    assert kinds_of(plan) == (100, 0, 0)
    assert_accounted(plan)


def test_b14_plan_depends_on_nothing_but_its_arguments() -> None:
    scenes = [
        Scene(width=9000, height=7000, annotations=scattered(9, 9, width=9000, height=7000), slide_id=name)
        for name in "abc"
    ]
    forwards = {scene.slide_id: rows_of(scene.plan()) for scene in scenes}
    np.random.default_rng().random(10)
    backwards = {scene.slide_id: rows_of(scene.plan()) for scene in reversed(scenes)}
    assert forwards == backwards
    assert forwards["a"] != forwards["b"]
    assert forwards["a"] != rows_of(scenes[0].plan(seed=43))
    assert forwards["a"] != rows_of(scenes[0].plan(epoch=1))


def test_b14_order_of_domains_does_not_matter_and_splits_differ() -> None:
    scene = Scene(width=9000, height=9000, annotations=scattered(9, 9, width=9000, height=9000))
    domains = half_domains(rect(9000, 9000), guard_px=0)
    plan = replace(scene, domains=domains).plan()
    turned = replace(scene, domains=domains[::-1]).plan()
    assert (rows_of(turned), turned.accounts) == (rows_of(plan), plan.accounts)
    assert plan.patches.split.tolist() == [0] * 100 + [1] * 100
    alone = replace(scene, domains=domains[:1]).plan()
    assert rows_of(alone) == rows_of(plan)[:100]
    with pytest.raises(ValueError, match="one domain"):
        replace(scene, domains=(domains[0], domains[0])).plan()


def test_b16_level_0_origins_are_floors_and_boxes_stay_broken() -> None:
    """Origins are rounded down, also below zero; a centre of 1000.5 stays 8.5 px inside, not 8."""
    scene = Scene(
        width=9000,
        height=9000,
        annotations=scattered(20, 20, width=9000, height=9000),
        frame=frame_of(sx=2.001, sy=3.99),
    )
    patches = scene.plan().patches
    assert np.array_equal(patches.origins_l0, np.floor(patches.origins_out * np.array([2.001, 3.99])))
    assert l0_from_out_origins(np.array([[-1, -2]]), scale=scene.frame.scale).tolist() == [[-3, -8]]
    centre = table_of([(1000.5, 1000.5)], roles=[Role.TARGET])
    one = Scene(width=2000, height=2000, annotations=centre, frame=frame_of(17, 17))
    tight = one.plan(patches_per_slide=1, shares=(0.0, 0.0, 1.0), min_margin_px=8, jitter_fraction=0.5).patches
    assert tight.origins_l0.tolist() == [[992, 992]]
    assert local_centres_of(tight, annotations=centre, frame=one.frame).tolist() == [[8.5, 8.5]]


def test_b24_order_of_annotation_rows_does_not_matter() -> None:
    annotations = scattered(30, 20, width=9000, height=7000)
    shuffled = annotations.take(np.random.default_rng(5).permutation(50))
    plans = [Scene(width=9000, height=7000, annotations=table).plan() for table in (annotations, shuffled)]
    first, second = (plan.patches for plan in plans)
    assert first.origins_l0.tolist() == second.origins_l0.tolist()
    anchored = first.anchor_row != NO_ANCHOR
    ids = annotations.source_id[first.anchor_row[anchored]].tolist()
    assert ids == shuffled.source_id[second.anchor_row[anchored]].tolist()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"jitter_fraction": 0.0}, (68, 12, 20), id="one origin around each anchor"),
        pytest.param({"max_repeats_per_anchor": 1}, (68, 12, 20), id="each anchor once"),
        pytest.param({"max_repeats_per_anchor": 2}, (36, 24, 40), id="each anchor twice"),
        pytest.param({"max_repeats_per_anchor": 4}, (12, 40, 48), id="enough look-alikes, and 12 mitoses four times"),
    ],
)
def test_exhausted_anchors_leave_the_rest_to_random(changes: dict[str, object], expected: tuple[int, int, int]) -> None:
    n_targets = 12 if changes.get("max_repeats_per_anchor") == 4 else 20
    annotations = scattered(n_targets, 12, width=9000, height=7000, seed=2)
    plan = Scene(width=9000, height=7000, annotations=annotations).plan(**changes)
    assert kinds_of(plan) == expected
    assert np.bincount(plan.patches.requested_kind, minlength=3).tolist() == [10, 40, 50]
    assert_accounted(plan)


def test_all_origins_around_an_anchor_are_used_before_it_is_given_up() -> None:
    """Jitter of one pixel: nine origins, all of them used, then random."""
    scene = Scene(width=5000, height=5000, annotations=table_of([(2500.5, 2500.5)], roles=[Role.TARGET]))
    plan = scene.plan(shares=(0.0, 0.0, 1.0), jitter_fraction=1 / 256, patches_per_slide=30)
    assert kinds_of(plan) == (21, 0, 9)
    mitosis = plan.patches.origins_out[plan.patches.kind == PatchKind.MITOSIS]
    assert len({tuple(origin) for origin in mitosis.tolist()}) == 9
    assert plan.accounts[0].moved_to_random["mitosis"] == 21


def test_the_last_free_origin_is_found() -> None:
    """One of 65,536 origins is free: too rare to be guessed."""
    annotations = table_of([(2500.5, 2500.5)], roles=[Role.TARGET])
    frame, options = frame_of(), Scene(width=5000, height=5000).options
    anchors = find_anchors(annotations, role=Role.TARGET, domain_l0=rect(5000, 5000), frame=frame, options=options)
    y, x = np.divmod(np.arange(256 * 256), 256)
    keys = origin_keys(np.stack([x, y], axis=1) + anchors.first_xy[0], scale=frame.scale).tolist()
    stream = Stream(seed=1, slide_id="a", split=Split.TRAIN, epoch=0, kind=PatchKind.MITOSIS)
    drawn = draw_anchored(
        stream, n=3, anchors=anchors, scale=frame.scale, max_repeats=None, taken=set(keys) - {keys[777]}
    )
    assert drawn.origins_out.tolist() == [[2500 - 255 + 777 % 256, 2500 - 255 + 777 // 256]]
    assert drawn.anchor_rows.tolist() == [0]


def test_origins_are_unique_within_a_split() -> None:
    scene = Scene(width=400, height=400, annotations=scattered(20, 20, width=400, height=400), frame=frame_of(sx=0.987))
    plan = scene.plan(patches_per_slide=5000)
    assert len({tuple(origin) for origin in plan.patches.origins_l0.tolist()}) == len(plan.patches) == 5000


def test_anchors_on_glass_are_kept_and_counted() -> None:
    scene = Scene(
        width=8000,
        height=8000,
        annotations=scattered(30, 30, width=8000, height=8000),
        tissue=mask_of(np.zeros((500, 500), dtype=np.bool_)),
    )
    plan = scene.plan()
    account = plan.accounts[0]
    assert kinds_of(plan) == (0, 40, 50)
    assert (account.n_anchored_below_tissue, account.n_missing, account.missing_reason) == (90, 10, "no_tissue")
    assert_accounted(plan)


def test_slide_smaller_than_a_patch_is_accounted_for() -> None:
    plan = Scene(width=300, height=200, annotations=table_of([(150, 100)], roles=[Role.TARGET])).plan()
    account = plan.accounts[0]
    assert len(plan.patches) == 0
    assert (account.n_asked, account.n_missing, account.missing_reason) == (100, 100, "slide_smaller_than_patch")
    assert account.n_infeasible_anchors == 1
    assert_accounted(plan)


def test_slide_of_the_patchs_size_has_one_patch() -> None:
    plan = Scene(width=256, height=256, annotations=table_of([(150, 100)], roles=[Role.TARGET])).plan()
    assert plan.patches.origins_out.tolist() == [[0, 0]]
    assert kinds_of(plan) == (0, 0, 1)
    assert (plan.accounts[0].n_missing, plan.accounts[0].missing_reason) == (99, "tissue_exhausted")
    assert_accounted(plan)


def test_anchors_too_near_the_edge_for_the_margin_are_no_anchors() -> None:
    annotations = table_of([(10, 1000), (1000, 1000), (1990, 5)], roles=[Role.TARGET] * 3)
    plan = Scene(width=2000, height=2000, annotations=annotations).plan(min_margin_px=25)
    assert plan.accounts[0].n_infeasible_anchors == 2
    assert set(plan.patches.anchor_row.tolist()) == {NO_ANCHOR, 1}
    with pytest.raises(ValueError, match="min_margin_px 128"):
        Scene(width=2000, height=2000).plan(min_margin_px=128)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_plan_keeps_the_promises(data: st.DataObject) -> None:
    scales = st.one_of(st.sampled_from(SCALES), st.floats(0.4, 6))
    w, h = data.draw(st.integers(16, 151), label="w"), data.draw(st.integers(16, 151), label="h")
    frame = frame_of(w, h, sx=data.draw(scales, label="sx"), sy=data.draw(scales, label="sy"))
    width, height = data.draw(st.integers(100, 3000), label="width"), data.draw(st.integers(100, 3000), label="height")
    bounds = rect(width, height, x0=data.draw(st.integers(0, 50)), y0=data.draw(st.integers(0, 50)))
    domains = data.draw(st.sampled_from([((Split.TEST, bounds),), half_domains(bounds, guard_px=3)]), label="domains")
    annotations = scattered(data.draw(st.integers(0, 9)), data.draw(st.integers(0, 4)), width=width, height=height)
    scene = Scene(width=width, height=height, annotations=annotations, frame=frame, domains=domains)
    margin = data.draw(st.integers(0, min(w, h) // 2 - 1), label="margin")
    plan = scene.plan(min_margin_px=margin, patches_per_slide=30, jitter_fraction=data.draw(st.floats(0, 0.5)))
    assert_accounted(plan)
    assert_anchored_rows_hold_their_anchor(plan, scene, margin=margin)
    for split, domain in domains:
        rows = np.flatnonzero(plan.patches.split == tuple(Split).index(split)).astype(np.int64)
        patches = plan.patches.take(rows)
        assert_inside(patches, domain_l0=domain, frame=frame)
        assert len({tuple(origin) for origin in patches.origins_l0.tolist()}) == len(patches)
        random = patches.tissue_fraction[patches.kind == PatchKind.RANDOM]
        assert np.all(random >= 0.1)


def test_an_empty_table_is_enough() -> None:
    scene = Scene(width=1000, height=1000, annotations=AnnotationTable.empty(), tissue=all_tissue(1000, 1000))
    assert len(scene.plan(patches_per_slide=1).patches) == 1
