"""Fields of low frequency that say where tissue, tumour and ink are: one value per 32 x 32 px."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import FloatArray, IntArray, RgbImage
from wsi_extract.synthetic.randomness import Stream, random_numbers
from wsi_extract.synthetic.spec import HeSlideSpec, PenMarks

Field: TypeAlias = npt.NDArray[np.float32]
"""One plane of slowly varying values."""
_Value = TypeVar("_Value", bound=np.generic)
_FIELD_STEP_PX = 32
_INKS_RGB = ((38, 88, 205), (36, 140, 78), (32, 31, 35))
"""What blue, green and black ink let through."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fields:
    """What varies slowly: one value per 32 x 32 px, and one value of margin on every side."""

    thickness: Field
    """(H, W), at most 0 on glass, 1 in the midst of tissue."""
    tumor: Field
    """(H, W), 0 stroma to 1 tumour."""
    ink_rgb: RgbImage
    """(H, W, 3), light that passes the ink, 255 = no ink."""


def _noise(rng: np.random.Generator, *, shape: tuple[int, int], wave: float) -> FloatArray:
    """Return smooth noise of about unit variance whose structures are about ``wave`` values wide."""
    coarse = rng.standard_normal((round(shape[0] / wave) + 4, round(shape[1] / wave) + 4))
    fine = cv2.resize(coarse, None, fx=wave, fy=wave, interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[: shape[0], : shape[1]] * 1.4, dtype=np.float64)


def _outline(spec: HeSlideSpec, *, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Return a field that is positive on ``tissue_share`` of the slide: a few lobes with a wavy outline."""
    y, x = np.mgrid[: shape[0], : shape[1]] * float(_FIELD_STEP_PX)
    x, y = 2 * x / spec.width_px - 1, 2 * y / spec.height_px - 1
    lobes = [
        1 - ((x - rng.uniform(-0.4, 0.4)) / width) ** 2 - ((y - rng.uniform(-0.4, 0.4)) / height) ** 2
        for width, height in rng.uniform(0.5, 0.8, (3, 2))
    ]
    size = min(shape)
    field = np.max(lobes, axis=0) + 0.22 * _noise(rng, shape=shape, wave=max(4.0, size / 5))
    field += 0.05 * _noise(rng, shape=shape, wave=max(2.0, size / 20))
    # Scanners leave a rim of glass around the tissue.
    field -= 9 * np.maximum(0, np.maximum(np.abs(x), np.abs(y)) - 0.92)
    on_slide = field[(np.abs(x) < 1) & (np.abs(y) < 1)]
    return np.asarray(field - np.quantile(on_slide, 1 - spec.tissue_share), dtype=np.float64)


def _ink(spec: HeSlideSpec, *, shape: tuple[int, int]) -> RgbImage:
    rng = random_numbers(spec, Stream.INK)
    size_wh = (spec.width_px / _FIELD_STEP_PX, spec.height_px / _FIELD_STEP_PX)
    passing = np.ones((*shape, 3))
    if spec.pen_marks is PenMarks.EVERYWHERE:
        passing *= np.array(_INKS_RGB[0]) / 255
    for number, ink_rgb in enumerate(_INKS_RGB if spec.pen_marks is PenMarks.STROKES else ()):
        along = np.linspace(rng.uniform(-0.05, 0.3), rng.uniform(0.6, 1.05), 24)
        walk = np.cumsum(rng.normal(0, 0.015, 24))
        across = (number + 0.5) / len(_INKS_RGB) + rng.uniform(-0.1, 0.1) + walk - walk.mean()
        points = (np.stack([along * size_wh[0], across * size_wh[1]], axis=1) * 16).astype(np.int32)
        stroke = np.zeros(shape, dtype=np.uint8)
        width = max(2, round(min(size_wh) * 0.045))
        cv2.polylines(stroke, [points], isClosed=False, color=255, thickness=width, lineType=cv2.LINE_AA, shift=4)
        streaks = np.clip(0.93 + 0.06 * _noise(rng, shape=shape, wave=3), 0, 1)
        cover = cv2.GaussianBlur(stroke, (0, 0), 0.7) / 255 * streaks
        passing *= 1 - cover[..., None] * (1 - np.array(ink_rgb) / 255)
    return np.rint(passing * 255).astype(np.uint8)


def make_fields(spec: HeSlideSpec) -> Fields:
    """Decide where tissue, tumour and ink are; the fields cover whole bands and blocks."""
    rng = random_numbers(spec, Stream.FIELDS)
    per_band = spec.band_px // _FIELD_STEP_PX
    shape = (spec.n_bands * per_band + 2, spec.n_blocks * per_band + 2)
    thickness = np.full(shape, -1.0)
    if spec.tissue_share > 0:
        # The outline turns from glass to tissue within two or three values of the field.
        rising = _outline(spec, rng=rng, shape=shape) * min(shape) / 14
        vessels = np.maximum(0, _noise(rng, shape=shape, wave=7.0) - 2.4)
        thickness = np.clip(np.clip(rising, -1, 1) - 5 * vessels, -1, 1)
    nests = _noise(rng, shape=shape, wave=40.0) + 0.6 * _noise(rng, shape=shape, wave=11.0)
    tumor = np.clip(0.9 + 1.5 * nests, 0, 1)
    return Fields(
        thickness=thickness.astype(np.float32), tumor=tumor.astype(np.float32), ink_rgb=_ink(spec, shape=shape)
    )


def values_at(field: npt.NDArray[_Value], xy_l0: IntArray) -> npt.NDArray[_Value]:
    """Return the values of a field at positions ``(N, 2)``, columns (x, y), level-0 px."""
    column, row = (xy_l0 // _FIELD_STEP_PX + 1).T
    return np.asarray(field[row, column])


def enlarge(field: Field | RgbImage, *, block_xy: tuple[int, int], spec: HeSlideSpec) -> cv2.typing.MatLike:
    """Return a field over one block at full resolution; blocks meet without a seam."""
    n = spec.band_px // _FIELD_STEP_PX
    x, y = block_xy[0] * n, block_xy[1] * n
    size = (n + 2) * _FIELD_STEP_PX
    window = cv2.resize(field[y : y + n + 2, x : x + n + 2], (size, size), interpolation=cv2.INTER_LINEAR)
    return window[_FIELD_STEP_PX:-_FIELD_STEP_PX, _FIELD_STEP_PX:-_FIELD_STEP_PX]
