"""Columns of an index: any portions, any library, no damage unnoticed."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import ZstdCodec

from wsi_extract.errors import IntegrityError
from wsi_extract.stores.arrays import CODECS, DATA_TYPES, ROWS_PER_CHUNK, ArrayAppender, Rows, read_array, write_array
from wsi_extract.stores.zarr_json import ArrayShape, array_document, group_document, sealed, write_document


def numbers(n_rows: int, *, data_type: str = "int64", row_shape: tuple[int, ...] = ()) -> Rows:
    """Rows of values that all differ, up to the type's range."""
    values = np.arange(1, 1 + n_rows * int(np.prod(row_shape, dtype=int))).reshape(n_rows, *row_shape)
    return (values % 127).astype(data_type) if np.dtype(data_type).itemsize == 1 else values.astype(data_type)


def append_all(folder: Path, portions: list[Rows], *, rows_per_chunk: int) -> None:
    appender = ArrayAppender(
        folder, data_type=portions[0].dtype.name, row_shape=portions[0].shape[1:], rows_per_chunk=rows_per_chunk
    )
    for portion in portions:
        appender.append(portion)
    appender.finish()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def open_with_zarr(folder: Path) -> Any:
    return zarr.open_array(folder, mode="r+")


def read_with_tensorstore(folder: Path) -> Any:
    store = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}, open=True).result()
    return store.read().result()


@pytest.mark.parametrize("data_type", DATA_TYPES)
@pytest.mark.parametrize("row_shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("n_rows", [0, 1, 7, 8, 9, 24])
def test_every_library_reads_the_same(tmp_path: Path, data_type: str, row_shape: tuple[int, ...], n_rows: int) -> None:
    rows = numbers(n_rows, data_type=data_type, row_shape=row_shape)
    append_all(tmp_path, [rows], rows_per_chunk=8)
    for back in (read_array(tmp_path), open_with_zarr(tmp_path)[...], read_with_tensorstore(tmp_path)):
        assert back.dtype == np.dtype(data_type)
        assert np.array_equal(back, rows)


def test_floats_come_back_bit_by_bit(tmp_path: Path) -> None:
    rows = np.array([0.1, -0.0, 5e-324, 1.7976931348623157e308, np.inf, np.nan])
    write_array(tmp_path, rows)
    assert read_array(tmp_path).tobytes() == rows.tobytes()


def test_the_last_chunk_is_full_and_padded_with_zeros(tmp_path: Path) -> None:
    append_all(tmp_path, [numbers(11)], rows_per_chunk=8)
    assert sorted(files_of(tmp_path)) == ["c/0", "c/1", "zarr.json"]
    array = open_with_zarr(tmp_path)
    assert array.chunks == (8,)
    array.resize((16,))
    assert array[8:].tolist() == [9, 10, 11, 0, 0, 0, 0, 0]


def test_an_array_of_one_chunk_has_a_chunk_of_its_rows(tmp_path: Path) -> None:
    append_all(tmp_path / "a", [numbers(5)], rows_per_chunk=ROWS_PER_CHUNK)
    write_array(tmp_path / "b", numbers(5))
    assert open_with_zarr(tmp_path / "a").chunks == (5,)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_no_rows_are_no_chunks(tmp_path: Path) -> None:
    write_array(tmp_path, numbers(0, row_shape=(4,)))
    assert list(files_of(tmp_path)) == ["zarr.json"]
    assert read_array(tmp_path).shape == (0, 4)


def test_memory_is_one_chunk(tmp_path: Path) -> None:
    appender = ArrayAppender(tmp_path, data_type="int64", rows_per_chunk=4)
    for start in range(0, 40, 5):
        appender.append(np.arange(start, start + 5))
        n_stored = 4 * len(list(tmp_path.glob("c/*")))
        assert 0 <= start + 5 - n_stored < 4
    appender.finish()
    assert read_array(tmp_path).tolist() == list(range(40))


def test_an_array_that_lies_there_is_replaced(tmp_path: Path) -> None:
    append_all(tmp_path / "a", [numbers(11, row_shape=(2,))], rows_per_chunk=4)
    for name in ("a", "b"):
        write_array(tmp_path / name, numbers(3))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    rows_per_chunk=st.integers(1, 10),
    data_type=st.sampled_from(DATA_TYPES),
    row_shape=st.sampled_from([(), (2,), (4,)]),
)
def test_portions_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    rows_per_chunk: int,
    data_type: str,
    row_shape: tuple[int, ...],
) -> None:
    folder = tmp_path_factory.mktemp("arrays")
    rows = numbers(sum(sizes), data_type=data_type, row_shape=row_shape)
    bounds = [0, *itertools.accumulate(sizes)]
    portions = [rows[start:stop] for start, stop in itertools.pairwise(bounds)]
    append_all(folder / "portions", portions, rows_per_chunk=rows_per_chunk)
    append_all(folder / "whole", [rows], rows_per_chunk=rows_per_chunk)
    back = read_array(folder / "portions")
    assert back.dtype == rows.dtype
    assert np.array_equal(back, rows)
    assert files_of(folder / "portions") == files_of(folder / "whole")


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(np.zeros((3, 2), dtype=np.int32), id="type"),
        pytest.param(np.zeros((3, 3), dtype=np.int64), id="shape"),
        pytest.param(np.zeros(3, dtype=np.int64), id="dimensions"),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path: Path, rows: Rows) -> None:
    appender = ArrayAppender(tmp_path, data_type="int64", row_shape=(2,))
    with pytest.raises(ValueError, match=r"takes rows of shape \(2,\) and type int64"):
        appender.append(rows)


def test_types_and_shapes_nobody_needs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not bool"):
        write_array(tmp_path, np.zeros(3, dtype=np.bool_))
    with pytest.raises(ValueError, match="cannot have"):
        write_array(tmp_path, np.zeros((3, 0), dtype=np.uint8))


def test_an_unfinished_array_does_not_open(tmp_path: Path) -> None:
    write_array(tmp_path, numbers(5))
    appender = ArrayAppender(tmp_path, data_type="int64", rows_per_chunk=2)
    appender.append(numbers(5))
    with pytest.raises(IntegrityError, match=r"zarr\.json is missing"):
        read_array(tmp_path)
    appender.finish()
    assert np.array_equal(read_array(tmp_path), numbers(5))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_chunk_is_named(tmp_path: Path, number: int) -> None:
    append_all(tmp_path, [numbers(11)], rows_per_chunk=4)
    (tmp_path / "c" / str(number)).unlink()
    with pytest.raises(IntegrityError, match=rf"c/{number} is missing"):
        read_array(tmp_path)


def test_a_chunk_of_another_array_is_refused(tmp_path: Path) -> None:
    append_all(tmp_path / "a", [numbers(8)], rows_per_chunk=4)
    append_all(tmp_path / "b", [numbers(10)], rows_per_chunk=5)
    (tmp_path / "a" / "c" / "1").write_bytes((tmp_path / "b" / "c" / "1").read_bytes())
    with pytest.raises(IntegrityError, match="c/1 is damaged: it does not hold 32 bytes"):
        read_array(tmp_path / "a")


def test_a_chunk_without_checksum_is_refused(tmp_path: Path) -> None:
    write_array(tmp_path / "a", numbers(8))
    other = zarr.create_array(tmp_path / "b", shape=(8,), chunks=(8,), dtype="int64", compressors=ZstdCodec(level=3))
    other[...] = numbers(8)
    (tmp_path / "a" / "c" / "0").write_bytes((tmp_path / "b" / "c" / "0").read_bytes())
    with pytest.raises(IntegrityError, match="c/0 is damaged: it has no checksum"):
        read_array(tmp_path / "a")


def test_other_documents_are_refused(tmp_path: Path) -> None:
    raw = [{"name": "bytes", "configuration": {"endian": "little"}}]
    outline = ArrayShape(shape=(2,), data_type="int64", chunk_shape=(2,))
    unknown = ArrayShape(shape=(2,), data_type="float32", chunk_shape=(2,))
    for document in (
        group_document({}),
        array_document(outline, codecs=raw, attributes={}),
        array_document(unknown, codecs=raw, attributes={}),
    ):
        write_document(tmp_path, sealed(document))
        with pytest.raises(IntegrityError, match=r"zarr\.json is not an array of an index"):
            read_array(tmp_path)


# --- damage --------------------------------------------------------------------------------------------------------


def is_refused(folder: Path, path: Path, *, else_holds: Rows) -> bool:
    try:
        back = read_array(folder)
    except IntegrityError as error:
        return str(path) in error.message
    assert np.array_equal(back, else_holds)
    return False


def test_every_truncated_chunk_is_refused(tmp_path: Path) -> None:
    write_array(tmp_path, numbers(9))
    path = tmp_path / "c" / "0"
    data = path.read_bytes()
    for damaged in [*(data[:length] for length in range(len(data))), data + b"\0"]:
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"c/0"):
            read_array(tmp_path)


@pytest.mark.parametrize("name", ["zarr.json", "c/0", "c/1"])
def test_no_flipped_bit_changes_a_number(tmp_path: Path, name: str) -> None:
    """A few bits of a zstd frame mean nothing to its decoder; each byte holds some that do."""
    rows = numbers(11, row_shape=(2,))
    append_all(tmp_path, [rows], rows_per_chunk=8)
    path = tmp_path / (name if name == "zarr.json" else f"{name}/0")
    data = path.read_bytes()
    for position in range(len(data)):
        n_noticed = 0
        for bit in range(8):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
            n_noticed += is_refused(tmp_path, path, else_holds=rows)
        assert n_noticed == 8 or (name != "zarr.json" and n_noticed > 0)


@pytest.mark.parametrize(
    ("shape", "chunk_shape", "match"),
    [
        ((10**12,), (8,), "c/2 is missing"),
        ((8,), (10**12,), "chunks of 8000000000000 bytes"),
    ],
)
def test_sizes_that_no_file_bears_out_take_no_memory(
    tmp_path: Path, shape: tuple[int, ...], chunk_shape: tuple[int, ...], match: str
) -> None:
    append_all(tmp_path, [numbers(16)], rows_per_chunk=8)
    outline = ArrayShape(shape=shape, data_type="int64", chunk_shape=chunk_shape)
    write_document(tmp_path, sealed(array_document(outline, codecs=CODECS, attributes={})))
    with pytest.raises(IntegrityError, match=match):
        read_array(tmp_path)
