"""How long it takes until a large data set can be used: its index as arrays against the same content as COCO JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ours import CATEGORY_NAMES
from wsi_extract.index import IndexWriter, coco_dict, read_index
from wsi_extract.model import Split
from wsi_extract.state.layout import patch_file_name
from wsi_extract.state.records import SCHEMA, BlockDocument, PatchEntry

PATCHES_PER_BLOCK = 1000
PATCHES_PER_SLIDE = 10_000
_COLUMNS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningTimes:
    """Seconds of wall time, the best of the rounds, page cache warm."""

    n_patches: int
    n_boxes: int
    index_s: float
    json_s: float
    index_bytes: int
    json_bytes: int


def compare_opening(folder: Path, *, n_patches: int, n_rounds: int) -> OpeningTimes:
    """Write an index with one box per patch and time reading it whole; the same for a COCO document of it.

    Raises
    ------
    RuntimeError
        When either does not hold all patches and boxes.
    """
    writer = IndexWriter(folder, split=Split.TRAIN, category_names=CATEGORY_NAMES, patch_wh_px=(256, 256))
    for document in _blocks(n_patches):
        writer.add(document)
    writer.finish()
    json_path = folder / "instances.json"
    json_path.write_text(json.dumps(coco_dict(read_index(folder, Split.TRAIN))))
    index_s, json_s = [], []
    for _ in range(n_rounds):
        start = time.perf_counter()
        index = read_index(folder, Split.TRAIN)
        index_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        coco = json.loads(json_path.read_bytes())
        json_s.append(time.perf_counter() - start)
        counts = (len(index), len(index.boxes_xywh), len(coco["images"]), len(coco["annotations"]))
        if counts != (n_patches,) * 4:
            raise RuntimeError(f"{n_patches} patches with one box each were written, {counts} were read")
        del index, coco
    return OpeningTimes(
        n_patches=n_patches,
        n_boxes=n_patches,
        index_s=min(index_s),
        json_s=min(json_s),
        index_bytes=sum(path.stat().st_size for path in (folder / "index.zarr").rglob("*") if path.is_file()),
        json_bytes=json_path.stat().st_size,
    )


def _blocks(n_patches: int) -> Iterator[BlockDocument]:
    rng = np.random.default_rng(0)
    for start in range(0, n_patches, PATCHES_PER_BLOCK):
        slide, within = divmod(start, PATCHES_PER_SLIDE)
        numbers = range(within, within + min(PATCHES_PER_BLOCK, n_patches - start))
        corners = rng.integers(0, 206 * 64, (len(numbers), 2)) / 64  # real boxes do not repeat and hardly compress
        yield {
            "schema": SCHEMA,
            "slide_id": f"slide_{slide:05d}",
            "index": within // PATCHES_PER_BLOCK,
            "split": Split.TRAIN.value,
            "plan_digest": "",
            "patch_wh_px": [256, 256],
            "level": 0,
            "l0_per_px_xy": [1.0, 1.0],
            "um_per_px_xy": [0.25, 0.25],
            "patches": [
                _patch_entry(f"slide_{slide:05d}", number, bbox=[x, y, 50.0, 50.0])
                for number, (x, y) in zip(numbers, corners.tolist(), strict=True)
            ],
            "label_counts": {},
        }


def _patch_entry(slide_id: str, number: int, *, bbox: list[float]) -> PatchEntry:
    x_l0, y_l0 = 256 * (number % _COLUMNS), 256 * (number // _COLUMNS)
    return {
        "row": number,
        "file_name": patch_file_name(slide_id, x_l0=x_l0, y_l0=y_l0),
        "x_l0": x_l0,
        "y_l0": y_l0,
        "kind": "random",
        "requested_kind": "random",
        "anchor": None,
        "tissue_fraction": number % 997 / 997,
        "labels": [{"bbox": bbox, "category_id": 1, "iscrowd": 0, "source_id": str(number)}],
    }
