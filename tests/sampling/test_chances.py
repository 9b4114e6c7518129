"""Intervals of [0, 1) in proportion to weights, and what is drawn instead of what is not there."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsi_extract.model import PatchKind
from wsi_extract.sampling.chances import limits_of, outcome_chances, uniform_fraction, uniform_integer
from wsi_extract.sampling.randomness import uniform_integers

WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=12)
SHARES = st.sampled_from([(0.1, 0.4, 0.5), (0.5, 0.0, 0.5), (0.0, 0.3, 0.7), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
KINDS = (PatchKind.RANDOM, PatchKind.HARD_NEGATIVE, PatchKind.MITOSIS)


@given(weights=WEIGHTS, fractions=st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
def test_every_number_falls_into_an_interval_of_some_weight(weights: list[float], fractions: list[float]) -> None:
    assume(any(weights))
    limits = limits_of(weights)
    assert limits[-1] == 1.0
    for fraction in (0.0, 1 - 2.0**-53, *limits[:-1], *fractions):
        if fraction < 1:
            assert weights[bisect_right(limits, fraction)] > 0


@given(weights=WEIGHTS)
def test_intervals_are_as_long_as_weights_are_heavy(weights: list[float]) -> None:
    assume(any(weights))
    lengths = np.diff((0.0, *limits_of(weights)))
    assert lengths.tolist() == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-12)


@given(shares=SHARES, available=st.sets(st.sampled_from(KINDS)))
def test_all_shares_are_drawn_as_something_that_is_there(
    shares: tuple[float, float, float], available: set[PatchKind]
) -> None:
    share_of = dict(zip(KINDS, shares, strict=True))
    there = [kind for kind in KINDS if kind in available and (kind is PatchKind.RANDOM or share_of[kind] > 0)]
    chances = outcome_chances(share_of, available=there)
    if not there:
        assert chances == {}
        return
    assert {drawn for _, drawn in chances} <= set(there)
    for asked, share in share_of.items():
        assert sum(chance for (of, _), chance in chances.items() if of is asked) == pytest.approx(share)
    for (asked, drawn), chance in chances.items():
        assert chance > 0
        assert asked is drawn or asked not in there


@given(raw=st.integers(0, 2**64 - 1), n=st.integers(1, 2**40))
def test_one_number_is_turned_as_many_are(raw: int, n: int) -> None:
    assert 0 <= uniform_fraction(raw) < 1
    assert uniform_integer(raw, n=n) == uniform_integers(np.array([raw], dtype=np.uint64), n=n)[0]
    assert 0 <= uniform_integer(raw, n=n) < n
