"""Choose the reader of an annotation file by its first bytes; names and extensions lie."""

from __future__ import annotations

from pathlib import Path

from wsi_extract.annotations.coco import read_coco
from wsi_extract.annotations.sliderunner import read_sliderunner
from wsi_extract.annotations.source import SUPPORTED, SourceFile
from wsi_extract.annotations.sqlite_file import SQLITE_MAGIC
from wsi_extract.errors import AnnotationError

N_HEAD_BYTES = 4096
BOM = b"\xef\xbb\xbf"


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(N_HEAD_BYTES)
    except OSError as error:
        raise AnnotationError(
            f"cannot read the annotation file {path}: {error.strerror}.", "Check the path and its permissions."
        ) from error


def read_source(path: Path) -> SourceFile:
    """Read an annotation file whole, independent of slides, class roles and box conventions.

    Raises
    ------
    AnnotationError
        When the file cannot be read, is of a kind that is not supported, or is damaged.
    """
    head = _read_head(path)
    if head.startswith(SQLITE_MAGIC):
        return read_sliderunner(path)
    if head.removeprefix(BOM).lstrip().startswith((b"{", b"[")):
        return read_coco(path)
    what = "is empty" if not head else f"begins with {head[:16]!r}, which is neither SQLite nor JSON"
    raise AnnotationError(f"{path} {what}.", SUPPORTED)
