"""The scene of a slide: what sampling patches during training needs to know of it, beside its pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_extract.arrays import BoolImage
from wsi_extract.errors import IntegrityError
from wsi_extract.geometry import Rect, Scale
from wsi_extract.index.splits import SCHEMA, pair
from wsi_extract.model import AnnotationTable, OutputFrame, Split, TissueMask
from wsi_extract.sampling.options import SamplingOptions
from wsi_extract.stores.arrays import REMEDY, read_array, remove_node, write_array
from wsi_extract.stores.zarr_json import (
    group_document,
    own_attributes,
    read_document,
    sealed,
    write_document,
)
from wsi_extract.targets import LabelRules

ANNOTATION_COLUMNS = {
    "source_id": "annotation_source_id",
    "part": "annotation_part",
    "role": "annotation_role",
    "class_id": "annotation_class_id",
    "boxes_l0": "annotation_boxes_l0",
}
"""Array of each column of an `AnnotationTable`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideScene:
    """Everything but pixels."""

    slide_id: str
    frame: OutputFrame
    annotations: AnnotationTable
    tissue: TissueMask
    coverage: BoolImage
    """(rows, columns) bool, True where the chunk of the slide's pixel array is stored."""
    domains: tuple[tuple[Split, Rect], ...]
    """Where patches of each of the slide's splits may lie, level-0 px."""
    group: str
    """The slides of a group never fall into different splits."""
    sampling: SamplingOptions
    rules: LabelRules


def write_scene(folder: Path, scene: SlideScene) -> None:
    """Write the scene as a group of arrays; one that is already there is removed first."""
    remove_node(folder)
    for column, name in ANNOTATION_COLUMNS.items():
        write_array(folder / name, getattr(scene.annotations, column))
    write_array(folder / "tissue_mask", scene.tissue.mask.astype(np.uint8))
    write_array(folder / "coverage", scene.coverage.astype(np.uint8))
    write_document(folder, sealed(group_document(_to_json(scene))))


def read_scene(folder: Path) -> SlideScene:
    """Return the scene at ``folder``.

    Raises
    ------
    IntegrityError
        When a part of it is missing or damaged, or the parts do not fit each other; names the file.
    """
    document = read_document(folder)
    columns: dict[str, Any] = {column: read_array(folder / name) for column, name in ANNOTATION_COLUMNS.items()}
    mask, coverage = read_array(folder / "tissue_mask"), read_array(folder / "coverage")
    try:
        own: dict[str, Any] = own_attributes(document)
        if own["schema"] != SCHEMA:
            raise ValueError(f"it holds schema {own['schema']}")
        scale_x, scale_y = pair(own["mask_l0_per_px_xy"])
        return SlideScene(
            slide_id=str(own["slide_id"]),
            frame=_frame_from_json(own),
            annotations=AnnotationTable(**columns),
            tissue=TissueMask(mask=_as_bool(mask), l0_per_mask_px=Scale(x=scale_x, y=scale_y)),
            coverage=_as_bool(coverage),
            domains=tuple((Split(split), _rect_from_json(rect)) for split, rect in own["domains"]),
            group=str(own["group"]),
            sampling=SamplingOptions(**{**own["sampling"], "shares": tuple(own["sampling"]["shares"])}),
            rules=LabelRules(**own["rules"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"the scene {folder} is inconsistent: {error}.", REMEDY) from error


def read_coverage(folder: Path) -> BoolImage:
    """Return which chunks of the slide's pixel array are stored, without the rest of the scene.

    Raises
    ------
    IntegrityError
        When it is missing or damaged; names the file.
    """
    read_document(folder)
    return _as_bool(read_array(folder / "coverage"))


def _to_json(scene: SlideScene) -> dict[str, object]:
    frame, mask_scale = scene.frame, scene.tissue.l0_per_mask_px
    return {
        "schema": SCHEMA,
        "slide_id": scene.slide_id,
        "patch_wh_px": [frame.patch_w_out_px, frame.patch_h_out_px],
        "scale_xy": [frame.scale.x, frame.scale.y],
        "level": frame.level,
        "level_downsample": frame.level_downsample,
        "um_per_px_out_xy": None if frame.um_per_px_out_xy is None else list(frame.um_per_px_out_xy),
        "domains": [[split.value, [rect.x0, rect.y0, rect.x1, rect.y1]] for split, rect in scene.domains],
        "mask_l0_per_px_xy": [mask_scale.x, mask_scale.y],
        "group": scene.group,
        "sampling": asdict(scene.sampling),
        "rules": asdict(scene.rules),
    }


def _frame_from_json(own: dict[str, Any]) -> OutputFrame:
    width, height = own["patch_wh_px"]
    scale_x, scale_y = pair(own["scale_xy"])
    um_per_px_out_xy = own["um_per_px_out_xy"]
    return OutputFrame(
        patch_w_out_px=int(width),
        patch_h_out_px=int(height),
        scale=Scale(x=scale_x, y=scale_y),
        level=int(own["level"]),
        level_downsample=float(own["level_downsample"]),
        um_per_px_out_xy=None if um_per_px_out_xy is None else pair(um_per_px_out_xy),
    )


def _rect_from_json(values: list[int]) -> Rect:
    x0, y0, x1, y1 = (int(value) for value in values)
    return Rect(x0=x0, y0=y0, x1=x1, y1=y1)


def _as_bool(values: np.ndarray) -> BoolImage:
    if values.ndim != 2 or values.dtype != np.uint8 or (values > 1).any():
        raise ValueError("a mask must hold zeros and ones in rows and columns")
    return values.astype(np.bool_)
