"""Worker function 2: one block -> read, cut, label, write, record.

One read per window, one write at the end; idempotent, and ignorant of Dask, of other blocks and of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_extract.arrays import FloatArray, IntArray, RgbImage
from wsi_extract.disk.files import write_atomically
from wsi_extract.model import Block, BlockRecord, OutputFrame, PatchKind, SlideLevel
from wsi_extract.reading import ReaderChoice
from wsi_extract.resample import cut_patch, support_px
from wsi_extract.slides.open_slides import OpenedSlide, SlideCache
from wsi_extract.stain import StainTransform
from wsi_extract.state.layout import patch_file_name, record_path
from wsi_extract.state.record_files import digest_in
from wsi_extract.state.records import SCHEMA, BlockDocument, LabelEntry, PatchEntry, check_repeated, encode_document
from wsi_extract.storage import Store
from wsi_extract.stores.block_files import BlockTarget, ShardPlace, write_block_files
from wsi_extract.targets import LabelRules, PatchLabel, PatchLabels, label_patches
from wsi_extract.windows import read_windows

EDGE_TOLERANCE_PX = 1e-6
"""Less of a pixel than this is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExtractJob:
    """One block to extract."""

    block: Block
    rules: LabelRules
    target: BlockTarget
    reader: ReaderChoice
    stain: StainTransform | None
    """What brings the slide's stain to that of the target."""


def extract_block(job: ExtractJob, slides: SlideCache) -> BlockRecord:
    """Label the patches of one block, read and write them unless the pixel store holds them; the record comes last.

    No file gets its name before all are durable, the slide was found unchanged, and the block is what it was if it
    was written before.

    Raises
    ------
    SlideError
        When a region of the slide cannot be read, or the slide was replaced. No pixel is ever made up.
    IntegrityError
        When the block was written before after the same plan, and differs now.
    EnvironmentFaultError
        When the folder does not belong to the job's run any more.
    OSError
        When the output cannot be written.
    """
    block = job.block
    path = record_path(job.target.output_dir, slide_id=block.slide.slide_id, index=block.index)
    document = _describe(block, rules=job.rules)
    if job.target.store is Store.PIXELS:
        check_repeated(document, path=path)
    else:
        _write_pixels(document, job=job, slides=slides, path=path)
    record = encode_document(document)
    job.target.check_claim()
    write_atomically(path, record)
    return BlockRecord(slide_id=block.slide.slide_id, index=block.index, n_patches=len(block), sha256=digest_in(record))


def _write_pixels(document: BlockDocument, *, job: ExtractJob, slides: SlideCache, path: Path) -> None:
    block = job.block
    slide = slides.get(block.slide, reader=job.reader, pixel_map=job.stain)

    def check(finished: BlockDocument) -> None:
        slide.check_unchanged()
        check_repeated(finished, path=path)

    write_block_files(
        document,
        read_patches(slide, block),
        target=job.target,
        place=ShardPlace(number=block.shard, n_rows=block.n_rows),
        check=check,
    )


def read_patches(slide: OpenedSlide, block: Block) -> Iterator[tuple[int, RgbImage]]:
    """Yield (row within the block, pixels) of every patch; neighbours share what was decoded for them.

    The pixels of a patch are a function of the slide and its origin alone, never of the window it was cut from:

    * a level whose downsample is a whole number is read at whole level pixels: patch by patch where the slide keeps
      decoded tiles, else in windows that several patches are cut from;
    * any other level is read once per patch, because OpenSlide then shifts the whole region by a fraction of a
      pixel that depends on where the region starts.
    """
    frame = block.frame
    level = block.slide.levels[frame.level]
    if not float(frame.level_downsample).is_integer():
        for row, origin_l0 in enumerate(block.patches.origins_l0):
            yield row, _read_alone(slide, origin_l0, frame=frame, level=level)
        return
    origins_lv = block.patches.origins_l0 / frame.level_downsample
    boxes_lv = np.concatenate([origins_lv, origins_lv + _patch_wh_lv(frame)], axis=1)
    for window, pixels in read_windows(slide, frame.level, boxes_lv, margin_px=_margin_px(frame)):
        if len(window.rows) == 1 and not frame.is_resampled:
            yield window.rows[0], pixels
            continue
        for row in window.rows:
            yield row, _cut(pixels, origins_lv[row] - (window.rect_lv.x0, window.rect_lv.y0), frame=frame)


def _read_alone(slide: OpenedSlide, origin_l0: IntArray, *, frame: OutputFrame, level: SlideLevel) -> RgbImage:
    """Read one patch with a window of its own.

    Where the window would leave the level it ends with the last whole pixel, and where the patch itself reaches into
    the pixel that the level covers in part, the last whole one is repeated: no white may seep in.
    """
    margin_px = _margin_px(frame)
    corner_l0 = np.maximum(origin_l0 - int(np.ceil(margin_px * frame.level_downsample)), 0)
    start_px = (origin_l0 - corner_l0) / frame.level_downsample
    needed_px = start_px + _patch_wh_lv(frame)
    there_px = (level.width_px, level.height_px) - corner_l0 / frame.level_downsample
    width, height = np.minimum(np.ceil(needed_px + margin_px), np.floor(there_px + EDGE_TOLERANCE_PX)).astype(int)
    pixels = slide.read_region(
        frame.level, x_l0=int(corner_l0[0]), y_l0=int(corner_l0[1]), w_lv_px=int(width), h_lv_px=int(height)
    )
    right, bottom = np.maximum(np.ceil(needed_px - EDGE_TOLERANCE_PX) - (width, height), 0).astype(int).tolist()
    if right or bottom:
        pixels = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
    return _cut(pixels, start_px, frame=frame)


def _patch_wh_lv(frame: OutputFrame) -> FloatArray:
    """Return the extent of a patch, (w, h) in level px; whole numbers when nothing is resampled."""
    return np.array(
        [
            frame.patch_w_out_px * (frame.scale.x / frame.level_downsample),
            frame.patch_h_out_px * (frame.scale.y / frame.level_downsample),
        ],
        dtype=np.float64,
    )


def _margin_px(frame: OutputFrame) -> int:
    if not frame.is_resampled:
        return 0
    return max(support_px(frame.scale.x / frame.level_downsample), support_px(frame.scale.y / frame.level_downsample))


def _cut(pixels: RgbImage, start_px: FloatArray, *, frame: OutputFrame) -> RgbImage:
    width, height = _patch_wh_lv(frame).tolist()
    return cut_patch(
        pixels,
        x_px=float(start_px[0]),
        y_px=float(start_px[1]),
        w_px=width,
        h_px=height,
        out_wh=(frame.patch_w_out_px, frame.patch_h_out_px),
    )


def _describe(block: Block, *, rules: LabelRules) -> BlockDocument:
    frame = block.frame
    labels = label_patches(
        block.annotations,
        origins_l0=block.patches.origins_l0,
        scale=frame.scale,
        patch_wh_out=(frame.patch_w_out_px, frame.patch_h_out_px),
        rules=rules,
    )
    counts: Counter[str] = Counter()
    for each in labels:
        counts.update(each.counts)
    return {
        "schema": SCHEMA,
        "slide_id": block.slide.slide_id,
        "index": block.index,
        "split": block.split.value,
        "plan_digest": block.plan_digest,
        "patch_wh_px": [frame.patch_w_out_px, frame.patch_h_out_px],
        "level": frame.level,
        "l0_per_px_xy": [frame.scale.x, frame.scale.y],
        "um_per_px_xy": None if frame.um_per_px_out_xy is None else list(frame.um_per_px_out_xy),
        "patches": _patch_entries(block, labels),
        "label_counts": dict(sorted(counts.items())),
    }


def _patch_entries(block: Block, labels: Sequence[PatchLabels]) -> list[PatchEntry]:
    patches = block.patches
    kind_names = {int(kind): kind.label for kind in PatchKind}
    columns = zip(
        patches.origins_l0.tolist(),
        patches.kind.tolist(),
        patches.requested_kind.tolist(),
        block.anchor_names,
        patches.tissue_fraction.tolist(),
        labels,
        strict=True,
    )
    entries: list[PatchEntry] = []
    for row, ((x_l0, y_l0), kind, requested_kind, anchor, tissue_fraction, seen) in enumerate(columns):
        entry: PatchEntry = {
            "row": block.first_row + row,
            "file_name": patch_file_name(block.slide.slide_id, x_l0=x_l0, y_l0=y_l0),
            "x_l0": x_l0,
            "y_l0": y_l0,
            "kind": kind_names[kind],
            "requested_kind": kind_names[requested_kind],
            "anchor": anchor or None,
            "tissue_fraction": round(tissue_fraction, 6),
            "labels": [_label_entry(label) for label in seen.labels],
        }
        if seen.look_alikes:
            entry["look_alikes"] = [_label_entry(label) for label in seen.look_alikes]
        entries.append(entry)
    return entries


def _label_entry(label: PatchLabel) -> LabelEntry:
    return {
        "bbox": list(label.xywh_out),
        "category_id": label.category_id,
        "iscrowd": int(label.is_crowd),
        "source_id": label.annotation,
    }
