"""Read the picture that shows the wanted stain. The only part of this package that touches files."""

from __future__ import annotations

import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError

MAX_PICTURE_PX = 50_000_000
"""Decoding takes 13 bytes per pixel, 21 with transparency; of more than a million pixels only some are looked at."""
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "GIF", "WEBP")
"""What is decoded: formats of pixels. Others, such as PostScript, are programs, which Pillow has others run."""
_REMEDY = "Give a PNG or JPEG picture."


def read_picture(path: Path) -> RgbImage:
    """Return the pixels of a picture, ``(H, W, 3)`` uint8; where it is transparent, white shines through.

    Raises
    ------
    InputError
        When there is no such file, it is no picture, is damaged, or holds more than `MAX_PICTURE_PX`.
    """
    _check_file(path)
    try:
        with _open(path) as picture:
            _check_size(path, n_px=picture.width * picture.height)
            return _on_white(picture)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"the stain target {path} is no picture of a known format.", _REMEDY) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, n_px=f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}") from error
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the stain target {path} cannot be read: {reason}.", _REMEDY) from error


def _check_file(path: Path) -> None:
    """Refuse what is not a file; opening a pipe would wait for its other end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"the stain target {path} does not exist.", _REMEDY) from error
    except OSError as error:
        raise InputError(f"the stain target {path} cannot be read: {error.strerror}.", _REMEDY) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"the stain target {path} is {kind}, not a file.", _REMEDY)


def _open(path: Path) -> Image.Image:
    """Return the picture, of which only the header was read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        return Image.open(path, formats=FORMATS)


def _check_size(path: Path, *, n_px: int) -> None:
    if n_px > MAX_PICTURE_PX:
        raise _too_large(path, n_px=f"{n_px / 1e6:.1f}")


def _too_large(path: Path, *, n_px: str) -> InputError:
    return InputError(
        f"the stain target {path} is too large: {n_px} million pixels.",
        f"Crop it to at most {MAX_PICTURE_PX / 1e6:g} million pixels that are full of tissue.",
    )


def _on_white(picture: Image.Image) -> RgbImage:
    if not picture.has_transparency_data:
        return np.array(picture.convert("RGB"), dtype=np.uint8)
    opaque = picture.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return np.array(Image.alpha_composite(white, opaque).convert("RGB"), dtype=np.uint8)
