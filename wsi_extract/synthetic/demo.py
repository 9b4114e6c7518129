"""The demo data set: six slides that differ as real ones do, annotated in both formats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.errors import InputError
from wsi_extract.synthetic.annotations import (
    AnnotatedSlide,
    AnnotationRow,
    AnnotationShape,
    write_coco,
    write_sliderunner,
)
from wsi_extract.synthetic.slide import write_he_slide
from wsi_extract.synthetic.spec import CellKind, HeSlideSpec, PenMarks, PlacedCell

DEMO_CLASSES: Mapping[int, str] = {
    1: "Granulocyte",
    2: "Mitotic figure",
    3: "Tumor cell",
    4: "Other/ambiguous",
    7: "Mitotic figure lookalike",
}
"""Names by id, numbered as in the CCMCT data set, so that no id equals a category id of the output by accident."""
_CLASS_IDS = {CellKind.GRANULOCYTE: 1, CellKind.MITOSIS: 2, CellKind.TUMOR_CELL: 3, CellKind.LOOK_ALIKE: 7}
_NOMINAL_DEMO_PX = (7_201, 5_603)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    n_mitoses: int
    n_look_alikes: int
    tissue_share: float = 0.5
    pen_marks: PenMarks = PenMarks.NONE
    stain_strength: tuple[float, float] = (1.0, 1.0)


_PROFILES = (
    _Profile(n_mitoses=40, n_look_alikes=30),
    _Profile(n_mitoses=0, n_look_alikes=25, stain_strength=(0.85, 1.1)),  # a negative slide
    _Profile(n_mitoses=150, n_look_alikes=60, tissue_share=0.6, stain_strength=(1.15, 0.95)),
    _Profile(n_mitoses=30, n_look_alikes=25, pen_marks=PenMarks.STROKES),
    _Profile(n_mitoses=3, n_look_alikes=4, tissue_share=0.3, stain_strength=(0.9, 0.85)),
    _Profile(n_mitoses=25, n_look_alikes=40, tissue_share=0.4, stain_strength=(1.05, 1.2)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """Where the demo data set lies and what it holds."""

    slides_folder: Path
    sqlite_path: Path
    coco_path: Path
    slides: tuple[AnnotatedSlide, ...]
    annotations: tuple[AnnotationRow, ...]

    def count(self, class_id: int) -> int:
        """Return how many spots of a class are not deleted."""
        spots = (row for row in self.annotations if row.shape is AnnotationShape.SPOT and not row.is_deleted)
        return sum(row.class_id == class_id for row in spots)


def _demo_spec(index: int, *, width_px: int, height_px: int, seed: int) -> HeSlideSpec:
    """Return the spec of one slide; slides smaller than the default hold fewer cells."""
    profile = _PROFILES[index % len(_PROFILES)]
    share = min(1.0, width_px * height_px / (_NOMINAL_DEMO_PX[0] * _NOMINAL_DEMO_PX[1]))
    counts = (
        (CellKind.MITOSIS, profile.n_mitoses),
        (CellKind.LOOK_ALIKE, profile.n_look_alikes),
        (CellKind.TUMOR_CELL, 40),
        (CellKind.GRANULOCYTE, 15),
    )
    return HeSlideSpec(
        width_px=width_px + 97 * index,  # sizes differ, as those of scanned tissue do
        height_px=height_px + 61 * index,
        seed=seed * 1_000 + index,
        n_cells=tuple((kind, math.ceil(n * share)) for kind, n in counts),
        tissue_share=profile.tissue_share,
        pen_marks=profile.pen_marks,
        stain_strength=profile.stain_strength,
    )


def _demo_rows(cells: Sequence[PlacedCell], *, slide: AnnotatedSlide, first_uid: int) -> list[AnnotationRow]:
    """Return one spot per cell and, on the first slide, an area and a navigation mark, which name no cell.

    On every slide two tumour cells were once taken for mitoses: their rows are deleted.
    """
    rows: list[AnnotationRow] = []
    n_deleted = 0
    for cell in cells:
        is_deleted = cell.kind is CellKind.TUMOR_CELL and n_deleted < 2
        n_deleted += is_deleted
        rows.append(
            AnnotationRow(
                uid=first_uid + len(rows),
                slide_uid=slide.uid,
                class_id=_CLASS_IDS[CellKind.MITOSIS if is_deleted else cell.kind],
                points_l0=((cell.x_l0, cell.y_l0),),
                is_deleted=is_deleted,
            )
        )
    if slide.uid == 1:
        middle = (slide.width_px // 2, slide.height_px // 2)
        corner = (middle[0] - slide.width_px // 5, middle[1] - slide.height_px // 5)  # drawn from right to left
        for shape, class_id, points in (
            (AnnotationShape.AREA, 4, (middle, corner)),
            (AnnotationShape.SPECIAL_SPOT, 0, (middle,)),
        ):
            uid = first_uid + len(rows)
            rows.append(AnnotationRow(uid=uid, slide_uid=1, class_id=class_id, points_l0=points, shape=shape))
    return rows


def write_demo(
    folder: Path, *, n_slides: int = 6, width_px: int = 7_201, height_px: int = 5_603, seed: int = 7
) -> DemoSummary:
    """Write the demo data set: slides, a SlideRunner database and COCO-like JSON with the same spots.

    Six slides that differ as real ones do, then the same six kinds again: ordinary, negative (no mitotic figure), rich,
    pen-marked, with few objects, pale tissue with many look-alikes. The same arguments give the same bytes.

    Parameters
    ----------
    folder
        Gets ``WSI/demo_01.svs`` ..., ``annotations.sqlite`` and ``annotations.json``; made when missing.
    n_slides, seed
        How many slides, and what decides everything random.
    width_px, height_px
        Size of the first slide; the others are a little larger. Smaller slides hold fewer cells.

    Raises
    ------
    InputError
        When no slide is asked for, or a slide is too small for its cells.
    """
    if n_slides < 1:
        raise InputError(f"a demo data set has at least one slide, got {n_slides}.")
    slides: list[AnnotatedSlide] = []
    rows: list[AnnotationRow] = []
    for index in range(n_slides):
        spec = _demo_spec(index, width_px=width_px, height_px=height_px, seed=seed)
        name = f"demo_{index + 1:02d}.svs"
        cells = write_he_slide(folder / "WSI" / name, spec)
        slides.append(AnnotatedSlide(uid=index + 1, file_name=name, width_px=spec.width_px, height_px=spec.height_px))
        rows.extend(_demo_rows(cells, slide=slides[-1], first_uid=len(rows) + 1))
    summary = DemoSummary(
        slides_folder=folder / "WSI",
        sqlite_path=folder / "annotations.sqlite",
        coco_path=folder / "annotations.json",
        slides=tuple(slides),
        annotations=tuple(rows),
    )
    write_sliderunner(summary.sqlite_path, slides=slides, classes=DEMO_CLASSES, annotations=rows)
    write_coco(summary.coco_path, slides=slides, classes=DEMO_CLASSES, annotations=rows)
    return summary
