"""Draw a scene band by band, so that memory does not grow with the height of the slide.

Background first, then nuclei and placed cells, then ink: each takes away light from what lies below, as stain does in
the microscope (Beer-Lambert).
"""

from __future__ import annotations

import cv2
import numpy as np

from wsi_extract.arrays import IntArray, RgbImage
from wsi_extract.synthetic.fields import enlarge, values_at
from wsi_extract.synthetic.nuclei import N_STAMPS
from wsi_extract.synthetic.randomness import Stream, random_numbers
from wsi_extract.synthetic.scene import TAKEN_STEP_PX, Scene
from wsi_extract.synthetic.spec import PenMarks
from wsi_extract.synthetic.textures import TEXTURE_PX

_SITE_PX = 53
"""Mean distance of nuclei."""


def _draw_background(out: RgbImage, *, block_xy: tuple[int, int], scene: Scene) -> None:
    spec, size = scene.spec, scene.spec.band_px
    x, y = (block * size % TEXTURE_PX for block in block_xy)
    glass, stroma, tumor = (texture[y : y + size, x : x + size] for texture in scene.backgrounds)
    fray = scene.fray[y : y + size, x : x + size]
    tumor_share = np.clip(enlarge(scene.fields.tumor, block_xy=block_xy, spec=spec), 0, 1)
    thickness = enlarge(scene.fields.thickness, block_xy=block_xy, spec=spec)
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
    rng = random_numbers(spec, Stream.SITES, band)
    n_rows, n_columns = spec.band_px // _SITE_PX, spec.n_blocks * spec.band_px // _SITE_PX
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    xy = (np.stack([column, row], axis=1) + rng.uniform(0, 0.85, (len(row), 2))) * _SITE_PX
    xy_l0 = xy.astype(np.int64) + np.array((0, band * spec.band_px))
    xy_l0 = xy_l0[(xy_l0 < (spec.width_px, spec.height_px)).all(axis=1)]
    chance, tumor = rng.uniform(size=len(xy_l0)), values_at(scene.fields.tumor, xy_l0) > 0.5
    kind = np.select([tumor & (chance < 0.88), ~tumor & (chance < 0.3), chance > 0.95], [0, 1, 2], -1)
    column, row = (xy_l0 // TAKEN_STEP_PX).T
    kept = (kind >= 0) & (values_at(scene.fields.thickness, xy_l0) > 0.5) & (scene.taken[row, column] == 0)
    return xy_l0[kept], kind[kept], rng.integers(0, N_STAMPS, len(kept))[kept]


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
        part[:] = cv2.multiply(part, enlarge(scene.fields.ink_rgb, block_xy=(block, band), spec=spec), scale=1 / 255)
    return rgb
