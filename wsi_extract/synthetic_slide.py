"""Draw whole-slide images with a haematoxylin and eosin look, cells at known positions.

A picture is a pure function of its `HeSlideSpec`: fields of low frequency say where tissue, tumour and ink are,
periodic textures fill the background, and cells are stamps of transmitted light, multiplied onto it as stain does in
the microscope (Beer-Lambert). Bands of a few tile rows are drawn one by one, so that memory does not grow with the
height of the slide. Lengths are level-0 px, drawn in the proportions of 0.25 um. Knows nothing of files or annotations.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import FloatArray, GrayImage, IntArray, RgbImage
from wsi_extract.errors import InputError

ChromaSubsampling: TypeAlias = Literal["444", "422", "420"]
_Field: TypeAlias = npt.NDArray[np.float32]
_Value = TypeVar("_Value", bound=np.generic)

EDGE_MARGIN_PX = 80
"""Placed cells keep this distance from the slide's edge."""
CELL_SPACING_PX = 80
"""Placed cells keep at least this distance from each other."""
BAND_TILES = 4
"""Tiles per band and block: one tile of the next level."""

_FIELD_STEP_PX = 32
_TEXTURE_PX = 1024
_SITE_PX = 53
"""Mean distance of nuclei."""
_CLEARING_PX = 46
"""No other nucleus lies this close to a placed cell."""
_TAKEN_STEP_PX = 8
_LIGHT_RGB = np.array((242, 241, 243))
_HAEMATOXYLIN_OD = np.array((0.90, 1.00, 0.45))
_EOSIN_OD = np.array((0.15, 1.00, 0.50))
_INKS_RGB = ((38, 88, 205), (36, 140, 78), (32, 31, 35))
"""What blue, green and black ink let through."""
_N_STAMPS = 48
_STAMP_HALF_PX = 42
# Random streams, so that no two parts of a slide share random numbers.
_FIELDS, _INK, _TEXTURES, _STAMPS, _PLACES, _SITES = range(6)


class CellKind(StrEnum):
    """Cells that are placed at known positions."""

    MITOSIS = "mitosis"
    LOOK_ALIKE = "look-alike"
    TUMOR_CELL = "tumor cell"
    GRANULOCYTE = "granulocyte"


class PenMarks(StrEnum):
    """How much of a slide is covered with ink."""

    NONE = "none"
    STROKES = "strokes"
    """Blue, green and black strokes over tissue and glass; placed cells avoid them."""
    EVERYWHERE = "everywhere"
    """Blue ink over all of the slide; no cell can be placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeSlideSpec:
    """Everything a generated slide depends on."""

    width_px: int
    height_px: int
    seed: int
    n_cells: tuple[tuple[CellKind, int], ...] = ()
    """How many cells of which kind to place."""
    tissue_share: float = 0.5
    """About the share of the slide under tissue; 0 gives bare glass."""
    pen_marks: PenMarks = PenMarks.NONE
    stain_strength: tuple[float, float] = (1.0, 1.0)
    """Haematoxylin and eosin, 1 = typical."""
    um_per_px: float = 0.2533
    tile_px: int = 240
    quality: int = 80
    chroma_subsampling: ChromaSubsampling = "422"

    def __post_init__(self) -> None:
        if min(self.width_px, self.height_px) <= 2 * EDGE_MARGIN_PX:
            raise ValueError(f"a slide must be larger than 160 x 160 px, got {self.width_px} x {self.height_px}")
        if self.tile_px not in range(16, 257, 16):
            raise ValueError(f"the width of a tile must be a multiple of 16 px up to 256, got {self.tile_px}")
        if not 0 <= self.tissue_share <= 0.9:
            raise ValueError(f"the share of tissue must lie in 0 .. 0.9, got {self.tissue_share}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"the JPEG quality must lie in 1 .. 100, got {self.quality}")
        if not (self.um_per_px > 0 and min(self.stain_strength) > 0 and all(n >= 0 for _, n in self.n_cells)):
            raise ValueError(f"resolution and stain must be positive and counts not negative, got {self}")

    @property
    def band_px(self) -> int:
        """Height of a band, and width of a block of it."""
        return BAND_TILES * self.tile_px

    @property
    def n_bands(self) -> int:
        """Bands that cover the slide's height."""
        return -(-self.height_px // self.band_px)

    @property
    def n_blocks(self) -> int:
        """Blocks that cover the slide's width."""
        return -(-self.width_px // self.band_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedCell:
    """A cell drawn with its centre on the given level-0 pixel."""

    kind: CellKind
    x_l0: int
    y_l0: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fields:
    """What varies slowly: one value per 32 x 32 px, and one value of margin on every side."""

    thickness: _Field
    """(H, W), at most 0 on glass, 1 in the midst of tissue."""
    tumor: _Field
    """(H, W), 0 stroma to 1 tumour."""
    ink_rgb: RgbImage
    """(H, W, 3), light that passes the ink, 255 = no ink."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A slide ready to be drawn band by band, see `compose_scene` and `draw_band`."""

    spec: HeSlideSpec
    cells: tuple[PlacedCell, ...]
    fields: _Fields
    backgrounds: tuple[RgbImage, RgbImage, RgbImage]
    """Glass, stroma, tumour: periodic, twice in a row on both axes so that a window at any phase is one slice."""
    fray: _Field
    """Noise that frays the outline of the tissue, stored like the backgrounds."""
    nuclei: tuple[tuple[RgbImage, ...], ...]
    """Stamps of tumour nuclei, spindle cells and lymphocytes."""
    cell_stamps: tuple[RgbImage, ...]
    """One stamp per placed cell."""
    taken: GrayImage
    """Non-zero where placed cells leave no room for other nuclei, one value per 8 x 8 px."""


def _random(spec: HeSlideSpec, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([spec.seed, *key])))


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
    rng = _random(spec, _INK)
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


def _make_fields(spec: HeSlideSpec) -> _Fields:
    rng = _random(spec, _FIELDS)
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
    return _Fields(
        thickness=thickness.astype(np.float32), tumor=tumor.astype(np.float32), ink_rgb=_ink(spec, shape=shape)
    )


def _periodic_noise(rng: np.random.Generator, *, wave_x: float, wave_y: float) -> FloatArray:
    n = _TEXTURE_PX
    decay_y, decay_x = np.fft.fftfreq(n)[:, None] * wave_y, np.fft.rfftfreq(n)[None] * wave_x
    passed = np.exp(-3 * (decay_x**2 + decay_y**2)).astype(np.float32)
    spectrum = np.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32)) * passed
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(n, n))
    return np.asarray(noise / noise.std(), dtype=np.float64)


def _transmitted(haematoxylin: FloatArray, eosin: FloatArray) -> FloatArray:
    """Return the light that passes two stains, ``(H, W, 3)`` in 0 .. 1 (Beer-Lambert)."""
    density = haematoxylin[..., None] * _HAEMATOXYLIN_OD + eosin[..., None] * _EOSIN_OD
    return np.asarray(np.exp(-density), dtype=np.float64)


def _fibres(rng: np.random.Generator, *, length: float, width: float) -> FloatArray:
    """Return periodic noise drawn out to wavy fibres."""
    y, x = np.mgrid[0:_TEXTURE_PX, 0:_TEXTURE_PX]
    x = x + 60 * _periodic_noise(rng, wave_x=250, wave_y=250)
    y = y + 70 * _periodic_noise(rng, wave_x=200, wave_y=200)
    straight = _periodic_noise(rng, wave_x=length, wave_y=width)
    maps = [(axis % _TEXTURE_PX).astype(np.float32) for axis in (x, y)]
    bent = cv2.remap(straight, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(bent, dtype=np.float64)


def _make_backgrounds(spec: HeSlideSpec) -> tuple[RgbImage, RgbImage, RgbImage]:
    rng = _random(spec, _TEXTURES)
    haematoxylin, eosin = spec.stain_strength
    coarse, fine = (_fibres(rng, length=length, width=width) for length, width in ((160, 14), (70, 5)))
    grain, mottle, speckle = (_periodic_noise(rng, wave_x=wave, wave_y=wave) for wave in (3, 14, 60))
    gaps = np.clip(np.maximum(-coarse - 0.9, 0) * 1.4, 0, 1)
    stroma = _transmitted(
        haematoxylin * (0.05 + 0.015 * fine + 0.014 * grain),
        eosin * (0.34 + 0.07 * coarse + 0.05 * fine + 0.028 * grain) * (1 - 0.85 * gaps),
    )
    tumor = _transmitted(
        haematoxylin * (0.10 + 0.02 * mottle + 0.02 * speckle + 0.02 * grain),
        eosin * (0.22 + 0.05 * mottle + 0.03 * speckle + 0.028 * grain),
    )
    glass = np.ones_like(tumor) + 0.003 * grain[..., None]
    glass_rgb, stroma_rgb, tumor_rgb = (
        np.tile(np.clip(np.rint(light * _LIGHT_RGB), 0, 255).astype(np.uint8), (2, 2, 1))
        for light in (glass, stroma, tumor)
    )
    return glass_rgb, stroma_rgb, tumor_rgb


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


_PLACED = {
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
    return np.rint(_transmitted(haematoxylin, eosin) * 255).astype(np.uint8)


def _make_nuclei(spec: HeSlideSpec) -> tuple[tuple[RgbImage, ...], ...]:
    rng = _random(spec, _STAMPS)
    # Spindle cells lie along the fibres, which run from left to right.
    shapes = ((_tumor_nucleus, 180.0), (_spindle_nucleus, 35.0), (_lymphocyte, 180.0))
    return tuple(
        tuple(_stamp(shape(rng), turn_degrees=rng.uniform(-turn, turn), spec=spec) for _ in range(_N_STAMPS))
        for shape, turn in shapes
    )


def _at(field: npt.NDArray[_Value], xy_l0: IntArray) -> npt.NDArray[_Value]:
    column, row = (xy_l0 // _FIELD_STEP_PX + 1).T
    return np.asarray(field[row, column])


def _place_cells(spec: HeSlideSpec, *, fields: _Fields) -> tuple[PlacedCell, ...]:
    """Choose places in tumour free of ink, apart from each other and from the slide's edge."""
    rng = _random(spec, _PLACES)
    reserved = np.zeros((spec.height_px // _TAKEN_STEP_PX + 1, spec.width_px // _TAKEN_STEP_PX + 1), dtype=np.uint8)
    room = np.array((spec.width_px, spec.height_px)) - 2 * EDGE_MARGIN_PX
    free = fields.ink_rgb.min(axis=2) == 255
    suitable = (np.minimum(fields.thickness, fields.tumor) > 0.7) & free
    kinds = [kind for kind, n in spec.n_cells for _ in range(n)]
    cells: list[PlacedCell] = []
    for _ in range(len(kinds) // 8 + 64):
        xy = EDGE_MARGIN_PX + rng.integers(0, room, (128, 2))
        for x, y in xy[_at(suitable, xy)].tolist():
            column, row = x // _TAKEN_STEP_PX, y // _TAKEN_STEP_PX
            if len(cells) < len(kinds) and not reserved[row, column]:
                cv2.circle(reserved, (column, row), CELL_SPACING_PX // _TAKEN_STEP_PX + 1, 1, -1)
                cells.append(PlacedCell(kind=kinds[len(cells)], x_l0=x, y_l0=y))
    if len(cells) < len(kinds):
        raise InputError(
            f"a slide of {spec.width_px} x {spec.height_px} px has room for {len(cells)} of {len(kinds)} cells.",
            "Ask for fewer cells, a larger slide or more tissue.",
        )
    return tuple(cells)


def compose_scene(spec: HeSlideSpec) -> Scene:
    """Decide everything about a slide's picture but its pixels.

    Raises
    ------
    InputError
        When the cells do not fit into the tissue.
    """
    fields = _make_fields(spec)
    cells = _place_cells(spec, fields=fields)
    taken = np.zeros((spec.height_px // _TAKEN_STEP_PX + 1, spec.width_px // _TAKEN_STEP_PX + 1), dtype=np.uint8)
    for cell in cells:
        centre = (cell.x_l0 // _TAKEN_STEP_PX, cell.y_l0 // _TAKEN_STEP_PX)
        cv2.circle(taken, centre, _CLEARING_PX // _TAKEN_STEP_PX, 1, -1)
    rng = _random(spec, _STAMPS, 1)
    fray = 0.22 * _periodic_noise(_random(spec, _TEXTURES, 1), wave_x=24, wave_y=16)
    return Scene(
        spec=spec,
        cells=cells,
        fields=fields,
        backgrounds=_make_backgrounds(spec),
        fray=np.tile(fray.astype(np.float32), (2, 2)),
        nuclei=_make_nuclei(spec),
        cell_stamps=tuple(
            _stamp(_PLACED[cell.kind](rng), turn_degrees=rng.uniform(0, 360), spec=spec) for cell in cells
        ),
        taken=taken,
    )


def _enlarge(field: _Field | RgbImage, *, block_xy: tuple[int, int], scene: Scene) -> cv2.typing.MatLike:
    """Return a field over one block at full resolution; blocks meet without a seam."""
    n = scene.spec.band_px // _FIELD_STEP_PX
    x, y = block_xy[0] * n, block_xy[1] * n
    size = (n + 2) * _FIELD_STEP_PX
    window = cv2.resize(field[y : y + n + 2, x : x + n + 2], (size, size), interpolation=cv2.INTER_LINEAR)
    return window[_FIELD_STEP_PX:-_FIELD_STEP_PX, _FIELD_STEP_PX:-_FIELD_STEP_PX]


def _draw_background(out: RgbImage, *, block_xy: tuple[int, int], scene: Scene) -> None:
    size = scene.spec.band_px
    x, y = (block * size % _TEXTURE_PX for block in block_xy)
    glass, stroma, tumor = (texture[y : y + size, x : x + size] for texture in scene.backgrounds)
    fray = scene.fray[y : y + size, x : x + size]
    tumor_share = np.clip(_enlarge(scene.fields.tumor, block_xy=block_xy, scene=scene), 0, 1)
    thickness = _enlarge(scene.fields.thickness, block_xy=block_xy, scene=scene)
    cover = np.clip(3 * (thickness + fray - 0.25), 0, 1)
    tissue = cv2.blendLinear(tumor, stroma, tumor_share, 1 - tumor_share)
    out[:] = cv2.blendLinear(tissue, glass, cover, 1 - cover)


def _multiply_light(rgb: RgbImage, stamp: RgbImage, *, x: int, y: int) -> None:
    """Lay a stamp on the picture with its centre on (x, y), cut off at the edges."""
    half = stamp.shape[0] // 2
    x0, y0, x1, y1 = (
        max(0, x - half),
        max(0, y - half),
        min(rgb.shape[1], x + half + 1),
        min(rgb.shape[0], y + half + 1),
    )
    if x0 < x1 and y0 < y1:
        below = rgb[y0:y1, x0:x1]
        cut = stamp[y0 - y + half : y1 - y + half, x0 - x + half : x1 - x + half]
        below[:] = cv2.multiply(below, cut, scale=1 / 255)


def _sites(scene: Scene, *, band: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return the nuclei of a band: centres ``(N, 2)`` in level-0 px, which kind, which stamp."""
    spec = scene.spec
    if not 0 <= band < spec.n_bands:
        return np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    rng = _random(spec, _SITES, band)
    n_rows, n_columns = spec.band_px // _SITE_PX, spec.n_blocks * spec.band_px // _SITE_PX
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    xy = (np.stack([column, row], axis=1) + rng.uniform(0, 0.85, (len(row), 2))) * _SITE_PX
    xy_l0 = xy.astype(np.int64) + np.array((0, band * spec.band_px))
    xy_l0 = xy_l0[(xy_l0 < (spec.width_px, spec.height_px)).all(axis=1)]
    chance, tumor = rng.uniform(size=len(xy_l0)), _at(scene.fields.tumor, xy_l0) > 0.5
    kind = np.select([tumor & (chance < 0.88), ~tumor & (chance < 0.3), chance > 0.95], [0, 1, 2], -1)
    column, row = (xy_l0 // _TAKEN_STEP_PX).T
    kept = (kind >= 0) & (_at(scene.fields.thickness, xy_l0) > 0.5) & (scene.taken[row, column] == 0)
    return xy_l0[kept], kind[kept], rng.integers(0, _N_STAMPS, len(kept))[kept]


def draw_band(scene: Scene, band: int) -> RgbImage:
    """Return the pixels of one band: ``(band_px, n_blocks * band_px, 3)``, level-0 rows ``[band, band + 1) * band_px``.

    Bands and blocks at the end reach over the slide's edge.
    """
    spec, size = scene.spec, scene.spec.band_px
    rgb = np.empty((size, spec.n_blocks * size, 3), dtype=np.uint8)
    for block in range(spec.n_blocks):
        _draw_background(rgb[:, block * size : (block + 1) * size], block_xy=(block, band), scene=scene)
    for neighbour in (band - 1, band, band + 1):  # nuclei reach over the band's edges
        for (x, y), kind, number in zip(*(column.tolist() for column in _sites(scene, band=neighbour)), strict=True):
            _multiply_light(rgb, scene.nuclei[kind][number], x=x, y=y - band * size)
    for cell, stamp in zip(scene.cells, scene.cell_stamps, strict=True):
        _multiply_light(rgb, stamp, x=cell.x_l0, y=cell.y_l0 - band * size)
    for block in range(spec.n_blocks if spec.pen_marks is not PenMarks.NONE else 0):
        part = rgb[:, block * size : (block + 1) * size]
        part[:] = cv2.multiply(part, _enlarge(scene.fields.ink_rgb, block_xy=(block, band), scene=scene), scale=1 / 255)
    return rgb
