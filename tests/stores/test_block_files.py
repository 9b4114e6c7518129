"""The files of one block: which there are, what is noted of them, and that their encoder is the one asked for."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wsi_extract.arrays import RgbImage
from wsi_extract.disk.files import is_temporary
from wsi_extract.state.records import SCHEMA, BlockDocument, PatchEntry
from wsi_extract.storage import CodecName, PngEncoder, Store
from wsi_extract.stores.block_files import BlockTarget, ShardPlace, files_of_block, write_block_files
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.png import encode_png

PLACE = ShardPlace(number=0, n_rows=8)


def pixels_of(row: int) -> RgbImage:
    return np.random.default_rng(row).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def patch_entry(row: int) -> PatchEntry:
    return {
        "row": row,
        "file_name": f"s/s_x{row}_y0.png",
        "x_l0": row,
        "y_l0": 0,
        "kind": "grid",
        "requested_kind": "grid",
        "anchor": None,
        "tissue_fraction": 1.0,
        "labels": [],
    }


def block_document(n_patches: int = 5) -> BlockDocument:
    return {
        "schema": SCHEMA,
        "slide_id": "s",
        "index": 0,
        "split": "train",
        "plan_digest": "d",
        "patch_wh_px": [16, 16],
        "level": 0,
        "l0_per_px_xy": [1.0, 1.0],
        "um_per_px_xy": None,
        "patches": [patch_entry(row) for row in range(n_patches)],
        "label_counts": {},
    }


def target_in(folder: Path, store: Store, *, png: PngEncoder = PngEncoder.ISAL) -> BlockTarget:
    return BlockTarget(output_dir=folder, store=store, codec=PixelCodec.of(CodecName.ZSTD), png=png)


@pytest.mark.parametrize("store", [Store.PNG, Store.BOTH])
@pytest.mark.parametrize("encoder", list(PngEncoder))
def test_png_files_come_from_the_encoder_of_the_target(tmp_path: Path, store: Store, encoder: PngEncoder) -> None:
    document, target = block_document(), target_in(tmp_path, store, png=encoder)
    write_block_files(document, ((row, pixels_of(row)) for row in (3, 1, 4, 0, 2)), target=target, place=PLACE)
    for entry in document["patches"]:
        data = (tmp_path / "train2017" / entry["file_name"]).read_bytes()
        assert data == encode_png(pixels_of(entry["row"]), encoder=encoder)
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_encoder_unless_another_is_asked_for_is_isal(tmp_path: Path) -> None:
    target = BlockTarget(output_dir=tmp_path, store=Store.PNG, codec=PixelCodec.of(CodecName.ZSTD))
    assert target.png is PngEncoder.ISAL


@pytest.mark.parametrize("store", [Store.PNG, Store.ZARR, Store.BOTH])
def test_the_noted_files_are_those_on_disk(tmp_path: Path, store: Store) -> None:
    document, target = block_document(), target_in(tmp_path, store)
    write_block_files(document, ((row, pixels_of(row)) for row in range(5)), target=target, place=PLACE)
    on_disk = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    assert dict(files_of_block(document, target=target)) == on_disk


@pytest.mark.parametrize("store", [Store.PNG, Store.ZARR, Store.BOTH])
def test_a_slide_that_breaks_in_the_middle_leaves_no_file(tmp_path: Path, store: Store) -> None:
    def patches() -> Iterator[tuple[int, RgbImage]]:
        yield from ((row, pixels_of(row)) for row in range(3))
        raise RuntimeError("the slide broke")

    with pytest.raises(RuntimeError, match="the slide broke"):
        write_block_files(block_document(), patches(), target=target_in(tmp_path, store), place=PLACE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("store", list(Store))
def test_the_check_sees_the_finished_document_when_all_is_durable_and_nothing_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    document, target = block_document(), target_in(tmp_path, store)
    durable: set[int] = set()
    fsync = os.fsync

    def traced(descriptor: int) -> None:
        time.sleep(0.01)  # a slow disk
        fsync(descriptor)
        durable.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", traced)
    seen: list[tuple[BlockDocument, list[bool]]] = []

    def check(finished: BlockDocument) -> None:
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.stat().st_ino for path in files} <= durable
        seen.append((copy.deepcopy(finished), [is_temporary(path.name) for path in files]))

    patches = ((row, pixels_of(row)) for row in range(5))
    write_block_files(document, patches, target=target, place=PLACE, check=check)
    n_files = len(list(files_of_block(document, target=target)))
    assert seen == [(document, [True] * n_files)]
    assert not any(is_temporary(path.name) for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("store", [Store.PNG, Store.ZARR, Store.BOTH])
def test_what_the_check_refuses_replaces_nothing(tmp_path: Path, store: Store) -> None:
    target = target_in(tmp_path, store)
    write_block_files(block_document(), ((row, pixels_of(row)) for row in range(5)), target=target, place=PLACE)
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(_finished: BlockDocument) -> None:
        raise ValueError("not the same")

    with pytest.raises(ValueError, match="not the same"):
        write_block_files(
            block_document(),
            ((row, pixels_of(row + 9)) for row in range(5)),
            target=target,
            place=PLACE,
            check=refuse,
        )
    assert before == {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.rglob("*") if path.is_file()}
