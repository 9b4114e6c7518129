"""The PNG store: one file per patch, in one folder per slide and split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.files import commit_together, make_folder, sha256_of, temporary_beside


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPatch:
    """One written file."""

    file_name: str
    """Path below the split's folder."""
    n_bytes: int
    sha256: str


def encode_png(rgb: RgbImage) -> bytes:
    """Return ``rgb`` as a PNG file; the same pixels always give the same bytes.

    Raises
    ------
    EnvironmentFaultError
        When the codec refuses, which it does for lack of memory only.
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise EnvironmentFaultError(f"OpenCV could not encode an image of shape {rgb.shape} as PNG.")
    return data.tobytes()


def decode_png(data: bytes) -> RgbImage:
    """Return the pixels of a PNG file.

    Raises
    ------
    ValueError
        When the bytes are not a whole RGB image.
    """
    try:
        bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # an empty file, or a header that asks for an absurd size
        raise ValueError(f"not a whole 8-bit RGB image: {error}") from error
    if bgr is None or bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.dtype != np.uint8:
        raise ValueError("not a whole 8-bit RGB image")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write_patches(folder: Path, patches: Iterable[tuple[str, RgbImage]]) -> list[StoredPatch]:
    """Write the patches of one block below ``folder`` and make them durable together.

    Every file is written under a temporary name first; all are synchronised, then renamed, so that no reader ever
    sees half a file.

    Parameters
    ----------
    folder
        The split's folder.
    patches
        Pairs of the path below the folder and the pixels.

    Returns
    -------
    One entry per patch, in the order given.
    """
    stored: list[StoredPatch] = []
    pending: list[tuple[Path, Path]] = []
    try:
        for file_name, rgb in patches:
            data = encode_png(rgb)
            path = folder / file_name
            make_folder(path.parent)
            temporary = temporary_beside(path)
            pending.append((temporary, path))
            temporary.write_bytes(data)
            stored.append(StoredPatch(file_name=file_name, n_bytes=len(data), sha256=sha256_of(data)))
        commit_together(pending)
    except BaseException:
        for temporary, _ in pending:
            temporary.unlink(missing_ok=True)
        raise
    return stored
