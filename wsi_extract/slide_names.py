"""File names of slides: ids made from them, when two are the same, which endings are formats, which dots are not."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from os import fsencode
from pathlib import Path

SLIDE_EXTENSIONS = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi"}
)
"""Extensions of the formats OpenSlide reads, lower case."""
MAX_ID_LENGTH = 128

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


def slide_id_of(relative_path: Path) -> str:
    """Return the stable id of the slide at this path below the slide folder.

    Only a known extension is stripped; folders are joined by ``__``. When characters outside ``[A-Za-z0-9._-]``, the
    length, or ``__`` at the start, which Zarr reserves, force a change, a digest of the true name keeps different
    slides apart.

    >>> slide_id_of(Path("case 7/scan.1.svs")), slide_id_of(Path("a/x.ome.tif"))
    ('case_7__scan.1_8f903ca6', 'a__x.ome')
    >>> slide_id_of(Path("肿瘤 1.svs"))
    '1_8ec84a4f'
    """
    plain = relative_path.with_suffix("") if relative_path.suffix.lower() in SLIDE_EXTENSIONS else relative_path
    name = "__".join(plain.parts)
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if safe.startswith("__") or (safe == "_" != name):  # the digest that follows it begins with another one
        safe = safe.lstrip("_") or "slide"
    if safe == name and len(safe) <= MAX_ID_LENGTH and safe.strip("."):
        return safe
    digest = hashlib.sha256(fsencode(plain.as_posix())).hexdigest()[:8]
    return f"{safe[: MAX_ID_LENGTH - 9]}_{digest}"
