"""Random numbers that depend on what they are for, never on the order in which they are drawn.

Every draw has its own Philox generator, keyed by the BLAKE2b digest of what is drawn. Only the generator's raw 64-bit
output is used, whose values NumPy guarantees for all its versions; those of ``numpy.random.Generator`` it does not.
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import IntArray
from wsi_extract.disk.files import canonical_json
from wsi_extract.model import PatchKind, Split

RawArray = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What the random numbers are for: one kind of patch, of one slide, in one split."""

    seed: int
    slide_id: str
    split: Split
    epoch: int
    kind: PatchKind


def bit_generator(stream: Stream, *, item: tuple[int | str, ...]) -> np.random.Philox:
    """Return the generator of one item of the stream, such as ``(j,)`` for patch j.

    Its key is the 128-bit BLAKE2b of the JSON list ``[seed, slide_id, split, epoch, kind, *item]``.
    """
    return keyed_generator(stream.seed, stream.slide_id, stream.split.value, stream.epoch, stream.kind.label, *item)


def keyed_generator(*meaning: int | str) -> np.random.Philox:
    """Return the generator whose key is the 128-bit BLAKE2b of the JSON list of what its numbers are for."""
    plain = [part if isinstance(part, str) else operator.index(part) for part in meaning]
    digest = hashlib.blake2b(canonical_json(plain), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype="<u8").astype(np.uint64))


def uniform_integers(raw: RawArray, *, n: int | IntArray) -> IntArray:
    """Turn raw 64-bit numbers into integers uniform on ``[0, n)``; ``n`` broadcasts against ``raw``.

    The upper 53 bits are scaled, so the chances of two values differ by less than ``n / 2**53``.
    """
    fractions = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.floor(fractions * n).astype(np.int64)


def permutation(stream: Stream, *, n: int, pass_number: int) -> IntArray:
    """Return the numbers below ``n`` in the random order of one pass."""
    raw = bit_generator(stream, item=("perm", pass_number)).random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int64)


def distinct_integers(stream: Stream, *, n_wanted: int, n_total: int) -> IntArray:
    """Return ``min(n_wanted, n_total)`` different numbers below ``n_total``, uniform, in random order.

    Memory grows with ``n_wanted``, not with ``n_total``.
    """
    if 4 * n_wanted >= n_total:
        return permutation(stream, n=n_total, pass_number=0)[:n_wanted]
    generator = bit_generator(stream, item=("list",))
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < n_wanted:
        drawn = np.concatenate([drawn, uniform_integers(generator.random_raw(n_wanted), n=n_total)])
        # Dropping repetitions, the first one kept, leaves a draw without replacement.
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return drawn[:n_wanted]
