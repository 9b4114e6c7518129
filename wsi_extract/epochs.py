"""In which order training sees the patches of a split: a function of (seed, epoch), of nothing else.

The order of an epoch belongs to the whole training job. Position ``p`` of it goes to rank ``p % world_size``, so the
number of processes, of loader workers and the size of the batches change who reads a patch, never which patches make
up a step. Where a job stands is two integers: the epoch, and how many of its positions all ranks together have used.

Knows nothing of torch, files or pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np

from wsi_extract.arrays import BoolArray, FloatArray, IntArray
from wsi_extract.disk.files import canonical_json, sha256_of
from wsi_extract.errors import InputError
from wsi_extract.index import SplitIndex
from wsi_extract.model import PatchKind
from wsi_extract.sampling.randomness import keyed_generator

Balance = Literal["none", "slide", "domain"]
KeyT_co = TypeVar("KeyT_co", covariant=True)
KINDS_BY_LABEL = {kind.label: kind for kind in PatchKind}


def shuffled(n: int, *, seed: int, epoch: int) -> IntArray:
    """Return the numbers below ``n`` in the random order of one epoch.

    Returns
    -------
    ``(n,)`` int64, a permutation; the same on every machine and with every NumPy.
    """
    raw = keyed_generator("epoch", seed, epoch, "shuffled").random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int64)


def weighted(weights: FloatArray, *, n: int, seed: int, epoch: int) -> IntArray:
    """Draw ``n`` row numbers with replacement, each with a chance in proportion to its weight.

    Parameters
    ----------
    weights
        ``(N,)`` float64, finite, at least 0, not all 0. Rows of weight 0 are never drawn.

    Returns
    -------
    ``(n,)`` int64, numbers below N.
    """
    raw = keyed_generator("epoch", seed, epoch, "weighted").random_raw(n)
    fractions = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    ends = np.cumsum(weights)
    drawn = np.searchsorted(ends, fractions * ends[-1], side="right")
    # A product rounded up to the very end would fall behind the last row that can be drawn.
    rows: IntArray = np.minimum(drawn, np.flatnonzero(weights)[-1]).astype(np.int64)
    return rows


def weights_of(
    index: SplitIndex,
    *,
    kind_shares: Mapping[str, float] | None = None,
    balance: Balance = "none",
    domains: Mapping[str, str] | None = None,
) -> FloatArray:
    """Return one weight per patch, so that `weighted` draws the kinds, slides or domains as often as asked.

    Kinds come first: each is drawn exactly as often as its share says. Within a kind, every slide (or every domain)
    that has patches of it is drawn equally often, and the patches of a slide (domain) are. Thus slides are drawn
    equally often over all only where each has every kind.

    Parameters
    ----------
    kind_shares
        Share of each kind by its label (``mitosis``, ``hard_negative``, ``random``, ``grid``), in any unit; kinds
        left out are not drawn. ``None``: kinds are drawn as often as there are patches of them, or as the balance
        makes them.
    balance
        What is drawn equally often: nothing, slides or domains.
    domains
        Domain of each slide by its id, such as the scanner or the tumour; needed for ``balance="domain"``.

    Returns
    -------
    ``(N,)`` float64, sum 1.

    Raises
    ------
    InputError
        When the split is empty, a kind is unknown or has a share without a patch, or a slide has no domain.
    """
    if not len(index):
        raise InputError(f"the split {index.split} has no patches to draw.")
    groups = _groups(index, balance=balance, domains=domains)
    if kind_shares is None:
        return _balanced(groups, chosen=np.ones(len(index), dtype=np.bool_))
    weights = np.zeros(len(index), dtype=np.float64)
    shares = _checked_shares(kind_shares)
    for kind, share in shares.items():
        chosen = index.kind == kind
        if not chosen.any():
            raise InputError(
                f"the split {index.split} has no patch of kind {kind.label!r}, which is to make up {share:.3g} of it.",
                "Leave the kind out of kind_shares.",
            )
        weights += share * _balanced(groups, chosen=chosen)
    return weights


def _checked_shares(kind_shares: Mapping[str, float]) -> dict[PatchKind, float]:
    """Return the shares above 0, with sum 1."""
    unknown = sorted(kind_shares.keys() - KINDS_BY_LABEL.keys())
    if unknown:
        raise InputError(f"unknown kind of patch {unknown[0]!r}.", f"Kinds are {', '.join(KINDS_BY_LABEL)}.")
    values = kind_shares.values()
    if not all(math.isfinite(share) and share >= 0 for share in values) or math.fsum(values) <= 0:
        raise InputError(f"shares of kinds must be at least 0 and not all 0, got {dict(kind_shares)}.")
    total = math.fsum(values)
    return {KINDS_BY_LABEL[label]: share / total for label, share in kind_shares.items() if share > 0}


def _groups(index: SplitIndex, *, balance: Balance, domains: Mapping[str, str] | None) -> IntArray | None:
    """Return the number of each patch's group, ``None`` when all are one group."""
    if balance == "none":
        return None
    if balance == "slide":
        return index.slide.astype(np.int64)
    if balance != "domain":
        raise InputError(f"balance must be 'none', 'slide' or 'domain', got {balance!r}.")
    names: list[str] = []
    for slide in index.slides:
        if domains is None or slide.slide_id not in domains:
            raise InputError(
                f"the domain of slide {slide.slide_id} is not given.", "Name the domain of every slide in `domains`."
            )
        names.append(domains[slide.slide_id])
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], dtype=np.int64)[index.slide]


def _balanced(groups: IntArray | None, *, chosen: BoolArray) -> FloatArray:
    """Return weights with sum 1 over the chosen rows, the same sum for each of their groups."""
    if groups is None:
        return chosen / np.count_nonzero(chosen)
    sizes = np.bincount(groups[chosen], minlength=int(groups.max()) + 1)
    return chosen / (np.maximum(sizes, 1)[groups] * np.count_nonzero(sizes))


class KeyOrder(Protocol[KeyT_co]):
    """The order of every epoch: what a sampler goes through."""

    @property
    def identity(self) -> int:
        """A number that tells this order from others, for the state of a sampler."""

    def __len__(self) -> int:
        """Return how many positions an epoch has."""

    def keys(self, epoch: int, positions: slice) -> Sequence[KeyT_co]:
        """Return what a data set is asked for at some positions of an epoch; a function of nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpochOrder:
    """The order of every epoch of one training job; its state is two integers that others keep.

    Without weights an epoch is a permutation of all rows; with weights, draws with replacement.
    """

    n_rows: int
    seed: int
    weights: FloatArray | None = None
    """(n_rows,) float64, see `weights_of`."""
    n_per_epoch: int | None = None
    """Positions of an epoch, ``n_rows`` when ``None``; only with weights."""

    def __post_init__(self) -> None:
        if self.n_rows < 0 or self.seed < 0:
            raise InputError(f"rows and seed must be at least 0, got {self.n_rows} and {self.seed}.")
        if self.n_per_epoch is not None and (self.weights is None or self.n_per_epoch < 1):
            raise InputError(
                f"n_per_epoch {self.n_per_epoch} must be at least 1, and needs weights: "
                "without them an epoch is every patch once."
            )
        if self.weights is not None:
            _check_weights(self.weights, n_rows=self.n_rows)

    @property
    def identity(self) -> int:
        """Digest of everything the order depends on."""
        weights = None if self.weights is None else sha256_of(np.ascontiguousarray(self.weights).tobytes())
        return _number_of(["epoch", self.n_rows, int(self.seed), weights, self.n_per_epoch])

    def __len__(self) -> int:
        return self.n_rows if self.n_per_epoch is None else self.n_per_epoch

    def epoch(self, epoch: int) -> IntArray:
        """Return the rows of an epoch in their order, ``(len(self),)`` int64."""
        if self.weights is None:
            return shuffled(self.n_rows, seed=self.seed, epoch=epoch)
        return weighted(self.weights, n=len(self), seed=self.seed, epoch=epoch)

    def keys(self, epoch: int, positions: slice) -> list[int]:
        """Return the rows at some positions of an epoch, as Python integers for a loader."""
        rows: list[int] = self.epoch(epoch)[positions].tolist()
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineOrder:
    """The order of epochs whose patches are drawn when they are asked for, by epoch and number."""

    n_per_epoch: int

    def __post_init__(self) -> None:
        if self.n_per_epoch < 1:
            raise InputError(f"an epoch has at least 1 patch, got {self.n_per_epoch}.")

    @property
    def identity(self) -> int:
        """Digest of everything the order depends on; the seed of the patches is the data set's."""
        return _number_of(["online", self.n_per_epoch])

    def __len__(self) -> int:
        return self.n_per_epoch

    def keys(self, epoch: int, positions: slice) -> list[tuple[int, int]]:
        """Return pairs of the epoch and the number of a draw."""
        return [(epoch, number) for number in range(self.n_per_epoch)[positions]]


def positions_of(rank: int, *, n_consumed: int, n_total: int, world_size: int) -> slice:
    """Return which positions from ``n_consumed`` on belong to a rank: those with ``p % world_size == rank``.

    The positions of all ranks are the rest of the epoch, each once. Their numbers differ by one at most.

    >>> list(range(10))[positions_of(1, n_consumed=4, n_total=10, world_size=3)]
    [4, 7]

    Raises
    ------
    InputError
        When the rank is not below the world size, or more was consumed than there is.
    """
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} is not one of the {world_size} ranks, which count from 0.")
    if not 0 <= n_consumed <= n_total:
        raise InputError(
            f"{n_consumed} positions of an epoch of {n_total} cannot be used already.",
            "The state belongs to another data set or other settings.",
        )
    return slice(n_consumed + (rank - n_consumed) % world_size, n_total, world_size)


def _number_of(meaning: list[object]) -> int:
    return int(sha256_of(canonical_json(meaning))[:15], 16)


def _check_weights(weights: FloatArray, *, n_rows: int) -> None:
    if weights.shape != (n_rows,):
        raise InputError(f"there must be one weight per row: {n_rows} rows, weights of shape {weights.shape}.")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise InputError("weights must be finite, at least 0 and not all 0.")
