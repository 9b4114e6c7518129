"""A shard of pixels that is written once more: the same, or an alarm before anything is replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers_replaced_slides import SlideReplacer
from tests.helpers_slides import write_position_slide, write_ramp_slide
from wsi_extract.arrays import BoolImage
from wsi_extract.disk.mounts import COMMIT_VARIABLE, CommitForm
from wsi_extract.errors import EnvironmentFaultError, IntegrityError, SlideError
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import OutputFrame, SlideFile, SlideInfo
from wsi_extract.pixels import (
    PixelDocument,
    PixelJob,
    StoredLevel,
    encode_pixel_document,
    is_done,
    read_pixel_document,
    read_pixel_document_with_digest,
    write_pixels,
)
from wsi_extract.reading import ReaderChoice
from wsi_extract.slides.open_slides import SlideCache, describe_slide
from wsi_extract.state.layout import claim_path, pixel_record_path, pixel_shard_path
from wsi_extract.state.run_claims import run_digest, write_claim
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import PixelCodec

SLIDE = "case_7"
FRAME = OutputFrame(
    patch_w_out_px=64,
    patch_h_out_px=64,
    scale=Scale(x=1.0, y=1.0),
    level=0,
    level_downsample=1.0,
    um_per_px_out_xy=None,
)


def describe(path: Path) -> SlideInfo:
    return describe_slide(SlideFile(slide_id=SLIDE, path=path), override=None)


@pytest.fixture
def job(tmp_path: Path) -> PixelJob:
    """Return a shard that was not written yet: 3 x 5 chunks, all but one of which are wanted."""
    path = tmp_path / "case_7.tif"
    write_position_slide(path, width_px=600, height_px=300, downsamples=(1,))
    wanted: BoolImage = np.zeros((16, 16), dtype=np.bool_)
    wanted[:3, :5] = True
    wanted[1, 1] = False
    source = StoredLevel(slide=describe(path), frame=FRAME, plan_digest="ab" * 32, reader=ReaderChoice(), stain=None)
    codec = PixelCodec.of(CodecName.ZSTD)
    return PixelJob(source=source, row=0, column=0, wanted=wanted, codec=codec, output_dir=tmp_path / "out")


def write(job: PixelJob) -> str:
    with SlideCache() as slides:
        return write_pixels(job, slides).sha256


def shard_of(job: PixelJob) -> Path:
    return pixel_shard_path(job.output_dir, slide_id=SLIDE, row=0, column=0)


def record_of(job: PixelJob) -> Path:
    return pixel_record_path(job.output_dir, slide_id=SLIDE, row=0, column=0)


def contents(job: PixelJob) -> dict[Path, tuple[bytes, int]]:
    """Return the bytes and the inode of every file: a file that was replaced has another one."""
    files = (path for path in job.output_dir.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_ino) for path in files}


def test_the_driver_is_told_the_digest_of_the_record(job: PixelJob) -> None:
    sha256 = write(job)
    found = read_pixel_document_with_digest(record_of(job))
    assert found == (read_pixel_document(record_of(job)), sha256)


def test_other_pixels_after_the_same_plan_raise_the_alarm_and_replace_nothing(job: PixelJob, tmp_path: Path) -> None:
    write(job)
    before = contents(job)
    path = tmp_path / "other.tif"
    write_ramp_slide(path, width_px=600, height_px=300, tissue_l0=(Rect(x0=0, y0=0, x1=600, y1=300),), downsamples=(1,))
    changed = replace(job, source=replace(job.source, slide=describe(path)))
    with pytest.raises(IntegrityError, match="determinism alarm: slide case_7, shard 0, 0 of its pixels") as caught:
        write(changed)
    assert "pixels.zarr/case_7/0/c/0/0/0 has 14 chunks" in caught.value.message
    assert str(record_of(job)) in caught.value.remedy
    assert contents(job) == before


def change_digest(document: PixelDocument) -> None:
    document["sha256"] = "0" * 64


def change_size(document: PixelDocument) -> None:
    document["bytes"] += 1


def change_chunks(document: PixelDocument) -> None:
    document["chunks"] = "80" + "00" * 31


@pytest.mark.parametrize("change", [change_digest, change_size, change_chunks], ids=lambda each: each.__name__)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_record_that_says_otherwise_raises_the_alarm(
    job: PixelJob, change: Callable[[PixelDocument], None], is_there: bool
) -> None:
    write(job)
    document = read_pixel_document(record_of(job))
    assert document is not None
    change(document)
    record_of(job).write_bytes(encode_pixel_document(document))
    if not is_there:
        shard_of(job).unlink()
    before = contents(job)
    with pytest.raises(IntegrityError, match="determinism alarm"):
        write(job)
    assert contents(job) == before


@pytest.mark.parametrize("is_there", [False, True], ids=["lost", "damaged"])
def test_a_lost_or_damaged_shard_is_mended(job: PixelJob, is_there: bool) -> None:
    write(job)
    data = shard_of(job).read_bytes()
    shard_of(job).unlink()
    if is_there:
        shard_of(job).write_bytes(data[:-1] + b"?")
    write(job)
    assert is_done(job)
    assert shard_of(job).read_bytes() == data


def test_a_damaged_record_counts_as_none(job: PixelJob) -> None:
    write(job)
    data = record_of(job).read_bytes()
    record_of(job).write_bytes(data.replace(b'"chunks":"', b'"chunks":"0'))
    write(job)
    assert record_of(job).read_bytes() == data


def test_the_record_of_another_plan_says_nothing(job: PixelJob) -> None:
    write(job)
    wanted = job.wanted.copy()
    wanted[0, 0] = False
    other = replace(job, wanted=wanted, source=replace(job.source, plan_digest="cd" * 32))
    write(other)
    assert is_done(other)


@pytest.mark.parametrize("was_written", [False, True])
def test_a_slide_replaced_while_it_is_read_leaves_everything_as_it_was(job: PixelJob, was_written: bool) -> None:
    if was_written:
        write(job)
    before = contents(job)
    with SlideReplacer() as slides, pytest.raises(SlideError, match="changed while it was open"):
        write_pixels(job, slides)
    assert contents(job) == before


def test_the_record_of_another_run_stays(job: PixelJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files are written directly, a late worker waits for its turn while that run writes the shard."""
    monkeypatch.setenv(COMMIT_VARIABLE, CommitForm.DIRECT.value)
    write(job)
    write_claim(job.output_dir, {"settings": {"seed": 2}})
    claim_of_other = claim_path(job.output_dir).read_bytes()
    write_claim(job.output_dir, {"settings": {"seed": 1}})
    ours = replace(job, run_digest=run_digest({"settings": {"seed": 1}}))
    files = (shard_of(job), record_of(job))

    @contextmanager
    def turn_at(_name: str) -> Iterator[None]:
        claim_path(job.output_dir).write_bytes(claim_of_other)
        for file in files:
            file.write_bytes(b"of the run that took the folder over")
        yield

    monkeypatch.setattr("wsi_extract.disk.direct_files.turn_at", turn_at)
    with pytest.raises(EnvironmentFaultError, match="another run"):
        write(ours)
    assert [file.read_bytes() for file in files] == [b"of the run that took the folder over"] * 2
