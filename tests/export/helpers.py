"""Small finished data sets of any content, made by the program's own writers, and ways to interrupt an export."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.coco import write_coco
from wsi_extract.disk.files import pretty_json, sha256_of_file, write_atomically
from wsi_extract.export.options import ExportFormat, ExportOptions, ExportRequest
from wsi_extract.export.run import ExportResult, export_dataset
from wsi_extract.export.source import FinishedDataset, Source, open_source, row_ranges
from wsi_extract.index import IndexWriter, SplitIndex, write_root
from wsi_extract.model import Split
from wsi_extract.state.layout import (
    COMPLETE,
    instances_name,
    patch_array_folder,
    patch_file_name,
    record_path,
)
from wsi_extract.state.records import SCHEMA, BlockDocument, LabelEntry, PatchEntry, encode_document
from wsi_extract.storage import CodecName, Store
from wsi_extract.stores.block_files import BlockTarget, ShardPlace, write_block_files
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.png import decode_png
from wsi_extract.stores.zarr_json import patch_array_document, patch_attributes, sealed, write_document

PATCH_WH_PX = (24, 16)
"""Not square, so that swapped axes show."""
ROWS_PER_SHARD = 4
CODEC = PixelCodec(name=CodecName.ZSTD, level=1)
CATEGORIES = {1: "mitotic figure", 2: "mitotic figure look-alike"}
SLIDES = {Split.TRAIN: {"a": 7, "b.v1": 5}, Split.VAL: {"b.v1": 3}, Split.TEST: {}}
"""Patches of each slide: one slide is in two splits, one has a dot in its name, one split is empty."""


def pixels_of(slide_id: str, split: Split, row: int) -> RgbImage:
    """Noise that nothing but this patch has."""
    seed = int.from_bytes(hashlib.sha256(f"{slide_id}/{split}/{row}".encode()).digest()[:8], "little")
    width_px, height_px = PATCH_WH_PX
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def _label(category_id: int, *, is_crowd: int = 0, shift: float = 0) -> LabelEntry:
    return {
        "bbox": [2.5 + shift, 3.0, 6.0, 4.1234],
        "category_id": category_id,
        "iscrowd": is_crowd,
        "source_id": f"{10 + category_id}.{2 + is_crowd}",
    }


def _patch(slide_id: str, row: int) -> PatchEntry:
    """Patches take turns: a mitosis, none, two mitoses and a crowd, a crowd only, a look-alike."""
    labels: tuple[list[LabelEntry], ...] = (
        [_label(1)],
        [],
        [_label(1), _label(1, shift=5), _label(1, is_crowd=1)],
        [_label(1, is_crowd=1)],
        [_label(2)],
    )
    x_l0, y_l0 = 100 + 30 * row, 50
    kind = ("mitosis", "random", "hard_negative", "hard_negative", "grid")[row % 5]
    return {
        "row": row,
        "file_name": patch_file_name(slide_id, x_l0=x_l0, y_l0=y_l0),
        "x_l0": x_l0,
        "y_l0": y_l0,
        "kind": kind,
        "requested_kind": kind,
        "anchor": None,
        "tissue_fraction": 0.5,
        "labels": labels[row % 5],
    }


def _document(slide_id: str, split: Split, *, index: int, rows: range) -> BlockDocument:
    return {
        "schema": SCHEMA,
        "slide_id": slide_id,
        "index": index,
        "split": split.value,
        "plan_digest": "0",
        "patch_wh_px": list(PATCH_WH_PX),
        "level": 0,
        "l0_per_px_xy": [1.0, 1.0],
        "um_per_px_xy": [0.25, 0.25],
        "patches": [_patch(slide_id, row) for row in rows],
        "label_counts": {},
    }


def _write_block(out: Path, document: BlockDocument, *, store: Store, shard: int) -> None:
    """Write the files of a block and its record."""
    slide_id, split = document["slide_id"], Split(document["split"])
    first = shard * ROWS_PER_SHARD
    pixels = ((row, pixels_of(slide_id, split, first + row)) for row in range(len(document["patches"])))
    place = ShardPlace(number=shard, n_rows=ROWS_PER_SHARD)
    write_block_files(document, pixels, target=BlockTarget(output_dir=out, store=store, codec=CODEC), place=place)
    path = record_path(out, slide_id=slide_id, index=document["index"])
    write_atomically(path, encode_document(document))


def _write_array_document(out: Path, slide_id: str, split: Split, *, n_patches: int) -> None:
    attributes = patch_attributes(
        slide_id=slide_id, split=split.value, level=0, l0_per_px_xy=(1, 1), um_per_px_xy=(0.25, 0.25)
    )
    array = patch_array_document(
        n_patches=n_patches,
        patch_wh_px=PATCH_WH_PX,
        patches_per_shard=ROWS_PER_SHARD,
        codecs=CODEC.to_zarr(),
        attributes=attributes,
    )
    write_document(patch_array_folder(out, slide_id=slide_id, split=split), sealed(array))


def make_source(
    out: Path, *, store: Store = Store.PNG, slides: Mapping[Split, Mapping[str, int]] = SLIDES, seed: int = 42
) -> Path:
    """Write a finished data set and return its folder."""
    splits: dict[str, object] = {}
    splits_of: dict[str, list[str]] = {}
    n_blocks: Counter[str] = Counter()
    for split, counts in slides.items():
        documents = []
        writer = IndexWriter(out, split=split, category_names=CATEGORIES, patch_wh_px=PATCH_WH_PX)
        for slide_id, n_patches in counts.items():
            for shard, rows in enumerate(row_ranges(0, n_patches, size=ROWS_PER_SHARD)):
                document = _document(slide_id, split, index=n_blocks[slide_id], rows=rows)
                _write_block(out, document, store=store, shard=shard)
                writer.add(document)
                documents.append(document)
                n_blocks[slide_id] += 1
            if store.has_patch_arrays:
                _write_array_document(out, slide_id, split, n_patches=n_patches)
            splits_of.setdefault(slide_id, []).append(split.value)
        writer.finish()
        path = out / instances_name(split)
        write_coco(path, documents, category_names=CATEGORIES, description="test")
        splits[split.value] = {"sha256": sha256_of_file(path), "n_images": sum(counts.values())}
    write_root(out)
    manifest = {
        "settings": {"store": store.value, "seed": seed},
        "splits": splits,
        "slides": [
            {"slide_id": slide_id, "status": COMPLETE, "splits": names} for slide_id, names in splits_of.items()
        ],
    }
    (out / "manifest.json").write_bytes(pretty_json(manifest))
    return out


def export(
    out: Path,
    destination: Path,
    export_format: ExportFormat,
    *,
    splits: tuple[Split, ...] = (),
    open_split: Callable[[FinishedDataset, Split], Source] = open_source,
    **options: Any,
) -> ExportResult:
    request = ExportRequest(
        output_dir=out,
        destination=destination,
        format=export_format,
        splits=splits,
        options=ExportOptions(**options),
    )
    return export_dataset(request, open_split=open_split)


def expected_patches(split: Split) -> dict[str, RgbImage]:
    """Pixels of every patch of a split by its export name, in plan order."""
    return {
        f"{slide_id}_{row:06d}": pixels_of(slide_id, split, row)
        for slide_id, n_patches in SLIDES[split].items()
        for row in range(n_patches)
    }


def same_pixels(found: Mapping[str, RgbImage], expected: Mapping[str, RgbImage]) -> bool:
    """Whether names, their order and all pixels are the same."""
    return list(found) == list(expected) and all(np.array_equal(found[name], expected[name]) for name in expected)


def decoded(paths: list[Path]) -> dict[str, RgbImage]:
    return {path.stem: decode_png(path.read_bytes()) for path in paths}


def package(name: str) -> ModuleType:
    """Import a package that has no types."""
    return importlib.import_module(name)


def content_of(destination: Path) -> dict[str, object]:
    """Every file of an export; of LMDB the keys and values, because where they lie in the file is its own business."""
    content: dict[str, object] = {}
    for path in sorted(destination.rglob("*")):
        name = path.relative_to(destination).as_posix()
        if path.suffix == ".lmdb":
            with package("lmdb").open(str(path), readonly=True) as environment, environment.begin() as transaction:
                content[name] = dict(transaction.cursor())
        elif path.is_file() and path.parent.suffix != ".lmdb":
            content[name] = path.read_bytes()
    return content


class StoppedError(Exception):
    """Stands for whatever may stop an export."""


def stop() -> None:
    raise StoppedError


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(kw_only=True)
class Countdown:
    """Lets some patches of an export pass, over all splits, then stops it."""

    n_left: int
    end: Callable[[], None] = stop

    def __call__(self, finished: FinishedDataset, split: Split) -> Source:
        return Interrupted(source=open_source(finished, split), countdown=self)

    def count(self) -> None:
        if self.n_left == 0:
            self.end()
        self.n_left -= 1


@dataclass(kw_only=True)
class Interrupted:
    """A source that counts what is read from it."""

    source: Source
    countdown: Countdown = field(repr=False)

    @property
    def index(self) -> SplitIndex:
        return self.source.index

    def pixels(self, i: int) -> RgbImage:
        self.countdown.count()
        return self.source.pixels(i)

    def png(self, i: int) -> bytes:
        self.countdown.count()
        return self.source.png(i)


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document
