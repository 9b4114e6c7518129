from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.timing import latencies_s, measure


def test_every_round_runs_every_case_once() -> None:
    calls: list[str] = []

    def case(name: str) -> int:
        calls.append(name)
        return 5

    timings = measure({"a": lambda: case("a"), "b": lambda: case("b")}, n_patches=5, n_rounds=4, seed=0)
    assert [set(calls[k : k + 2]) for k in range(0, 8, 2)] == [{"a", "b"}] * 4
    assert Counter(calls) == {"a": 4, "b": 4}
    assert calls != ["a", "b"] * 4  # rounds have an order of their own
    assert all(len(timing.wall_s) == len(timing.cpu_s) == 4 for timing in timings.values())


def test_times_are_per_patch_and_medians() -> None:
    timing = measure({"a": lambda: sum(1 for _ in range(10_000))}, n_patches=10_000, n_rounds=3, seed=0)["a"]
    assert timing.wall_ms == 1e3 * sorted(timing.wall_s)[1]
    assert timing.cpu_ms == 1e3 * sorted(timing.cpu_s)[1]
    assert 0 < timing.cpu_s[0] < 1e-4
    assert timing.wall_s[0] > 0
    assert timing.spread >= 1


@pytest.mark.parametrize("n_handled", [0, 4, 6])
def test_a_case_that_does_not_handle_all_patches_is_refused(n_handled: int) -> None:
    with pytest.raises(RuntimeError, match=f"a handled {n_handled} of 5 patches"):
        measure({"a": lambda: n_handled}, n_patches=5, n_rounds=1, seed=0)


@pytest.mark.parametrize(("n_patches", "n_rounds"), [(0, 1), (1, 0)])
def test_nothing_to_measure_is_refused(n_patches: int, n_rounds: int) -> None:
    with pytest.raises(ValueError, match="nothing to measure"):
        measure({"a": lambda: 0}, n_patches=n_patches, n_rounds=n_rounds, seed=0)


def test_latencies_are_one_per_read() -> None:
    seen: list[int] = []
    assert len(latencies_s(seen.append, [3, 1, 3])) == 3
    assert seen == [3, 1, 3]
