"""File names of slides: when two are the same, which endings are file formats, and which dots belong to the name."""

from __future__ import annotations

import unicodedata

KNOWN_EXTENSIONS = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bmp", ".png", ".dcm")
"""Endings by which annotation files and lists call slides; any other dot belongs to the name."""


def fold_name(name: str) -> str:
    """Unify case and Unicode composition, which file systems change."""
    return unicodedata.normalize("NFC", name).casefold()


def strip_extension(name: str) -> str:
    """Fold the name and drop a known slide extension.

    >>> strip_extension("A.ome.TIF"), strip_extension("TCGA-1.2-uuid")
    ('a.ome', 'tcga-1.2-uuid')
    """
    folded = fold_name(name)
    ending = next((end for end in KNOWN_EXTENSIONS if folded.endswith(end) and folded != end), "")
    return folded.removesuffix(ending)
