"""The pixel store: ``pixels.zarr``, one OME-Zarr image per slide that holds each of its pixels once.

A slide is cut into chunks of 128 x 128 px, 16 x 16 of which share a file, the shard. Only the chunks of the slide's
coverage are stored; those at the right and bottom edge are filled up with zeros, which no window can reach. Output
pixels are the pixels of one level, so that a patch is a window:

    +-----+-----+-----+      9 chunks are decoded for 256 x 256 px anywhere,
    |   ..|.....|..   |      4 where the window begins with a chunk
    +-----+-----+-----+
    |   ..|.....|..   |
    +-----+-----+-----+
    |   ..|.....|..   |
    +-----+-----+-----+

Planes: everything here is ``_out``, pixels of the stored image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsi_extract.arrays import BoolImage, RgbImage
from wsi_extract.disk.direct_files import accept_folder
from wsi_extract.disk.files import accept
from wsi_extract.errors import RESTORE, IntegrityError, WsiExtractError
from wsi_extract.state.layout import pixel_image_folder, pixel_shard_path
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.shards import DamagedShardError, ShardReader, StoredShard, write_shard
from wsi_extract.stores.zarr_json import (
    DOCUMENT_NAME,
    PIXEL_ARRAY,
    PIXEL_CHUNK_PX,
    PIXEL_SHARD_PX,
    JsonObject,
    ome_document,
    pixel_array_document,
    read_document,
    sealed,
    write_document,
)

CHUNK_PX = PIXEL_CHUNK_PX
CHUNKS_PER_SIDE = PIXEL_SHARD_PX // PIXEL_CHUNK_PX
CHUNKS_PER_SHARD = CHUNKS_PER_SIDE**2


class OutsideCoverageError(WsiExtractError, LookupError):
    """A window reaches pixels that were never meant to be stored."""

    exit_code = 2


def chunks_shape(size_wh_px: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of chunks of an image.

    >>> chunks_shape((300, 128))
    (1, 3)
    """
    width, height = size_wh_px
    return -(-height // CHUNK_PX), -(-width // CHUNK_PX)


def shards_of(coverage: BoolImage) -> Iterator[tuple[int, int]]:
    """Yield row and column of every shard that holds a chunk of the coverage, row by row."""
    for row in range(-(-coverage.shape[0] // CHUNKS_PER_SIDE)):
        for column in range(-(-coverage.shape[1] // CHUNKS_PER_SIDE)):
            if _part_of(coverage, row=row, column=column).any():
                yield row, column


def chunks_in_shard(coverage: BoolImage, *, row: int, column: int) -> BoolImage:
    """Return which chunks of a shard the coverage wants, (16, 16) bool."""
    part = _part_of(coverage, row=row, column=column)
    wanted = np.zeros((CHUNKS_PER_SIDE, CHUNKS_PER_SIDE), dtype=np.bool_)
    wanted[: part.shape[0], : part.shape[1]] = part
    return wanted


def _part_of(coverage: BoolImage, *, row: int, column: int) -> BoolImage:
    top, left = row * CHUNKS_PER_SIDE, column * CHUNKS_PER_SIDE
    return coverage[top : top + CHUNKS_PER_SIDE, left : left + CHUNKS_PER_SIDE]


def write_pixel_shard(
    path: Path,
    chunks: Iterable[tuple[int, RgbImage]],
    *,
    codec: PixelCodec,
    check: Callable[[StoredShard], None] = accept,
    record: Path | None = None,
    still_ours: Callable[[], None] = accept_folder,
) -> StoredShard:
    """Write all chunks of one shard.

    Parameters
    ----------
    chunks
        Pairs of the number within the shard, row * 16 + column, and the pixels ``(128, 128, 3)``; the file keeps
        their order.
    check
        Raises when the shard, which is durable by then, must not appear; nothing is replaced in that case.
    record, still_ours
        What vouches for the shard, and what raises when the folder is somebody else's by now; see
        `wsi_extract.disk.files.open_batch`.

    Raises
    ------
    ValueError
        When a chunk has another shape, is given twice, or does not belong to the shard.
    """
    encoded = ((number, codec.encode(_whole_chunk(pixels))) for number, pixels in chunks)
    return write_shard(path, encoded, n_chunks=CHUNKS_PER_SHARD, check=check, record=record, still_ours=still_ours)


def _whole_chunk(pixels: RgbImage) -> RgbImage:
    if pixels.shape != (CHUNK_PX, CHUNK_PX, 3):
        raise ValueError(f"a chunk has the shape {(CHUNK_PX, CHUNK_PX, 3)}, got {pixels.shape}")
    return pixels


def write_pixel_documents(
    output_dir: Path,
    *,
    slide_id: str,
    size_wh_px: tuple[int, int],
    um_per_px_xy: tuple[float, float] | None,
    codec: PixelCodec,
    attributes: Mapping[str, object],
) -> None:
    """Write what makes the shards of a slide an OME-Zarr image; to be called when all of them are there.

    Parameters
    ----------
    size_wh_px
        Size of the level that was read.
    um_per_px_xy
        Physical size of a pixel of that level, ``None`` when unknown.
    attributes
        What the package notes of the image, for other readers.
    """
    folder = pixel_image_folder(output_dir, slide_id=slide_id)
    array = pixel_array_document(size_wh_px=size_wh_px, codecs=codec.to_zarr(), attributes={"slide_id": slide_id})
    write_document(folder / PIXEL_ARRAY, sealed(array))
    write_document(folder, sealed(ome_document(name=slide_id, um_per_px_xy=um_per_px_xy, attributes=attributes)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelArray:
    """The stored pixels of one slide, for reading. Safe after fork and pickling, as its `ShardReader` is."""

    output_dir: Path
    slide_id: str
    size_wh_px: tuple[int, int]
    coverage: BoolImage
    """(rows, columns) of chunks; True where there is one."""
    codec: PixelCodec
    shards: ShardReader
    """May serve many slides, so that the number of open files stays bounded."""
    _shard_root: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.coverage.shape != chunks_shape(self.size_wh_px):
            raise ValueError(
                f"slide {self.slide_id}: a coverage of {self.coverage.shape} chunks does not fit "
                f"{self.size_wh_px[0]} x {self.size_wh_px[1]} px"
            )
        first = pixel_shard_path(self.output_dir, slide_id=self.slide_id, row=0, column=0)
        object.__setattr__(self, "_shard_root", str(first.parent.parent))

    def read_window(self, x_out: int, y_out: int, out: RgbImage) -> None:
        """Write the pixels from (x, y) on to ``out``, ``(h, w, 3)`` uint8, whose content is undefined after an error.

        Raises
        ------
        ValueError
            When the window is not inside the image.
        OutsideCoverageError
            When the store was made without some of its pixels.
        IntegrityError
            When a chunk that should be there is missing or damaged; names slide, chunk and file.
        """
        height, width = out.shape[:2]
        self._check_window(x_out, y_out, width=width, height=height)
        for row in range(y_out // CHUNK_PX, -(-(y_out + height) // CHUNK_PX)):
            top = row * CHUNK_PX - y_out
            y0, y1 = max(top, 0), min(top + CHUNK_PX, height)
            for column in range(x_out // CHUNK_PX, -(-(x_out + width) // CHUNK_PX)):
                left = column * CHUNK_PX - x_out
                x0, x1 = max(left, 0), min(left + CHUNK_PX, width)
                chunk = self._read_chunk(row, column)
                out[y0:y1, x0:x1] = chunk[y0 - top : y1 - top, x0 - left : x1 - left]

    def _check_window(self, x_out: int, y_out: int, *, width: int, height: int) -> None:
        width_px, height_px = self.size_wh_px
        if not (0 <= x_out <= x_out + width <= width_px and 0 <= y_out <= y_out + height <= height_px):
            raise ValueError(
                f"slide {self.slide_id}: the window of {width} x {height} px at ({x_out}, {y_out}) is not inside the "
                f"stored image of {width_px} x {height_px} px"
            )
        touched = self.coverage[
            y_out // CHUNK_PX : -(-(y_out + height) // CHUNK_PX), x_out // CHUNK_PX : -(-(x_out + width) // CHUNK_PX)
        ]
        if not touched.all():
            raise OutsideCoverageError(
                f"the window of {width} x {height} px at ({x_out}, {y_out}) leaves the stored coverage of slide "
                f"{self.slide_id}: {touched.size - np.count_nonzero(touched)} of its {touched.size} chunks are not in "
                f"the pixel store {self._shard_root}.",
                "Extract with --coverage tissue, which stores all tissue, or with --coverage anchors.",
            )

    def _read_chunk(self, row: int, column: int) -> RgbImage:
        shard_row, row_within = divmod(row, CHUNKS_PER_SIDE)
        shard_column, column_within = divmod(column, CHUNKS_PER_SIDE)
        path = f"{self._shard_root}/{shard_row}/{shard_column}"
        number = row_within * CHUNKS_PER_SIDE + column_within
        try:
            data = self.shards.read(path, number, n_chunks=CHUNKS_PER_SHARD)
            if data is None:
                raise DamagedShardError(f"the shard {path} does not hold it.")
            return self.codec.decode(data, shape=(CHUNK_PX, CHUNK_PX, 3))
        except (ValueError, IntegrityError) as error:
            reason = (
                error.message if isinstance(error, IntegrityError) else f"its bytes in {path} are damaged: {error}."
            )
            raise IntegrityError(
                f"the chunk in row {row}, column {column} of slide {self.slide_id} cannot be read: {reason}", RESTORE
            ) from error


def open_pixel_array(
    output_dir: Path, *, slide_id: str, coverage: BoolImage, shards: ShardReader | None = None
) -> PixelArray:
    """Read what ``zarr.json`` says of the pixels of a slide.

    Parameters
    ----------
    coverage
        Which chunks are stored, see `PixelArray`.
    shards
        The reader to share with other slides; without it, the array has one of its own.

    Raises
    ------
    IntegrityError
        When the document is missing, damaged, not that of an array of this program, or does not fit the coverage.
    """
    folder = pixel_image_folder(output_dir, slide_id=slide_id) / PIXEL_ARRAY
    document = read_document(folder)
    try:
        size_wh_px, codec = _outline_of(document)
        return PixelArray(
            output_dir=output_dir,
            slide_id=slide_id,
            size_wh_px=size_wh_px,
            coverage=coverage,
            codec=codec,
            shards=ShardReader() if shards is None else shards,
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise IntegrityError(
            f"slide {slide_id}: {folder / DOCUMENT_NAME} is not an array of pixels: {error}.", RESTORE
        ) from error


def _outline_of(document: JsonObject) -> tuple[tuple[int, int], PixelCodec]:
    """Return width and height, and the codec; ValueError, KeyError, TypeError or IndexError for other arrays."""
    shape, codecs = document["shape"], document["codecs"]
    if not (isinstance(shape, list) and isinstance(codecs, list)):
        raise TypeError("it has no shape or no codecs")
    _, height, width = shape
    codec = PixelCodec.from_zarr(codecs[0]["configuration"]["codecs"])
    expected = pixel_array_document(size_wh_px=(width, height), codecs=codec.to_zarr(), attributes={})
    if any(document.get(key) != value for key, value in expected.items() if key != "attributes"):
        raise ValueError("its axes, chunks or codecs are not those of a pixel store")
    return (width, height), codec
