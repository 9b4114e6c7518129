"""Patches without an anchor: uniform over every origin whose patch lies in the domain and on tissue.

Origins are guessed until they fit. Where tissue is so scarce that a thousand guesses fail, all admissible origins are
counted instead, square by square, and drawn by number. Both ways follow the same law; the second also knows when
there is nothing left to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import BoolImage, IntArray
from wsi_extract.geometry import Rect, Scale
from wsi_extract.sampling.law import origin_keys
from wsi_extract.sampling.randomness import Stream, bit_generator, distinct_integers, uniform_integers
from wsi_extract.sampling.tissue_rule import (
    ORIGINS_AT_ONCE,
    TissueRule,
    clear_unwanted,
    is_admissible,
    may_have_tissue,
    tissue_map,
)

NO_TISSUE = "no_tissue"
NO_TISSUE_WITHOUT_TARGET = "no_tissue_without_target"
TISSUE_EXHAUSTED = "tissue_exhausted"

N_TRIES = 1000
TRY_ROUNDS = ((0, 8), (8, 64), (64, N_TRIES))
"""Tries looked at together; a matter of speed, not of the law."""
PATCHES_PER_CHUNK = 256
TILE_SIDE_PX = 1024
"""Side of the squares of origins that are counted together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RandomDraw:
    """Drawn patches, in the order of drawing."""

    origins_out: IntArray
    """(N, 2) int64, extraction grid px."""
    missing_reason: str
    """Why there are fewer than asked for, else empty."""


def origins_in(domain_out: Rect, *, w_px: int, h_px: int) -> Rect:
    """Return the half-open rectangle of origins whose patch lies in the domain; without area when none does."""
    return Rect(x0=domain_out.x0, y0=domain_out.y0, x1=domain_out.x1 - w_px + 1, y1=domain_out.y1 - h_px + 1)


def draw_random(stream: Stream, *, n: int, domain_out: Rect, rule: TissueRule, taken: set[int]) -> RandomDraw:
    """Draw up to ``n`` different patches; fewer when there are no more admissible origins.

    Parameters
    ----------
    domain_out
        Where patches may lie, extraction grid px; holds at least one patch.
    taken
        Keys of used origins, see `origin_keys`; those of the drawn patches are added.
    """
    origins = origins_in(domain_out, w_px=rule.frame.patch_w_out_px, h_px=rule.frame.patch_h_out_px)
    drawn: list[IntArray] = [np.empty((0, 2), dtype=np.int64)]
    n_left = n
    while n_left:
        first = n - n_left
        numbers = range(first, min(first + PATCHES_PER_CHUNK, n))
        guessed = _guess(stream, numbers=numbers, origins=origins, rule=rule, taken=taken)
        drawn.append(guessed)
        n_left -= len(guessed)
        if len(guessed) < len(numbers):
            break
    reason = ""
    if n_left:
        listed, reason = _draw_counted(stream, n=n_left, origins=origins, rule=rule, taken=taken)
        drawn.append(listed)
    return RandomDraw(origins_out=np.concatenate(drawn), missing_reason=reason)


def _guess(stream: Stream, *, numbers: range, origins: Rect, rule: TissueRule, taken: set[int]) -> IntArray:
    """Return the origins of those patches for which one of a thousand tries fits."""
    raw = np.stack(
        [bit_generator(stream, item=(number,)).random_raw(2 * N_TRIES).reshape(N_TRIES, 2) for number in numbers]
    )
    lowest, n_xy = np.array([origins.x0, origins.y0]), np.array([origins.width, origins.height])
    found: dict[int, IntArray] = {}
    for start, stop in TRY_ROUNDS:
        rows = [row for row in range(len(numbers)) if row not in found]
        if not rows:
            break
        tries = (lowest + uniform_integers(raw[rows, start:stop], n=n_xy)).reshape(-1, 2)
        fits = is_admissible(tries, rule=rule).reshape(len(rows), -1)
        keys = origin_keys(tries, scale=rule.frame.scale).reshape(len(rows), -1)
        for i, row in enumerate(rows):
            column = _first_free(keys[i], columns=np.flatnonzero(fits[i]), taken=taken)
            if column is not None:
                found[row] = tries[i * (stop - start) + column]
    return np.array([found[row] for row in sorted(found)], dtype=np.int64).reshape(-1, 2)


def _first_free(keys: IntArray, *, columns: IntArray, taken: set[int]) -> int | None:
    for column in columns:
        key = int(keys[column])
        if key not in taken:
            taken.add(key)
            return int(column)
    return None


def _draw_counted(stream: Stream, *, n: int, origins: Rect, rule: TissueRule, taken: set[int]) -> tuple[IntArray, str]:
    """Draw without guessing: number all admissible origins, draw different numbers, leave out used origins."""
    tiles = tiles_with_tissue(origins, rule=rule)
    counts = np.array([count_admissible(tile, rule=rule) for tile in tiles], dtype=np.int64).reshape(-1, 2)
    n_with_tissue, n_admissible = (int(total) for total in counts.sum(axis=0))
    # Each used or drawn level-0 origin can spoil this many numbers, so that enough good ones remain.
    n_wanted = (n + len(taken)) * _n_origins_per_key(rule.frame.scale)
    numbers = distinct_integers(stream, n_wanted=n_wanted, n_total=n_admissible)
    candidates = origins_of(numbers, tiles=tiles, counts=counts[:, 1], rule=rule)
    keys = origin_keys(candidates, scale=rule.frame.scale).tolist()
    chosen: list[int] = []
    for row, key in enumerate(keys):
        if len(chosen) == n:
            break
        if key not in taken:
            taken.add(key)
            chosen.append(row)
    return candidates[chosen], _shortfall(n - len(chosen), n_with_tissue=n_with_tissue, n_admissible=n_admissible)


def _shortfall(n_missing: int, *, n_with_tissue: int, n_admissible: int) -> str:
    if n_missing == 0:
        return ""
    if n_with_tissue == 0:
        return NO_TISSUE
    return TISSUE_EXHAUSTED if n_admissible else NO_TISSUE_WITHOUT_TARGET


def _n_origins_per_key(scale: Scale) -> int:
    return math.ceil(1 / scale.x) * math.ceil(1 / scale.y)


def tiles_with_tissue(origins: Rect, *, rule: TissueRule) -> list[Rect]:
    """Cut the rectangle of origins into tiles and return those that may hold an admissible one."""
    columns = -(-origins.width // TILE_SIDE_PX)
    n_tiles = columns * -(-origins.height // TILE_SIDE_PX)
    tiles = []
    for start in range(0, n_tiles, ORIGINS_AT_ONCE):
        row, column = np.divmod(np.arange(start, min(start + ORIGINS_AT_ONCE, n_tiles)), columns)
        corners = np.stack([column, row], axis=1) * TILE_SIDE_PX + np.array([origins.x0, origins.y0])
        for x, y in corners[may_have_tissue(corners, side_px=TILE_SIDE_PX, rule=rule)].tolist():
            x1, y1 = min(x + TILE_SIDE_PX, origins.x1), min(y + TILE_SIDE_PX, origins.y1)
            tiles.append(Rect(x0=x, y0=y, x1=x1, y1=y1))
    return tiles


def _maps(tile: Rect, *, rule: TissueRule) -> tuple[BoolImage, BoolImage]:
    """Return which origins of a tile hold enough tissue, and which of those are admissible."""
    with_tissue = tissue_map(tile, rule=rule)
    return with_tissue, clear_unwanted(with_tissue, origins=tile, rule=rule)


def count_admissible(tile: Rect, *, rule: TissueRule) -> tuple[int, int]:
    """Return how many origins of a tile hold enough tissue, and how many of those are admissible."""
    with_tissue, admissible = _maps(tile, rule=rule)
    return int(np.count_nonzero(with_tissue)), int(np.count_nonzero(admissible))


def origins_of(numbers: IntArray, *, tiles: Sequence[Rect], counts: IntArray, rule: TissueRule) -> IntArray:
    """Return the origin of each number; numbers run through the tiles, and row by row through each.

    Maps are made again rather than kept: a slide full of sparse tissue would need gigabytes.
    """
    ends = np.cumsum(counts)
    tile_of = np.searchsorted(ends, numbers, side="right")
    result = np.empty((len(numbers), 2), dtype=np.int64)
    for index in np.unique(tile_of):
        tile, rows = tiles[index], np.flatnonzero(tile_of == index)
        places = np.flatnonzero(_maps(tile, rule=rule)[1])
        y, x = np.divmod(places[numbers[rows] - (ends[index] - counts[index])], tile.width)
        result[rows] = np.stack([x + tile.x0, y + tile.y0], axis=1)
    return result
