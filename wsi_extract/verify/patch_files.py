"""The PNG files of a split: each is there, whole, of the stated size and as recorded, and none is left over."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from wsi_extract.disk.files import TEMPORARY_SUFFIX, sha256_of
from wsi_extract.stores.png import decode_png
from wsi_extract.verify.threads import map_in_threads

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
HEADER = struct.Struct(">8s4x4sIIBB")
"""Signature, length and type of the first chunk, width, height, bit depth, colour type."""
RGB_8_BIT = (8, 2)
FILES_PER_TASK = 16
MAX_SIDE_PX = 8192
"""The largest --patch_size; a document that claims more would make a decoder reserve memory for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedFile:
    """What a PNG file must be."""

    path: Path
    width_px: int
    height_px: int
    n_bytes: int | None
    sha256: str | None
    """``None``, both of them, when no record tells."""


def inspect_files(files: Iterable[ExpectedFile]) -> Iterator[tuple[Path, str]]:
    """Yield (path, what is wrong) of the files that are not as expected, in order.

    Files are read, hashed and decoded by threads; OpenCV and hashlib release the interpreter lock.
    """
    inspected = map_in_threads(lambda file: (file.path, inspect_file(file)), files, items_per_task=FILES_PER_TASK)
    return ((path, problem) for path, problem in inspected if problem)


def inspect_file(file: ExpectedFile) -> str:
    """Return what is wrong with a PNG file, an empty text when nothing is."""
    if max(file.width_px, file.height_px) > MAX_SIDE_PX:
        return f"cannot have {file.width_px} x {file.height_px} px: {MAX_SIDE_PX} are the most along a side"
    try:
        data = file.path.read_bytes()
    except FileNotFoundError:
        return "missing, although the COCO document lists it"
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    # What is not what was written is not decoded: libraries for images are no place for bytes of unknown origin.
    return _header_problem(data, file) or _digest_problem(data, file) or _pixel_problem(data, file)


def _header_problem(data: bytes, file: ExpectedFile) -> str:
    if len(data) < HEADER.size or not data.startswith(PNG_SIGNATURE):
        return "not a PNG file"
    _, kind, width_px, height_px, bit_depth, colour_type = HEADER.unpack_from(data)
    if kind != b"IHDR" or (bit_depth, colour_type) != RGB_8_BIT:
        return f"not an 8-bit RGB image: {bit_depth} bit, PNG colour type {colour_type}"
    if (width_px, height_px) != (file.width_px, file.height_px):
        return f"is {width_px} x {height_px} px, the COCO document says {file.width_px} x {file.height_px}"
    # Checked before decoding, because decoders may fill what is missing with grey.
    return "" if data.endswith(PNG_END) else "is truncated"


def _digest_problem(data: bytes, file: ExpectedFile) -> str:
    if file.sha256 is not None and sha256_of(data) != file.sha256:
        return "differs from what was written: its digest is not the recorded one"
    if file.n_bytes is not None and len(data) != file.n_bytes:
        return f"has {len(data):,} bytes, recorded are {file.n_bytes:,}"
    return ""


def _pixel_problem(data: bytes, file: ExpectedFile) -> str:
    try:
        shape = decode_png(data).shape
    except (ValueError, cv2.error) as error:
        return f"cannot be decoded: {error}"
    return "" if shape == (file.height_px, file.width_px, 3) else f"decodes to an array of shape {shape}"


def files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below ``folder``, relative to it; nothing when it does not exist."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield (Path(parent) / name).relative_to(folder).as_posix()


def is_leftover(name: str) -> bool:
    """Tell whether a file is what an interrupted write left behind."""
    return name.endswith(TEMPORARY_SUFFIX)
