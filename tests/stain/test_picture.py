"""Which files may show the wanted stain, and what is said of the others."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stain.helpers import stained_pixels
from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError
from wsi_extract.reading import StainNorm
from wsi_extract.stain import fit_target, read_picture


def tissue() -> RgbImage:
    return np.ascontiguousarray(stained_pixels(6000, amounts=(1.5, 1.5)).reshape(60, 100, 3))


def png_header(*, width_px: int, height_px: int) -> bytes:
    """Return the beginning of a PNG file, all that is needed to know its size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def problem_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_picture(path)
    return caught.value.message


def test_pixels_come_back_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(tissue()).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), tissue())


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_cut_out_tissue_lies_on_white(tmp_path: Path, mode: str) -> None:
    """The colour hidden behind full transparency is usually black, which would be the darkest stain of all."""
    picture = Image.fromarray(tissue()).convert("RGBA")
    pixels = np.array(picture)
    pixels[:, 50:] = 0
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert (found[:, 50:] == 255).all()
    assert (found[:, :50] < 255).any()
    if mode == "RGBA":
        assert np.array_equal(found[:, :50], tissue()[:, :50])


def test_half_transparency_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (100, 0, 200, 128)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png")[0, 0].tolist() == pytest.approx([177, 127, 227], abs=1)


def test_what_is_no_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert (
        problem_of(tmp_path / "pipe.png")
        == f"the stain target {tmp_path / 'pipe.png'} is a pipe or a device, not a file."
    )
    assert problem_of(Path("/dev/zero")) == "the stain target /dev/zero is a pipe or a device, not a file."
    assert problem_of(tmp_path) == f"the stain target {tmp_path} is a folder, not a file."
    missing = tmp_path / "missing.png"
    assert problem_of(missing) == f"the stain target {missing} does not exist."
    beyond = tmp_path / "pipe.png" / "a.png"
    assert problem_of(beyond) == f"the stain target {beyond} cannot be read: Not a directory."


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("slide,um_per_px\n")
    assert problem_of(text) == f"the stain target {text} is no picture of a known format."
    Image.fromarray(tissue()).save(tmp_path / "whole.png")
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    assert problem_of(damaged).startswith(f"the stain target {damaged} cannot be read: ")


@pytest.mark.parametrize(
    ("side_px", "size"), [(7100, "50.4"), (10_200, "104.0"), (20_000, "more than 179")], ids=["ours", "warning", "bomb"]
)
def test_large_pictures_are_refused_by_their_header(tmp_path: Path, side_px: int, size: str) -> None:
    """Warnings are errors in tests, those of Pillow too."""
    path = tmp_path / "large.png"
    path.write_bytes(png_header(width_px=side_px, height_px=side_px))
    assert problem_of(path) == f"the stain target {path} is too large: {size} million pixels."
    path.write_bytes(png_header(width_px=7000, height_px=7000))
    assert "cannot be read: " in problem_of(path), "the limit itself is not what refuses smaller ones"


@pytest.mark.parametrize("method", [StainNorm.MACENKO, StainNorm.REINHARD])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_grey_pictures_are_called_grey(tmp_path: Path, method: StainNorm, name: str) -> None:
    Image.fromarray(tissue()).convert("L").convert("RGB").save(tmp_path / name)
    with pytest.raises(InputError, match="the picture is grey, not a colour picture"):
        fit_target(read_picture(tmp_path / name), method=method, name=name)
