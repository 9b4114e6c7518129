"""Choose the reader of an annotation file by its first bytes; names and extensions lie."""

from __future__ import annotations

from pathlib import Path

from wsi_extract.annotations.coco import read_coco
from wsi_extract.annotations.sliderunner import read_sliderunner
from wsi_extract.annotations.source import MAX_CLASSES, SUPPORTED, SourceFile
from wsi_extract.annotations.sqlite_file import SQLITE_MAGIC
from wsi_extract.errors import AnnotationError, EnvironmentFaultError
from wsi_extract.input_files import open_regular

N_HEAD_BYTES = 4096
BOM = b"\xef\xbb\xbf"
XML_STARTS = (b"<", b"\xff\xfe<", b"\xfe\xff\x00<")


def read_source(path: Path) -> SourceFile:
    """Read an annotation file whole, independent of slides, class roles and box conventions.

    Raises
    ------
    AnnotationError
        When the file cannot be read, is of a kind that is not supported, or is damaged or too large.
    EnvironmentFaultError
        When a copy is needed and cannot be made.
    """
    try:
        source = _read_any(path)
    except OSError as error:
        if isinstance(error, EnvironmentFaultError):
            raise
        raise AnnotationError(
            f"cannot read the annotation file {path}: {error.strerror or error}.", "Check the path and its permissions."
        ) from error
    except MemoryError as error:  # SQLite also says so of some damaged databases
        raise AnnotationError(
            f"{path} takes more memory to read than there is: it is too large, or damaged.",
            "Restore it from a backup, or divide it by slides.",
        ) from error
    if len(source.classes) > MAX_CLASSES:
        raise AnnotationError(
            f"{path} lists {len(source.classes)} classes, more than {MAX_CLASSES}.", "Check that it is the right file."
        )
    return source


def _read_any(path: Path) -> SourceFile:
    with open_regular(path) as stream:
        head = stream.read(N_HEAD_BYTES)
    if head.startswith(SQLITE_MAGIC):
        return read_sliderunner(path)
    if head.removeprefix(BOM).lstrip().startswith((b"{", b"[")):
        return read_coco(path)
    if head.removeprefix(BOM).lstrip().startswith(XML_STARTS):
        raise AnnotationError(f"{path} is XML, neither SQLite nor JSON.", SUPPORTED)
    what = "is empty" if not head else f"begins with {head[:16]!r}, which is neither SQLite nor JSON"
    raise AnnotationError(f"{path} {what}.", SUPPORTED)
