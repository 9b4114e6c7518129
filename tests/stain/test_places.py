from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.arrays import BoolImage, IntArray
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import TissueMask
from wsi_extract.stain import sample_places

WHOLE = Rect(x0=0, y0=0, x1=6400, y1=4800)


def mask_of(mask: BoolImage, *, l0_per_px: float = 16.0) -> TissueMask:
    return TissueMask(mask=mask, l0_per_mask_px=Scale(x=l0_per_px, y=l0_per_px))


def island() -> TissueMask:
    mask = np.zeros((300, 400), dtype=np.bool_)
    mask[100:200, 150:300] = True
    return mask_of(mask)


def places(
    tissue: TissueMask, *, domain: Rect = WHOLE, n_places: int = 50, side_l0_px: int = 64, seed: int = 1
) -> IntArray:
    return sample_places(
        tissue, domains=[domain], n_places=n_places, side_l0_px=side_l0_px, seed=seed, slide_id="slide"
    )


def test_places_are_many_and_spread_over_the_tissue() -> None:
    found = places(island())
    assert found.shape == (50, 2)
    x, y = found.T
    for values, lo, hi in ((x, 2400, 4800), (y, 1600, 3200)):
        counts, _ = np.histogram(values, bins=4, range=(lo, hi))
        assert counts.sum() >= 48
        assert counts.min() >= 5


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**40),
    side_l0_px=st.integers(1, 500),
    n_places=st.integers(1, 60),
    corner=st.tuples(st.integers(0, 4000), st.integers(0, 3000)),
    l0_per_px=st.floats(4, 40),
)
def test_windows_touch_tissue_lie_inside_and_never_overlap(
    seed: int, side_l0_px: int, n_places: int, corner: tuple[int, int], l0_per_px: float
) -> None:
    mask = np.random.default_rng(seed).random((60, 80)) < 0.02
    tissue = mask_of(mask, l0_per_px=l0_per_px)
    domain = Rect(x0=corner[0], y0=corner[1], x1=6400, y1=4800)
    found = places(tissue, domain=domain, n_places=n_places, side_l0_px=side_l0_px, seed=seed)
    assert len(found) <= n_places
    assert len(np.unique(found, axis=0)) == len(found)
    assert (found % side_l0_px == 0).all()
    assert (found >= corner).all()
    assert (found + side_l0_px <= (6400, 4800)).all()
    assert (tissue.fractions(found, w_l0=side_l0_px + 1e-3, h_l0=side_l0_px + 1e-3) > 0).all()
    assert np.array_equal(found, found[np.lexsort((found[:, 0], found[:, 1]))])


def test_the_choice_depends_on_seed_and_slide_alone() -> None:
    assert np.array_equal(places(island()), places(island()))
    assert not np.array_equal(places(island()), places(island(), seed=2))
    other = sample_places(island(), domains=[WHOLE], n_places=50, side_l0_px=64, seed=1, slide_id="other")
    assert not np.array_equal(places(island()), other)


def test_the_choice_is_the_same_in_every_release() -> None:
    """Pixels of the output depend on it."""
    assert places(island(), n_places=3).tolist() == [[2688, 1664], [4736, 2176], [3520, 2688]]


def test_several_domains_are_one() -> None:
    halves = [Rect(x0=0, y0=0, x1=3200, y1=4800), Rect(x0=3200, y0=0, x1=6400, y1=4800)]
    found = sample_places(island(), domains=halves, n_places=50, side_l0_px=64, seed=1, slide_id="slide")
    assert np.array_equal(found, places(island()))


@pytest.mark.parametrize(
    ("tissue", "domain"),
    [
        (mask_of(np.zeros((300, 400), dtype=np.bool_)), WHOLE),
        (mask_of(np.zeros((0, 0), dtype=np.bool_)), WHOLE),
        (island(), Rect(x0=0, y0=0, x1=800, y1=800)),
        (island(), Rect(x0=3000, y0=2000, x1=3050, y1=2050)),
        (island(), Rect(x0=0, y0=0, x1=0, y1=0)),
    ],
    ids=["no tissue", "no mask", "tissue elsewhere", "no room", "empty domain"],
)
def test_there_may_be_no_place(tissue: TissueMask, domain: Rect) -> None:
    assert places(tissue, domain=domain).shape == (0, 2)


def test_small_tissue_gives_every_square_once() -> None:
    mask = np.zeros((300, 400), dtype=np.bool_)
    mask[100:108, 100:108] = True
    assert places(mask_of(mask)).tolist() == [[1600, 1600], [1664, 1600], [1600, 1664], [1664, 1664]]


@pytest.mark.parametrize(("n_places", "side_l0_px"), [(0, 64), (5, 0)])
def test_nothing_to_look_at_is_refused(n_places: int, side_l0_px: int) -> None:
    with pytest.raises(ValueError, match="at least one window"):
        places(island(), n_places=n_places, side_l0_px=side_l0_px)
