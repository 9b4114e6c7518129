"""Random numbers keyed by what they are for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.sampling.test_scenes import looks_uniform
from wsi_extract.model import PatchKind, Split
from wsi_extract.sampling.randomness import Stream, bit_generator, distinct_integers, permutation, uniform_integers

STREAM = Stream(seed=42, slide_id="a", split=Split.TRAIN, epoch=0, kind=PatchKind.RANDOM)


def first_of(stream: Stream, *, item: tuple[int | str, ...] = (0,)) -> int:
    return int(bit_generator(stream, item=item).random_raw(1)[0])


def test_numbers_are_the_same_on_every_machine_and_version() -> None:
    """The values are part of the contract: another value here means other plans for every user."""
    expected = [15_238_377_542_939_849_913, 1_847_497_597_518_876_020]
    assert bit_generator(STREAM, item=(0,)).random_raw(2).tolist() == expected


@pytest.mark.parametrize(
    "changes",
    [{"seed": 43}, {"slide_id": "b"}, {"split": Split.VAL}, {"epoch": 1}, {"kind": PatchKind.MITOSIS}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_part_of_the_key_matters(changes: dict[str, object]) -> None:
    assert first_of(dataclasses.replace(STREAM, **changes)) != first_of(STREAM)  # type: ignore[arg-type]  # by name


def test_items_are_told_apart_by_type() -> None:
    items: list[tuple[int | str, ...]] = [(1,), ("1",), (1, 1), (11,), ("perm", 1)]
    assert len({first_of(STREAM, item=item) for item in items}) == 5


def test_uniform_integers_cover_the_range() -> None:
    raw = np.array([0, 2**63, 2**64 - 1], dtype=np.uint64)
    assert uniform_integers(raw, n=10).tolist() == [0, 5, 9]
    assert uniform_integers(raw, n=1).tolist() == [0, 0, 0]


def test_uniform_integers_are_uniform() -> None:
    drawn = uniform_integers(bit_generator(STREAM, item=(0,)).random_raw(100_000), n=256)
    assert looks_uniform(np.bincount(drawn, minlength=256))


def test_the_chi_square_test_notices_a_bias() -> None:
    drawn = uniform_integers(bit_generator(STREAM, item=(0,)).random_raw(100_000), n=256)
    assert not looks_uniform(np.bincount(np.where(drawn < 8, drawn + 8, drawn), minlength=256))
    assert not looks_uniform(np.bincount(np.clip(drawn, 1, 254), minlength=256))


def test_permutations_hold_every_number_once_and_differ_by_pass() -> None:
    first, second = (permutation(STREAM, n=50, pass_number=number) for number in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    ("n_wanted", "n_total", "n_expected"),
    [(5, 0, 0), (5, 3, 3), (5, 5, 5), (5, 8, 5), (1000, 4100, 1000), (1000, 10**12, 1000), (0, 10, 0)],
)
def test_distinct_integers(n_wanted: int, n_total: int, n_expected: int) -> None:
    drawn = distinct_integers(STREAM, n_wanted=n_wanted, n_total=n_total)
    assert len(drawn) == len(set(drawn.tolist())) == n_expected
    assert all(0 <= number < n_total for number in drawn.tolist())


@pytest.mark.parametrize("n_total", [20, 200], ids=["by permutation", "by rejection"])
def test_distinct_integers_are_uniform(n_total: int) -> None:
    counts = np.zeros(n_total, dtype=np.int64)
    for epoch in range(5000):
        stream = dataclasses.replace(STREAM, epoch=epoch)
        counts[distinct_integers(stream, n_wanted=10, n_total=n_total)[:1]] += 1
    assert looks_uniform(counts)
