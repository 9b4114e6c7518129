"""Small Zarr v3 arrays: the columns of an index. Written as a stream of rows, read whole, without a Zarr library.

Chunks hold whole rows and end in the checksum of zstd; the last one is filled up with zeros, as Zarr demands. An
array that fits into one chunk has a chunk of just its rows. The same rows give the same bytes, however they arrive.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from wsi_extract.disk.durable import remove_tree
from wsi_extract.disk.files import write_atomically
from wsi_extract.errors import IntegrityError
from wsi_extract.stores.zarr_json import (
    DOCUMENT_NAME,
    ArrayShape,
    JsonObject,
    array_document,
    read_document,
    sealed,
    write_document,
)

Rows: TypeAlias = npt.NDArray[np.generic]
"""(N, ...) of one of `DATA_TYPES`."""

DATA_TYPES = ("int8", "int16", "int32", "int64", "uint8", "float64")
ROWS_PER_CHUNK = 2**18
MAX_CHUNK_BYTES = 2**28
"""Far above what is ever written: a document that claims more was made up."""
ZSTD_LEVEL = 3
CODECS = (
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}},
)
REMEDY = "Run the extraction again."


class ArrayAppender:
    """Write an array of unknown length, row by row; at most one chunk of it is held in memory.

    Until `finish` has written its document the array does not open.

    Parameters
    ----------
    folder
        The array's folder; an array that lies there is replaced.
    data_type
        One of `DATA_TYPES`.
    row_shape
        Shape of one row, ``()`` for a column of numbers.
    rows_per_chunk
        Rows of a full chunk.

    Raises
    ------
    ValueError
        When the type is none of `DATA_TYPES`, or rows hold nothing.
    """

    def __init__(
        self, folder: Path, *, data_type: str, row_shape: tuple[int, ...] = (), rows_per_chunk: int = ROWS_PER_CHUNK
    ) -> None:
        if rows_per_chunk < 1 or any(side < 1 for side in row_shape):
            raise ValueError(f"an array cannot have {rows_per_chunk} rows of shape {row_shape} per chunk")
        self._folder = folder
        self._type = _little_endian(data_type)
        self._row_shape = row_shape
        self._buffer = np.zeros((rows_per_chunk, *row_shape), dtype=self._type)
        self._n_buffered = 0
        self._n_chunks = 0
        remove_node(folder)

    def append(self, rows: Rows) -> None:
        """Add rows ``(N, *row_shape)`` of the array's type.

        Raises
        ------
        ValueError
            When they have another shape or type; nothing is converted.
        """
        if rows.shape[1:] != self._row_shape or rows.dtype != self._type:
            raise ValueError(
                f"{self._folder} takes rows of shape {self._row_shape} and type {self._type}, "
                f"got {rows.shape[1:]} and {rows.dtype}"
            )
        while len(rows):
            n_taken = min(len(rows), len(self._buffer) - self._n_buffered)
            self._buffer[self._n_buffered : self._n_buffered + n_taken] = rows[:n_taken]
            self._n_buffered += n_taken
            rows = rows[n_taken:]
            if self._n_buffered == len(self._buffer):
                self._write_chunk(self._buffer)

    def finish(self) -> None:
        """Write what is left, then the array's document."""
        rows_per_chunk = len(self._buffer)
        n_rows = self._n_chunks * rows_per_chunk + self._n_buffered
        if self._n_chunks == 0:
            rows_per_chunk = max(1, n_rows)
        if self._n_buffered:
            self._buffer[self._n_buffered : rows_per_chunk] = 0
            self._write_chunk(self._buffer[:rows_per_chunk])
        outline = ArrayShape(
            shape=(n_rows, *self._row_shape),
            data_type=self._type.name,
            chunk_shape=(rows_per_chunk, *self._row_shape),
        )
        write_document(self._folder, sealed(array_document(outline, codecs=CODECS, attributes={})))

    def _write_chunk(self, rows: Rows) -> None:
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, write_content_size=True)
        path = _chunk_path(self._folder, self._n_chunks, n_dimensions=rows.ndim)
        write_atomically(path, compressor.compress(rows.tobytes()))
        self._n_chunks += 1
        self._n_buffered = 0


def remove_node(folder: Path) -> None:
    """Remove the array or group at ``folder``, if there is one, with everything below it.

    Its document goes first: a node of which only a part was removed does not open.
    """
    (folder / DOCUMENT_NAME).unlink(missing_ok=True)
    if folder.exists():
        remove_tree(folder)


def write_array(folder: Path, rows: Rows) -> None:
    """Write a whole array ``(N, ...)`` of one of `DATA_TYPES`; one that lies at ``folder`` is replaced."""
    rows_per_chunk = max(1, min(len(rows), ROWS_PER_CHUNK))
    appender = ArrayAppender(folder, data_type=rows.dtype.name, row_shape=rows.shape[1:], rows_per_chunk=rows_per_chunk)
    appender.append(rows)
    appender.finish()


def read_array(folder: Path) -> Rows:
    """Return the array at ``folder``, whole.

    Raises
    ------
    IntegrityError
        When its document or a chunk is missing or damaged, or it is not an array of this module; names the file.
    """
    document = read_document(folder)
    try:
        outline = _outline_of(document)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder / DOCUMENT_NAME} is not an array of an index: {error}.", REMEDY) from error
    _refuse_made_up(folder, outline)
    rows = np.empty(outline.shape, dtype=_little_endian(outline.data_type))
    rows_per_chunk = outline.chunk_shape[0]
    for number, start in enumerate(range(0, len(rows), rows_per_chunk)):
        part = rows[start : start + rows_per_chunk]
        chunk_bytes = part.dtype.itemsize * int(np.prod(outline.chunk_shape))
        path = _chunk_path(folder, number, n_dimensions=rows.ndim)
        part[...] = _read_chunk(path, n_bytes=chunk_bytes, dtype=rows.dtype)[: part.size].reshape(part.shape)
    return rows


def _refuse_made_up(folder: Path, outline: ArrayShape) -> None:
    """Refuse sizes that the files do not bear out, before memory is taken for them.

    Raises
    ------
    IntegrityError
        When a chunk is missing, or would be larger than any that is written.
    """
    chunk_bytes = _little_endian(outline.data_type).itemsize * math.prod(outline.chunk_shape)
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise IntegrityError(f"{folder / DOCUMENT_NAME} tells of chunks of {chunk_bytes} bytes.", REMEDY)
    for number in range(-(-outline.shape[0] // outline.chunk_shape[0])):
        path = _chunk_path(folder, number, n_dimensions=len(outline.shape))
        if not path.exists():
            raise IntegrityError(f"{path} is missing.", REMEDY)


def _outline_of(document: JsonObject) -> ArrayShape:
    """Return the outline of one of our documents; anything else raises ValueError, KeyError or TypeError."""
    shape, grid, data_type = document["shape"], document["chunk_grid"], document["data_type"]
    if not (isinstance(shape, list) and isinstance(grid, dict) and data_type in DATA_TYPES):
        raise ValueError("it has an unknown type or no shape")
    outline = ArrayShape(
        shape=tuple(shape), data_type=str(data_type), chunk_shape=tuple(grid["configuration"]["chunk_shape"])
    )
    ours = sealed(array_document(outline, codecs=CODECS, attributes={}))
    if any(document.get(key) != value for key, value in ours.items() if key != "attributes"):
        raise ValueError("its codecs or chunks are not those of an index")
    return outline


def _read_chunk(path: Path, *, n_bytes: int, dtype: np.dtype[np.generic]) -> Rows:
    try:
        data = path.read_bytes()
        if not zstandard.get_frame_parameters(data).has_checksum:
            raise ValueError("it has no checksum")
        if zstandard.frame_content_size(data) != n_bytes:  # before memory is reserved for what a header claims
            raise ValueError(f"it does not hold {n_bytes} bytes")
        return np.frombuffer(zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False), dtype=dtype)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", REMEDY) from error
    except (ValueError, zstandard.ZstdError) as error:
        raise IntegrityError(f"{path} is damaged: {error}.", REMEDY) from error


def _chunk_path(folder: Path, number: int, *, n_dimensions: int) -> Path:
    return folder.joinpath("c", str(number), *["0"] * (n_dimensions - 1))


def _little_endian(data_type: str) -> np.dtype[np.generic]:
    if data_type not in DATA_TYPES:
        raise ValueError(f"arrays of an index hold {', '.join(DATA_TYPES)}, not {data_type}")
    return np.dtype(data_type).newbyteorder("<")
