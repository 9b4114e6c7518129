"""The index of one split: every patch and every box as columns, in plan order.

Ids of the COCO document are positions in the index plus one. Boxes are the numbers of that document: absolute xywh
in patch pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import CodeArray, FloatArray, IntArray
from wsi_extract.coco import AREA_DECIMALS
from wsi_extract.errors import IntegrityError
from wsi_extract.model import PatchKind, Split
from wsi_extract.state.layout import index_folder, patch_file_name
from wsi_extract.stores.arrays import REMEDY, read_array
from wsi_extract.stores.zarr_json import own_attributes, read_document

SCHEMA = 1

Int32Array: TypeAlias = npt.NDArray[np.int32]
Int16Array: TypeAlias = npt.NDArray[np.int16]
FlagArray: TypeAlias = npt.NDArray[np.uint8]
"""0 or 1, one per row."""

PATCH_COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "slide": ("int32", ()),
    "row": ("int64", ()),
    "kind": ("int8", ()),
    "origins_l0": ("int64", (2,)),
    "tissue_fraction": ("float64", ()),
}
"""Type and row shape of the columns with one row per patch."""
BOX_COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "boxes_xywh": ("float64", (4,)),
    "category_id": ("int16", ()),
    "is_crowd": ("uint8", ()),
    "source_id": ("int64", ()),
    "source_part": ("int32", ()),
}
"""Type and row shape of the columns with one row per box."""
OFFSETS = "box_offsets"
LEGEND: Mapping[str, str] = {
    "slide": "position of the patch's slide in the list of slides",
    "row": "number of the patch within its slide and split, in plan order: its row in patches.zarr/<split>/<slide_id>",
    "kind": ", ".join(f"{kind.value} {kind.label}" for kind in PatchKind),
    "origins_l0": "x and y of the level-0 pixel the patch was read from",
    "tissue_fraction": "share of tissue in the patch, 0 to 1",
    OFFSETS: "the boxes of patch i are the rows from entry i up to, not including, entry i + 1",
    "boxes_xywh": "left, top, width, height, patch pixels; as in the COCO document",
    "category_id": "as in the COCO document, see categories",
    "is_crowd": "1: to be ignored, as iscrowd in the COCO document",
    "source_id": "id in the annotation file",
    "source_part": "0, or the number of the box where one id of the annotation file has several",
}
"""What each column holds, for those who open the index with a Zarr library."""
COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {**PATCH_COLUMNS, OFFSETS: ("int64", ()), **BOX_COLUMNS}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedSlide:
    """A slide with patches in the split."""

    slide_id: str
    n_patches: int
    level: int
    """The pyramid level the pixels come from."""
    l0_per_px_xy: tuple[float, float]
    """Level-0 pixels per patch pixel."""
    um_per_px_xy: tuple[float, float] | None
    """Physical size of a patch pixel, ``None`` when unknown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitIndex:
    """All patches of a split, N rows, and their boxes, M rows, in plan order.

    Raises
    ------
    ValueError
        When columns do not fit each other.
    """

    split: Split
    slides: tuple[IndexedSlide, ...]
    patch_wh_px: tuple[int, int]
    category_names: dict[int, str]
    slide: Int32Array
    """(N,) position in ``slides``."""
    row: IntArray
    """(N,) number of the patch within its slide and split."""
    kind: CodeArray
    """(N,) values of `PatchKind`."""
    origins_l0: IntArray
    """(N, 2) int64, columns (x, y), level-0 px."""
    tissue_fraction: FloatArray
    """(N,) 0 to 1."""
    box_offsets: IntArray
    """(N + 1,) patch ``i`` has the boxes ``[box_offsets[i], box_offsets[i + 1])``."""
    boxes_xywh: FloatArray
    """(M, 4) float64, columns (x, y, width, height), patch px."""
    category_id: Int16Array
    """(M,) keys of ``category_names``."""
    is_crowd: FlagArray
    """(M,) 1 where evaluation must ignore the object."""
    source_id: IntArray
    """(M,) the object's id in the annotation file."""
    source_part: Int32Array
    """(M,) 0 unless one id of the file holds several boxes."""

    def __post_init__(self) -> None:
        self._check_lengths()
        self._check_values()

    def __len__(self) -> int:
        return len(self.slide)

    def labels_of(self, i: int) -> slice:
        """Return where the boxes of patch ``i`` stand in the columns of boxes."""
        return slice(int(self.box_offsets[i]), int(self.box_offsets[i + 1]))

    def file_name(self, i: int) -> str:
        """Return the name of patch ``i``: its path below the split's folder, if it were a file."""
        x_l0, y_l0 = self.origins_l0[i].tolist()
        return patch_file_name(self.slides[self.slide[i]].slide_id, x_l0=x_l0, y_l0=y_l0)

    def image_id(self, i: int) -> int:
        """Return the id of patch ``i`` in the COCO document."""
        return i + 1

    def _check_lengths(self) -> None:
        n_patches, n_boxes = len(self.slide), len(self.boxes_xywh)
        for columns, n_rows in (
            (PATCH_COLUMNS, n_patches),
            (BOX_COLUMNS, n_boxes),
            ({OFFSETS: COLUMNS[OFFSETS]}, n_patches + 1),
        ):
            for name, (data_type, row_shape) in columns.items():
                values = getattr(self, name)
                if values.shape != (n_rows, *row_shape) or values.dtype != np.dtype(data_type):
                    raise ValueError(
                        f"{name} must be {data_type} of shape {(n_rows, *row_shape)}, "
                        f"got {values.dtype} of shape {values.shape}"
                    )

    def _check_values(self) -> None:
        counts = np.array([slide.n_patches for slide in self.slides], dtype=np.int64)
        offsets = self.box_offsets
        rules = {
            "slide must number the slides in their order": np.array_equal(
                self.slide, np.repeat(np.arange(len(counts)), counts)
            ),
            "row must count the patches of each slide": len(self) == counts.sum()
            and np.array_equal(self.row, np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)),
            "kind must be a kind of patch": np.isin(self.kind, tuple(PatchKind)).all(),
            "box_offsets must rise from 0 to the number of boxes": offsets[0] == 0
            and offsets[-1] == len(self.boxes_xywh)
            and (offsets[1:] >= offsets[:-1]).all(),
            "category_id must be a known category": np.isin(self.category_id, tuple(self.category_names)).all(),
            "is_crowd must be 0 or 1": (self.is_crowd <= 1).all(),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))


def read_index(output_dir: Path, split: Split) -> SplitIndex:
    """Return the index of a split.

    Raises
    ------
    IntegrityError
        When a part of it is missing or damaged, or the parts do not fit each other; names the file.
    """
    folder = index_folder(output_dir, split=split)
    document = read_document(folder)
    columns: dict[str, Any] = {name: read_array(folder / name) for name in COLUMNS}
    try:
        own: dict[str, Any] = own_attributes(document)
        if own["schema"] != SCHEMA or own["split"] != split.value:
            raise ValueError(f"it holds schema {own['schema']}, split {own['split']}")
        width, height = own["patch_wh_px"]
        return SplitIndex(
            split=split,
            slides=tuple(_slide_from_json(slide) for slide in own["slides"]),
            patch_wh_px=(int(width), int(height)),
            category_names={int(key): name for key, name in own["categories"].items()},
            **columns,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"the index {folder} of split {split} is inconsistent: {error}.", REMEDY) from error


def slide_to_json(slide: IndexedSlide) -> dict[str, object]:
    """Return the slide as JSON values."""
    return {
        "slide_id": slide.slide_id,
        "n_patches": slide.n_patches,
        "level": slide.level,
        "l0_per_px_xy": list(slide.l0_per_px_xy),
        "um_per_px_xy": None if slide.um_per_px_xy is None else list(slide.um_per_px_xy),
    }


def _slide_from_json(value: dict[str, Any]) -> IndexedSlide:
    um_per_px_xy = value["um_per_px_xy"]
    return IndexedSlide(
        slide_id=str(value["slide_id"]),
        n_patches=int(value["n_patches"]),
        level=int(value["level"]),
        l0_per_px_xy=pair(value["l0_per_px_xy"]),
        um_per_px_xy=None if um_per_px_xy is None else pair(um_per_px_xy),
    )


def pair(values: list[float]) -> tuple[float, float]:
    """Return two JSON numbers as a pair; raises ValueError or TypeError for anything else."""
    x, y = values
    return float(x), float(y)


class CocoDict(TypedDict):
    """A COCO document as a value."""

    info: dict[str, object]
    licenses: list[dict[str, object]]
    categories: list[dict[str, object]]
    images: list[dict[str, object]]
    annotations: list[dict[str, object]]


def coco_dict(index: SplitIndex) -> CocoDict:
    """Return the split's COCO document, less the keys of provenance: for readers that want it in memory.

    Ids, names, boxes and areas equal those of the document on disk.
    """
    width, height = index.patch_wh_px
    per_patch = np.diff(index.box_offsets)
    image_ids = (np.repeat(np.arange(len(index)), per_patch) + 1).tolist()
    boxes = zip(image_ids, index.boxes_xywh.tolist(), index.category_id.tolist(), index.is_crowd.tolist(), strict=True)
    return {
        "info": {"description": f"split {index.split}", "version": "1.0"},
        "licenses": [],
        "categories": [
            {"id": key, "name": name, "supercategory": "cell"} for key, name in sorted(index.category_names.items())
        ],
        "images": [
            {"id": index.image_id(i), "file_name": index.file_name(i), "width": width, "height": height}
            for i in range(len(index))
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": bbox,
                "area": round(bbox[2] * bbox[3], AREA_DECIMALS),
                "iscrowd": is_crowd,
            }
            for number, (image_id, bbox, category_id, is_crowd) in enumerate(boxes, start=1)
        ],
    }
