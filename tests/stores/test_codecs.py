"""Codecs of the Zarr stores: lossless where they say so, deterministic, and never wrong without an error."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_extract.arrays import RgbImage
from wsi_extract.storage import LEVELS, CodecName
from wsi_extract.stores.codecs import PixelCodec

ALL = [pytest.param(PixelCodec.of(name), id=name.value) for name in CodecName]
LOSSLESS = [pytest.param(PixelCodec.of(name), id=name.value) for name in CodecName if name is not CodecName.JPEG]
CHECKED_EVERYWHERE = [PixelCodec.of(CodecName.ZSTD), PixelCodec.of(CodecName.NONE)]


def tissue(seed: int = 0, *, height: int = 32, width: int = 40) -> RgbImage:
    """Return smooth stains with grain: the kind of image the codecs are for."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 60, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    noisy = np.array([180, 120, 170]) - ramp + rng.normal(0, 5, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("codec", LOSSLESS)
def test_pixels_come_back_as_they_were(codec: PixelCodec) -> None:
    pixels = tissue()
    out = np.zeros_like(pixels)
    codec.decode_into(codec.encode(pixels), out)
    np.testing.assert_array_equal(out, pixels)


@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))),
    name=st.sampled_from([CodecName.ZSTD, CodecName.NONE]),
    data=st.data(),
)
def test_any_pixels_come_back_at_any_level(pixels: RgbImage, name: CodecName, data: st.DataObject) -> None:
    low, high, _ = LEVELS[name]
    codec = PixelCodec.of(name, data.draw(st.integers(low, high)))
    out = np.zeros_like(pixels)
    codec.decode_into(codec.encode(pixels), out)
    np.testing.assert_array_equal(out, pixels)


def test_jpeg_is_close_and_says_that_it_is_not_lossless() -> None:
    codec = PixelCodec.of(CodecName.JPEG)
    pixels = tissue()
    out = np.zeros_like(pixels)
    codec.decode_into(codec.encode(pixels), out)
    assert not codec.is_lossless
    assert 0 < np.abs(out.astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("codec", ALL)
def test_the_same_pixels_have_the_same_bytes_whatever_their_memory_layout(codec: PixelCodec) -> None:
    pixels = tissue()
    wide = np.zeros((32, 50, 3), dtype=np.uint8)
    wide[:, 7:47] = pixels
    assert codec.encode(wide[:, 7:47]) == codec.encode(pixels) == codec.encode(pixels.copy())


@pytest.mark.parametrize("codec", CHECKED_EVERYWHERE, ids=lambda codec: codec.name.value)
def test_every_flipped_bit_is_noticed_or_harmless(codec: PixelCodec) -> None:
    """Harmless: bits of a zstd frame header that change nothing, such as its window size."""
    pixels = tissue(height=8, width=10)
    data = codec.encode(pixels)
    n_noticed = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        out = np.zeros_like(pixels)
        try:
            codec.decode_into(bytes(damaged), out)
        except ValueError:
            n_noticed += 1
        else:
            np.testing.assert_array_equal(out, pixels)
    assert n_noticed > 0.97 * 8 * len(data)


@pytest.mark.parametrize("codec", ALL)
def test_truncated_chunks_are_refused(codec: PixelCodec) -> None:
    data = codec.encode(tissue())
    for n_bytes in (0, 1, 4, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"."):
            codec.decode_into(data[:n_bytes], np.zeros((32, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("codec", ALL)
def test_a_chunk_of_another_size_is_refused(codec: PixelCodec) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.decode_into(codec.encode(tissue(height=16)), np.zeros((32, 40, 3), dtype=np.uint8))


def test_a_frame_that_claims_a_terabyte_is_refused_before_memory_is_reserved() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=True).compress(b"0" * 3840)
    header = frame[:4] + bytes([0xE0]) + (2**40).to_bytes(8, "little")
    with pytest.raises(ValueError, match="1099511627776"):
        PixelCodec.of(CodecName.ZSTD).decode_into(header + frame[8:], np.zeros((32, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", CodecName)
def test_metadata_names_the_codec_and_its_level(name: CodecName) -> None:
    low, high, default = LEVELS[name]
    for level in {low, default, high}:
        codec = PixelCodec.of(name, level)
        assert PixelCodec.from_zarr(codec.to_zarr()) == codec
        transpose = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
        assert PixelCodec.from_zarr([transpose, *codec.to_zarr()]) == codec


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([], id="nothing"),
        pytest.param([{"name": "bytes"}], id="no checksum"),
        pytest.param([{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1}}], id="zstd without checksum"),
        pytest.param([{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}], id="unknown"),
        pytest.param(["bytes", 3], id="not objects"),
    ],
)
def test_foreign_chains_are_refused(chain: list[object]) -> None:
    with pytest.raises(ValueError, match="not a codec chain"):
        PixelCodec.from_zarr(chain)


def test_levels_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 100, got 101"):
        PixelCodec.of(CodecName.JPEG, 101)
