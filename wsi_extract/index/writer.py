"""Write the index of a split from its block records, taken in plan order, as a stream; memory stays flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from wsi_extract.arrays import IntArray
from wsi_extract.errors import IntegrityError
from wsi_extract.index.splits import BOX_COLUMNS, COLUMNS, LEGEND, OFFSETS, SCHEMA, IndexedSlide, pair, slide_to_json
from wsi_extract.model import PatchKind, Split
from wsi_extract.state.layout import INDEX, MANIFEST, index_folder, patch_file_name
from wsi_extract.state.records import BlockDocument, LabelEntry, PatchEntry
from wsi_extract.stores.arrays import ROWS_PER_CHUNK, ArrayAppender, remove_node
from wsi_extract.stores.zarr_json import group_document, sealed, write_document

_Rows: TypeAlias = IntArray | Sequence[int] | Sequence[float] | Sequence[list[float]]

KIND_CODES = {kind.label: int(kind) for kind in PatchKind}
SCENES = "slides"
"""The group of `layout.scene_folder`."""


class IndexWriter:
    """Turn the records of one split into its index.

    The index exists once `finish` was called; one that is already there is removed at the start.

    Parameters
    ----------
    output_dir
        Output folder of the run.
    split
        The split all records belong to.
    category_names
        Name of each category id.
    patch_wh_px
        Size all patches have.
    rows_per_chunk
        Rows held in memory and stored together.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        split: Split,
        category_names: Mapping[int, str],
        patch_wh_px: tuple[int, int],
        rows_per_chunk: int = ROWS_PER_CHUNK,
    ) -> None:
        self._folder = index_folder(output_dir, split=split)
        self._split = split
        self._category_names = dict(category_names)
        self._patch_wh_px = patch_wh_px
        self._slides: list[IndexedSlide] = []
        self._slide_ids: set[str] = set()
        self._last_block = -1
        self._n_boxes = 0
        remove_node(self._folder)
        self._columns = {
            name: ArrayAppender(
                self._folder / name, data_type=data_type, row_shape=row_shape, rows_per_chunk=rows_per_chunk
            )
            for name, (data_type, row_shape) in COLUMNS.items()
        }
        self._append(OFFSETS, [0])

    def add(self, document: BlockDocument) -> None:
        """Add the patches of one block.

        Raises
        ------
        IntegrityError
            When the record belongs to another split or patch size, comes out of plan order, or names a patch or an
            object otherwise than this program does.
        """
        self._check(document)
        self._enter_slide(document)
        patches = document["patches"]
        slide = self._slides[-1]
        self._append("slide", np.full(len(patches), len(self._slides) - 1))
        self._append("row", np.arange(slide.n_patches, slide.n_patches + len(patches)))
        self._append("kind", [KIND_CODES[patch["kind"]] for patch in patches])
        xs, ys = [patch["x_l0"] for patch in patches], [patch["y_l0"] for patch in patches]
        self._append("origins_l0", np.array([xs, ys], dtype=np.int64).T)
        self._append("tissue_fraction", [patch["tissue_fraction"] for patch in patches])
        n_boxes = np.array([len(patch["labels"]) for patch in patches], dtype=np.int64)
        self._append(OFFSETS, self._n_boxes + np.cumsum(n_boxes))
        self._add_boxes([(patch, label) for patch in patches for label in patch["labels"]])
        self._slides[-1] = replace(slide, n_patches=slide.n_patches + len(patches))

    def finish(self) -> None:
        """Write what is left of the columns, then the group's document."""
        for column in self._columns.values():
            column.finish()
        attributes = {
            "schema": SCHEMA,
            "split": self._split.value,
            "patch_wh_px": list(self._patch_wh_px),
            "categories": {str(key): name for key, name in sorted(self._category_names.items())},
            "about": "patches and boxes of one split; image id and annotation id of the COCO document: position + 1",
            "columns": dict(LEGEND),
            "slides": [slide_to_json(slide) for slide in self._slides],
        }
        write_document(self._folder, sealed(group_document(attributes)))

    def _append(self, name: str, rows: _Rows) -> None:
        data_type, row_shape = COLUMNS[name]
        self._columns[name].append(np.array(rows, dtype=np.dtype(data_type)).reshape(len(rows), *row_shape))

    def _add_boxes(self, boxes: list[tuple[PatchEntry, LabelEntry]]) -> None:
        sources = [_parse_source(label["source_id"], file_name=patch["file_name"]) for patch, label in boxes]
        rows: dict[str, _Rows] = {
            "boxes_xywh": [label["bbox"] for _, label in boxes],
            "category_id": [label["category_id"] for _, label in boxes],
            "is_crowd": [label["iscrowd"] for _, label in boxes],
            "source_id": [source_id for source_id, _ in sources],
            "source_part": [part for _, part in sources],
        }
        for name in BOX_COLUMNS:
            self._append(name, rows[name])
        self._n_boxes += len(boxes)

    def _check(self, document: BlockDocument) -> None:
        slide_id = document["slide_id"]
        is_next = self._is_current(slide_id) and document["index"] > self._last_block
        if not is_next and slide_id in self._slide_ids:
            raise IntegrityError(f"block {document['index']} of slide {slide_id} comes out of plan order.")
        if document["split"] != self._split.value or tuple(document["patch_wh_px"]) != self._patch_wh_px:
            raise IntegrityError(
                f"block {document['index']} of slide {slide_id} holds patches of {document['patch_wh_px']} px for "
                f"{document['split']}, not of {list(self._patch_wh_px)} px for {self._split}.",
                "Start over with --fresh.",
            )
        for patch in document["patches"]:
            expected = patch_file_name(slide_id, x_l0=patch["x_l0"], y_l0=patch["y_l0"])
            if patch["file_name"] != expected:
                raise IntegrityError(f"slide {slide_id}: the patch {patch['file_name']} should be named {expected}.")

    def _is_current(self, slide_id: str) -> bool:
        return bool(self._slides) and self._slides[-1].slide_id == slide_id

    def _enter_slide(self, document: BlockDocument) -> None:
        self._last_block = document["index"]
        slide_id, um_per_px_xy = document["slide_id"], document["um_per_px_xy"]
        if self._is_current(slide_id):
            return
        self._slide_ids.add(slide_id)
        self._slides.append(
            IndexedSlide(
                slide_id=slide_id,
                n_patches=0,
                level=document["level"],
                l0_per_px_xy=pair(document["l0_per_px_xy"]),
                um_per_px_xy=None if um_per_px_xy is None else pair(um_per_px_xy),
            )
        )


def write_root(output_dir: Path) -> None:
    """Write the documents of the groups above the indices, so that Zarr tools can walk through them.

    The root's comes last: what it leads to is there.
    """
    root = output_dir / INDEX
    for folder in (root / SCENES, root):
        if folder.is_dir():
            about = (
                "index of a data set" if folder == root else "slides of a pixel store: coverage, tissue, annotations"
            )
            write_document(folder, group_document({"about": about, "manifest": MANIFEST}))


def _parse_source(name: str, *, file_name: str) -> tuple[int, int]:
    """Return id and part of an annotation's stable name, see `AnnotationTable.name_of`."""
    source_id, dot, part = name.partition(".")
    try:
        return int(source_id), int(part) if dot else 0
    except ValueError as error:
        raise IntegrityError(f"patch {file_name} names an object {name!r}, which is no number.") from error
