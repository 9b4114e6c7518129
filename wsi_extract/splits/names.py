"""The slide that a name means: its id, file name, file name without extension, or number.

Levels of likeness, the surest first: id or file name as it is, the same without regard to case, without a known
extension, as a number (1 means 001.svs). The first level with a hit decides; names are never compared in part.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from wsi_extract.slide_names import fold_name, strip_extension

LEVELS = ("exact", "case", "stem", "number")
N_NEAREST = 3

CCMCT_TEST_SLIDES = (
    "c91a842257ed2add5134.svs",
    "add0a9bbc53d1d9bac4c.svs",
    "96274538c93980aad8d6.svs",
    "f26e9fcef24609b988be.svs",
    "8c9f9618fcaca747b7c3.svs",
    "be10fa37ad6e88e1f406.svs",
    "dd4246ab756f6479c841.svs",
    "1018715d369dd0df2fc0.svs",
    "552c51bfb88fd3e65ffe.svs",
    "c86cd41f96331adf3856.svs",
    "f3741e764d39ccc4d114.svs",
)
"""The official test slides of the canine cutaneous mast cell tumour data set, by file name."""

NameIndex = Mapping[tuple[str, str], Sequence[str]]
"""Ids of the slides that have a key at a level."""


def index_names(names_of: Mapping[str, Iterable[str]]) -> NameIndex:
    """Return the index of the names of slides, given by slide id."""
    index: dict[tuple[str, str], list[str]] = {}
    for slide_id in sorted(names_of):
        keys = {key for name in (slide_id, *names_of[slide_id]) for key in _keys_of(name)}
        for key in keys:
            index.setdefault(key, []).append(slide_id)
    return index


def _keys_of(name: str) -> list[tuple[str, str]]:
    """Return what must be equal at each level; only names of digits alone have a number."""
    folded = fold_name(name)
    stem = strip_extension(name)
    keys = list(zip(LEVELS, (name, folded, stem), strict=False))
    if stem.isascii() and stem.isdecimal():  # compared as text: Python refuses to read thousands of digits
        keys.append(("number", stem.lstrip("0") or "0"))
    return keys


def find_slides_named(name: str, *, index: NameIndex) -> tuple[str, ...]:
    """Return the ids of the slides that the name means: none, one, or several when it is ambiguous."""
    for key in _keys_of(name.strip()):
        if key in index:
            return tuple(index[key])
    return ()


def nearest_names(name: str, *, index: NameIndex) -> tuple[str, ...]:
    """Return the names of slides most like the given one, for messages."""
    known = sorted({key for level, key in index if level == "exact"})
    return tuple(difflib.get_close_matches(name.strip(), known, n=N_NEAREST, cutoff=0.5))
