"""The PNG store: lossless, repeatable, whole or absent."""

import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import ConfigError
from wsi_extract.export.source import check_png
from wsi_extract.storage import PngEncoder
from wsi_extract.stores.png import check_encoder, decode_png, encode_png, write_patches

READERS: dict[str, Callable[[bytes], RgbImage]] = {
    "this program": decode_png,
    "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
    "libspng": lambda data: np.asarray(imagecodecs.png_decode(data)),
}
ENCODERS = pytest.mark.parametrize("encoder", list(PngEncoder))


def noise(height: int = 20, width: int = 30, *, seed: int = 0) -> RgbImage:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int, width: int) -> RgbImage:
    """Return smooth pixels: filters and encoders take other ways than with noise."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x + y, 2 * x, 255 - y], axis=2).astype(np.uint8)


@ENCODERS
@settings(max_examples=60)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.none() | st.integers(0, 99))
def test_every_reader_gets_the_pixels_back(encoder: PngEncoder, height: int, width: int, seed: int | None) -> None:
    rgb = ramp(height, width) if seed is None else noise(height, width, seed=seed)
    data = encode_png(rgb, encoder=encoder)
    check_png(data, wh_px=(width, height))
    for name, decode in READERS.items():
        back = decode(data)
        assert back.dtype == np.uint8, name
        assert np.array_equal(back, rgb), name


@ENCODERS
def test_a_patch_of_usual_size_and_flat_ones_come_back(encoder: PngEncoder) -> None:
    flat = np.full((256, 256, 3), 240, dtype=np.uint8)
    for rgb in (noise(256, 256), ramp(256, 256), flat, flat * 0, noise(1, 1000), noise(1000, 1)):
        assert np.array_equal(decode_png(encode_png(rgb, encoder=encoder)), rgb)


@ENCODERS
def test_the_file_is_rgb_for_every_other_reader(tmp_path: Path, encoder: PngEncoder) -> None:
    rgb = np.zeros((4, 6, 3), dtype=np.uint8)
    rgb[..., 0], rgb[..., 1] = 200, 100
    (tmp_path / "a.png").write_bytes(encode_png(rgb, encoder=encoder))
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (6, 4))
        assert image.getpixel((0, 0)) == (200, 100, 0)


@ENCODERS
def test_the_same_pixels_give_the_same_bytes_however_they_lie_in_memory(encoder: PngEncoder) -> None:
    rgb = noise(64, 48)
    padded = np.zeros((70, 70, 3), dtype=np.uint8)
    padded[3:67, 5:53] = rgb
    views = (
        padded[3:67, 5:53],
        rgb[::-1, ::-1].copy()[::-1, ::-1],
        np.asfortranarray(rgb),
        rgb[..., ::-1].copy()[..., ::-1],
    )
    expected = encode_png(rgb, encoder=encoder)
    for view in views:
        assert not view.flags.c_contiguous
        encode_png(noise(64, 48, seed=1), encoder=encoder)  # what buffers held before must not matter
        assert encode_png(view, encoder=encoder) == expected


@ENCODERS
def test_threads_do_not_disturb_each_other(encoder: PngEncoder) -> None:
    images = [noise(40 + i % 3, 50 + i % 2, seed=i) for i in range(60)]
    expected = [encode_png(rgb, encoder=encoder) for rgb in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda rgb: encode_png(rgb, encoder=encoder), images)) == expected


@ENCODERS
@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((5, 5), dtype=np.uint8), id="grey"),
        pytest.param(np.zeros((5, 5, 4), dtype=np.uint8), id="with alpha"),
        pytest.param(np.zeros((5, 5, 3), dtype=np.uint16), id="16 bit"),
        pytest.param(np.zeros((0, 5, 3), dtype=np.uint8), id="no rows"),
        pytest.param(np.zeros((5, 0, 3), dtype=np.uint8), id="no columns"),
    ],
)
def test_only_rgb_images_are_encoded(pixels: np.ndarray, encoder: PngEncoder) -> None:
    with pytest.raises(ValueError, match="8-bit RGB"):
        encode_png(pixels, encoder=encoder)


@ENCODERS
def test_installed_encoders_are_accepted(encoder: PngEncoder) -> None:
    check_encoder(encoder)


@pytest.mark.parametrize(
    ("encoder", "package", "other"),
    [(PngEncoder.ISAL, "isal", "opencv"), (PngEncoder.FPNG, "fpng", "isal")],
)
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, encoder: PngEncoder, package: str, other: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    with pytest.raises(
        ConfigError, match=rf"needs the package {package}.* pip install {package};.*--png_encoder {other}"
    ):
        check_encoder(encoder)
    check_encoder(PngEncoder.OPENCV)


@ENCODERS
def test_every_truncated_file_is_refused(encoder: PngEncoder) -> None:
    data = encode_png(noise(), encoder=encoder)
    for length in range(len(data) - 12):  # the last 12 bytes are the end mark, which holds no pixels
        with pytest.raises(ValueError, match="not a whole"):
            decode_png(data[:length])


@settings(max_examples=300)
@given(encoder=st.sampled_from(PngEncoder), position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damage_is_refused_or_harmless(encoder: PngEncoder, position: float, bit: int) -> None:
    rgb = noise()
    data = bytearray(encode_png(rgb, encoder=encoder))
    data[int(position * len(data))] ^= 1 << bit
    try:
        back = decode_png(bytes(data))
    except ValueError:
        return
    assert np.array_equal(back, rgb)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((5, 5), dtype=np.uint8), id="grey"),
        pytest.param(np.zeros((5, 5, 4), dtype=np.uint8), id="with alpha"),
        pytest.param(np.zeros((5, 5, 3), dtype=np.uint16), id="16 bit"),
    ],
)
def test_other_images_are_refused(pixels: np.ndarray) -> None:
    done, data = cv2.imencode(".png", pixels)
    assert done
    with pytest.raises(ValueError, match="8-bit RGB"):
        decode_png(data.tobytes())


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"not an image"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a whole"):
        decode_png(data)


# --- writing -------------------------------------------------------------------------------------------------------


def test_patches_are_written_where_they_belong_and_described(tmp_path: Path) -> None:
    patches = [(f"s{i % 2}/s{i % 2}_x{i}_y0.png", noise(seed=i)) for i in range(5)]
    stored = write_patches(tmp_path / "train2017", iter(patches))
    assert [entry.file_name for entry in stored] == [name for name, _ in patches]
    for entry, (name, rgb) in zip(stored, patches, strict=True):
        data = (tmp_path / "train2017" / name).read_bytes()
        assert np.array_equal(decode_png(data), rgb)
        assert (entry.n_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5


@ENCODERS
def test_patches_are_written_by_the_encoder_asked_for(tmp_path: Path, encoder: PngEncoder) -> None:
    rgb = noise(64, 64)
    write_patches(tmp_path, [("s/a.png", rgb)], encoder=encoder)
    assert (tmp_path / "s" / "a.png").read_bytes() == encode_png(rgb, encoder=encoder)


def test_a_name_given_twice_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write_patches(tmp_path, [("s/a.png", noise(seed=1)), ("s/a.png", noise(seed=2))])
    assert list((tmp_path / "s").iterdir()) == []


def test_writing_twice_is_harmless(tmp_path: Path) -> None:
    patches = [("s/a.png", noise(seed=1)), ("s/b.png", noise(seed=2))]
    assert write_patches(tmp_path, patches) == write_patches(tmp_path, patches)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["a.png", "b.png"]


def test_no_patches_are_no_files(tmp_path: Path) -> None:
    assert write_patches(tmp_path / "train2017", []) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_no_file_of_the_block(tmp_path: Path, error: BaseException) -> None:
    write_patches(tmp_path, [("s/old.png", noise(seed=9))])

    def broken() -> Iterator[tuple[str, RgbImage]]:
        yield "s/a.png", noise(seed=1)
        yield "s/b.png", noise(seed=2)
        raise error

    with pytest.raises(type(error)):
        write_patches(tmp_path, broken())
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["old.png"]


def test_a_failure_while_renaming_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "s" / "b.png").mkdir(parents=True)  # a folder in the way of the second file
    with pytest.raises(OSError, match=r"b\.png"):
        write_patches(tmp_path, [("s/a.png", noise(seed=1)), ("s/b.png", noise(seed=2)), ("s/c.png", noise(seed=3))])
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["a.png", "b.png"]
    assert np.array_equal(decode_png((tmp_path / "s" / "a.png").read_bytes()), noise(seed=1))
