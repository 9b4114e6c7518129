"""The PNG store: one file per patch, in one folder per slide and split.

Noise decides how long stained tissue takes to compress, and no search for repetitions shortens it: what counts is a
filter that leaves small numbers, and a fast entropy coder. `docs/performance.md` compares the encoders.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import RgbImage
from wsi_extract.disk.files import FileBatch, open_batch, sha256_of
from wsi_extract.errors import ConfigError, EnvironmentFaultError
from wsi_extract.storage import PngEncoder

Bytes: TypeAlias = npt.NDArray[np.uint8]
"""(N,) uint8."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END_CHUNK = b"\x00\x00\x00\x00IEND\xaeB`\x82"
EIGHT_BIT_RGB = (8, 2, 0, 0, 0)
"""Bit depth, colour type, and the only methods of compression, filtering and interlacing that there are."""
AVERAGE_FILTER = 3
ISAL_LEVEL = 1
"""Levels 2 and 3 take longer and save nothing on tissue; level 0 has no Huffman codes of its own: 60 % larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPatch:
    """One written file."""

    file_name: str
    """Path below the split's folder."""
    n_bytes: int
    sha256: str


def check_encoder(encoder: PngEncoder) -> None:
    """Refuse an encoder whose library is not there.

    Raises
    ------
    ConfigError
        When its package cannot be imported.
    """
    try:
        if encoder is PngEncoder.ISAL:
            from isal import isal_zlib  # noqa: F401, PLC0415  # either may be missing where the other is used
        elif encoder is PngEncoder.FPNG:
            import fpng  # noqa: F401, PLC0415
    except ImportError as error:
        package = encoder.value
        other = PngEncoder.OPENCV if encoder is PngEncoder.ISAL else PngEncoder.ISAL
        raise ConfigError(
            f"png_encoder: {encoder} needs the package {package}, which cannot be imported: {error}.",
            f"Run: pip install {package}; or choose --png_encoder {other}.",
        ) from error


def encode_png(rgb: RgbImage, *, encoder: PngEncoder = PngEncoder.ISAL) -> bytes:
    """Return ``rgb`` as a PNG file; the same pixels always give the same bytes with the same library and machine.

    Parameters
    ----------
    rgb
        (H, W, 3) uint8 of at least one pixel, contiguous or not.

    Raises
    ------
    ValueError
        When it is no such image.
    ImportError
        When the encoder's library is not there; see `check_encoder`.
    EnvironmentFaultError
        When OpenCV refuses, which it does for lack of memory only.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"only 8-bit RGB images become PNG files, got {rgb.dtype} of shape {rgb.shape}")
    match encoder:
        case PngEncoder.ISAL:
            return _encode_with_isal(rgb)
        case PngEncoder.FPNG:
            return _encode_with_fpng(rgb)
        case PngEncoder.OPENCV:
            return _encode_with_opencv(rgb)


def _encode_with_isal(rgb: RgbImage) -> bytes:
    from isal import isal_zlib  # noqa: PLC0415  # not needed by the other encoders

    def chunk(kind: bytes, body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        checksum = isal_zlib.crc32(body, isal_zlib.crc32(kind))
        return len(body).to_bytes(4), kind, body, checksum.to_bytes(4)

    height, width, _ = rgb.shape
    header = struct.pack(">II5B", width, height, *EIGHT_BIT_RGB)
    data = isal_zlib.compress(_filtered_rows(rgb), ISAL_LEVEL)
    return b"".join((SIGNATURE, *chunk(b"IHDR", header), *chunk(b"IDAT", data), END_CHUNK))


def _encode_with_fpng(rgb: RgbImage) -> bytes:
    import fpng  # noqa: PLC0415  # an extra

    return bytes(fpng.from_ndarray(np.ascontiguousarray(rgb)))


def _encode_with_opencv(rgb: RgbImage) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise EnvironmentFaultError(f"OpenCV could not encode an image of shape {rgb.shape} as PNG.")
    return data.tobytes()


class _FilterBuffers:
    """Memory for filtering images of one size: fresh memory costs more than the arithmetic.

    Rows begin with one byte for the number of the filter, and all of them lie behind a row of zeros, which the format
    wants above the first row.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self.shape = (height, width, 3)
        self.row_bytes = 1 + 3 * width
        n_bytes = height * self.row_bytes
        self.rows: Bytes = np.zeros(self.row_bytes + n_bytes, dtype=np.uint8)
        self.pixels: RgbImage = np.lib.stride_tricks.as_strided(
            self.rows[self.row_bytes + 1 :], self.shape, (self.row_bytes, 3, 1)
        )
        self.mean: Bytes = np.empty(n_bytes, dtype=np.uint8)
        self.half_difference: Bytes = np.empty(n_bytes, dtype=np.uint8)
        self.out: Bytes = np.empty(n_bytes, dtype=np.uint8)


class _ThreadBuffers(threading.local):
    """Buffers of the size that a thread met last."""

    def __init__(self) -> None:
        self.current = _FilterBuffers(height=1, width=1)


_buffers = _ThreadBuffers()


def _filtered_rows(rgb: RgbImage) -> Bytes:
    """Return the rows of an image, each behind the number of its filter; valid until the thread's next call.

    The filter "average" (PNG specification, 9.4) takes from every byte the mean of those to the left and above,
    rounded down: ``(a & b) + ((a ^ b) >> 1)``. All rows are handled as one, which is several times faster; the first
    pixel of each, which has nothing to its left, is mended afterwards.
    """
    height, width, _ = rgb.shape
    if _buffers.current.shape != rgb.shape:
        _buffers.current = _FilterBuffers(height=height, width=width)
    now = _buffers.current
    now.pixels[...] = rgb
    row_bytes, rows = now.row_bytes, now.rows
    left, above, here = rows[row_bytes - 3 : -3], rows[:-row_bytes], rows[row_bytes:]
    np.bitwise_xor(left, above, out=now.half_difference)
    np.right_shift(now.half_difference, 1, out=now.half_difference)
    np.bitwise_and(left, above, out=now.mean)
    np.add(now.mean, now.half_difference, out=now.mean)
    np.subtract(here, now.mean, out=now.out)
    out_rows = now.out.reshape(height, row_bytes)
    out_rows[:, 0] = AVERAGE_FILTER
    above_first = above.reshape(height, row_bytes)[:, 1:4]
    np.subtract(here.reshape(height, row_bytes)[:, 1:4], above_first >> 1, out=out_rows[:, 1:4])
    return now.out


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


def write_patches(
    folder: Path, patches: Iterable[tuple[str, RgbImage]], *, encoder: PngEncoder = PngEncoder.ISAL
) -> list[StoredPatch]:
    """Write the patches of one block below ``folder`` and make them durable together.

    Every file is written under a temporary name first, and made durable while the next patches are encoded; then all
    are renamed, so that no reader ever sees half a file.

    Parameters
    ----------
    folder
        The split's folder.
    patches
        Pairs of the path below the folder and the pixels; no path twice.

    Returns
    -------
    One entry per patch, in the order given.

    Raises
    ------
    OSError
        When a file cannot be written.
    """
    with open_batch() as batch:
        return [add_patch(batch, folder, file_name, rgb, encoder=encoder) for file_name, rgb in patches]


def add_patch(batch: FileBatch, folder: Path, file_name: str, rgb: RgbImage, *, encoder: PngEncoder) -> StoredPatch:
    """Write a patch below ``folder``; its file appears with the others of the batch.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    data = encode_png(rgb, encoder=encoder)
    batch.add(f"{folder}/{file_name}", data)
    return StoredPatch(file_name=file_name, n_bytes=len(data), sha256=sha256_of(data))
