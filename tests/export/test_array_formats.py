"""Formats of few large files: lmdb, hdf5, webdataset."""

from __future__ import annotations

import gc
import json
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.export.helpers import (
    PATCH_WH_PX,
    SLIDES,
    content_of,
    expected_patches,
    export,
    make_source,
    package,
    same_pixels,
)
from wsi_extract.arrays import RgbImage
from wsi_extract.dataset import open_dataset
from wsi_extract.export import hdf5_files
from wsi_extract.export.names import mitosis_flags
from wsi_extract.export.options import Compression, Encoding, ExportFormat
from wsi_extract.export.webdataset_files import key_of
from wsi_extract.model import Split
from wsi_extract.storage import Store
from wsi_extract.stores.png import decode_png

STORES = (Store.PNG, Store.ZARR)
SHAPE = (PATCH_WH_PX[1], PATCH_WH_PX[0], 3)
FOUR_PATCHES_MB = 4 * PATCH_WH_PX[0] * PATCH_WH_PX[1] * 3 / 1e6


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("encoding", Encoding)
def test_lmdb_holds_patches_and_tables(tmp_path: Path, store: Store, encoding: Encoding) -> None:
    out = make_source(tmp_path / "out", store=store)
    export(out, tmp_path / "dest", ExportFormat.LMDB, encoding=encoding)
    for split in SLIDES:
        index = open_dataset(out, split).index
        path = tmp_path / "dest" / f"{split}.lmdb"
        with package("lmdb").open(str(path), readonly=True) as environment, environment.begin() as transaction:
            values: dict[bytes, bytes] = dict(transaction.cursor())
        meta = json.loads(values.pop(b"__meta__"))
        assert (meta["shape"], meta["encoding"], meta["n_patches"]) == (list(SHAPE), encoding, len(index))
        assert int(values.pop(b"__len__")) == len(index)
        keys = json.loads(values.pop(b"__keys__"))
        labels = np.frombuffer(values.pop(b"__labels__"), np.uint8)
        assert labels.tolist() == mitosis_flags(index).tolist()
        for name, dtype in (("box_offsets", "<i8"), ("category_id", "<i2"), ("is_crowd", "u1")):
            found = np.frombuffer(values.pop(f"__{name}__".encode()), dtype)
            assert found.tolist() == getattr(index, name).tolist()
        boxes = np.frombuffer(values.pop(b"__boxes_xywh__"), "<f8").reshape(-1, 4)
        assert np.array_equal(boxes, index.boxes_xywh)
        assert sorted(values) == sorted(key.encode() for key in keys)
        pixels = {key: _lmdb_pixels(values[key.encode()], encoding) for key in keys}
        assert same_pixels(pixels, expected_patches(split))


def _lmdb_pixels(value: bytes, encoding: Encoding) -> RgbImage:
    return decode_png(value) if encoding is Encoding.PNG else np.frombuffer(value, np.uint8).reshape(SHAPE)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("compression", Compression)
def test_hdf5_holds_patches_and_boxes(
    tmp_path: Path, store: Store, compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5_files, "PATCHES_PER_PART", 5)
    monkeypatch.setattr(hdf5_files, "NAMES_PER_WRITE", 5)
    out = make_source(tmp_path / "out", store=store)
    export(out, tmp_path / "dest", ExportFormat.HDF5, compression=compression)
    assert sorted(path.name for path in (tmp_path / "dest").iterdir()) == [
        "export.json",
        *sorted(f"{split}.h5" for split in SLIDES),
    ]
    for split in SLIDES:
        index = open_dataset(out, split).index
        with package("h5py").File(tmp_path / "dest" / f"{split}.h5") as file:
            images = file["images"]
            assert (images.shape, images.dtype) == ((len(index), *SHAPE), np.uint8)
            if len(index):
                assert images.chunks == (1, *SHAPE)
                assert images.compression == (None if compression is Compression.NONE else compression.value)
            names = file["names"].asstr()[:].tolist()
            assert same_pixels(dict(zip(names, images[:], strict=True)), expected_patches(split))
            assert file["labels"].dtype == np.int64
            assert file["labels"][:].tolist() == mitosis_flags(index).tolist()
            boxes = file["boxes"]
            assert boxes["offsets"][:].tolist() == index.box_offsets.tolist()
            assert np.array_equal(boxes["xywh"][:], index.boxes_xywh)
            assert boxes["category_id"][:].tolist() == index.category_id.tolist()
            assert boxes["is_crowd"][:].tolist() == index.is_crowd.tolist()


@pytest.mark.parametrize("store", STORES)
def test_webdataset_reads_what_was_written(tmp_path: Path, store: Store) -> None:
    out = make_source(tmp_path / "out", store=store)
    export(out, tmp_path / "dest", ExportFormat.WEBDATASET, shard_mb=FOUR_PATCHES_MB)
    names = sorted(path.name for path in (tmp_path / "dest").glob("*.tar"))
    assert names == ["train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"]
    for split, n_shards in ((Split.TRAIN, 3), (Split.VAL, 1)):
        index = open_dataset(out, split).index
        urls = [str(tmp_path / "dest" / f"{split}-{k:06d}.tar") for k in range(n_shards)]
        samples = _read_with_webdataset(urls)
        expected = expected_patches(split)
        keys: list[object] = [sample["__key__"] for sample in samples]
        assert keys == [key_of(name) for name in expected]
        found = {json.loads(sample["json"])["name"]: decode_png(sample["png"]) for sample in samples}
        assert same_pixels(found, expected)
        for i, sample in enumerate(samples):
            facts = json.loads(sample["json"])
            assert (facts["image_id"], facts["file_name"]) == (i + 1, index.file_name(i))
            assert facts["boxes_xywh"] == index.boxes_xywh[index.labels_of(i)].tolist()
            assert facts["category_id"] == index.category_id[index.labels_of(i)].tolist()
            assert facts["is_crowd"] == index.is_crowd[index.labels_of(i)].tolist()
            assert facts["label"] == int(mitosis_flags(index)[i])


def _read_with_webdataset(urls: list[str]) -> list[dict[str, bytes]]:
    """Read tar files as users of the package do; it leaves closing them to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        samples: list[dict[str, bytes]] = list(package("webdataset").WebDataset(urls, shardshuffle=False))
        gc.collect()
    return samples


def test_tar_files_hold_no_time_and_no_user(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    export(out, tmp_path / "dest", ExportFormat.WEBDATASET)
    with tarfile.open(tmp_path / "dest" / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 24
    assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, 0, "", "")
    }


def test_webdataset_can_be_shuffled(tmp_path: Path) -> None:
    out = make_source(tmp_path / "out")
    orders = []
    for number, seed in enumerate((None, 1, 1, 2)):
        dest = tmp_path / str(number)
        export(out, dest, ExportFormat.WEBDATASET, shuffle_seed=seed, splits=(Split.TRAIN,))
        with tarfile.open(dest / "train-000000.tar") as tar:
            orders.append([name for name in tar.getnames() if name.endswith(".png")])
    assert orders[1] == orders[2]
    assert orders[0] != orders[1] != orders[3]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[3])


@pytest.mark.parametrize("export_format", [ExportFormat.HDF5, ExportFormat.WEBDATASET])
def test_files_depend_on_the_data_set_only(tmp_path: Path, export_format: ExportFormat) -> None:
    out = make_source(tmp_path / "out")
    for name in ("first", "second"):
        export(out, tmp_path / name, export_format)
    assert content_of(tmp_path / "first") == content_of(tmp_path / "second")
