"""The PNG store: lossless, repeatable, whole or absent."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_extract.arrays import RgbImage
from wsi_extract.stores.png import decode_png, encode_png, write_patches


def noise(height: int = 20, width: int = 30, *, seed: int = 0) -> RgbImage:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_pixels_come_back_unchanged(height: int, width: int, seed: int) -> None:
    rgb = noise(height, width, seed=seed)
    back = decode_png(encode_png(rgb))
    assert back.dtype == np.uint8
    assert np.array_equal(back, rgb)


def test_the_file_is_rgb_for_every_other_reader(tmp_path: Path) -> None:
    rgb = np.zeros((4, 6, 3), dtype=np.uint8)
    rgb[..., 0], rgb[..., 1] = 200, 100
    (tmp_path / "a.png").write_bytes(encode_png(rgb))
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (6, 4))
        assert image.getpixel((0, 0)) == (200, 100, 0)


def test_the_same_pixels_give_the_same_bytes() -> None:
    rgb = noise(64, 64)
    padded = np.zeros((70, 70, 3), dtype=np.uint8)
    padded[3:67, 5:69] = rgb
    assert encode_png(rgb) == encode_png(rgb.copy()) == encode_png(padded[3:67, 5:69])


def test_every_truncated_file_is_refused() -> None:
    data = encode_png(noise())
    for length in range(len(data) - 12):  # the last 12 bytes are the end mark, which holds no pixels
        with pytest.raises(ValueError, match="not a whole"):
            decode_png(data[:length])


@settings(max_examples=300)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damage_is_refused_or_harmless(position: float, bit: int) -> None:
    rgb = noise()
    data = bytearray(encode_png(rgb))
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
