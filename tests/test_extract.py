"""One block: written whole, written again only when it is the same, and never from a slide that was replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers_replaced_slides import SlideReplacer
from tests.helpers_slides import write_position_slide, write_ramp_slide
from wsi_extract.arrays import IntArray
from wsi_extract.blocks import cut_blocks
from wsi_extract.errors import IntegrityError, SlideError
from wsi_extract.extract import ExtractJob, extract_block
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import (
    NO_ANCHOR,
    AnnotationTable,
    OutputFrame,
    PatchTable,
    Role,
    SlideFile,
    SlideInfo,
    SlidePlan,
)
from wsi_extract.reading import ReaderChoice
from wsi_extract.slides.open_slides import SlideCache, describe_slide
from wsi_extract.state.layout import record_path
from wsi_extract.state.records import BlockDocument, encode_document, read_document, read_document_with_digest
from wsi_extract.storage import CodecName, Store
from wsi_extract.stores.block_files import BlockTarget
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.targets import LabelRules

SLIDE = "case_7"
PATCH_PX = 64
FRAME = OutputFrame(
    patch_w_out_px=PATCH_PX,
    patch_h_out_px=PATCH_PX,
    scale=Scale(x=1.0, y=1.0),
    level=0,
    level_downsample=1.0,
    um_per_px_out_xy=None,
)
RULES = LabelRules(label_hard_negatives=False, label_visible_fraction=None, crowd_visible_fraction=0.2)
STORES = pytest.mark.parametrize("store", list(Store))
FILES = pytest.mark.parametrize("store", [Store.PNG, Store.ZARR, Store.BOTH])


@pytest.fixture
def slide(tmp_path: Path) -> SlideInfo:
    path = tmp_path / "case_7.tif"
    write_position_slide(path, width_px=600, height_px=400, downsamples=(1,))
    return describe(path)


def describe(path: Path) -> SlideInfo:
    return describe_slide(SlideFile(slide_id=SLIDE, path=path), override=None)


def job_of(
    slide: SlideInfo, *, store: Store, output_dir: Path, at_xy: tuple[int, int] = (0, 0), plan_digest: str = "ab" * 32
) -> ExtractJob:
    """Return the only block of a plan of ten patches; `at_xy` shifts the one annotation, not the patches."""
    origins: IntArray = np.array([(40 * i, 17 * i) for i in range(10)], dtype=np.int64)
    codes = np.zeros(10, dtype=np.int8)
    patches = PatchTable(
        origins_out=origins,
        origins_l0=origins,
        split=codes,
        kind=codes,
        requested_kind=codes,
        anchor_row=np.full(10, NO_ANCHOR, dtype=np.int64),
        tissue_fraction=np.ones(10),
    )
    x, y = at_xy
    annotations = AnnotationTable(
        source_id=np.array([5]),
        part=np.array([0]),
        role=np.array([Role.TARGET], dtype=np.int8),
        class_id=np.array([2]),
        boxes_l0=np.array([[x + 20.0, y + 20.0, x + 44.0, y + 44.0]]),
    )
    (block,) = cut_blocks(
        SlidePlan(slide_id=SLIDE, patches=patches, accounts=()),
        slide=slide,
        frame=FRAME,
        annotations=annotations,
        plan_digest=plan_digest,
    )
    target = BlockTarget(output_dir=output_dir, store=store, codec=PixelCodec.of(CodecName.ZSTD))
    return ExtractJob(block=block, rules=RULES, target=target, reader=ReaderChoice(), stain=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A block that was extracted."""

    job: ExtractJob

    @property
    def out(self) -> Path:
        return self.job.target.output_dir

    @property
    def record(self) -> Path:
        return record_path(self.out, slide_id=SLIDE, index=0)

    def contents(self) -> dict[str, tuple[bytes, int]]:
        """Return the bytes and the inode of every file: a file that was replaced has another one."""
        return {
            str(path.relative_to(self.out)): (path.read_bytes(), path.stat().st_ino)
            for path in self.out.rglob("*")
            if path.is_file()
        }

    def pixel_files(self) -> list[Path]:
        return sorted(path for path in self.out.rglob("*") if path.is_file() and path != self.record)

    def rewrite_record(self, change: Callable[[BlockDocument], None]) -> None:
        document = read_document(self.record)
        assert document is not None
        change(document)
        self.record.write_bytes(encode_document(document))


def write(slide: SlideInfo, folder: Path, store: Store) -> Written:
    job = job_of(slide, store=store, output_dir=folder)
    extract(job)
    return Written(job=job)


def extract(job: ExtractJob) -> str:
    with SlideCache() as slides:
        return extract_block(job, slides).sha256


@STORES
def test_the_driver_is_told_the_digest_of_the_record(slide: SlideInfo, tmp_path: Path, store: Store) -> None:
    job = job_of(slide, store=store, output_dir=tmp_path / "out")
    sha256 = extract(job)
    found = read_document_with_digest(Written(job=job).record)
    assert found is not None
    assert found[1] == sha256
    assert found[0]["patches"][0]["labels"]


@STORES
def test_what_comes_out_the_same_may_be_written_again(slide: SlideInfo, tmp_path: Path, store: Store) -> None:
    written = write(slide, tmp_path / "out", store)
    before = written.contents()
    extract(written.job)
    assert {name: data for name, (data, _) in written.contents().items()} == {
        name: data for name, (data, _) in before.items()
    }


# --- the determinism alarm ------------------------------------------------------------------------------------------


@FILES
def test_other_pixels_after_the_same_plan_raise_the_alarm_and_replace_nothing(
    slide: SlideInfo, tmp_path: Path, store: Store
) -> None:
    written = write(slide, tmp_path / "out", store)
    before = written.contents()
    path = tmp_path / "other.tif"
    write_ramp_slide(path, width_px=600, height_px=400, tissue_l0=(Rect(x0=0, y0=0, x1=600, y1=400),), downsamples=(1,))
    changed = replace(written.job, block=replace(written.job.block, slide=describe(path)))
    with pytest.raises(IntegrityError, match=r"determinism alarm: slide case_7, block 0 \(train\)") as caught:
        extract(changed)
    assert str(written.record) in caught.value.message
    assert str(written.record) in caught.value.remedy
    assert written.contents() == before


def first_file(document: BlockDocument) -> None:
    document["patches"][3]["sha256"] = "0" * 64


def size_of_a_file(document: BlockDocument) -> None:
    document["patches"][3]["bytes"] = document["patches"][3].get("bytes", 0) + 1


def shard(document: BlockDocument) -> None:
    assert "shard" in document
    document["shard"]["sha256"] = "0" * 64


def label(document: BlockDocument) -> None:
    document["patches"][0]["labels"][0]["bbox"][0] += 0.5


def counts(document: BlockDocument) -> None:
    document["label_counts"]["labelled"] = 77


@pytest.mark.parametrize(
    ("store", "change", "named"),
    [
        pytest.param(Store.PNG, first_file, "train2017/case_7/case_7_x120_y51.png has", id="png"),
        pytest.param(Store.PNG, size_of_a_file, "train2017/case_7/case_7_x120_y51.png has", id="size"),
        pytest.param(Store.ZARR, shard, "patches.zarr/train/case_7/c/0/0/0/0 has", id="shard"),
        pytest.param(Store.BOTH, shard, "patches.zarr/train/case_7/c/0/0/0/0 has", id="shard of both"),
        pytest.param(Store.BOTH, first_file, "train2017/case_7/case_7_x120_y51.png has", id="png of both"),
        pytest.param(Store.PNG, label, 'its "patches" is not', id="label"),
        pytest.param(Store.PIXELS, label, 'its "patches" is not', id="label without pixels"),
        pytest.param(Store.PIXELS, counts, 'its "label_counts" is not', id="counts"),
    ],
)
def test_the_alarm_names_what_differs_and_replaces_nothing(
    slide: SlideInfo, tmp_path: Path, store: Store, change: Callable[[BlockDocument], None], named: str
) -> None:
    written = write(slide, tmp_path / "out", store)
    written.rewrite_record(change)
    for path in written.pixel_files()[:1]:
        path.unlink()  # the reason to write the block again
    before = written.contents()
    with pytest.raises(IntegrityError, match="determinism alarm") as caught:
        extract(written.job)
    assert named in caught.value.message
    assert written.contents() == before


def test_other_labels_after_the_same_plan_raise_the_alarm(slide: SlideInfo, tmp_path: Path) -> None:
    written = write(slide, tmp_path / "out", Store.PNG)
    before = written.contents()
    with pytest.raises(IntegrityError, match="determinism alarm"):
        extract(job_of(slide, store=Store.PNG, output_dir=written.out, at_xy=(3, 0)))
    assert written.contents() == before


# --- what is no reason for it ---------------------------------------------------------------------------------------


def lose(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@FILES
@pytest.mark.parametrize("damage", [lose, truncate, flip_a_bit], ids=lambda each: each.__name__)
def test_a_lost_or_damaged_file_is_mended(
    slide: SlideInfo, tmp_path: Path, store: Store, damage: Callable[[Path], None]
) -> None:
    written = write(slide, tmp_path / "out", store)
    before = {path: path.read_bytes() for path in written.pixel_files()}
    for path in (written.pixel_files()[0], written.pixel_files()[-1]):
        if path.exists():
            damage(path)
    extract(written.job)
    assert {path: path.read_bytes() for path in written.pixel_files()} == before


@STORES
def test_a_damaged_record_counts_as_none(slide: SlideInfo, tmp_path: Path, store: Store) -> None:
    written = write(slide, tmp_path / "out", store)
    record = written.record.read_bytes()
    written.record.write_bytes(record.replace(b'"patches"', b'"pitches"'))
    extract(written.job)
    assert written.record.read_bytes() == record


@STORES
def test_the_record_of_another_plan_says_nothing(slide: SlideInfo, tmp_path: Path, store: Store) -> None:
    written = write(slide, tmp_path / "out", store)
    other = job_of(slide, store=store, output_dir=written.out, at_xy=(3, 0), plan_digest="cd" * 32)
    extract(other)
    document = read_document(written.record)
    assert document is not None
    assert document["plan_digest"] == "cd" * 32


def test_files_of_another_store_are_no_difference(slide: SlideInfo, tmp_path: Path) -> None:
    written = write(slide, tmp_path / "out", Store.PNG)
    extract(job_of(slide, store=Store.BOTH, output_dir=written.out))
    document = read_document(written.record)
    assert document is not None
    assert "shard" in document


# --- slides that are replaced ---------------------------------------------------------------------------------------


@FILES
@pytest.mark.parametrize("was_written", [False, True])
def test_a_slide_replaced_while_it_is_read_leaves_everything_as_it_was(
    slide: SlideInfo, tmp_path: Path, store: Store, was_written: bool
) -> None:
    written = Written(job=job_of(slide, store=store, output_dir=tmp_path / "out"))
    if was_written:
        extract(written.job)
    before = written.contents()
    assert bool(before) == was_written
    with SlideReplacer() as slides, pytest.raises(SlideError, match="changed while it was open"):
        extract_block(written.job, slides)
    assert written.contents() == before
