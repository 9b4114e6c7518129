"""The pixel store: windows are the pixels that were stored, whoever reads them; what is not there is never made up."""

from __future__ import annotations

import pickle
from dataclasses import replace
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_extract.arrays import BoolImage, RgbImage
from wsi_extract.errors import IntegrityError
from wsi_extract.state.layout import pixel_image_folder, pixel_shard_path
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.pixel_array import (
    CHUNK_PX,
    CHUNKS_PER_SHARD,
    CHUNKS_PER_SIDE,
    OutsideCoverageError,
    PixelArray,
    chunks_in_shard,
    chunks_shape,
    open_pixel_array,
    shards_of,
    write_pixel_documents,
    write_pixel_shard,
)
from wsi_extract.stores.shards import ShardReader, write_shard
from wsi_extract.stores.zarr_json import DOCUMENT_NAME, PIXEL_ARRAY, patch_array_document, sealed, write_document

ZSTD, NONE = PixelCodec.of(CodecName.ZSTD), PixelCodec.of(CodecName.NONE)
SLIDE = "case_7"
coverages = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


def noise(width: int, height: int, *, seed: int = 0) -> RgbImage:
    """Return pixels of which no two chunks are alike, and that still compress quickly."""
    return np.random.default_rng(seed).integers(100, 116, (height, width, 3), dtype=np.uint8)


def chunk_of(rgb: RgbImage, row: int, column: int) -> RgbImage:
    part = rgb[row * CHUNK_PX : (row + 1) * CHUNK_PX, column * CHUNK_PX : (column + 1) * CHUNK_PX]
    chunk: RgbImage = np.zeros((CHUNK_PX, CHUNK_PX, 3), dtype=np.uint8)
    chunk[: part.shape[0], : part.shape[1]] = part
    return chunk


def write_image(out: Path, rgb: RgbImage, coverage: BoolImage, *, codec: PixelCodec = ZSTD) -> None:
    """Write the covered chunks of an image, and its documents."""
    for row, column in shards_of(coverage):
        first_row, first_column = row * CHUNKS_PER_SIDE, column * CHUNKS_PER_SIDE
        places = np.argwhere(chunks_in_shard(coverage, row=row, column=column)).tolist()
        chunks = ((y * CHUNKS_PER_SIDE + x, chunk_of(rgb, first_row + y, first_column + x)) for y, x in places)
        write_pixel_shard(pixel_shard_path(out, slide_id=SLIDE, row=row, column=column), chunks, codec=codec)
    write_pixel_documents(
        out,
        slide_id=SLIDE,
        size_wh_px=(rgb.shape[1], rgb.shape[0]),
        um_per_px_xy=(0.25, 0.5),
        codec=codec,
        attributes={"level": 1},
    )


def whole(rgb: RgbImage) -> BoolImage:
    return np.ones(chunks_shape((rgb.shape[1], rgb.shape[0])), dtype=np.bool_)


def stored_image(out: Path, *, width: int = 300, height: int = 200, codec: PixelCodec = ZSTD) -> tuple[RgbImage, Path]:
    """Write a small image of 3 x 2 chunks; return it and its only shard."""
    rgb = noise(width, height)
    write_image(out, rgb, whole(rgb), codec=codec)
    return rgb, pixel_shard_path(out, slide_id=SLIDE, row=0, column=0)


def read(array: PixelArray, x: int, y: int, *, width: int, height: int) -> RgbImage:
    out: RgbImage = np.full((height, width, 3), 7, dtype=np.uint8)
    array.read_window(x, y, out)
    return out


# --- windows -------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    size_wh=st.sampled_from([(1, 1), (127, 129), (128, 256), (300, 500), (2049, 140), (150, 2300)]),
    codec=st.sampled_from([ZSTD, NONE]),
    data=st.data(),
)
def test_windows_are_those_of_a_plain_array(
    tmp_path_factory: pytest.TempPathFactory, size_wh: tuple[int, int], codec: PixelCodec, data: st.DataObject
) -> None:
    width, height = size_wh
    coverage = data.draw(hnp.arrays(np.bool_, chunks_shape(size_wh), elements=st.integers(0, 3).map(bool)))
    out, rgb = tmp_path_factory.mktemp("pixels"), noise(width, height)
    write_image(out, rgb, coverage, codec=codec)
    is_stored = np.kron(coverage, np.ones((CHUNK_PX, CHUNK_PX), dtype=np.bool_))[:height, :width]
    array = open_pixel_array(out, slide_id=SLIDE, coverage=coverage)
    for _ in range(10):
        x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
        if is_stored[y0:y1, x0:x1].all():
            assert np.array_equal(read(array, x0, y0, width=x1 - x0, height=y1 - y0), rgb[y0:y1, x0:x1])
        else:
            with pytest.raises(OutsideCoverageError):
                read(array, x0, y0, width=x1 - x0, height=y1 - y0)


@pytest.mark.parametrize("codec", [ZSTD, NONE], ids=["zstd", "none"])
def test_a_window_may_be_a_part_of_a_larger_array(tmp_path: Path, codec: PixelCodec) -> None:
    rgb, _ = stored_image(tmp_path, codec=codec)
    batch: RgbImage = np.full((2, 150, 400, 3), 7, dtype=np.uint8)
    open_pixel_array(tmp_path, slide_id=SLIDE, coverage=whole(rgb)).read_window(20, 30, batch[1, 5:145, 10:290])
    assert np.array_equal(batch[1, 5:145, 10:290], rgb[30:170, 20:300])
    batch[1, 5:145, 10:290] = 7
    assert (batch == 7).all()


@pytest.mark.parametrize(
    ("x", "y", "width", "height"),
    [
        pytest.param(-1, 0, 10, 10, id="left of it"),
        pytest.param(0, -1, 10, 10, id="above it"),
        pytest.param(291, 0, 10, 10, id="over the right edge, into the padding"),
        pytest.param(0, 191, 10, 10, id="over the lower edge, into the padding"),
        pytest.param(5000, 5000, 1, 1, id="far away"),
        pytest.param(0, 0, 301, 200, id="too wide"),
    ],
)
def test_a_window_that_leaves_the_image_is_refused(tmp_path: Path, x: int, y: int, width: int, height: int) -> None:
    rgb, _ = stored_image(tmp_path)
    array = open_pixel_array(tmp_path, slide_id=SLIDE, coverage=whole(rgb))
    with pytest.raises(ValueError, match=rf"case_7: the window of {width} x {height} px .* 300 x 200 px"):
        read(array, x, y, width=width, height=height)


@given(coverage=coverages)
def test_every_covered_chunk_lies_in_one_shard(coverage: BoolImage) -> None:
    found = np.zeros(coverage.shape, dtype=np.int64)
    shards = list(shards_of(coverage))
    for row, column in shards:
        rows, columns = np.nonzero(chunks_in_shard(coverage, row=row, column=column))
        assert len(rows)
        np.add.at(found, (rows + row * CHUNKS_PER_SIDE, columns + column * CHUNKS_PER_SIDE), 1)
    assert shards == sorted(set(shards))
    assert np.array_equal(found, coverage)


# --- what is not there ---------------------------------------------------------------------------------------------


def test_pixels_outside_the_coverage_are_not_a_fault_of_the_store(tmp_path: Path) -> None:
    rgb = noise(300, 200)
    coverage = whole(rgb)
    coverage[1, 2] = False
    write_image(tmp_path, rgb, coverage)
    array = open_pixel_array(tmp_path, slide_id=SLIDE, coverage=coverage)
    with pytest.raises(OutsideCoverageError, match=r"coverage of slide case_7: 1 of its 6 chunks .*--coverage tissue"):
        read(array, 100, 100, width=200, height=100)
    assert np.array_equal(read(array, 0, 0, width=256, height=200), rgb[:, :256])


def write_without_chunk(shard: Path, rgb: RgbImage) -> None:
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    write_pixel_shard(shard, ((y * CHUNKS_PER_SIDE + x, chunk_of(rgb, y, x)) for y, x in places), codec=ZSTD)


def write_cut_short(shard: Path, rgb: RgbImage) -> None:
    places = [(y, x) for y in range(2) for x in range(3)]
    data = {y * CHUNKS_PER_SIDE + x: ZSTD.encode(chunk_of(rgb, y, x)) for y, x in places}
    write_shard(shard, ((number, each[:-1] if number == 18 else each) for number, each in data.items()), n_chunks=256)


def write_other_size(shard: Path, rgb: RgbImage) -> None:
    chunks = ((number, ZSTD.encode(rgb[:64, :64])) for number in range(CHUNKS_PER_SHARD))
    write_shard(shard, chunks, n_chunks=CHUNKS_PER_SHARD)


def remove(shard: Path, _: RgbImage) -> None:
    shard.unlink()


def truncate(shard: Path, _: RgbImage) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(write_without_chunk, "does not hold it", id="the chunk is lost"),
        pytest.param(remove, "is missing", id="the shard is lost"),
        pytest.param(truncate, "truncated", id="the shard is cut off"),
        pytest.param(write_cut_short, "damaged", id="the chunk is cut off"),
        pytest.param(write_other_size, "12288 bytes of pixels", id="the chunk has another size"),
    ],
)
def test_a_lost_or_damaged_chunk_is_named(tmp_path: Path, damage: Any, reason: str) -> None:
    rgb, shard = stored_image(tmp_path)
    damage(shard, rgb)
    array = open_pixel_array(tmp_path, slide_id=SLIDE, coverage=whole(rgb))
    with pytest.raises(IntegrityError, match=reason) as caught:
        read(array, 280, 190, width=20, height=10)
    assert "row 1, column 2 of slide case_7" in str(caught.value)
    assert str(shard) in str(caught.value)


def test_no_flipped_bit_of_a_shard_gives_wrong_pixels(tmp_path: Path) -> None:
    rgb: RgbImage = np.full((100, 200, 3), 9, dtype=np.uint8)
    write_image(tmp_path, rgb, whole(rgb))
    n_bytes = pixel_shard_path(tmp_path, slide_id=SLIDE, row=0, column=0).stat().st_size
    n_chunk_bytes = n_bytes - CHUNKS_PER_SHARD * 16 - 4
    assert n_chunk_bytes < 600
    bits = [*range(8 * n_chunk_bytes), *range(8 * n_chunk_bytes, 8 * n_bytes, 61)]
    # zstd knows several ways to write the same pixels, and some flips turn one into another.
    assert count_harmless_flips(tmp_path, rgb, bits=bits) < len(bits) / 100


def test_no_flipped_bit_of_raw_pixels_stays_unnoticed(tmp_path: Path) -> None:
    rgb, shard = stored_image(tmp_path, width=200, height=100, codec=NONE)
    bits = np.random.default_rng(1).integers(0, 8 * shard.stat().st_size, 300).tolist()
    assert count_harmless_flips(tmp_path, rgb, bits=bits) == 0


def count_harmless_flips(out: Path, rgb: RgbImage, *, bits: list[int]) -> int:
    """Flip one bit of the shard after the other and read all; return how many went unnoticed and changed nothing."""
    shard = pixel_shard_path(out, slide_id=SLIDE, row=0, column=0)
    array = open_pixel_array(out, slide_id=SLIDE, coverage=whole(rgb))
    data, messages = shard.read_bytes(), []
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(damaged)
        try:
            pixels = read(replace(array, shards=ShardReader()), 0, 0, width=rgb.shape[1], height=rgb.shape[0])
        except IntegrityError as error:
            messages.append(error.message)
            continue
        assert np.array_equal(pixels, rgb)
    assert all(str(shard) in message and "slide case_7" in message for message in messages)
    return len(bits) - len(messages)


# --- documents and processes ---------------------------------------------------------------------------------------


def test_an_image_without_documents_does_not_open(tmp_path: Path) -> None:
    rgb, _ = stored_image(tmp_path)
    document = pixel_image_folder(tmp_path, slide_id=SLIDE) / PIXEL_ARRAY / DOCUMENT_NAME
    document.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        open_pixel_array(tmp_path, slide_id=SLIDE, coverage=whole(rgb))


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    rgb, _ = stored_image(tmp_path)
    other = patch_array_document(
        n_patches=3, patch_wh_px=(128, 128), patches_per_shard=3, codecs=ZSTD.to_zarr(), attributes={}
    )
    write_document(pixel_image_folder(tmp_path, slide_id=SLIDE) / PIXEL_ARRAY, sealed(other))
    with pytest.raises(IntegrityError, match=r"slide case_7: .*zarr\.json is not an array of pixels"):
        open_pixel_array(tmp_path, slide_id=SLIDE, coverage=whole(rgb))


def test_the_coverage_of_another_slide_is_refused(tmp_path: Path) -> None:
    stored_image(tmp_path)
    with pytest.raises(IntegrityError, match=r"case_7.*coverage of \(3, 3\) chunks does not fit 300 x 200 px"):
        open_pixel_array(tmp_path, slide_id=SLIDE, coverage=np.ones((3, 3), dtype=np.bool_))


def test_a_chunk_of_another_shape_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a chunk has the shape \(128, 128, 3\), got \(64, 128, 3\)"):
        write_pixel_shard(tmp_path / "0", [(0, noise(128, 64))], codec=ZSTD)
    assert list(tmp_path.iterdir()) == []


def send_window(array: PixelArray, sender: Connection) -> None:
    sender.send_bytes(read(array, 90, 40, width=150, height=110).tobytes())


@pytest.mark.parametrize("context", [get_context("fork"), get_context("spawn")], ids=["fork", "spawn"])
def test_an_array_in_use_serves_other_processes(tmp_path: Path, context: Any) -> None:
    rgb, _ = stored_image(tmp_path)
    array = open_pixel_array(tmp_path, slide_id=SLIDE, coverage=whole(rgb), shards=ShardReader(max_open=1))
    expected = read(array, 90, 40, width=150, height=110)
    receiver, sender = Pipe(duplex=False)
    process = context.Process(target=send_window, args=(array, sender))
    process.start()
    sender.close()
    data = receiver.recv_bytes()
    process.join()
    receiver.close()
    assert data == expected.tobytes() == rgb[40:150, 90:240].tobytes()
    assert np.array_equal(read(pickle.loads(pickle.dumps(array)), 90, 40, width=150, height=110), expected)


# --- other libraries -----------------------------------------------------------------------------------------------


def read_with_zarr_python(folder: Path) -> Any:
    return zarr.open_array(folder, mode="r")[...]


def read_with_zarrs(folder: Path) -> Any:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_array(folder, mode="r")[...]


def read_with_tensorstore(folder: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    return ts.open(spec, open=True).result().read().result()


@pytest.mark.parametrize("codec", [ZSTD, NONE], ids=["zstd", "none"])
@pytest.mark.parametrize("reader", [read_with_zarr_python, read_with_zarrs, read_with_tensorstore])
def test_other_libraries_read_the_same_pixels(tmp_path: Path, reader: Any, codec: PixelCodec) -> None:
    rgb = noise(2300, 420)  # two shards, neither size a multiple of a chunk
    coverage = np.random.default_rng(3).random(whole(rgb).shape) < 0.6
    write_image(tmp_path, rgb, coverage, codec=codec)
    group = zarr.open_group(pixel_image_folder(tmp_path, slide_id=SLIDE), mode="r")
    ome: Any = group.attrs["ome"]
    dataset = ome["multiscales"][0]["datasets"][0]
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "y", "x"]
    assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 0.5, 0.25]}]
    pixels = reader(pixel_image_folder(tmp_path, slide_id=SLIDE) / dataset["path"])
    is_stored = np.kron(coverage, np.ones((CHUNK_PX, CHUNK_PX), dtype=np.bool_))[:420, :2300]
    assert np.array_equal(np.moveaxis(pixels, 0, -1), np.where(is_stored[..., None], rgb, 0))
