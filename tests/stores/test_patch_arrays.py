"""Patch arrays: read by other Zarr libraries, by position, while others write, never wrong without an error."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import IntegrityError
from wsi_extract.model import Split
from wsi_extract.state.layout import patch_array_folder, patch_shard_path
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.patch_arrays import open_patch_array, read_patch_into
from wsi_extract.stores.shards import ShardReader, write_shard
from wsi_extract.stores.zarr_json import patch_array_document, patch_attributes, sealed, write_document

SLIDE = "case_7"
N_ROWS = 8
CODECS = [pytest.param(PixelCodec.of(name), id=name.value) for name in (CodecName.ZSTD, CodecName.NONE)]


def make_patches(n: int = 21, *, height: int = 24, width: int = 40) -> RgbImage:
    """Return patches that tell their number and place; the last shard is not full."""
    y, x = np.mgrid[:height, :width]
    grain = np.random.default_rng(5).integers(0, 9, (n, height, width))
    channels = [np.arange(n)[:, None, None] * 7 + grain, y + grain, x + grain]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write_store(output_dir: Path, patches: RgbImage, codec: PixelCodec) -> Path:
    """Write the patches, in the order of reading windows rather than of rows."""
    for shard, start in enumerate(range(0, len(patches), N_ROWS)):
        rows = list(range(start, min(start + N_ROWS, len(patches))))
        path = patch_shard_path(output_dir, slide_id=SLIDE, split=Split.TRAIN, shard=shard)
        write_shard(path, ((row - start, codec.encode(patches[row])) for row in rows[::-1]), n_chunks=N_ROWS)
    folder = patch_array_folder(output_dir, slide_id=SLIDE, split=Split.TRAIN)
    attributes = patch_attributes(
        slide_id=SLIDE, split="train", level=0, l0_per_px_xy=(1.0, 1.0), um_per_px_xy=(0.25, 0.25)
    )
    document = patch_array_document(
        n_patches=len(patches),
        patch_wh_px=(patches.shape[2], patches.shape[1]),
        patches_per_shard=N_ROWS,
        codecs=codec.to_zarr(),
        attributes=attributes,
    )
    write_document(folder, sealed(document))
    return folder


def read_all(output_dir: Path) -> RgbImage:
    array = open_patch_array(output_dir, slide_id=SLIDE, split=Split.TRAIN)
    width, height = array.patch_wh_px
    out = np.zeros((array.n_patches, height, width, 3), dtype=np.uint8)
    with ShardReader() as shards:
        for row in range(array.n_patches):
            read_patch_into(array, row, out[row], shards=shards)
    return out


def with_zarr_python(folder: Path) -> Any:
    return zarr.open_array(folder, mode="r")[:]


def with_zarrs(folder: Path) -> Any:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_array(folder, mode="r")[:]


def with_tensorstore(folder: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    return tensorstore.open(spec, open=True, read=True).result().read().result()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("reader", [with_zarr_python, with_zarrs, with_tensorstore])
def test_other_libraries_read_the_same_patches(
    tmp_path: Path, reader: Callable[[Path], Any], codec: PixelCodec
) -> None:
    patches = make_patches()
    np.testing.assert_array_equal(reader(write_store(tmp_path, patches, codec)), patches)


@pytest.mark.parametrize("name", CodecName)
def test_rows_are_read_by_position(tmp_path: Path, name: CodecName) -> None:
    codec = PixelCodec.of(name)
    patches = make_patches()
    write_store(tmp_path, patches, codec)
    found = read_all(tmp_path)
    if codec.is_lossless:
        np.testing.assert_array_equal(found, patches)
    else:
        assert np.abs(found.astype(int) - patches).mean() < 6


def test_ordered_chunks_give_the_very_bytes_of_zarr_python(tmp_path: Path) -> None:
    """Without compression, whose bytes depend on the version of the compressor."""
    patches, codec = make_patches(N_ROWS), PixelCodec.of(CodecName.NONE)
    folder = write_store(tmp_path / "theirs", patches, codec)
    shard = patch_shard_path(tmp_path / "theirs", slide_id=SLIDE, split=Split.TRAIN, shard=0)
    shard.unlink()
    zarr.open_array(folder, mode="r+")[:] = patches
    ours = tmp_path / "ours"
    write_shard(ours, ((row, codec.encode(patch)) for row, patch in enumerate(patches)), n_chunks=N_ROWS)
    assert ours.read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("codec", CODECS)
def test_every_flipped_bit_of_a_shard_is_noticed_or_harmless(tmp_path: Path, codec: PixelCodec) -> None:
    patches = make_patches(2, height=6, width=8)
    write_store(tmp_path, patches, codec)
    path = patch_shard_path(tmp_path, slide_id=SLIDE, split=Split.TRAIN, shard=0)
    whole = path.read_bytes()
    n_noticed = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_all(tmp_path)
        except IntegrityError as error:
            assert SLIDE in error.message  # noqa: PT017  # a flip may be harmless, so no pytest.raises
            n_noticed += 1
        else:
            np.testing.assert_array_equal(found, patches)
    assert n_noticed > 0.97 * 8 * len(whole)


def _read_for_ever(output_dir: Path, n_rounds: int) -> int:
    expected = make_patches()
    return sum(np.array_equal(read_all(output_dir), expected) for _ in range(n_rounds))


def test_reading_while_others_read_and_shards_are_written_anew(tmp_path: Path) -> None:
    """A shard is replaced by rename: readers see the old one or the new one, whole."""
    patches, codec = make_patches(), PixelCodec.of(CodecName.ZSTD)
    write_store(tmp_path, patches, codec)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        readers = [pool.apply_async(_read_for_ever, (tmp_path, 60)) for _ in range(2)]
        while not all(reader.ready() for reader in readers):
            write_store(tmp_path, patches, codec)
        assert [reader.get() for reader in readers] == [60, 60]
