"""Files that are valid, and yet not those of the data set: every export stops and names slide and file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.export.helpers import CODEC, PATCH_WH_PX, content_of, export, make_source
from tests.helpers_dataset import own_dataset
from wsi_extract.__main__ import main
from wsi_extract.errors import IntegrityError
from wsi_extract.export.options import ExportFormat
from wsi_extract.export.recorded import RecordedFiles
from wsi_extract.export.source import open_source, read_finished
from wsi_extract.model import Split
from wsi_extract.state.layout import STATE, patch_shard_path, record_path
from wsi_extract.state.records import encode_document, read_document
from wsi_extract.storage import Store
from wsi_extract.stores.png import encode_png
from wsi_extract.stores.shards import write_shard

BLACK = np.zeros((PATCH_WH_PX[1], PATCH_WH_PX[0], 3), dtype=np.uint8)
FORMATS = list(ExportFormat)


def shard_of(out: Path, number: int) -> Path:
    return patch_shard_path(out, slide_id="a", split=Split.TRAIN, shard=number)


def put_black_png(out: Path) -> Path:
    path = sorted((out / "train2017" / "a").iterdir())[3]
    path.write_bytes(encode_png(BLACK))
    return path


def put_black_shard(out: Path) -> Path:
    path = shard_of(out, 1)
    write_shard(path, [(row, CODEC.encode(BLACK)) for row in range(3)], n_chunks=4)
    return path


def swap_shards(out: Path) -> Path:
    """Shards of two slides that hold the same number of patches."""
    path, other = shard_of(out, 0), patch_shard_path(out, slide_id="b.v1", split=Split.TRAIN, shard=0)
    path.rename(out / "kept")
    other.rename(path)
    (out / "kept").rename(other)
    return path


@pytest.mark.parametrize("export_format", FORMATS)
@pytest.mark.parametrize(
    ("store", "replace"),
    [(Store.PNG, put_black_png), (Store.ZARR, put_black_shard), (Store.ZARR, swap_shards)],
    ids=["png", "shard", "swapped shards"],
)
def test_a_valid_file_that_was_not_recorded_stops_every_export(
    tmp_path: Path, export_format: ExportFormat, store: Store, replace: Callable[[Path], Path]
) -> None:
    out = make_source(tmp_path / "out", store=store)
    path = replace(out)
    with pytest.raises(IntegrityError, match=r"slide a .*is not the file that was recorded") as caught:
        export(out, tmp_path / "dest", export_format)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "dest" / "export.json").exists()


@pytest.mark.parametrize(("replace", "export_format"), [(put_black_png, "yolo"), (put_black_shard, "lmdb")])
def test_of_two_stores_the_one_that_is_read_is_compared(
    tmp_path: Path, replace: Callable[[Path], Path], export_format: str
) -> None:
    out = make_source(tmp_path / "out", store=Store.BOTH)
    replace(out)
    with pytest.raises(IntegrityError, match="is not the file that was recorded"):
        export(out, tmp_path / "dest", ExportFormat(export_format))


def test_pixel_shards_are_compared(tmp_path: Path) -> None:
    out = own_dataset(tmp_path, setting="pixels")
    export(out, tmp_path / "whole", ExportFormat.COCO_PNG)
    shards = sorted(path for path in out.glob("pixels.zarr/*/0/c/0/*/*") if path.is_file())
    first, second = shards[0], next(path for path in shards if path.parts[-6] != shards[0].parts[-6])
    first.rename(out / "kept")
    second.rename(first)
    (out / "kept").rename(second)
    with pytest.raises(IntegrityError, match="is not the file that was recorded") as caught:
        export(out, tmp_path / "dest", ExportFormat.COCO_PNG)
    assert str(first) in str(caught.value) or str(second) in str(caught.value)


def test_a_pixel_record_that_is_lost_is_named(tmp_path: Path) -> None:
    out = own_dataset(tmp_path, setting="pixels")
    shutil.rmtree(out / STATE / "pixels")
    with pytest.raises(IntegrityError, match=r"\.json is missing, or the record of something else"):
        export(out, tmp_path / "dest", ExportFormat.LMDB)


@pytest.mark.parametrize("store", [Store.PNG, Store.ZARR])
def test_records_that_are_lost_or_of_another_slide_are_named(tmp_path: Path, store: Store) -> None:
    out = make_source(tmp_path / "out", store=store)
    last, all_of_a = record_path(out, slide_id="a", index=1), record_path(out, slide_id="a", index=0)
    kept = last.read_bytes()
    last.unlink()
    with pytest.raises(IntegrityError, match=r"slide a: the index and the records in .* name different patches"):
        export(out, tmp_path / "dest", ExportFormat.LMDB)
    last.write_bytes(record_path(out, slide_id="b.v1", index=1).read_bytes())
    with pytest.raises(IntegrityError, match=r"slide a: .* the record of something else"):
        export(out, tmp_path / "dest", ExportFormat.LMDB)
    last.write_bytes(kept[:-5])
    with pytest.raises(IntegrityError, match="is damaged"):
        export(out, tmp_path / "dest", ExportFormat.LMDB)
    shutil.rmtree(all_of_a.parent)
    with pytest.raises(IntegrityError, match=r"slide a: .* is missing"):
        export(out, tmp_path / "dest", ExportFormat.LMDB)


def test_a_record_without_the_file_vouches_for_nothing(tmp_path: Path) -> None:
    """The records tell of shards only; PNG files that lie there all the same were written by nobody knows whom."""
    out = make_source(tmp_path / "out", store=Store.BOTH)
    path = record_path(out, slide_id="a", index=0)
    document = read_document(path)
    assert document is not None
    del document["patches"][0]["sha256"]
    path.write_bytes(encode_document(document))
    with pytest.raises(IntegrityError, match="is not the file that was recorded"):
        export(out, tmp_path / "dest", ExportFormat.YOLO)


def test_a_shard_is_read_for_comparison_once(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out", store=Store.ZARR)
    source = open_source(read_finished(out), Split.TRAIN)
    recorded = source.recorded
    assert isinstance(recorded, RecordedFiles)
    recorded.check_shards(0)
    for number in range(2):
        shard_of(out, number).unlink()
    recorded.check_shards(3)  # the same shard: not read again
    with pytest.raises(IntegrityError, match=r"shard .* is missing"):
        recorded.check_shards(4)


@pytest.mark.parametrize("store", [Store.PNG, Store.ZARR])
def test_without_records_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], store: Store) -> None:
    out = make_source(tmp_path / "out", store=store)
    arguments = ["export", str(out), "--to", "yolo", "--dest"]
    assert main([*arguments, str(tmp_path / "checked")]) == 0
    assert capsys.readouterr().err == ""
    shutil.rmtree(out / STATE)
    assert main([*arguments, str(tmp_path / "unchecked")]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {out} has no folder {STATE}")
    assert warning.count("\n") == 1
    assert content_of(tmp_path / "unchecked") == content_of(tmp_path / "checked")
