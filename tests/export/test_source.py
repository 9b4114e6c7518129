"""Patches on their way out: damage is named, and never copied."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.export.helpers import PATCH_WH_PX, export, make_source, pixels_of
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.export.options import ExportFormat
from wsi_extract.export.source import check_png, open_source, read_finished
from wsi_extract.model import Split
from wsi_extract.storage import Store
from wsi_extract.stores.png import encode_png

PNG = encode_png(pixels_of("a", Split.TRAIN, 0))


def test_whole_png_files_pass() -> None:
    check_png(PNG, wh_px=PATCH_WH_PX)


def test_every_truncation_is_noticed() -> None:
    for n_bytes in range(len(PNG)):
        with pytest.raises(ValueError, match=r"PNG|truncated"):
            check_png(PNG[:n_bytes], wh_px=PATCH_WH_PX)
    with pytest.raises(ValueError, match="3 bytes follow"):
        check_png(PNG + b"\0\0\0", wh_px=PATCH_WH_PX)


def test_a_flipped_bit_is_noticed_anywhere() -> None:
    for position in range(len(PNG)):
        damaged = bytearray(PNG)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ValueError, match=r"PNG|truncated|checksum"):
            check_png(bytes(damaged), wh_px=PATCH_WH_PX)


def test_other_images_are_noticed() -> None:
    for wh_px in ((16, 24), (24, 17)):
        with pytest.raises(ValueError, match="not an 8-bit RGB image"):
            check_png(PNG, wh_px=wh_px)
    body = b"IHDR" + struct.pack(">IIBBBBB", *PATCH_WH_PX, 16, 2, 0, 0, 0)
    deeper = PNG[:8] + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + PNG[33:]
    with pytest.raises(ValueError, match="not an 8-bit RGB image"):
        check_png(deeper, wh_px=PATCH_WH_PX)


@pytest.mark.parametrize("store", [Store.PNG, Store.ZARR, Store.BOTH])
def test_a_source_gives_the_pixels_of_the_store(tmp_path: Path, store: Store) -> None:
    finished = read_finished(make_source(tmp_path / "out", store=store))
    source = open_source(finished, Split.VAL)
    for row in range(3):
        expected = pixels_of("b.v1", Split.VAL, row)
        assert np.array_equal(source.pixels(row), expected)
        assert source.png(row) == encode_png(expected)


def test_missing_and_damaged_png_files_are_named(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    damaged, missing = sorted((out / "train2017" / "a").iterdir())[:2]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    missing.unlink()
    source = open_source(read_finished(out), Split.TRAIN)
    names = {source.index.file_name(i): i for i in range(7)}
    for path, what in ((damaged, "is damaged"), (missing, "is missing")):
        with pytest.raises(IntegrityError, match=what) as caught:
            source.png(names[f"a/{path.name}"])
        assert path.name in str(caught.value)
        assert "slide a" in str(caught.value)


@pytest.mark.parametrize("export_format", list(ExportFormat))
def test_damaged_shards_stop_every_export(tmp_path: Path, export_format: ExportFormat) -> None:
    out = make_source(tmp_path / "out", store=Store.ZARR)
    shard = next((out / "patches.zarr" / "train" / "a" / "c" / "1").rglob("0"))
    while shard.is_dir():
        shard = shard / "0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match="slide a"):
        export(out, tmp_path / "dest", export_format)
    assert not (tmp_path / "dest" / "export.json").exists()


def test_folders_that_are_no_finished_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file"):
        with pytest.raises(InputError, match="no finished data set"):
            read_finished(tmp_path / name)
    out = make_source(tmp_path / "out")
    for damaged in (b"{", b"[]", b'{"settings": {"store": "tar"}, "splits": {}}', b'{"splits": {}}'):
        (out / "manifest.json").write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"manifest\.json is damaged"):
            read_finished(out)


def test_an_index_of_other_length_is_refused(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    path = out / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"n_images": 12', b'"n_images": 13'))
    with pytest.raises(IntegrityError, match="holds 12 patches of the split train"):
        open_source(read_finished(out), Split.TRAIN)


def test_a_changed_coco_document_is_not_copied(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    path = out / "annotations" / "instances_val2017.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="was changed"):
        export(out, tmp_path / "dest", ExportFormat.COCO_PNG)
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        export(out, tmp_path / "dest", ExportFormat.COCO_PNG)
    assert not (tmp_path / "dest" / "export.json").exists()
