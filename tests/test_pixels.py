"""Writing the pixels of a slide: every stored pixel is the slide's, and a record means that all are there."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.helpers_replaced_slides import SlideReplacer
from tests.helpers_slides import read_level, write_position_slide
from wsi_extract.arrays import BoolImage, RgbImage
from wsi_extract.disk.files import sha256_of_file
from wsi_extract.errors import ConfigError, IntegrityError, SlideError
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import OutputFrame, SlideFile, SlideInfo
from wsi_extract.pixels import (
    SCHEMA,
    PixelDocument,
    PixelJob,
    StoredLevel,
    check_pixel_frame,
    chunks_of,
    cut_pixel_jobs,
    encode_pixel_document,
    is_done,
    read_pixel_document,
    write_pixels,
)
from wsi_extract.reading import ReaderChoice
from wsi_extract.slides.open_slides import OpenedSlide, SlideCache, describe_slide
from wsi_extract.state.layout import pixel_record_path, pixel_shard_path
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.pixel_array import (
    CHUNK_PX,
    CHUNKS_PER_SHARD,
    PixelArray,
    chunks_shape,
    open_pixel_array,
    write_pixel_documents,
)
from wsi_extract.stores.shards import ShardReader

WIDTH_PX, HEIGHT_PX = 2308, 2184  # 2 x 2 shards on level 0, no multiple of a chunk on any level
ZSTD = PixelCodec.of(CodecName.ZSTD)
PLAN = "ab" * 32


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> SlideInfo:
    path = tmp_path_factory.mktemp("slides") / "case_7.tif"
    write_position_slide(path, width_px=WIDTH_PX, height_px=HEIGHT_PX, downsamples=(1, 4))
    return describe(path)


def describe(path: Path) -> SlideInfo:
    return describe_slide(SlideFile(slide_id="case_7", path=path), override=None)


def frame_of(*, level: int = 0, downsample: float = 1.0, scale: float | None = None) -> OutputFrame:
    scale = downsample if scale is None else scale
    return OutputFrame(
        patch_w_out_px=64,
        patch_h_out_px=64,
        scale=Scale(x=scale, y=scale),
        level=level,
        level_downsample=downsample,
        um_per_px_out_xy=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A slide to be stored below a folder."""

    info: SlideInfo
    frame: OutputFrame
    output_dir: Path

    @property
    def size_wh_px(self) -> tuple[int, int]:
        level = self.info.levels[self.frame.level]
        return level.width_px, level.height_px

    @property
    def whole(self) -> BoolImage:
        return np.ones(chunks_shape(self.size_wh_px), dtype=np.bool_)

    def jobs(self, coverage: BoolImage, *, codec: PixelCodec = ZSTD, plan_digest: str = PLAN) -> list[PixelJob]:
        jobs = cut_pixel_jobs(
            coverage,
            source=StoredLevel(
                slide=self.info, frame=self.frame, plan_digest=plan_digest, reader=ReaderChoice(), stain=None
            ),
            codec=codec,
            output_dir=self.output_dir,
        )
        return list(jobs)

    def store(self, coverage: BoolImage) -> PixelArray:
        """Write the pixels and their documents, and open them."""
        with SlideCache() as slides:
            for job in self.jobs(coverage):
                write_pixels(job, slides)
        write_pixel_documents(
            self.output_dir,
            slide_id=self.info.slide_id,
            size_wh_px=self.size_wh_px,
            um_per_px_xy=None,
            codec=ZSTD,
            attributes={},
        )
        return open_pixel_array(self.output_dir, slide_id=self.info.slide_id, coverage=coverage)


@pytest.fixture
def target(slide: SlideInfo, tmp_path: Path) -> Target:
    """Level 1, 577 x 546 px: 5 x 5 chunks in one shard."""
    return Target(info=slide, frame=frame_of(level=1, downsample=4), output_dir=tmp_path / "out")


def shard_path(job: PixelJob) -> Path:
    return pixel_shard_path(job.output_dir, slide_id=job.source.slide.slide_id, row=job.row, column=job.column)


def record_path(job: PixelJob) -> Path:
    return pixel_record_path(job.output_dir, slide_id=job.source.slide.slide_id, row=job.row, column=job.column)


def covered_chunks(coverage: BoolImage, rgb: RgbImage) -> Iterator[tuple[int, int, RgbImage]]:
    """Yield x, y and the pixels of each covered chunk, cut at the edges."""
    for row, column in np.argwhere(coverage).tolist():
        y, x = row * CHUNK_PX, column * CHUNK_PX
        yield x, y, rgb[y : y + CHUNK_PX, x : x + CHUNK_PX]


# --- pixels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "downsample"), [(0, 1), (1, 4)])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.02], ids=["all", "half", "few"])
@pytest.mark.parametrize("bounds", [None, Rect(x0=333, y0=77, x1=2000, y1=1999)], ids=["no bounds", "bounds"])
def test_every_stored_pixel_is_that_of_the_slide(
    slide: SlideInfo, tmp_path: Path, level: int, downsample: float, share: float, bounds: Rect | None
) -> None:
    target = Target(
        info=replace(slide, bounds_l0=bounds),
        frame=frame_of(level=level, downsample=downsample),
        output_dir=tmp_path,
    )
    coverage = np.random.default_rng(5).random(target.whole.shape) < share
    coverage[-1, -1] = True  # in the corner, filled up on two sides
    array = target.store(coverage)
    rgb = read_level(slide.path, level=level)
    for x, y, expected in covered_chunks(coverage, rgb):
        found = np.empty_like(expected)
        array.read_window(x, y, found)
        assert np.array_equal(found, expected)


def test_a_patch_is_a_window_at_its_origin_over_the_downsample(target: Target) -> None:
    array = target.store(target.whole)
    step = int(target.frame.level_downsample)
    rng = np.random.default_rng(2)
    found: RgbImage = np.empty((64, 64, 3), dtype=np.uint8)
    with OpenedSlide(target.info) as opened:
        for x, y in rng.integers(0, np.array(target.size_wh_px) - 64, (40, 2)).tolist():
            array.read_window(x, y, found)
            patch = opened.read_region(target.frame.level, x_l0=x * step, y_l0=y * step, w_lv_px=64, h_lv_px=64)
            assert np.array_equal(found, patch)


def test_chunks_at_the_edge_are_filled_up_with_zeros(target: Target) -> None:
    target.store(target.whole)
    (job,) = target.jobs(target.whole)
    data = ShardReader().read(str(shard_path(job)), 4 * 16 + 4, n_chunks=CHUNKS_PER_SHARD)
    chunk: RgbImage = np.full((CHUNK_PX, CHUNK_PX, 3), 7, dtype=np.uint8)
    assert data is not None
    ZSTD.decode_into(data, chunk)
    width, height = np.array(target.size_wh_px) - 4 * CHUNK_PX
    assert chunk[:height, :width].any(axis=-1).all()
    assert not chunk[height:].any()
    assert not chunk[:, width:].any()


def test_the_same_job_gives_the_same_bytes(target: Target, tmp_path: Path) -> None:
    coverage = np.random.default_rng(5).random(target.whole.shape) < 0.7
    target.store(coverage)
    replace(target, output_dir=tmp_path / "again").store(coverage)
    files = sorted(path for path in target.output_dir.rglob("*") if path.is_file())
    assert len(files) == 4  # shard, record, documents of the image and of its array
    for path in files:
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(target.output_dir)).read_bytes()


def write_alone(job: PixelJob) -> None:
    with SlideCache() as slides:
        write_pixels(job, slides)


def test_two_workers_write_what_one_writes(slide: SlideInfo, tmp_path: Path) -> None:
    one = Target(info=slide, frame=frame_of(), output_dir=tmp_path / "one")
    two = replace(one, output_dir=tmp_path / "two")
    one.store(one.whole)
    jobs = two.jobs(two.whole)
    assert len(jobs) == 4
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_alone, reversed(jobs)))
    for first, second in zip(one.jobs(one.whole), jobs, strict=True):
        assert shard_path(first).read_bytes() == shard_path(second).read_bytes()
        assert record_path(first).read_bytes() == record_path(second).read_bytes()


# --- jobs ----------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_jobs_hold_every_covered_chunk_once(slide: SlideInfo, data: st.DataObject) -> None:
    target = Target(info=slide, frame=frame_of(), output_dir=Path("unused"))
    coverage = data.draw(hnp.arrays(np.bool_, target.whole.shape, elements=st.integers(0, 200).map(bool)))
    coverage[data.draw(st.integers(0, 17)) :] = False
    found = np.zeros((32, 32), dtype=np.int64)
    jobs = target.jobs(coverage)
    for job in jobs:
        assert job.wanted.any()
        found[job.row * 16 : job.row * 16 + 16, job.column * 16 : job.column * 16 + 16] += job.wanted
    assert np.array_equal(found[: coverage.shape[0], : coverage.shape[1]], coverage)
    assert found.sum() == coverage.sum()
    assert [(job.row, job.column) for job in jobs] == sorted({(job.row, job.column) for job in jobs})


def test_the_coverage_of_another_level_is_refused(target: Target) -> None:
    with pytest.raises(ValueError, match=r"case_7: the coverage has \(18, 19\) chunks, its level \(5, 5\)"):
        target.jobs(np.ones((18, 19), dtype=np.bool_))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(frame_of(level=1, downsample=4, scale=2), r"resampled: 2 x 2 level-0 px per px", id="resampled"),
        pytest.param(frame_of(level=1, downsample=4.0013), r"level 1 is 4\.0013 level-0 px wide", id="no whole number"),
    ],
)
def test_frames_whose_patches_are_no_windows_are_refused(frame: OutputFrame, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"slide case_7 cannot be kept .*{reason}.*--store zarr.*--level"):
        check_pixel_frame("case_7", frame)


def test_frames_of_whole_levels_are_accepted() -> None:
    check_pixel_frame("case_7", frame_of())
    check_pixel_frame("case_7", frame_of(level=1, downsample=4))


# --- done or not ---------------------------------------------------------------------------------------------------


def test_a_written_shard_is_done_and_says_what_it_holds(target: Target) -> None:
    coverage = np.random.default_rng(5).random(target.whole.shape) < 0.5
    (job,) = target.jobs(coverage)
    assert not is_done(job)
    with SlideCache() as slides:
        record = write_pixels(job, slides)
    assert is_done(job)
    assert (record.slide_id, record.row, record.column, record.n_chunks) == ("case_7", 0, 0, int(coverage.sum()))
    document = read_pixel_document(record_path(job))
    assert document is not None
    assert np.array_equal(chunks_of(document), job.wanted)
    assert document["sha256"] == sha256_of_file(shard_path(job))


def truncate_shard(job: PixelJob) -> PixelJob:
    shard_path(job).write_bytes(shard_path(job).read_bytes()[:-1])
    return job


def remove_shard(job: PixelJob) -> PixelJob:
    shard_path(job).unlink()
    return job


def damage_record(job: PixelJob) -> PixelJob:
    record_path(job).write_bytes(record_path(job).read_bytes().replace(b"case_7", b"case_8"))
    return job


def want_more(job: PixelJob) -> PixelJob:
    return replace(job, wanted=job.wanted | np.eye(16, dtype=np.bool_))


def follow_another_plan(job: PixelJob) -> PixelJob:
    return replace(job, source=replace(job.source, plan_digest="cd" * 32))


@pytest.mark.parametrize(
    "change", [truncate_shard, remove_shard, damage_record, want_more, follow_another_plan], ids=lambda f: f.__name__
)
def test_a_shard_that_does_not_fit_its_record_is_not_done(target: Target, change: Any) -> None:
    coverage = target.whole
    coverage[2, 2] = False
    (job,) = target.jobs(coverage)
    write_alone(job)
    assert not is_done(change(job))


def test_a_slide_replaced_while_it_is_read_leaves_no_record(slide: SlideInfo, target: Target, tmp_path: Path) -> None:
    copy = tmp_path / "case_7.tif"
    copy.write_bytes(slide.path.read_bytes())
    (job,) = replace(target, info=describe(copy)).jobs(target.whole)
    with SlideReplacer() as slides, pytest.raises(SlideError, match="changed while it was open"):
        write_pixels(job, slides)
    assert not is_done(job)
    assert not record_path(job).exists()
    assert not shard_path(job).exists()


# --- records -------------------------------------------------------------------------------------------------------


@given(
    wanted=hnp.arrays(np.bool_, (16, 16)),
    slide_id=st.text(max_size=10),
    place=st.lists(st.integers(0, 10**4), min_size=2, max_size=2),
    n_bytes=st.integers(0, 10**9),
)
def test_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, wanted: BoolImage, slide_id: str, place: list[int], n_bytes: int
) -> None:
    document = example_document()
    document["slide_id"], document["shard"], document["bytes"] = slide_id, place, n_bytes
    document["chunks"] = np.packbits(wanted).tobytes().hex()
    path = tmp_path_factory.mktemp("records") / "0_0.json"
    path.write_bytes(encode_pixel_document(document))
    assert read_pixel_document(path) == document
    assert np.array_equal(chunks_of(document), wanted)


def example_document() -> PixelDocument:
    return {
        "schema": SCHEMA,
        "slide_id": "case_7",
        "shard": [1, 2],
        "plan_digest": PLAN,
        "chunks": "80" + "00" * 31,
        "bytes": 4321,
        "sha256": "ef" * 32,
    }


def test_there_is_no_record_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_pixel_document(tmp_path / "0_0.json") is None


def test_no_flipped_bit_changes_what_a_record_says(tmp_path: Path) -> None:
    path, data = tmp_path / "0_0.json", encode_pixel_document(example_document())
    assert json.loads(data)["shard"] == example_document()
    for place in range(len(data) - 1):  # the last byte is the end of the line
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"0_0\.json"):
            read_pixel_document(path)
