"""How the pixels of one chunk become bytes, and back: the codecs of the Zarr stores.

Every chain ends in a checksum, so that a flipped bit is an error and never a wrong pixel: zstd carries its own, all
others are followed by crc32c. zarr-python, tensorstore and zarrs read ``zstd`` and ``none``; the image codecs carry
the names of ``imagecodecs.zarr``, with which zarr-python reads them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import crc32c
import numpy as np
import zstandard

from wsi_extract.arrays import RgbImage
from wsi_extract.storage import LEVELS, CodecName

CodecDocument = Mapping[str, object]
"""One codec of a Zarr v3 chain: its name and configuration."""

CRC_BYTES = 4
BYTES: CodecDocument = {"name": "bytes"}
CRC32C: CodecDocument = {"name": "crc32c"}


IMAGE_CODEC_IDS: Mapping[CodecName, str] = {
    CodecName.WEBP: "imagecodecs_webp",
    CodecName.JPEG_XL: "imagecodecs_jpegxl",
    CodecName.JPEG: "imagecodecs_jpeg",
}
"""Names in Zarr metadata, as registered by the package imagecodecs-zarr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCodec:
    """One codec with its level."""

    name: CodecName
    level: int

    def __post_init__(self) -> None:
        low, high, _ = LEVELS[self.name]
        if not low <= self.level <= high:
            raise ValueError(f"the level of codec {self.name} must be {low} to {high}, got {self.level}")

    @classmethod
    def of(cls, name: CodecName, level: int | None = None) -> Self:
        """Return the codec with the given level, or its default one."""
        return cls(name=name, level=LEVELS[name][2] if level is None else level)

    @property
    def is_lossless(self) -> bool:
        """Whether decoded pixels equal the encoded ones."""
        return self.name is not CodecName.JPEG

    def encode(self, pixels: RgbImage) -> bytes:
        """Return the bytes of a chunk ``(h, w, 3)`` uint8; the same pixels always give the same bytes."""
        if self.name is CodecName.ZSTD:
            return _compressor(self.level).compress(np.ascontiguousarray(pixels).data)
        data = pixels.tobytes() if self.name is CodecName.NONE else _encode_image(self, pixels)
        return data + checksum_of(data)

    def decode_into(self, data: bytes | memoryview, out: RgbImage) -> None:
        """Write the pixels of a chunk to ``out``, ``(h, w, 3)`` uint8; see `decode`."""
        out[...] = self.decode(data, shape=out.shape)

    def decode(self, data: bytes | memoryview, *, shape: tuple[int, ...]) -> RgbImage:
        """Return the pixels of a chunk, an array of ``shape`` = (h, w, 3) that may be read-only.

        Raises
        ------
        ValueError
            When the bytes are damaged, or hold another number of pixels.
        """
        if self.name is CodecName.ZSTD:
            return np.frombuffer(_decompress(data, n_bytes=math.prod(shape)), dtype=np.uint8).reshape(shape)
        body = verified_body(data)
        if self.name is CodecName.NONE:
            return np.frombuffer(body, dtype=np.uint8).reshape(shape)
        return _decode_image(self.name, bytes(body)).reshape(shape)

    def to_zarr(self) -> list[CodecDocument]:
        """Return the codec chain of Zarr v3 metadata that says the same."""
        if self.name is CodecName.ZSTD:
            return [BYTES, {"name": "zstd", "configuration": {"level": self.level, "checksum": True}}]
        if self.name is CodecName.NONE:
            return [BYTES, CRC32C]
        return [{"name": IMAGE_CODEC_IDS[self.name], "configuration": _image_options(self)}, CRC32C]

    @classmethod
    def from_zarr(cls, chain: Sequence[object]) -> Self:
        """Return the codec that a chain of Zarr v3 metadata describes; array-to-array codecs in front are skipped.

        Raises
        ------
        ValueError
            When `to_zarr` gives no such chain for any codec and level.
        """
        codecs = [codec for codec in chain if isinstance(codec, dict) and codec.get("name") != "transpose"]
        for name, (low, high, _) in LEVELS.items():
            for level in range(low, high + 1):
                candidate = cls(name=name, level=level)
                if candidate.to_zarr() == codecs:
                    return candidate
        raise ValueError(f"not a codec chain of this program: {codecs}")


def verified_body(data: bytes | memoryview) -> memoryview:
    """Return the data in front of its crc32c.

    Raises
    ------
    ValueError
        When the checksum does not fit.
    """
    view = memoryview(data)
    body, stated = view[:-CRC_BYTES], view[-CRC_BYTES:]
    if checksum_of(body) != stated:
        raise ValueError("the checksum does not fit")
    return body


def checksum_of(data: bytes | memoryview) -> bytes:
    """Return the crc32c as it follows the data in a chunk."""
    return crc32c.crc32c(data).to_bytes(CRC_BYTES, "little")


class _Contexts(threading.local):
    """Native contexts, one set per thread: making one costs as much as a small chunk, sharing one is not safe."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}


_contexts = _Contexts()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    known = _contexts.compressors
    if level not in known:
        known[level] = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    return known[level]


def _decompress(data: bytes | memoryview, *, n_bytes: int) -> bytes:
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size != n_bytes:  # before memory is reserved for whatever a damaged header claims
            raise ValueError(f"{frame.content_size} bytes of pixels, expected {n_bytes}")
        if not frame.has_checksum:
            raise ValueError("it carries no checksum")
        return _contexts.decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _image_options(codec: PixelCodec) -> dict[str, object]:
    match codec.name:
        case CodecName.WEBP:
            return {"lossless": True, "method": codec.level}
        case CodecName.JPEG_XL:
            return {"lossless": True, "effort": codec.level, "numthreads": 1}
    return {"level": codec.level, "subsampling": "444"}


def _image_functions(name: CodecName) -> tuple[Callable[..., bytes], Callable[[bytes], RgbImage]]:
    import imagecodecs  # noqa: PLC0415  # loads dozens of libraries; most runs need none of them

    stem = IMAGE_CODEC_IDS[name].removeprefix("imagecodecs_")
    return getattr(imagecodecs, f"{stem}_encode"), getattr(imagecodecs, f"{stem}_decode")


def _encode_image(codec: PixelCodec, pixels: RgbImage) -> bytes:
    encode, _ = _image_functions(codec.name)
    return bytes(encode(np.ascontiguousarray(pixels), **_image_options(codec)))


def _decode_image(name: CodecName, data: bytes) -> RgbImage:
    _, decode = _image_functions(name)
    try:
        return np.asarray(decode(data), dtype=np.uint8)
    except RuntimeError as error:  # the base of the errors of imagecodecs
        raise ValueError(str(error)) from error
