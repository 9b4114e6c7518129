"""The stored pixels of one slide: its image opens, and holds exactly the chunks of the coverage, each decodable."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from wsi_extract.arrays import BoolImage, RgbImage
from wsi_extract.pixels import PixelDocument, chunks_of, read_pixel_document
from wsi_extract.state.layout import pixel_image_folder, pixel_record_path, pixel_shard_path
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.pixel_array import (
    CHUNK_PX,
    CHUNKS_PER_SHARD,
    CHUNKS_PER_SIDE,
    PixelArray,
    chunks_in_shard,
    open_pixel_array,
    shards_of,
)
from wsi_extract.stores.shards import ShardReader
from wsi_extract.stores.zarr_json import (
    DOCUMENT_NAME,
    PIXEL_ARRAY,
    PIXEL_SHARD_PX,
    ome_document,
    pixel_array_document,
)
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.manifest import ManifestSlide
from wsi_extract.verify.patch_files import files_below, is_leftover
from wsi_extract.verify.shard_files import ExpectedShard, PixelCheck, inspect_shards
from wsi_extract.verify.zarr_documents import (
    ArrayLayout,
    find_document_problems,
    find_zarr_problems,
    note_foreign_reader,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImage:
    """A slide of the pixel store."""

    output_dir: Path
    slide: ManifestSlide
    coverage: BoolImage
    """Which chunks it must hold, (rows, columns) bool."""
    codec: PixelCodec

    @property
    def folder(self) -> Path:
        """Of the image; its array lies below."""
        return pixel_image_folder(self.output_dir, slide_id=self.slide.slide_id)

    @property
    def record_folder(self) -> Path:
        """Of the records of its shards."""
        return self.record_path(0, 0).parent

    def record_path(self, row: int, column: int) -> Path:
        """Return the record of one shard."""
        return pixel_record_path(self.output_dir, slide_id=self.slide.slide_id, row=row, column=column)

    def shard_path(self, row: int, column: int) -> Path:
        """Return the file of one shard."""
        return pixel_shard_path(self.output_dir, slide_id=self.slide.slide_id, row=row, column=column)


def check_image(image: StoredImage, *, findings: Findings) -> list[str] | None:
    """Check documents, records and shards of a slide's image.

    Returns
    -------
    The recorded digests of its shards in their order, ``None`` when a record cannot be used.
    """
    _check_foreign(image, findings=findings)
    array = _check_documents(image, findings=findings)
    records = {place: _read_record(image, *place, findings=findings) for place in shards_of(image.coverage)}
    if array is None:
        return None
    readable = {place: record for place, record in records.items() if record is not None}
    n_damaged = 0
    for path, messages in inspect_shards(_expected_shards(image, readable, size_wh_px=array.size_wh_px)):
        findings.n_files += 1
        n_damaged += len(messages)
        for message in messages:
            findings.add(Check.PIXELS, path, message)
    if not n_damaged and len(readable) == len(records):
        with findings.reading(Check.PIXELS, image.folder):
            _check_foreign_reader(image, array, findings=findings)
    array.shards.close()
    return [record["sha256"] for record in readable.values()] if len(readable) == len(records) else None


def _check_foreign(image: StoredImage, *, findings: Findings) -> None:
    places = list(shards_of(image.coverage))
    shard_files = {image.shard_path(*place) for place in places}
    documents = {image.folder / DOCUMENT_NAME, image.folder / PIXEL_ARRAY / DOCUMENT_NAME}
    records = {image.record_path(*place) for place in places}
    for folder, known in ((image.folder, shard_files | documents), (image.record_folder, records)):
        for name in files_below(folder):
            if folder / name not in known and not is_leftover(name):
                findings.add(Check.PIXELS, folder / name, "belongs to no part of the slide that is to be stored")


def _check_documents(image: StoredImage, *, findings: Findings) -> PixelArray | None:
    """Check both documents, and return the array when it can be read."""
    slide, path = image.slide, image.folder / PIXEL_ARRAY / DOCUMENT_NAME
    array: PixelArray | None = None
    with findings.reading(Check.PIXELS, path):
        array = open_pixel_array(
            image.output_dir,
            slide_id=slide.slide_id,
            coverage=image.coverage,
            shards=ShardReader(max_open=1),
        )
        findings.n_files += 1
        due = pixel_array_document(
            size_wh_px=array.size_wh_px, codecs=image.codec.to_zarr(), attributes={"slide_id": slide.slide_id}
        )
        for message in (*find_document_problems(path.parent, due), *_size_problems(array.size_wh_px, slide)):
            findings.add(Check.PIXELS, path, message)
    path = image.folder / DOCUMENT_NAME
    with findings.reading(Check.PIXELS, path):
        findings.n_files += 1
        um_per_px_xy = slide.um_per_px_out_xy
        attributes = {
            "slide_id": slide.slide_id,
            "level": slide.level,
            "l0_per_px_xy": None if slide.l0_per_px_xy is None else list(slide.l0_per_px_xy),
            "um_per_px_xy": None if um_per_px_xy is None else list(um_per_px_xy),
        }
        due = ome_document(name=slide.slide_id, um_per_px_xy=um_per_px_xy, attributes=attributes)
        for message in find_document_problems(path.parent, due):
            findings.add(Check.PIXELS, path, message)
    return array


def _size_problems(size_wh_px: tuple[int, int], slide: ManifestSlide) -> Iterator[str]:
    """Yield when the image is not the slide at the scale of its level, which may lack part of a pixel or add it."""
    assert slide.l0_per_px_xy is not None  # the scene was checked against it
    size_l0 = (slide.width_l0_px, slide.height_l0_px)
    for axis, side_px, step, side_l0_px in zip("xy", size_wh_px, slide.l0_per_px_xy, size_l0, strict=True):
        if side_l0_px is None or abs(side_px * step - side_l0_px) >= step:
            yield f"{side_px} px of {step:g} level-0 px along {axis} are not the slide's {side_l0_px} level-0 px"


def _read_record(image: StoredImage, row: int, column: int, *, findings: Findings) -> PixelDocument | None:
    """Return the record of a shard when it is the one that the plan and the coverage ask for."""
    path = image.record_path(row, column)
    n_before = findings.n_by_check[Check.PIXELS]
    with findings.reading(Check.PIXELS, path):
        record = read_pixel_document(path)
        if record is None:
            raise FileNotFoundError(errno.ENOENT, "no such record", str(path))
        findings.n_files += 1
        wanted = chunks_in_shard(image.coverage, row=row, column=column)
        for what, stated, found in (
            ("slide_id", record["slide_id"], image.slide.slide_id),
            ("shard", record["shard"], [row, column]),
            ("plan_digest", record["plan_digest"], image.slide.plan_digest),
            ("number of chunks that differ", int(np.count_nonzero(chunks_of(record) != wanted)), 0),
            ("size and digest", [isinstance(record["bytes"], int), len(bytes.fromhex(record["sha256"]))], [True, 32]),
        ):
            findings.expect(Check.PIXELS, path, what=what, stated=stated, found=found)
        return record if findings.n_by_check[Check.PIXELS] == n_before else None
    return None


def _expected_shards(
    image: StoredImage, records: dict[tuple[int, int], PixelDocument], *, size_wh_px: tuple[int, int]
) -> Iterator[ExpectedShard]:
    for (row, column), record in records.items():
        places = np.argwhere(chunks_in_shard(image.coverage, row=row, column=column)).tolist()
        first_row, first_column = row * CHUNKS_PER_SIDE, column * CHUNKS_PER_SIDE
        yield ExpectedShard(
            path=image.shard_path(row, column),
            n_bytes=record["bytes"],
            sha256=record["sha256"],
            n_chunks=CHUNKS_PER_SHARD,
            chunks={
                y * CHUNKS_PER_SIDE + x: f"the chunk in row {first_row + y}, column {first_column + x}"
                for y, x in places
            },
            chunk_wh_px=(CHUNK_PX, CHUNK_PX),
            codec=image.codec,
            check_pixels=_padding_check(first_row, first_column, size_wh_px=size_wh_px, codec=image.codec),
        )


def _padding_check(first_row: int, first_column: int, *, size_wh_px: tuple[int, int], codec: PixelCodec) -> PixelCheck:
    width_px, height_px = size_wh_px

    def check(number: int, pixels: RgbImage) -> str:
        row, column = divmod(number, CHUNKS_PER_SIDE)
        bottom = max(0, height_px - (first_row + row) * CHUNK_PX)
        right = max(0, width_px - (first_column + column) * CHUNK_PX)
        is_clean = not codec.is_lossless or not (pixels[bottom:].any() or pixels[:, right:].any())
        return "" if is_clean else "holds more than zeros beyond the slide's edge"

    return check


def _check_foreign_reader(image: StoredImage, array: PixelArray, *, findings: Findings) -> None:
    """Check that zarr-python walks from the OME group to the array, and finds the same pixels in it."""
    if not note_foreign_reader(image.codec, findings=findings):
        return
    width, height = array.size_wh_px
    group = zarr.open_group(str(image.folder), mode="r", zarr_format=3)
    theirs = group[PIXEL_ARRAY]
    if not isinstance(theirs, zarr.Array):
        findings.add(Check.PIXELS, image.folder, "zarr-python finds no array in it")
        return
    layout = ArrayLayout(
        shape=(3, height, width),
        chunk_shape=(3, CHUNK_PX, CHUNK_PX),
        shard_shape=(3, PIXEL_SHARD_PX, PIXEL_SHARD_PX),
        dimension_names=("c", "y", "x"),
    )
    for message in find_zarr_problems(theirs, layout=layout):
        findings.add(Check.PIXELS, image.folder, message)
    for row, column in np.argwhere(image.coverage)[[0, -1]].tolist() if image.coverage.any() else ():
        x0, y0 = column * CHUNK_PX, row * CHUNK_PX
        x1, y1 = min(x0 + CHUNK_PX, width), min(y0 + CHUNK_PX, height)
        ours: RgbImage = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
        array.read_window(x0, y0, ours)
        if not np.array_equal(np.asarray(theirs[:, y0:y1, x0:x1]), ours.transpose(2, 0, 1)):
            findings.add(Check.PIXELS, image.folder, f"zarr-python reads other pixels at ({x0}, {y0})")
