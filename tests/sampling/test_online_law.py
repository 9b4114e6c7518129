"""The distribution of online draws. Seeds are fixed, so a test passes always or never; limits are at p = 0.001."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.sampling.test_online import draws_of, law_of, slide_of
from tests.sampling.test_scenes import OPTIONS, Scene, frame_of, looks_uniform, mask_of, rect, scattered, table_of
from wsi_extract.arrays import IntArray
from wsi_extract.model import NO_ANCHOR, PatchKind, Role, Split
from wsi_extract.sampling import OnlineDraw
from wsi_extract.sampling.random_draw import N_TRIES
from wsi_extract.splits import half_domains

ONLY_MITOSES = (0.0, 0.0, 1.0)
ONLY_RANDOM = (1.0, 0.0, 0.0)


def origins_of(draws: Sequence[OnlineDraw]) -> IntArray:
    return np.array([draw.origin_out for draw in draws], dtype=np.int64)


def look_alike(first: IntArray, second: IntArray) -> bool:
    """Whether two histograms come from one distribution with p > 0.001, by the chi-square test of homogeneity.

    The approximation of the distribution is that of `looks_uniform`.
    """
    used = (first + second) > 0
    first, second = first[used], second[used]
    expected = (first + second) * (first.sum() / (first.sum() + second.sum()))
    other = (first + second) - expected
    chi_square = float(((first - expected) ** 2 / expected + (second - other) ** 2 / other).sum())
    k = len(first) - 1
    deviate = ((chi_square / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))
    return bool(deviate < 3.0902)


def test_the_test_of_likeness_notices_a_bias() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 64, (2, 20_000))
    counts = np.bincount(first, minlength=64)
    assert look_alike(counts, np.bincount(second, minlength=64))
    assert not look_alike(counts, np.bincount(np.where(second < 4, second + 4, second), minlength=64))


def test_offsets_of_an_interior_anchor_are_uniform() -> None:
    """10^5 draws: 256 origins per axis, each as likely as the next, and the axes are independent."""
    slide = slide_of(annotations=table_of([(1000.4, 900.6)], roles=[Role.TARGET]))
    offsets = np.array([1000, 900]) - origins_of(draws_of(law_of(slide, shares=ONLY_MITOSES), 100_000))
    assert (offsets.min(), offsets.max()) == (0, 255)
    for axis in (0, 1):
        assert looks_uniform(np.bincount(offsets[:, axis], minlength=256))
    assert looks_uniform(np.bincount((offsets[:, 0] // 16) * 16 + offsets[:, 1] // 16, minlength=256))


@pytest.mark.parametrize(
    ("centre", "n_x", "n_y", "least"),
    [
        pytest.param((40.3, 10.0), 41, 11, (0, 0), id="top left"),
        pytest.param((2990.0, 1960.0), 10, 40, (2735, 1705), id="bottom right"),
    ],
)
def test_a_corner_anchor_is_uniform_on_its_fewer_origins(
    centre: tuple[float, float], n_x: int, n_y: int, least: tuple[int, int]
) -> None:
    slide = slide_of(annotations=table_of([centre], roles=[Role.TARGET]))
    x, y = (origins_of(draws_of(law_of(slide, shares=ONLY_MITOSES), 20_000)) - least).T
    assert (x.min(), y.min(), x.max(), y.max()) == (0, 0, n_x - 1, n_y - 1)
    assert looks_uniform(np.bincount(y * n_x + x, minlength=n_x * n_y))


def test_margin_and_jitter_narrow_the_offsets() -> None:
    """At margin 25 there are 206 origins; at a jitter of a tenth, 53."""
    for changes, n_origins in (({"min_margin_px": 25}, 206), ({"jitter_fraction": 0.1}, 53)):
        options = replace(OPTIONS, **changes)
        slide = slide_of(annotations=table_of([(1000, 900)], roles=[Role.TARGET]), options=options)
        x = origins_of(draws_of(law_of(slide, shares=ONLY_MITOSES), 10_000))[:, 0]
        assert x.max() - x.min() == n_origins - 1
        assert looks_uniform(np.bincount(x - x.min(), minlength=n_origins))


def test_kinds_come_as_often_as_the_shares_say() -> None:
    """Within three standard deviations over 10^5 draws."""
    slide = slide_of(pool_out=np.array([(0, 0), (10, 10)]))
    kinds = np.bincount([draw.kind for draw in draws_of(law_of(slide), 100_000)], minlength=3)
    for count, share in zip(kinds.tolist(), OPTIONS.shares, strict=True):
        assert abs(count - share * 100_000) < 3 * math.sqrt(100_000 * share * (1 - share))


def test_slides_anchors_and_pools_are_uniform() -> None:
    rng = np.random.default_rng(2)
    pool = rng.integers(0, 1700, (15, 2))
    slides = [slide_of(name, pool_out=pool) for name in "abcdefg"]
    draws = draws_of(law_of(*slides), 20_000)
    assert looks_uniform(np.bincount([draw.slide for draw in draws], minlength=7))
    rows = np.array([draw.anchor_row for draw in draws if draw.anchor_row != NO_ANCHOR])
    assert looks_uniform(np.bincount(rows[rows < 20], minlength=20))
    assert looks_uniform(np.bincount(rows[rows >= 20] - 20, minlength=10))
    places = {tuple(origin): i for i, origin in enumerate(pool.tolist())}
    pooled = [places[draw.origin_out] for draw in draws_of(law_of(slides[0], shares=ONLY_RANDOM), 5000)]
    assert looks_uniform(np.bincount(pooled, minlength=15))


def test_random_origins_are_uniform_over_all_tissue() -> None:
    """Tissue on the left 800 px only: a patch holds 10 % of it up to x = 774."""
    mask = np.zeros((125, 188), dtype=np.bool_)
    mask[:, :50] = True
    slide = slide_of(tissue=mask_of(mask), annotations=table_of([], roles=[]))
    x, y = origins_of(draws_of(law_of(slide), 10_000)).T
    assert (x.min(), y.min(), x.max(), y.max()) == (0, 0, 774, 1744)
    assert looks_uniform(np.bincount(x // 25, minlength=31))
    assert looks_uniform(np.bincount(y // 5, minlength=349))


def test_scarce_tissue_is_drawn_uniformly_too() -> None:
    """One mask pixel, of which patches of 19 px must hold all: 16 origins, mostly drawn by number, not by guessing."""
    mask = np.zeros((32, 32), dtype=np.bool_)
    mask[20, 11] = True
    slide = slide_of(
        width=512,
        height=512,
        tissue=mask_of(mask),
        annotations=table_of([], roles=[]),
        options=replace(OPTIONS, min_tissue_fraction=0.7),
        frame=frame_of(19, 19),
    )
    assert N_TRIES * 16 / (512 - 18) ** 2 < 0.1
    x, y = (origins_of(draws_of(law_of(slide), 1000)) - [11 * 16 - 3, 20 * 16 - 3]).T
    assert (x.min(), y.min(), x.max(), y.max()) == (0, 0, 3, 3)
    assert looks_uniform(np.bincount(y * 4 + x, minlength=16))


def histogram(local_xy: IntArray, kinds: IntArray, *, side_px: int) -> IntArray:
    """Count 8 x 8 squares of each kind's local centres."""
    cells = np.minimum(local_xy * 8 // side_px, 7)
    return np.bincount((kinds * 8 + cells[:, 1]) * 8 + cells[:, 0], minlength=3 * 64)


@pytest.mark.parametrize("domain", ["whole slide", "upper half"])
def test_online_and_offline_follow_one_law(domain: str) -> None:
    """Local centres of anchored patches and places of random ones, at borders, corners and the midline too."""
    width, height, side = 1100, 1000, 256
    annotations = scattered(25, 15, width=width, height=height, seed=3)
    whole = rect(width, height)
    domain_l0 = whole if domain == "whole slide" else half_domains(whole, guard_px=0)[0][1]
    options = replace(OPTIONS, shares=(0.2, 0.3, 0.5), patches_per_slide=50)
    mask = np.ones((63, 69), dtype=np.bool_)
    mask[20:, 40:] = False
    scene = Scene(
        width=width, height=height, annotations=annotations, domains=((Split.TRAIN, domain_l0),), tissue=mask_of(mask)
    )
    slide = slide_of(
        width=width,
        height=height,
        domain_l0=domain_l0,
        annotations=annotations,
        tissue=mask_of(mask),
        options=options,
    )
    plans = [
        scene.plan(shares=options.shares, patches_per_slide=50, epoch=epoch, seed=seed).patches
        for seed in (1, 2)
        for epoch in range(100)
    ]
    offline_kinds = np.concatenate([patches.kind for patches in plans]).astype(np.int64)
    offline_origins = np.concatenate([patches.origins_out for patches in plans])
    offline_rows = np.concatenate([patches.anchor_row for patches in plans])
    draws = draws_of(law_of(slide), 10_000)
    online_kinds = np.array([draw.kind for draw in draws], dtype=np.int64)
    online_rows = np.array([draw.anchor_row for draw in draws])
    centres = np.floor(annotations.centres_l0).astype(np.int64)
    found = []
    for kinds, origins, rows in (
        (offline_kinds, offline_origins, offline_rows),
        (online_kinds, origins_of(draws), online_rows),
    ):
        is_random = kinds == PatchKind.RANDOM
        # Random patches have no centre to compare; their place in the domain stands for it, on the same 8 x 8 squares.
        place = origins * side // np.array([width, height])
        found.append(histogram(np.where(is_random[:, None], place, centres[rows] - origins), kinds, side_px=side))
    assert found[0].sum() == found[1].sum() == 10_000
    assert look_alike(found[0], found[1])
