"""The codecs that are compared, and which Zarr readers know them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import crc32c
import cv2
import imagecodecs
import numcodecs
import numpy as np
import tensorstore
import zarr
import zarrs  # noqa: F401  # registers the pipeline that `_read_with_zarrs` asks for
import zstandard

from wsi_extract.arrays import RgbImage

ZSTD_LEVELS = (-5, -3, -1, 1, 2, 3, 9)
_SHUFFLES = {"noshuffle": (0, 1), "shuffle": (1, 3), "bitshuffle": (2, 1)}
"""Number and element size: the byte shuffle of single bytes does nothing, that of 3 bytes parts R, G and B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecCase:
    """One way to turn the pixels of a patch into bytes and back."""

    name: str
    encode: Callable[[RgbImage], bytes]
    decode: Callable[[bytes], RgbImage]
    chain: tuple[Mapping[str, object], ...]
    """The same as a codec chain of Zarr v3 metadata; empty where there is no name for it."""
    is_lossless: bool = True


def all_cases(*, patch_px: int) -> tuple[CodecCase, ...]:
    """Return every codec of the comparison for patches of this side."""
    shape = (patch_px, patch_px, 3)
    blosc = [
        _blosc_case(cname, clevel=clevel, shuffle=shuffle, shape=shape)
        for cname, clevel in (("lz4", 1), ("zstd", 1))
        for shuffle in _SHUFFLES
    ]
    zstd = [_zstd_case(level, shape=shape) for level in ZSTD_LEVELS]
    return (_none_case(shape), *zstd, *blosc, *_image_cases())


def _none_case(shape: tuple[int, int, int]) -> CodecCase:
    def encode(rgb: RgbImage) -> bytes:
        data = rgb.tobytes()
        return data + crc32c.crc32c(data).to_bytes(4, "little")

    def decode(data: bytes) -> RgbImage:
        body = memoryview(data)[:-4]
        if crc32c.crc32c(body).to_bytes(4, "little") != data[-4:]:
            raise ValueError("the checksum does not fit")
        return np.frombuffer(body, dtype=np.uint8).reshape(shape).copy()

    return CodecCase(name="none + crc32c", encode=encode, decode=decode, chain=({"name": "bytes"}, {"name": "crc32c"}))


def _zstd_case(level: int, *, shape: tuple[int, int, int]) -> CodecCase:
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    decompressor = zstandard.ZstdDecompressor()
    configuration = {"level": level, "checksum": True}
    return CodecCase(
        name=f"zstd {level}",
        encode=lambda rgb: compressor.compress(rgb.data),
        decode=lambda data: np.frombuffer(decompressor.decompress(data), dtype=np.uint8).reshape(shape),
        chain=({"name": "bytes"}, {"name": "zstd", "configuration": configuration}),
    )


def _blosc_case(cname: str, *, clevel: int, shuffle: str, shape: tuple[int, int, int]) -> CodecCase:
    number, typesize = _SHUFFLES[shuffle]
    codec = numcodecs.Blosc(cname=cname, clevel=clevel, shuffle=number, typesize=typesize)
    configuration = {"cname": cname, "clevel": clevel, "shuffle": shuffle, "typesize": typesize, "blocksize": 0}
    if typesize == 1 and shuffle == "noshuffle":
        del configuration["typesize"]
    return CodecCase(
        name=f"blosc {cname} {clevel} {shuffle}",
        encode=lambda rgb: bytes(codec.encode(rgb.reshape(-1))),
        decode=lambda data: np.frombuffer(codec.decode(data), dtype=np.uint8).reshape(shape),
        chain=({"name": "bytes"}, {"name": "blosc", "configuration": configuration}),
    )


def _decode_with_opencv(data: bytes) -> RgbImage:
    bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("not an image")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _encode_png(rgb: RgbImage) -> bytes:
    return bytes(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes())


def _image_cases() -> tuple[CodecCase, ...]:
    return (
        CodecCase(
            name="PNG, OpenCV default", encode=_encode_png, decode=_decode_with_opencv, chain=_image_chain("png")
        ),
        CodecCase(
            name="JPEG XL lossless, effort 1",
            encode=lambda rgb: bytes(imagecodecs.jpegxl_encode(rgb, lossless=True, effort=1, numthreads=1)),
            decode=lambda data: np.asarray(imagecodecs.jpegxl_decode(data, numthreads=1), dtype=np.uint8),
            chain=_image_chain("jpegxl", lossless=True, effort=1),
        ),
        CodecCase(
            name="WebP lossless, method 0",
            encode=lambda rgb: bytes(imagecodecs.webp_encode(rgb, lossless=True, method=0)),
            decode=lambda data: np.asarray(imagecodecs.webp_decode(data), dtype=np.uint8),
            chain=_image_chain("webp", lossless=True, method=0),
        ),
        _jpeg_case(95),
        _jpeg_case(90),
    )


def _jpeg_case(quality: int) -> CodecCase:
    return CodecCase(
        name=f"JPEG quality {quality}, 4:4:4, lossy",
        encode=lambda rgb: bytes(imagecodecs.jpeg8_encode(rgb, level=quality, subsampling="444")),
        decode=lambda data: np.asarray(imagecodecs.jpeg8_decode(data), dtype=np.uint8),
        chain=_image_chain("jpeg", level=quality, subsampling="444"),
        is_lossless=False,
    )


def _image_chain(stem: str, **options: object) -> tuple[Mapping[str, object], ...]:
    return ({"name": f"imagecodecs_{stem}", "configuration": options},)


# --- who reads it


def readers_of(case: CodecCase, *, rgb: RgbImage, folder: Path) -> tuple[str, ...]:
    """Return the Zarr readers that read an array of this codec, found out by trying.

    A reader that gives other pixels than the codec's own decoder does not read it.
    """
    data = case.encode(rgb)
    write_single_chunk_array(folder, data, chain=case.chain, shape=rgb.shape)
    expected = case.decode(data)
    return tuple(name for name, read in ZARR_READERS.items() if _reads(read, folder, expected))


def write_single_chunk_array(
    folder: Path, data: bytes, *, chain: tuple[Mapping[str, object], ...], shape: tuple[int, ...]
) -> None:
    """Write a Zarr v3 array of one chunk by hand, so that no reader's own writer has a part in the trial."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": chain,
        "attributes": {},
    }
    chunk = folder / "c" / "0" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(data)
    (folder / "zarr.json").write_text(json.dumps(document))


def _reads(read: Callable[[Path], RgbImage], folder: Path, expected: RgbImage) -> bool:
    try:
        return bool(np.array_equal(read(folder), expected))
    except Exception:  # noqa: BLE001  # a trial: whatever a foreign reader raises means that it does not read this
        return False


def _read_with_zarr(folder: Path) -> RgbImage:
    return np.asarray(zarr.open_array(str(folder), mode="r")[...], dtype=np.uint8)


def _read_with_zarrs(folder: Path) -> RgbImage:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        return _read_with_zarr(folder)


def _read_with_tensorstore(folder: Path) -> RgbImage:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result(), dtype=np.uint8)


ZARR_READERS: Mapping[str, Callable[[Path], RgbImage]] = {
    "zarr-python": _read_with_zarr,
    "tensorstore": _read_with_tensorstore,
    "zarrs": _read_with_zarrs,
}
