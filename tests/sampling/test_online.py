"""Draws of the online law: what each one promises, what it depends on, and what is refused."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.test_coverage import scenes
from tests.sampling.test_scenes import OPTIONS, SCALES, all_tissue, frame_of, mask_of, rect, scattered, table_of
from wsi_extract.arrays import IntArray
from wsi_extract.errors import ConfigError, InputError
from wsi_extract.geometry import Rect, l0_from_out_origins
from wsi_extract.model import ANCHOR_ROLE, NO_ANCHOR, AnnotationTable, OutputFrame, PatchKind, Role, Split, TissueMask
from wsi_extract.sampling import (
    Balance,
    CoverageScene,
    OnlineDraw,
    OnlineLaw,
    OnlineOptions,
    OnlineSlide,
    SamplingOptions,
    needed_chunks,
    plan_slide,
)
from wsi_extract.splits import half_domains
from wsi_extract.storage import Coverage


def slide_of(
    slide_id: str = "a",
    *,
    width: int = 3000,
    height: int = 2000,
    domain_l0: Rect | None = None,
    frame: OutputFrame | None = None,
    annotations: AnnotationTable | None = None,
    tissue: TissueMask | None = None,
    options: SamplingOptions = OPTIONS,
    group: str = "",
    pool_out: IntArray | None = None,
) -> OnlineSlide:
    """A slide of level-0 size width x height, all tissue, with 20 targets and 10 look-alikes unless said otherwise."""
    return OnlineSlide(
        slide_id=slide_id,
        split=Split.TRAIN,
        domain_l0=domain_l0 or rect(width, height),
        frame=frame or frame_of(),
        annotations=scattered(20, 10, width=width, height=height) if annotations is None else annotations,
        tissue=tissue or all_tissue(width, height),
        options=options,
        group=group,
        pool_out=pool_out,
    )


def law_of(*slides: OnlineSlide, seed: int = 7, shares: tuple[float, float, float] | None = None) -> OnlineLaw:
    return OnlineLaw(slides, options=OnlineOptions(seed=seed, shares=shares))


def draws_of(law: OnlineLaw, n: int, *, epoch: int = 0) -> list[OnlineDraw]:
    return [law.draw(epoch, number) for number in range(n)]


def glass() -> TissueMask:
    return mask_of(np.zeros((125, 188), dtype=np.bool_))


def assert_holds_its_anchor(draw: OnlineDraw, slide: OnlineSlide) -> None:
    """The centre is in the patch, at least the margin away from its edge, computed from what is read."""
    if draw.kind is PatchKind.RANDOM:
        assert draw.anchor_row == NO_ANCHOR
        return
    assert slide.annotations.role[draw.anchor_row] == ANCHOR_ROLE[draw.kind]
    origin_l0 = l0_from_out_origins(np.array([draw.origin_out]), scale=slide.frame.scale)[0]
    scale = np.array([slide.frame.scale.x, slide.frame.scale.y])
    local = (slide.annotations.centres_l0[draw.anchor_row] - origin_l0) / scale
    margin, size = slide.options.min_margin_px, (slide.frame.patch_w_out_px, slide.frame.patch_h_out_px)
    assert np.all(local >= margin)
    assert np.all(local < np.array(size) - margin)


@settings(max_examples=60)
@given(scene=scenes(), data=st.data())
def test_every_window_lies_in_the_coverage_it_is_drawn_for(scene: CoverageScene, data: st.DataObject) -> None:
    """What the pixel store's reader relies on: with a pool on anchors, without one on tissue."""
    options = replace(scene.options, patches_per_slide=5)
    plan = plan_slide(
        "a",
        domains=scene.domains,
        frame=scene.frame,
        annotations=scene.annotations,
        tissue=scene.tissue,
        options=options,
    )
    coverage = data.draw(st.sampled_from([Coverage.ANCHORS, Coverage.TISSUE]))
    stored = needed_chunks(plan.patches.origins_out, coverage=coverage, scene=scene)
    slides = []
    for split, domain_l0 in scene.domains:
        of_split = plan.patches.split == tuple(Split).index(split)
        pool = plan.patches.origins_out[(plan.patches.kind == PatchKind.RANDOM) & of_split]
        slide = slide_of(domain_l0=domain_l0, frame=scene.frame, annotations=scene.annotations, tissue=scene.tissue)
        slides.append(
            replace(slide, split=split, options=options, pool_out=pool if coverage is Coverage.ANCHORS else None)
        )
    try:
        law = law_of(*slides, seed=data.draw(st.integers(0, 99)))
    except InputError:
        assert len(plan.patches) == 0
        return
    for draw in draws_of(law, 40):
        (x, y), slide = draw.origin_out, slides[draw.slide]
        x_stop, y_stop = x + scene.frame.patch_w_out_px, y + scene.frame.patch_h_out_px
        assert stored[y // 128 : -(-y_stop // 128), x // 128 : -(-x_stop // 128)].all()
        domain, scale = slide.domain_l0, scene.frame.scale
        assert domain.x0 <= x * scale.x < x_stop * scale.x <= domain.x1
        assert domain.y0 <= y * scale.y < y_stop * scale.y <= domain.y1
        assert_holds_its_anchor(draw, slide)


@pytest.mark.parametrize("scale", SCALES)
def test_anchored_patches_hold_their_anchor_at_every_scale(scale: float) -> None:
    options = replace(OPTIONS, min_margin_px=10)
    slide = slide_of(frame=frame_of(101, 64, sx=scale, sy=2.0), options=options)
    draws = draws_of(law_of(slide), 300)
    assert {draw.kind for draw in draws} == {PatchKind.RANDOM, PatchKind.HARD_NEGATIVE, PatchKind.MITOSIS}
    for draw in draws:
        assert_holds_its_anchor(draw, slide)
        assert draw.requested_kind is draw.kind


def test_the_midline_is_never_crossed() -> None:
    annotations = scattered(60, 60, width=900, height=900)
    halves = [
        replace(slide_of(width=900, height=900, annotations=annotations, domain_l0=domain), split=split)
        for split, domain in half_domains(rect(900, 900), guard_px=10)
    ]
    law = law_of(*halves)
    seen = set()
    for draw in draws_of(law, 3000):
        domain = halves[draw.slide].domain_l0
        assert domain.y0 <= draw.origin_out[1] <= domain.y1 - 256
        assert 0 <= draw.origin_out[0] <= 900 - 256
        if draw.anchor_row != NO_ANCHOR:
            assert domain.y0 <= annotations.centres_l0[draw.anchor_row, 1] < domain.y1
        seen.add((draw.slide, draw.kind))
    assert len(seen) == 6


def test_draws_are_the_same_on_every_machine_and_version() -> None:
    """The values are part of the contract: other values here mean other epochs for every user."""
    law = law_of(slide_of(), slide_of("b"))
    draws = [law.draw(2, number) for number in (0, 1, 2, 12)]
    assert [(draw.slide, draw.kind.label, draw.origin_out, draw.anchor_row) for draw in draws] == [
        (0, "hard_negative", (1171, 1400), 28),
        (0, "mitosis", (2570, 512), 19),
        (1, "hard_negative", (598, 25), 29),
        (0, "random", (422, 565), -1),
    ]


def test_draws_do_not_depend_on_each_other() -> None:
    slides = [slide_of(), slide_of("b", tissue=mask_of(np.eye(125, 188, dtype=np.bool_)))]
    in_order = draws_of(law_of(*slides), 60)
    law = law_of(*slides)
    backwards = [law.draw(0, number) for number in reversed(range(60))]
    by_workers = [pickle.loads(pickle.dumps(law_of(*slides))).draw(0, number) for number in range(60)]
    assert in_order == backwards[::-1] == by_workers


def test_the_order_of_slides_does_not_matter() -> None:
    slides = [slide_of(name) for name in "abcde"]
    law, shuffled = law_of(*slides), law_of(*[slides[i] for i in (3, 0, 4, 2, 1)])
    for number in range(100):
        first, second = law.draw(0, number), shuffled.draw(0, number)
        assert law.slides[first.slide] is shuffled.slides[second.slide]
        assert replace(first, slide=0) == replace(second, slide=0)


def test_epochs_and_seeds_differ() -> None:
    law = law_of(slide_of(), slide_of("b"))
    epochs = [draws_of(law, 50, epoch=epoch) for epoch in (0, 1)]
    other_seed = draws_of(law_of(slide_of(), slide_of("b"), seed=8), 50)
    for others in (epochs[1], other_seed):
        assert sum(first == second for first, second in zip(epochs[0], others, strict=True)) == 0
    numbers = [(draw.slide, draw.origin_out) for draw in epochs[0]]
    assert len(set(numbers)) == 50


def test_a_kind_without_anchors_becomes_random() -> None:
    annotations = table_of([(1000, 1000), (1500, 1200)], roles=[Role.TARGET, Role.TARGET])
    draws = draws_of(law_of(slide_of(annotations=annotations)), 500)
    found = Counter((draw.requested_kind, draw.kind) for draw in draws)
    assert set(found) == {
        (PatchKind.RANDOM, PatchKind.RANDOM),
        (PatchKind.HARD_NEGATIVE, PatchKind.RANDOM),
        (PatchKind.MITOSIS, PatchKind.MITOSIS),
    }
    assert all((draw.anchor_row == NO_ANCHOR) == (draw.kind is PatchKind.RANDOM) for draw in draws)


def test_without_tissue_random_becomes_anchored_in_proportion() -> None:
    draws = draws_of(law_of(slide_of(tissue=glass(), options=replace(OPTIONS, shares=(0.5, 0.1, 0.4)))), 4000)
    found = Counter((draw.requested_kind, draw.kind) for draw in draws)
    # 0.5 of 4000 draws asked for random, a fifth of them became hard negatives: 400, standard deviation 19.
    assert 320 < found[PatchKind.RANDOM, PatchKind.HARD_NEGATIVE] < 480
    assert 1480 < found[PatchKind.RANDOM, PatchKind.MITOSIS] < 1720
    assert PatchKind.RANDOM not in {drawn for _, drawn in found}


def test_random_patches_hold_tissue_and_no_unwanted_target() -> None:
    """Tissue on a few columns of the slide, targets on half of it."""
    mask = np.zeros((125, 188), dtype=np.bool_)
    mask[:, 90:110] = True
    annotations = table_of([(1600, y) for y in range(100, 1000, 100)], roles=[Role.TARGET] * 9)
    options = replace(OPTIONS, shares=(1.0, 0.0, 0.0), random_negatives_only=True, min_tissue_fraction=0.4)
    draws = draws_of(law_of(slide_of(annotations=annotations, tissue=mask_of(mask), options=options)), 300)
    origins = np.array([draw.origin_out for draw in draws])
    assert np.all(mask_of(mask).fractions(origins, w_l0=256, h_l0=256) >= 0.4)
    holds = (origins[:, 0] <= 1600) & (origins[:, 0] > 1600 - 256)
    assert np.all(~holds | (origins[:, 1] > 900))


def test_a_pool_is_all_there_is() -> None:
    pool = np.array([(0, 0), (17, 300), (2744, 1744)], dtype=np.int64)
    draws = draws_of(law_of(slide_of(tissue=glass(), pool_out=pool), shares=(1.0, 0.0, 0.0)), 200)
    assert {draw.origin_out for draw in draws} == {(0, 0), (17, 300), (2744, 1744)}


NO_POOL = np.empty((0, 2), dtype=np.int64)
NOTHING = AnnotationTable.empty()


@pytest.mark.parametrize(
    ("slide", "reason"),
    [
        pytest.param(slide_of(annotations=NOTHING, tissue=glass()), "no_tissue", id="glass"),
        pytest.param(slide_of(width=300, height=200), "slide_smaller_than_patch", id="too small"),
        pytest.param(slide_of(annotations=NOTHING, pool_out=NO_POOL), "empty_pool", id="nothing in the pool"),
        pytest.param(
            slide_of(options=replace(OPTIONS, shares=(1.0, 0.0, 0.0)), tissue=glass()), "no_tissue", id="random only"
        ),
        pytest.param(
            slide_of(
                width=300,
                height=300,
                annotations=table_of([(150, 150)], roles=[Role.TARGET]),
                options=replace(OPTIONS, shares=(1.0, 0.0, 0.0), random_negatives_only=True),
            ),
            "no_tissue_without_target",
            id="targets everywhere",
        ),
    ],
)
def test_slides_without_a_possible_patch_are_never_drawn(slide: OnlineSlide, reason: str) -> None:
    law = law_of(replace(slide, slide_id="z"), slide_of("b"))
    assert law.excluded == {0: reason}
    assert {draw.slide for draw in draws_of(law, 50)} == {1}
    with pytest.raises(InputError, match=f"no slide to draw patches from .z: {reason}"):
        law_of(replace(slide, slide_id="z"))


def test_anchors_without_tissue_are_drawn_nevertheless() -> None:
    law = law_of(slide_of(tissue=glass()))
    assert law.excluded == {}
    assert PatchKind.RANDOM not in {draw.kind for draw in draws_of(law, 100)}


def shares_of_slides(slides: Sequence[OnlineSlide], options: OnlineOptions) -> list[float]:
    law = OnlineLaw(slides, options=options)
    counts = np.bincount([draw.slide for draw in draws_of(law, 4000)], minlength=len(slides))
    return [round(share, 6) for share in (counts / 4000).tolist()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(OnlineOptions(seed=1), (0.25, 0.25, 0.25, 0.25), id="alike"),
        pytest.param(OnlineOptions(seed=1, balance=Balance.GROUPS), (1 / 6, 1 / 6, 1 / 6, 0.5), id="groups alike"),
        pytest.param(OnlineOptions(seed=1, slide_weights={"a": 5}), (0.625, 0.125, 0.125, 0.125), id="one slide more"),
        pytest.param(OnlineOptions(seed=1, group_weights={"y": 0.0}), (1 / 3, 1 / 3, 1 / 3, 0.0), id="without y"),
        pytest.param(
            OnlineOptions(seed=1, balance=Balance.GROUPS, group_weights={"y": 3}, slide_weights={"b": 2}),
            (0.0625, 0.125, 0.0625, 0.75),
            id="both",
        ),
    ],
)
def test_slides_and_groups_are_weighted(options: OnlineOptions, expected: tuple[float, ...]) -> None:
    slides = [slide_of(name, group="y" if name == "d" else "x", pool_out=np.array([(0, 0)])) for name in "abcd"]
    # The standard deviation of a share is at most 0.008 over 4000 draws.
    assert shares_of_slides(slides, options) == pytest.approx(expected, abs=0.03)


def test_a_slide_of_weight_0_is_excluded() -> None:
    law = OnlineLaw([slide_of(), slide_of("b")], options=OnlineOptions(seed=1, slide_weights={"a": 0}))
    assert law.excluded == {0: "weight_zero"}


def test_shares_of_the_law_replace_those_of_the_extraction() -> None:
    draws = draws_of(law_of(slide_of(), shares=(0.0, 1.0, 0.0)), 50)
    assert {draw.kind for draw in draws} == {PatchKind.HARD_NEGATIVE}


def test_kinds_that_were_not_extracted_are_refused() -> None:
    slide = slide_of(options=replace(OPTIONS, shares=(0.5, 0.0, 0.5)))
    with pytest.raises(ConfigError, match=r"slide a: hard_negative patches .* share was 0 in the extraction"):
        law_of(slide, shares=(0.1, 0.4, 0.5))
    assert len(draws_of(law_of(slide, shares=(0.0, 0.0, 1.0)), 5)) == 5


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"slide_weights": {"a": -1.0}}, "weight of 'a' must be a finite number of at least 0, got -1.0"),
        ({"group_weights": {"x": float("nan")}}, "weight of 'x' must be a finite number"),
        ({"slide_weights": {"c": 1.0}}, r"slides \['c'\], which are not there"),
        ({"group_weights": {"c": 1.0}}, r"groups \['c'\], which are not there"),
        ({"shares": (0.5, 0.6, 0.0)}, "shares must be three numbers of at least 0 with sum 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        OnlineLaw([slide_of()], options=OnlineOptions(**{"seed": 1, **options}))  # type: ignore[arg-type]  # by name


def test_a_slide_may_be_there_once_per_split() -> None:
    with pytest.raises(ValueError, match="slide a is there twice in split train"):
        law_of(slide_of(), slide_of())


@pytest.mark.parametrize(
    ("pool", "problem"),
    [
        pytest.param([(0, 0), (2745, 0)], "the pool's patch at x 2745, y 0 leaves the domain", id="to the right"),
        pytest.param([(0, -1)], "the pool's patch at x 0, y -1 leaves the domain", id="above"),
        pytest.param([(0, 0, 0)], r"a pool must be \(N, 2\), got \(1, 3\)", id="shape"),
    ],
)
def test_bad_pools_are_refused(pool: list[tuple[int, ...]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        slide_of(pool_out=np.array(pool))
