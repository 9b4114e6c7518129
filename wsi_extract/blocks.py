"""Cut a plan into blocks, a block into read windows, and state what they cost. Pure.

A block is a slice of consecutive plan rows, which the plan orders so that neighbours in space are neighbours in
number; a window is one read of the slide that serves several patches of a block, so that each compressed tile is
decoded once.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wsi_extract.arrays import FloatArray, IntArray
from wsi_extract.caches import DIRECT_CACHE_BYTES, OPENSLIDE_CACHE_BYTES, TILES_BESIDE_MASK_PX
from wsi_extract.geometry import Rect
from wsi_extract.model import NO_ANCHOR, AnnotationTable, Block, OutputFrame, PatchTable, SlideInfo, SlidePlan, Split

MAX_BLOCK_BYTES = 96 * 2**20
"""Raw pixels of the largest block."""
MIN_BLOCK_PATCHES = 128
"""Less is not worth the way to a worker, nor a wait for the disk."""
BLOCKS_WANTED = 4
"""Blocks a slide of some hundred patches is cut into, so that a many-core node is busy."""
WINDOW_SIDE_PX = 2048
"""Side of the largest window that several patches share; larger ones decode no less and cost cache."""

BASE_WORKER_BYTES = 160 * 2**20
"""A worker that has nothing to do: interpreter, NumPy, OpenCV, OpenSlide, Dask; measured, with a margin."""
MASK_BYTES_PER_PX = 21
"""Survey: RGB overview, smoothing, components, summed-area table; measured."""
MAX_MASK_PX = 12_000_000
KEPT_MASK_BYTES_PER_PX = 5
"""Survey, once the mask is made: the mask and its summed-area table."""
PLAN_BYTES_PER_PATCH = 230
"""Survey: the columns of a plan, twice while they are put in order; measured."""
WORKER_MEMORY_USE = 0.70
"""Share of a worker's memory limit that planned work may use; Dask pauses a worker at 0.80."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One read of a slide, in pixels of the level that is read."""

    rect_lv: Rect
    rows: tuple[int, ...]
    """The patches of the block it serves."""


def patches_per_block(n_patches: int, *, patch_bytes: int) -> int:
    """Return how many patches a block of a slide holds: a power of two, whatever the number of workers.

    At most `MAX_BLOCK_BYTES` of raw pixels; plans of less than `BLOCKS_WANTED` such blocks are cut into that many, of
    at least `MIN_BLOCK_PATCHES` each.

    >>> patches_per_block(1_000, patch_bytes=256 * 256 * 3)
    256
    """
    largest = 1 << max(0, (MAX_BLOCK_BYTES // patch_bytes).bit_length() - 1)
    wanted = 1 << math.ceil(math.log2(max(1, n_patches / BLOCKS_WANTED)))
    return max(min(MIN_BLOCK_PATCHES, largest), min(wanted, largest))


def block_ranges(split_codes: IntArray, *, size: int) -> list[tuple[int, int]]:
    """Return the half-open row ranges of blocks of at most ``size`` rows, none of which holds two splits."""
    edges = np.flatnonzero(np.diff(split_codes)) + 1
    bounds = [0, *edges.tolist(), len(split_codes)]
    return [
        (start, min(start + size, stop))
        for first, stop in itertools.pairwise(bounds)
        for start in range(first, stop, size)
    ]


def touching_rows(annotations: AnnotationTable, *, origins_l0: IntArray, w_l0: float, h_l0: float) -> IntArray:
    """Return the rows of the annotations that meet the bounding box of the given patches."""
    low = origins_l0.min(axis=0)
    high = origins_l0.max(axis=0) + np.array([w_l0, h_l0])
    boxes = annotations.boxes_l0
    meets = (boxes[:, 2] >= low[0]) & (boxes[:, 0] <= high[0]) & (boxes[:, 3] >= low[1]) & (boxes[:, 1] <= high[1])
    return np.flatnonzero(meets).astype(np.int64)


def cut_blocks(
    plan: SlidePlan, *, slide: SlideInfo, frame: OutputFrame, annotations: AnnotationTable, plan_digest: str
) -> Iterator[Block]:
    """Yield the blocks of a slide's plan in plan order; together they hold every patch once."""
    patch_bytes = frame.patch_w_out_px * frame.patch_h_out_px * 3
    size = patches_per_block(len(plan.patches), patch_bytes=patch_bytes)
    splits = tuple(Split)
    n_before: Counter[Split] = Counter()
    for index, (start, stop) in enumerate(block_ranges(plan.patches.split.astype(np.int64), size=size)):
        patches = plan.patches.take(np.arange(start, stop, dtype=np.int64))
        rows = touching_rows(
            annotations,
            origins_l0=patches.origins_l0,
            w_l0=frame.patch_w_out_px * frame.scale.x,
            h_l0=frame.patch_h_out_px * frame.scale.y,
        )
        split = splits[int(patches.split[0])]
        yield Block(
            slide=slide,
            frame=frame,
            index=index,
            split=split,
            shard=n_before[split],
            n_rows=size,
            first_row=start,
            patches=patches,
            anchor_names=_anchor_names(patches, annotations),
            annotations=annotations.take(rows),
            plan_digest=plan_digest,
        )
        n_before[split] += 1


def _anchor_names(patches: PatchTable, annotations: AnnotationTable) -> tuple[str, ...]:
    return tuple("" if row == NO_ANCHOR else annotations.name_of(int(row)) for row in patches.anchor_row)


def cut_windows(boxes_lv: FloatArray, *, margin_px: float, level_size_wh: tuple[int, int]) -> list[Window]:
    """Group patches into read windows that together cost no more pixels than reading each patch alone.

    Groups too wide for one window, or too sparse to share one, are halved along their longer side.

    Parameters
    ----------
    boxes_lv
        ``(N, 4)`` float64, columns (x0, y0, x1, y1): what each patch needs, level px.
    margin_px
        Further pixels a resampling filter needs on each side.
    level_size_wh
        Windows are clipped to the level.
    """
    windows: list[Window] = []
    pending = [np.arange(len(boxes_lv))] if len(boxes_lv) else []
    while pending:
        rows = pending.pop()
        rect = _enclosing_rect(boxes_lv[rows], margin_px=margin_px, level_size_wh=level_size_wh)
        sizes = boxes_lv[rows, 2:] - boxes_lv[rows, :2] + 2 * margin_px
        is_small = max(rect.width, rect.height) <= WINDOW_SIDE_PX
        is_dense = rect.width * rect.height <= float(np.prod(sizes, axis=1).sum())
        if len(rows) == 1 or (is_small and is_dense):
            windows.append(Window(rect_lv=rect, rows=tuple(int(row) for row in rows)))
            continue
        axis = 0 if rect.width >= rect.height else 1
        order = rows[np.argsort(boxes_lv[rows, axis], kind="stable")]
        pending += [order[len(order) // 2 :], order[: len(order) // 2]]
    return windows


def window_of_each(boxes_lv: FloatArray, *, margin_px: float, level_size_wh: tuple[int, int]) -> list[Window]:
    """Return one read window per patch, in the order of the patches; parameters as for `cut_windows`."""
    x0, y0 = np.floor(np.maximum(boxes_lv[:, :2] - margin_px, 0)).astype(np.int64).T.tolist()
    x1, y1 = np.ceil(np.minimum(boxes_lv[:, 2:] + margin_px, level_size_wh)).astype(np.int64).T.tolist()
    return [
        Window(rect_lv=Rect(x0=left, y0=top, x1=right, y1=bottom), rows=(row,))
        for row, (left, top, right, bottom) in enumerate(zip(x0, y0, x1, y1, strict=True))
    ]


def _enclosing_rect(boxes_lv: FloatArray, *, margin_px: float, level_size_wh: tuple[int, int]) -> Rect:
    x0, y0 = np.floor(boxes_lv[:, :2].min(axis=0) - margin_px)
    x1, y1 = np.ceil(boxes_lv[:, 2:].max(axis=0) + margin_px)
    width, height = level_size_wh
    return Rect(x0=max(0, int(x0)), y0=max(0, int(y0)), x1=min(width, int(x1)), y1=min(height, int(y1)))


def least_worker_bytes() -> int:
    """Return the memory a worker needs whatever it reads."""
    return BASE_WORKER_BYTES + OPENSLIDE_CACHE_BYTES + DIRECT_CACHE_BYTES


def worker_bytes(frame: OutputFrame, *, overview_px: int, n_patches: int = 0) -> int:
    """Return an upper estimate of the memory a worker needs for one slide: the larger of survey and extraction.

    Survey: mask buffers, then the plan of at most ``n_patches``. Extraction: decoded tiles, one read window as RGBA,
    RGB and its composite, and some patches.
    """
    w_lv = frame.patch_w_out_px * frame.scale.x / frame.level_downsample
    h_lv = frame.patch_h_out_px * frame.scale.y / frame.level_downsample
    window_px = max(WINDOW_SIDE_PX, w_lv + 16) * max(WINDOW_SIDE_PX, h_lv + 16)
    patch_bytes = frame.patch_w_out_px * frame.patch_h_out_px * 3
    extraction = window_px * (4 + 4 + 3) + 8 * patch_bytes
    beside_tiles = DIRECT_CACHE_BYTES + MASK_BYTES_PER_PX * min(overview_px, TILES_BESIDE_MASK_PX)
    masking = max(beside_tiles, MASK_BYTES_PER_PX * min(overview_px, MAX_MASK_PX))
    planning = KEPT_MASK_BYTES_PER_PX * min(overview_px, MAX_MASK_PX) + PLAN_BYTES_PER_PATCH * n_patches
    survey = max(masking, planning)
    return math.ceil(BASE_WORKER_BYTES + OPENSLIDE_CACHE_BYTES + max(DIRECT_CACHE_BYTES + extraction, survey))
