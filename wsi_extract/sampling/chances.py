"""The arithmetic of chances: from shares and weights to the intervals of [0, 1) that a random number falls into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from wsi_extract.model import PatchKind


def outcome_chances(
    shares: Mapping[PatchKind, float], *, available: Sequence[PatchKind]
) -> dict[tuple[PatchKind, PatchKind], float]:
    """Return the chance of each pair of kind asked for and kind drawn; nothing when nothing can be drawn.

    >>> kinds = {PatchKind.RANDOM: 0.1, PatchKind.HARD_NEGATIVE: 0.4, PatchKind.MITOSIS: 0.5}
    >>> chances = outcome_chances(kinds, available=[PatchKind.RANDOM, PatchKind.MITOSIS])
    >>> [(asked.label, drawn.label, chance) for (asked, drawn), chance in chances.items()]
    [('random', 'random', 0.1), ('hard_negative', 'random', 0.4), ('mitosis', 'mitosis', 0.5)]
    """
    instead = {PatchKind.RANDOM: 1.0}
    if PatchKind.RANDOM not in available:
        total = sum(shares[kind] for kind in available)
        instead = {kind: shares[kind] / total for kind in available}
    chances = {}
    for asked, share in shares.items():
        if share > 0:
            for drawn, part in ({asked: 1.0} if asked in available else instead).items():
                chances[asked, drawn] = share * part
    return chances


def limits_of(weights: Sequence[float]) -> tuple[float, ...]:
    """Return the upper limits of intervals that divide [0, 1) in proportion to the weights.

    ``bisect_right(limits, u)`` is the number of the interval that holds ``u``. Those of weight 0 are empty; the last
    one that is not ends at exactly 1, however the sums are rounded.

    >>> limits_of([1, 0, 3, 0])
    (0.25, 0.25, 1.0, 1.0)
    """
    last = max(i for i, weight in enumerate(weights) if weight > 0)
    total = sum(weights)
    return tuple(1.0 if i >= last else sofar / total for i, sofar in enumerate(accumulate(weights)))


def uniform_fraction(raw: int) -> float:
    """Turn a raw 64-bit number into a float uniform on [0, 1), as `uniform_integers` does."""
    return (raw >> 11) * 2.0**-53


def uniform_integer(raw: int, *, n: int) -> int:
    """Turn a raw 64-bit number into an integer uniform on [0, n): `uniform_integers` for one, fast."""
    return int(uniform_fraction(raw) * n)
