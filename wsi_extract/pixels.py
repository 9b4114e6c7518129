"""Worker function 3: one shard of a slide's pixels -> read, cut, write, record. For the pixel store.

Idempotent, and ignorant of Dask, of patches and of other shards: which chunks are wanted is the whole of its task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from wsi_extract.arrays import BoolImage, IntArray, RgbImage
from wsi_extract.disk.files import write_atomically
from wsi_extract.errors import ConfigError, IntegrityError
from wsi_extract.model import OutputFrame, SlideInfo
from wsi_extract.reading import ReaderChoice
from wsi_extract.slides.open_slides import OpenedSlide, SlideCache
from wsi_extract.stain import StainTransform
from wsi_extract.state.layout import pixel_record_path, pixel_shard_path
from wsi_extract.state.record_files import determinism_alarm, digest_in, encode_record, read_record
from wsi_extract.state.run_claims import check_claim
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.pixel_array import (
    CHUNK_PX,
    CHUNKS_PER_SIDE,
    chunks_in_shard,
    chunks_shape,
    shards_of,
    write_pixel_shard,
)
from wsi_extract.stores.shards import StoredShard
from wsi_extract.windows import read_windows

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredLevel:
    """The level of a slide whose pixels are stored."""

    slide: SlideInfo
    frame: OutputFrame
    plan_digest: str
    """Digest of the plan that says which chunks are wanted."""
    reader: ReaderChoice
    stain: StainTransform | None
    """What brings the slide's stain to that of the target."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelJob:
    """One shard to write."""

    source: StoredLevel
    row: int
    """Of the shard."""
    column: int
    wanted: BoolImage
    """(16, 16) bool, True for the chunks to store; at least one, none beyond the level's edge."""
    codec: PixelCodec
    output_dir: Path
    run_digest: str | None = None
    """Of the run that claimed the folder, see `state.run_claims`; ``None`` for a folder that nobody claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRecord:
    """What a finished shard reports to the driver; everything else is in its record on disk."""

    slide_id: str
    row: int
    column: int
    n_chunks: int
    sha256: str
    """Of the content of the record on disk."""


class PixelDocument(TypedDict):
    """All that is known of one finished shard of pixels."""

    schema: int
    slide_id: str
    shard: list[int]
    """Row and column."""
    plan_digest: str
    chunks: str
    """Which chunks it holds: 256 bits as hex, row by row, the first chunk first."""
    bytes: int
    sha256: str


def check_pixel_frame(slide_id: str, frame: OutputFrame) -> None:
    """Refuse a slide of which patches are no windows of whole pixels of one level.

    Raises
    ------
    ConfigError
        When patches would be resampled, or the level's downsample is no whole number.
    """
    if frame.is_resampled:
        reason = (
            f"its patches would be resampled: {frame.scale.x:.6g} x {frame.scale.y:.6g} level-0 px per px, but "
            f"level {frame.level} has {frame.level_downsample:.6g}"
        )
    elif not float(frame.level_downsample).is_integer():
        reason = f"a pixel of level {frame.level} is {frame.level_downsample:.6g} level-0 px wide, no whole number"
    else:
        return
    raise ConfigError(
        f"slide {slide_id} cannot be kept in a pixel store: {reason}.",
        "Use --store zarr, which takes any resolution, or read a level as it is with --level 0.",
    )


def cut_pixel_jobs(
    coverage: BoolImage, *, source: StoredLevel, codec: PixelCodec, output_dir: Path, run_digest: str | None = None
) -> Iterator[PixelJob]:
    """Yield the shards of a slide row by row; together they hold every chunk of the coverage once.

    Parameters
    ----------
    coverage
        (rows, columns) bool, one value per chunk of the level that is read, True = to be stored.
    source
        The slide and level the coverage belongs to.
    run_digest
        Of the run that claimed the folder, see `PixelJob`.

    Raises
    ------
    ValueError
        When the coverage is not that of the level.
    """
    level = source.slide.levels[source.frame.level]
    shape = chunks_shape((level.width_px, level.height_px))
    if coverage.shape != shape:
        raise ValueError(f"slide {source.slide.slide_id}: the coverage has {coverage.shape} chunks, its level {shape}")
    for row, column in shards_of(coverage):
        yield PixelJob(
            source=source,
            row=row,
            column=column,
            wanted=chunks_in_shard(coverage, row=row, column=column),
            codec=codec,
            output_dir=output_dir,
            run_digest=run_digest,
        )


def write_pixels(job: PixelJob, slides: SlideCache) -> PixelRecord:
    """Read the wanted chunks of one shard from the slide and write them; the record comes last.

    The shard does not get its name before it is durable, the slide was found unchanged, and the shard is what it was
    if it was written before.

    Raises
    ------
    SlideError
        When a region of the slide cannot be read, or the slide was replaced. No pixel is ever made up.
    IntegrityError
        When the shard was written before after the same plan, and differs now.
    EnvironmentFaultError
        When the folder does not belong to the job's run any more.
    OSError
        When the output cannot be written.
    """
    still_ours = partial(check_claim, job.output_dir, job.run_digest)
    still_ours()  # before the batch makes a folder
    source = job.source
    slide_id = source.slide.slide_id
    path = pixel_shard_path(job.output_dir, slide_id=slide_id, row=job.row, column=job.column)
    record_path = pixel_record_path(job.output_dir, slide_id=slide_id, row=job.row, column=job.column)
    slide = slides.get(source.slide, reader=source.reader, pixel_map=source.stain)

    def check(finished: StoredShard) -> None:
        slide.check_unchanged()
        check_repeated(_describe(job, finished), path=record_path)
        still_ours()

    chunks = read_chunks(slide, job)
    stored = write_pixel_shard(path, chunks, codec=job.codec, check=check, record=record_path, still_ours=still_ours)
    record = encode_pixel_document(_describe(job, stored))
    still_ours()
    write_atomically(record_path, record)
    return PixelRecord(
        slide_id=slide_id,
        row=job.row,
        column=job.column,
        n_chunks=int(np.count_nonzero(job.wanted)),
        sha256=digest_in(record),
    )


def _describe(job: PixelJob, stored: StoredShard) -> PixelDocument:
    return {
        "schema": SCHEMA,
        "slide_id": job.source.slide.slide_id,
        "shard": [job.row, job.column],
        "plan_digest": job.source.plan_digest,
        "chunks": _hex_of(job.wanted),
        "bytes": stored.n_bytes,
        "sha256": stored.sha256,
    }


def check_repeated(document: PixelDocument, *, path: Path) -> None:
    """Refuse a shard that came out otherwise than its record says; to be asked before its file gets its name.

    A damaged record, or one of another plan, says nothing.

    Raises
    ------
    IntegrityError
        When the same plan gave something else before: the determinism alarm.
    """
    try:
        known = read_pixel_document(path)
    except IntegrityError:  # about to be replaced
        return
    if known is None or known["plan_digest"] != document["plan_digest"] or known == document:
        return
    slide_id, (row, column) = document["slide_id"], document["shard"]
    file = pixel_shard_path(Path(), slide_id=slide_id, row=row, column=column)
    difference = f"{file} has {_content_of(document)}, and had {_content_of(known)}"
    raise determinism_alarm(f"slide {slide_id}, shard {row}, {column} of its pixels,", difference=difference, path=path)


def _content_of(document: PixelDocument) -> str:
    n_chunks = int(np.count_nonzero(chunks_of(document)))
    return f"{n_chunks} chunks in {document['bytes']} bytes of SHA-256 {document['sha256']}"


def read_chunks(slide: OpenedSlide, job: PixelJob) -> Iterator[tuple[int, RgbImage]]:
    """Yield (number within the shard, pixels (128, 128, 3)) of every wanted chunk, window by window.

    Only what is wanted is read. Pixels beyond the level's edge are 0.
    """
    frame = job.source.frame
    level = job.source.slide.levels[frame.level]
    places = np.argwhere(job.wanted)
    boxes_lv = _boxes_lv(places, job=job, size_wh=(level.width_px, level.height_px))
    for window, pixels in read_windows(slide, frame.level, boxes_lv.astype(np.float64)):
        rect = window.rect_lv
        for index in window.rows:
            x0, y0, x1, y1 = (boxes_lv[index] - (rect.x0, rect.y0, rect.x0, rect.y0)).tolist()
            row, column = places[index].tolist()
            yield row * CHUNKS_PER_SIDE + column, _whole_chunk(pixels[y0:y1, x0:x1])


def _whole_chunk(pixels: RgbImage) -> RgbImage:
    """Return the pixels of a chunk, C-contiguous; those beyond the level's edge are 0."""
    height, width = pixels.shape[:2]
    if (height, width) == (CHUNK_PX, CHUNK_PX):
        return np.ascontiguousarray(pixels)
    chunk: RgbImage = np.zeros((CHUNK_PX, CHUNK_PX, 3), dtype=np.uint8)
    chunk[:height, :width] = pixels
    return chunk


def _boxes_lv(places: IntArray, *, job: PixelJob, size_wh: tuple[int, int]) -> IntArray:
    """Return what each chunk needs of the level, (N, 4), columns (x0, y0, x1, y1)."""
    first = np.array([job.row, job.column]) * CHUNKS_PER_SIDE
    start_xy = ((places + first) * CHUNK_PX)[:, ::-1]
    return np.concatenate([start_xy, np.minimum(start_xy + CHUNK_PX, size_wh)], axis=1)


def is_done(job: PixelJob) -> bool:
    """Whether an earlier run wrote the shard: its record fits the job and the file is there, whole."""
    slide_id = job.source.slide.slide_id
    try:
        document = read_pixel_document(
            pixel_record_path(job.output_dir, slide_id=slide_id, row=job.row, column=job.column)
        )
    except IntegrityError:
        return False
    if document is None or (document["plan_digest"], document["chunks"]) != (
        job.source.plan_digest,
        _hex_of(job.wanted),
    ):
        return False
    path = pixel_shard_path(job.output_dir, slide_id=slide_id, row=job.row, column=job.column)
    return path.is_file() and path.stat().st_size == document["bytes"]


def encode_pixel_document(document: PixelDocument) -> bytes:
    """Return the bytes of the record, see `wsi_extract.state.record_files`."""
    return encode_record(document, kind="shard")


def read_pixel_document(path: Path) -> PixelDocument | None:
    """Return the record at ``path``, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    found = read_pixel_document_with_digest(path)
    return None if found is None else found[0]


def read_pixel_document_with_digest(path: Path) -> tuple[PixelDocument, str] | None:
    """Return the record at ``path`` and the SHA-256 of its content, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    return cast("tuple[PixelDocument, str] | None", read_record(path, kind="shard", schema=SCHEMA))


def chunks_of(document: PixelDocument) -> BoolImage:
    """Return which chunks a finished shard holds, (16, 16) bool."""
    bits = np.frombuffer(bytes.fromhex(document["chunks"]), dtype=np.uint8)
    return np.unpackbits(bits).reshape(CHUNKS_PER_SIDE, CHUNKS_PER_SIDE).astype(np.bool_)


def _hex_of(wanted: BoolImage) -> str:
    return np.packbits(wanted).tobytes().hex()
