"""Finished data sets of this package, written with its own writers from the pixels of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.texture import TexturedSlide
from wsi_extract.arrays import BoolImage, RgbImage
from wsi_extract.blocks import patches_per_block
from wsi_extract.geometry import Rect, Scale
from wsi_extract.index import IndexWriter, SlideScene, write_scene
from wsi_extract.model import AnnotationTable, OutputFrame, PatchKind, Split, TissueMask
from wsi_extract.sampling.options import SamplingOptions
from wsi_extract.state.layout import (
    COMPLETE,
    MANIFEST,
    patch_array_folder,
    patch_file_name,
    patch_shard_path,
    pixel_shard_path,
    scene_folder,
)
from wsi_extract.state.records import SCHEMA, BlockDocument, PatchEntry
from wsi_extract.storage import Coverage, Store
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.pixel_array import (
    CHUNK_PX,
    CHUNKS_PER_SIDE,
    chunks_in_shard,
    chunks_shape,
    shards_of,
    write_pixel_documents,
    write_pixel_shard,
)
from wsi_extract.stores.shards import write_shard
from wsi_extract.targets import LabelRules
from wsi_extract.zarr_documents import write_patch_documents, write_patch_groups

SLIDE_ID = "texture"
CATEGORY_NAMES = {1: "mitotic figure"}
OFFSET_XY = (37, 83)
"""Where the picture lies in the image of the pixel store, px."""


def write_patch_store(output_dir: Path, slide: TexturedSlide, *, codec: PixelCodec) -> Path:
    """Write the patches of a slide as training data with a patch store, and return the folder of its Zarr array."""
    documents = list(_written_blocks(output_dir, slide, codec=codec))
    write_patch_documents(output_dir, documents, codec=codec)
    write_patch_groups(output_dir, splits=[Split.TRAIN])
    _finish(output_dir, documents, store=Store.ZARR)
    return patch_array_folder(output_dir, slide_id=SLIDE_ID, split=Split.TRAIN)


def write_pixel_store(output_dir: Path, slide: TexturedSlide, *, codec: PixelCodec) -> None:
    """Write the pixels under the patches of a slide as training data with a pixel store.

    The picture lies in the stored image at an offset that is no multiple of a chunk, because patches of a real plan
    begin anywhere: reading one decodes nine chunks.
    """
    width, height = slide.rgb.shape[1] + OFFSET_XY[0], slide.rgb.shape[0] + OFFSET_XY[1]
    moved = replace(slide, origins=slide.origins + np.array(OFFSET_XY))
    rows, columns = chunks_shape((width, height))
    image = np.zeros((rows * CHUNK_PX, columns * CHUNK_PX, 3), dtype=np.uint8)
    image[OFFSET_XY[1] : height, OFFSET_XY[0] : width] = slide.rgb
    coverage = np.zeros((rows, columns), dtype=np.bool_)
    for x, y in moved.origins.tolist():
        coverage[_touched(y, slide.patch_px), _touched(x, slide.patch_px)] = True
    for row, column in shards_of(coverage):
        path = pixel_shard_path(output_dir, slide_id=SLIDE_ID, row=row, column=column)
        write_pixel_shard(path, _chunks_of_shard(image, coverage=coverage, row=row, column=column), codec=codec)
    scene = _scene_of(slide, coverage=coverage, size_wh_px=(width, height))
    write_scene(scene_folder(output_dir, slide_id=SLIDE_ID), scene)
    write_pixel_documents(
        output_dir, slide_id=SLIDE_ID, size_wh_px=(width, height), um_per_px_xy=None, codec=codec, attributes={}
    )
    _finish(output_dir, [block_document(moved, rows=range(len(moved)), number=0)], store=Store.PIXELS)


def _finish(output_dir: Path, documents: Sequence[BlockDocument], *, store: Store) -> None:
    width, height = documents[0]["patch_wh_px"]
    index = IndexWriter(
        output_dir, split=Split.TRAIN, category_names=CATEGORY_NAMES, patch_wh_px=(int(width), int(height))
    )
    for document in documents:
        index.add(document)
    index.finish()
    coverage = Coverage.PLANNED.value if store is Store.PIXELS else None
    manifest = {"settings": {"store": store.value, "coverage": coverage}, "splits": {Split.TRAIN.value: {}}}
    manifest["slides"] = [{"slide_id": SLIDE_ID, "splits": [Split.TRAIN.value], "status": COMPLETE}]
    (output_dir / MANIFEST).write_text(json.dumps(manifest))


def _touched(start_px: int, length_px: int) -> slice:
    return slice(start_px // CHUNK_PX, -(-(start_px + length_px) // CHUNK_PX))


def _chunks_of_shard(image: RgbImage, *, coverage: BoolImage, row: int, column: int) -> Iterator[tuple[int, RgbImage]]:
    for i, j in np.argwhere(chunks_in_shard(coverage, row=row, column=column)).tolist():
        y, x = (row * CHUNKS_PER_SIDE + i) * CHUNK_PX, (column * CHUNKS_PER_SIDE + j) * CHUNK_PX
        yield i * CHUNKS_PER_SIDE + j, np.ascontiguousarray(image[y : y + CHUNK_PX, x : x + CHUNK_PX])


def _scene_of(slide: TexturedSlide, *, coverage: BoolImage, size_wh_px: tuple[int, int]) -> SlideScene:
    one = Scale(x=1.0, y=1.0)
    return SlideScene(
        slide_id=SLIDE_ID,
        frame=OutputFrame(
            patch_w_out_px=slide.patch_px,
            patch_h_out_px=slide.patch_px,
            scale=one,
            level=0,
            level_downsample=1.0,
            um_per_px_out_xy=None,
        ),
        annotations=AnnotationTable.empty(),
        tissue=TissueMask(mask=coverage, l0_per_mask_px=Scale(x=float(CHUNK_PX), y=float(CHUNK_PX))),
        coverage=coverage,
        domains=((Split.TRAIN, Rect(x0=0, y0=0, x1=size_wh_px[0], y1=size_wh_px[1])),),
        group=SLIDE_ID,
        sampling=SamplingOptions(
            mode="grid", patches_per_slide=len(slide), shares=(1.0, 0.0, 0.0), stride_px=slide.patch_px, seed=0
        ),
        rules=LabelRules(label_hard_negatives=False, label_visible_fraction=None, crowd_visible_fraction=0.5),
    )


def _written_blocks(output_dir: Path, slide: TexturedSlide, *, codec: PixelCodec) -> Iterator[BlockDocument]:
    """Write shard after shard, and yield the record of each."""
    n_rows = patches_per_block(len(slide), patch_bytes=3 * slide.patch_px**2)
    for number, start in enumerate(range(0, len(slide), n_rows)):
        rows = range(start, min(start + n_rows, len(slide)))
        path = patch_shard_path(output_dir, slide_id=SLIDE_ID, split=Split.TRAIN, shard=number)
        chunks = ((row - start, codec.encode(slide.patch(row))) for row in rows)
        stored = write_shard(path, chunks, n_chunks=n_rows)
        document = block_document(slide, rows=rows, number=number)
        document["shard"] = {"number": number, "n_rows": n_rows, "bytes": stored.n_bytes, "sha256": stored.sha256}
        yield document


def block_document(slide: TexturedSlide, *, rows: range, number: int) -> BlockDocument:
    """Return the record of a block without boxes."""
    return {
        "schema": SCHEMA,
        "slide_id": SLIDE_ID,
        "index": number,
        "split": Split.TRAIN.value,
        "plan_digest": "",
        "patch_wh_px": [slide.patch_px, slide.patch_px],
        "level": 0,
        "l0_per_px_xy": [1.0, 1.0],
        "um_per_px_xy": None,
        "patches": [_patch_entry(row, xy=slide.origins[row].tolist()) for row in rows],
        "label_counts": {},
    }


def _patch_entry(row: int, *, xy: tuple[int, int]) -> PatchEntry:
    return {
        "row": row,
        "file_name": patch_file_name(SLIDE_ID, x_l0=xy[0], y_l0=xy[1]),
        "x_l0": xy[0],
        "y_l0": xy[1],
        "kind": PatchKind.RANDOM.name.lower(),
        "requested_kind": PatchKind.RANDOM.name.lower(),
        "anchor": None,
        "tissue_fraction": 1.0,
        "labels": [],
    }
