"""Everything that is decided about a slide's picture before a pixel is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wsi_extract.arrays import GrayImage, RgbImage
from wsi_extract.errors import InputError
from wsi_extract.synthetic.fields import Field, Fields, make_fields, values_at
from wsi_extract.synthetic.nuclei import make_cell_stamps, make_nuclei
from wsi_extract.synthetic.randomness import Stream, random_numbers
from wsi_extract.synthetic.spec import CELL_SPACING_PX, EDGE_MARGIN_PX, HeSlideSpec, PlacedCell
from wsi_extract.synthetic.textures import make_backgrounds, make_fray

TAKEN_STEP_PX = 8
"""Side of what one value of `Scene.taken` stands for."""
_CLEARING_PX = 46
"""No other nucleus lies this close to a placed cell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A slide ready to be drawn band by band, see `compose_scene` and `bands.draw_band`."""

    spec: HeSlideSpec
    cells: tuple[PlacedCell, ...]
    fields: Fields
    backgrounds: tuple[RgbImage, RgbImage, RgbImage]
    """Glass, stroma, tumour: periodic, twice in a row on both axes so that a window at any phase is one slice."""
    fray: Field
    """Noise that frays the outline of the tissue, stored like the backgrounds."""
    nuclei: tuple[tuple[RgbImage, ...], ...]
    """Stamps of tumour nuclei, spindle cells and lymphocytes."""
    cell_stamps: tuple[RgbImage, ...]
    """One stamp per placed cell."""
    taken: GrayImage
    """Non-zero where placed cells leave no room for other nuclei, one value per 8 x 8 px."""


def _place_cells(spec: HeSlideSpec, *, fields: Fields) -> tuple[PlacedCell, ...]:
    """Choose places in tumour free of ink, apart from each other and from the slide's edge."""
    rng = random_numbers(spec, Stream.PLACES)
    reserved = np.zeros((spec.height_px // TAKEN_STEP_PX + 1, spec.width_px // TAKEN_STEP_PX + 1), dtype=np.uint8)
    room = np.array((spec.width_px, spec.height_px)) - 2 * EDGE_MARGIN_PX
    free = fields.ink_rgb.min(axis=2) == 255
    suitable = (np.minimum(fields.thickness, fields.tumor) > 0.7) & free
    kinds = [kind for kind, n in spec.n_cells for _ in range(n)]
    cells: list[PlacedCell] = []
    for _ in range(len(kinds) // 8 + 64):
        xy = EDGE_MARGIN_PX + rng.integers(0, room, (128, 2))
        for x, y in xy[values_at(suitable, xy)].tolist():
            column, row = x // TAKEN_STEP_PX, y // TAKEN_STEP_PX
            if len(cells) < len(kinds) and not reserved[row, column]:
                cv2.circle(reserved, (column, row), CELL_SPACING_PX // TAKEN_STEP_PX + 1, 1, -1)
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
    fields = make_fields(spec)
    cells = _place_cells(spec, fields=fields)
    taken = np.zeros((spec.height_px // TAKEN_STEP_PX + 1, spec.width_px // TAKEN_STEP_PX + 1), dtype=np.uint8)
    for cell in cells:
        centre = (cell.x_l0 // TAKEN_STEP_PX, cell.y_l0 // TAKEN_STEP_PX)
        cv2.circle(taken, centre, _CLEARING_PX // TAKEN_STEP_PX, 1, -1)
    return Scene(
        spec=spec,
        cells=cells,
        fields=fields,
        backgrounds=make_backgrounds(spec),
        fray=make_fray(spec),
        nuclei=make_nuclei(spec),
        cell_stamps=make_cell_stamps(spec, cells=cells),
        taken=taken,
    )
