"""Stamps of cells: small pictures of transmitted light, the nucleus in the middle."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.synthetic.randomness import Stream, random_numbers
from wsi_extract.synthetic.spec import CellKind, HeSlideSpec, PlacedCell
from wsi_extract.synthetic.stain import transmit

N_STAMPS = 48
"""Stamps of each kind of nucleus."""
_STAMP_HALF_PX = 42


def _depth(
    rng: np.random.Generator,
    *,
    radius: float,
    elongation: float = 1.0,
    roughness: float = 0.05,
    centre_xy: tuple[float, float] = (0.0, 0.0),
) -> FloatArray:
    """Return how deep each pixel of a stamp lies inside an uneven oval along x, px, negative outside."""
    y, x = np.mgrid[-_STAMP_HALF_PX : _STAMP_HALF_PX + 1, -_STAMP_HALF_PX : _STAMP_HALF_PX + 1].astype(np.float64)
    u, v = (x - centre_xy[0]) / np.sqrt(elongation), (y - centre_xy[1]) * np.sqrt(elongation)
    angle = np.arctan2(v, u)
    waves = [roughness / k**0.5 * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 9)]
    return np.asarray(radius * (1 + np.sum(waves, axis=0)) - np.hypot(u, v), dtype=np.float64)


def _inside(depth: FloatArray) -> FloatArray:
    """Return 1 inside, 0 outside, with an edge as soft as the microscope's."""
    return np.clip(depth / 2.4 + 0.5, 0, 1)


def _rim(depth: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-((depth / 2.2) ** 2)), dtype=np.float64)


def _chromatin(rng: np.random.Generator, *, wave: float) -> FloatArray:
    size = 2 * _STAMP_HALF_PX + 1
    noise = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), wave)
    return np.asarray(noise / noise.std(), dtype=np.float64)


def _tumor_nucleus(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return haematoxylin and eosin of a cell with a vesicular nucleus and one or two nucleoli."""
    body = _depth(rng, radius=rng.uniform(29, 36), elongation=rng.uniform(1, 1.3), roughness=0.07)
    nucleus = _depth(rng, radius=rng.uniform(14, 20), elongation=rng.uniform(1, 1.5))
    chromatin = 0.36 + 0.11 * _chromatin(rng, wave=2.2) + 0.22 * _rim(nucleus) + rng.uniform(0, 0.2)
    for _ in range(rng.integers(1, 3)):
        x, y = rng.uniform(-7, 7, 2)
        chromatin += 0.45 * _inside(_depth(rng, radius=rng.uniform(2.0, 3.5), centre_xy=(x, y)))
    return _inside(nucleus) * chromatin + 0.05 * _inside(body), 0.07 * _inside(body) + 0.10 * _rim(body)


def _spindle_nucleus(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    nucleus = _depth(rng, radius=rng.uniform(8, 11), elongation=rng.uniform(3, 6))
    return _inside(nucleus) * (0.62 + 0.10 * _chromatin(rng, wave=2.0)), 0.0 * nucleus


def _lymphocyte(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    nucleus = _depth(rng, radius=rng.uniform(10, 13), roughness=0.03)
    return _inside(nucleus) * (0.88 + 0.14 * _chromatin(rng, wave=2.5)), 0.08 * _inside(nucleus + 4)


def _granulocyte(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return stains of a bilobed nucleus in a cell full of eosin granules."""
    body = _depth(rng, radius=rng.uniform(17, 20))
    lobes = [_inside(_depth(rng, radius=6.5, centre_xy=(x, rng.uniform(-4, 4)))) for x in (-6.0, 6.0)]
    granules = np.clip(0.55 + 0.25 * _chromatin(rng, wave=1.3), 0, 1.2)
    return np.max(lobes, axis=0) * 0.95, _inside(body) * granules


def _mitosis(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return stains of a plate, two daughter plates, a clump or a ring, ragged, in a cleared cell."""
    style = rng.choice(4, p=(0.45, 0.15, 0.25, 0.15))
    if style == 0:
        depth = _depth(rng, radius=rng.uniform(11, 13), elongation=rng.uniform(2.4, 3.4), roughness=0.13)
    elif style == 1:
        gap = rng.uniform(8, 11)
        pair = [_depth(rng, radius=9.5, elongation=3.2, roughness=0.13, centre_xy=(0, y)) for y in (-gap, gap)]
        depth = np.maximum(*pair)
    elif style == 2:
        depth = _depth(rng, radius=rng.uniform(13, 16), elongation=rng.uniform(1, 1.4), roughness=0.2)
    else:
        depth = np.minimum(_depth(rng, radius=16, roughness=0.16), -_depth(rng, radius=4.5, roughness=0.2))
    ragged = depth + 1.5 * _chromatin(rng, wave=2.0)
    body = _depth(rng, radius=rng.uniform(29, 34))
    return _inside(ragged) * (1.6 + 0.15 * _chromatin(rng, wave=1.5)), 0.12 * _rim(body)


def _look_alike(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return stains of a pyknotic or broken nucleus in shrunken pink cytoplasm, or of a smudged dark nucleus."""
    style = rng.integers(3)
    body = _depth(rng, radius=rng.uniform(18, 23))
    if style == 0:
        return _inside(_depth(rng, radius=rng.uniform(9, 12), roughness=0.015)) * 1.75, 0.4 * _inside(body)
    if style == 1:
        spots = [(0.0, 0.0), *rng.uniform(-11, 11, (3, 2)).tolist()]
        pieces = [
            _inside(_depth(rng, radius=r, centre_xy=(x, y), roughness=0.02))
            for r, (x, y) in zip((7.5, 5, 4, 3), spots, strict=True)
        ]
        return np.max(pieces, axis=0) * 1.7, 0.4 * _inside(body)
    nucleus = _depth(rng, radius=rng.uniform(15, 18), elongation=rng.uniform(1, 1.5), roughness=0.08)
    return _inside(nucleus) * (1.15 + 0.08 * _chromatin(rng, wave=3.0)), 0.05 * _inside(body)


_SHAPES = {
    CellKind.MITOSIS: _mitosis,
    CellKind.LOOK_ALIKE: _look_alike,
    CellKind.TUMOR_CELL: _tumor_nucleus,
    CellKind.GRANULOCYTE: _granulocyte,
}


def _stamp(stains: tuple[FloatArray, FloatArray], *, turn_degrees: float, spec: HeSlideSpec) -> RgbImage:
    """Return the light that passes a cell, turned about its centre; ``(S, S, 3)``, S odd."""
    size = 2 * _STAMP_HALF_PX + 1
    turn = cv2.getRotationMatrix2D((_STAMP_HALF_PX, _STAMP_HALF_PX), turn_degrees, 1.0)
    haematoxylin, eosin = (
        np.maximum(0, cv2.warpAffine(stain, turn, (size, size))) * strength
        for stain, strength in zip(stains, spec.stain_strength, strict=True)
    )
    return np.rint(transmit(haematoxylin, eosin) * 255).astype(np.uint8)


def make_nuclei(spec: HeSlideSpec) -> tuple[tuple[RgbImage, ...], ...]:
    """Return stamps of tumour nuclei, spindle cells and lymphocytes, `N_STAMPS` of each."""
    rng = random_numbers(spec, Stream.STAMPS)
    # Spindle cells lie along the fibres, which run from left to right.
    shapes = ((_tumor_nucleus, 180.0), (_spindle_nucleus, 35.0), (_lymphocyte, 180.0))
    return tuple(
        tuple(_stamp(shape(rng), turn_degrees=rng.uniform(-turn, turn), spec=spec) for _ in range(N_STAMPS))
        for shape, turn in shapes
    )


def make_cell_stamps(spec: HeSlideSpec, *, cells: Sequence[PlacedCell]) -> tuple[RgbImage, ...]:
    """Return one stamp per placed cell, turned at random."""
    rng = random_numbers(spec, Stream.STAMPS, 1)
    return tuple(_stamp(_SHAPES[cell.kind](rng), turn_degrees=rng.uniform(0, 360), spec=spec) for cell in cells)
