"""Orders of epochs: complete, repeatable, the same for any number of ranks; weights give the frequencies asked for."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers_index import make_index
from wsi_extract.arrays import IntArray
from wsi_extract.epochs import EpochOrder, OnlineOrder, positions_of, shuffled, weighted, weights_of
from wsi_extract.errors import InputError
from wsi_extract.index import SplitIndex
from wsi_extract.model import PatchKind

N_DRAWS = 200_000

seeds = st.integers(min_value=0, max_value=2**63)
epochs = st.integers(min_value=0, max_value=10**6)


@given(n=st.integers(min_value=0, max_value=300), seed=seeds, epoch=epochs)
def test_an_epoch_holds_every_patch_once_and_can_be_repeated(n: int, seed: int, epoch: int) -> None:
    order = shuffled(n, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, shuffled(n, seed=seed, epoch=epoch))


def test_epochs_and_seeds_differ() -> None:
    orders = [shuffled(100, seed=seed, epoch=epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_orders_are_the_same_on_every_machine() -> None:
    # Written down once: a job that is resumed elsewhere, or with a newer NumPy, must not see other patches.
    assert shuffled(8, seed=1, epoch=2).tolist() == [3, 0, 6, 4, 7, 1, 5, 2]
    assert weighted(np.arange(8.0), n=8, seed=1, epoch=2).tolist() == [5, 7, 6, 2, 4, 7, 5, 6]


def test_a_shuffled_row_is_anywhere_equally_often() -> None:
    places = Counter(shuffled(5, seed=3, epoch=epoch).tolist().index(2) for epoch in range(5000))
    assert _chi_square(np.array([places[i] for i in range(5)]), np.full(5, 1000.0)) < 18.5  # p > 0.001


@given(
    n=st.integers(min_value=0, max_value=200),
    world_size=st.integers(min_value=1, max_value=9),
    share_consumed=st.floats(min_value=0, max_value=1),
)
def test_the_ranks_divide_what_is_left_of_an_epoch(n: int, world_size: int, share_consumed: float) -> None:
    order = EpochOrder(n_rows=n, seed=5)
    n_consumed = int(share_consumed * n)
    whole = order.keys(3, slice(None))
    shares = [
        order.keys(3, positions_of(rank, n_consumed=n_consumed, n_total=n, world_size=world_size))
        for rank in range(world_size)
    ]
    assert sorted(chain.from_iterable(shares)) == sorted(whole[n_consumed:])
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for rank, share in enumerate(shares):
        assert set(share) <= {whole[p] for p in range(rank, n, world_size)}


@given(
    n=st.integers(min_value=0, max_value=200),
    world_sizes=st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=6),
)
def test_a_step_sees_the_same_patches_whatever_the_number_of_ranks(n: int, world_sizes: list[int]) -> None:
    # Steps of 12 samples, done by another number of ranks each: as after a restart on another machine.
    order = EpochOrder(n_rows=n, seed=5)
    whole = order.keys(0, slice(None))
    for step, world_size in enumerate(world_sizes):
        start = min(12 * step, n)
        seen: list[int] = []
        for rank in range(world_size):
            left = order.keys(0, positions_of(rank, n_consumed=start, n_total=n, world_size=world_size))
            seen += left[: 12 // world_size]
        assert sorted(seen) == sorted(whole[start : start + 12])


def test_refuses_states_and_ranks_that_cannot_be() -> None:
    with pytest.raises(InputError, match="rank 2 is not one of the 2 ranks"):
        positions_of(2, n_consumed=0, n_total=10, world_size=2)
    with pytest.raises(InputError, match="11 positions of an epoch of 10 cannot be used already"):
        positions_of(0, n_consumed=11, n_total=10, world_size=1)
    with pytest.raises(InputError, match="without them an epoch is every patch once"):
        EpochOrder(n_rows=5, seed=0, n_per_epoch=3)
    with pytest.raises(InputError, match="one weight per row: 5 rows"):
        EpochOrder(n_rows=5, seed=0, weights=np.ones(4))
    for weights in ([0.0, 0.0], [1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(InputError, match="finite, at least 0 and not all 0"):
            EpochOrder(n_rows=2, seed=0, weights=np.array(weights))


def test_online_keys_are_epoch_and_number() -> None:
    order = OnlineOrder(n_per_epoch=5)
    assert len(order) == 5
    assert order.keys(7, slice(1, 5, 2)) == [(7, 1), (7, 3)]


@given(weights=st.lists(st.sampled_from([0.0, 1e-9, 0.3, 1.0, 7.0]), min_size=1, max_size=20).filter(any), seed=seeds)
def test_rows_without_weight_are_never_drawn(weights: list[float], seed: int) -> None:
    drawn = weighted(np.array(weights), n=200, seed=seed, epoch=0)
    assert all(weights[row] > 0 for row in drawn.tolist())


def test_rows_are_drawn_as_often_as_their_weights_say() -> None:
    weights = np.array([0.0, 1.0, 2.0, 5.0, 0.0, 2.0])
    counts = np.bincount(weighted(weights, n=N_DRAWS, seed=1, epoch=0), minlength=6)
    chosen = weights > 0
    assert _chi_square(counts[chosen], N_DRAWS * weights[chosen] / weights.sum()) < 16.3  # p > 0.001


def test_an_epoch_with_weights_may_have_any_length() -> None:
    order = EpochOrder(n_rows=3, seed=1, weights=np.ones(3), n_per_epoch=1000)
    assert len(order) == 1000
    assert set(order.keys(0, slice(None))) == {0, 1, 2}
    assert order.keys(0, slice(None)) != order.keys(1, slice(None))


def _lopsided() -> SplitIndex:
    """Three slides with 60, 30 and 10 patches; the third has no hard negatives."""
    slide = np.repeat([0, 1, 2], [60, 30, 10])
    kinds = np.array([PatchKind.RANDOM, PatchKind.HARD_NEGATIVE, PatchKind.MITOSIS, PatchKind.MITOSIS])
    kind = kinds[np.arange(100) % 4]
    kind[(slide == 2) & (kind == PatchKind.HARD_NEGATIVE)] = PatchKind.RANDOM
    return make_index(slide=slide, kind=kind)


def _frequencies(index: SplitIndex, groups: IntArray, **settings: object) -> list[float]:
    weights = weights_of(index, **settings)  # type: ignore[arg-type]  # settings are those of weights_of
    assert weights.sum() == pytest.approx(1)
    drawn = weighted(weights, n=N_DRAWS, seed=4, epoch=9)
    shares: list[float] = (np.bincount(groups[drawn], minlength=int(groups.max()) + 1) / N_DRAWS).tolist()
    return shares


TOLERANCE = 4 * 0.5 / N_DRAWS**0.5
"""Four standard deviations of the frequency of a coin."""
SHARES = {"mitosis": 2.0, "hard_negative": 1.0, "random": 1.0}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"kind_shares": SHARES}, [0.25, 0.25, 0.5], id="any unit"),
        pytest.param({"kind_shares": {"mitosis": 1}}, [0, 0, 1], id="kinds left out are not drawn"),
        pytest.param({"kind_shares": {"mitosis": 3, "random": 0, "hard_negative": 1}}, [0, 0.25, 0.75], id="share 0"),
        pytest.param({"kind_shares": SHARES, "balance": "slide"}, [0.25, 0.25, 0.5], id="kinds first, slides second"),
    ],
)
def test_kinds_are_drawn_as_often_as_asked(settings: dict[str, object], expected: list[float]) -> None:
    index = _lopsided()
    assert _frequencies(index, index.kind.astype(np.int64), **settings) == pytest.approx(expected, abs=TOLERANCE)


DOMAINS = {"slide_0": "scanner A", "slide_1": "scanner A", "slide_2": "scanner B"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, [0.6, 0.3, 0.1], id="as many as there are"),
        pytest.param({"balance": "slide"}, [1 / 3] * 3, id="slides"),
        pytest.param({"balance": "domain", "domains": DOMAINS}, [1 / 3, 1 / 6, 0.5], id="domains"),
        pytest.param({"kind_shares": {"mitosis": 1}, "balance": "slide"}, [1 / 3] * 3, id="slides of one kind"),
        # The third slide has no hard negative: the other two share them.
        pytest.param(
            {"kind_shares": {"hard_negative": 1}, "balance": "slide"}, [0.5, 0.5, 0], id="slides that have it"
        ),
    ],
)
def test_slides_and_domains_are_drawn_as_often_as_asked(settings: dict[str, object], expected: list[float]) -> None:
    index = _lopsided()
    assert _frequencies(index, index.slide.astype(np.int64), **settings) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"kind_shares": {"mitoses": 1.0}}, "unknown kind of patch 'mitoses'", id="unknown kind"),
        pytest.param({"kind_shares": {"grid": 1.0}}, "no patch of kind 'grid'", id="kind without patches"),
        pytest.param({"kind_shares": {"mitosis": 0.0}}, "not all 0", id="all shares 0"),
        pytest.param({"kind_shares": {"mitosis": -1.0, "random": 2.0}}, "at least 0", id="negative share"),
        pytest.param({"balance": "scanner"}, "balance must be", id="unknown balance"),
        pytest.param({"balance": "domain"}, "the domain of slide slide_0 is not given", id="no domains"),
        pytest.param({"balance": "domain", "domains": {"slide_0": "A"}}, "of slide slide_1 is not", id="one missing"),
    ],
)
def test_refuses_weights_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        weights_of(_lopsided(), **settings)  # type: ignore[arg-type]  # settings are those of weights_of


def test_refuses_an_empty_split() -> None:
    with pytest.raises(InputError, match="has no patches to draw"):
        weights_of(make_index(slide=np.empty(0, dtype=np.int64), kind=np.empty(0, dtype=np.int64)))


def _chi_square(counts: IntArray, expected: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(((counts - expected) ** 2 / expected).sum())
