"""What becomes of slides that cannot be read any more: one of them fails, but for a mount that is gone nobody does.

The causes are real: files and folders that go away, places that cannot be read, too few files to open.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers_jpeg_slides import JpegSlide, describe, write_jpeg_slide
from wsi_extract import tasks
from wsi_extract.causes import errno_of
from wsi_extract.errors import EnvironmentFaultError, SlideError
from wsi_extract.faults import fault_from, find_lost_mount, refuse_lost_slides
from wsi_extract.model import Fault, FaultClass, SlideFile, SlideInfo
from wsi_extract.reading import ReaderChoice, ReaderMode
from wsi_extract.slides.jpeg_tiles import find_jpeg_tiles
from wsi_extract.slides.open_slides import SlideCache, choose_reader, describe_slide, dicom_series_of
from wsi_extract.slides.opened_slide import OpenedSlide
from wsi_extract.slides.tiled_jpeg import TileCache, TiledJpegReader
from wsi_extract.tasks import Task, attempt

SPEC = JpegSlide(width_px=300, height_px=200)
DIRECT = ReaderChoice(direct_levels=(0,))
READERS = pytest.mark.parametrize("reader", [ReaderChoice(), DIRECT], ids=["openslide", "direct"])


@pytest.fixture
def info(tmp_path: Path) -> SlideInfo:
    """A slide that lies where a mount might be, beside another."""
    folder = tmp_path / "mount" / "case"
    folder.mkdir(parents=True)
    (folder / "other.svs").touch()
    return write_jpeg_slide(folder / "s.tif", SPEC)


def read(slides: SlideCache, info: SlideInfo, reader: ReaderChoice) -> np.ndarray:
    return slides.get(info, reader=reader).read_region(0, x_l0=0, y_l0=0, w_lv_px=300, h_lv_px=200)


def fault_of_reading(info: SlideInfo, reader: ReaderChoice, slides: SlideCache) -> Fault:
    """Read the slide as a task does, and return what became of that."""
    task = Task(
        stage="extract",
        slide_ordinal=0,
        slide_id=info.slide_id,
        index=0,
        function=lambda _item, cache: read(cache, info, reader),
        item=None,
    )
    fault = attempt(task, slides).fault
    assert fault is not None
    return fault


def open_files() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


@contextmanager
def no_file_to_open(*, n_left: int = 0) -> Iterator[None]:
    """Let the process open so many more files, and no further one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_files()) + 8, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(n_left):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


# --- whose fault


@READERS
def test_a_slide_that_is_removed_fails_alone(info: SlideInfo, reader: ReaderChoice) -> None:
    with SlideCache() as slides:
        read(slides, info, reader)
        info.path.unlink()
        fault = fault_of_reading(info, reader, slides)
    assert (fault.fault_class, fault.errno_name, fault.n_attempts) == (FaultClass.SLIDE, "ENOENT", 2)
    assert str(info.path) in fault.message


@READERS
def test_a_slide_that_is_cut_off_while_open_fails_alone(info: SlideInfo, reader: ReaderChoice) -> None:
    with SlideCache() as slides:
        read(slides, info, reader)
        os.truncate(info.path, info.path.stat().st_size // 2)
        fault = fault_of_reading(info, reader, slides)
    assert (fault.fault_class, fault.errno_name) == (FaultClass.SLIDE, "")


@READERS
def test_something_else_in_its_place_is_the_fault_of_the_slide(info: SlideInfo, reader: ReaderChoice) -> None:
    info.path.unlink()
    info.path.mkdir()
    with SlideCache() as slides:
        fault = fault_of_reading(info, reader, slides)
    assert fault.fault_class is FaultClass.SLIDE
    assert "not a regular file" in fault.message


@READERS
@pytest.mark.parametrize("what", ["folder", "mount", "content"])
def test_when_the_folder_has_gone_no_slide_is_blamed(info: SlideInfo, reader: ReaderChoice, what: str) -> None:
    with SlideCache() as slides:
        read(slides, info, reader)
        folder = info.path.parent
        shutil.rmtree(folder.parent if what == "mount" else folder)
        if what == "content":  # what unmounting leaves
            folder.mkdir()
        fault = fault_of_reading(info, reader, slides)
    assert fault.fault_class is FaultClass.ENVIRONMENT
    assert fault.message.startswith(f"the slides have gone: {folder} ")
    assert "mount" in fault.remedy


def test_a_link_to_a_mount_that_has_gone_blames_no_slide(info: SlideInfo, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "s.tif").symlink_to(info.path)
    linked = describe(links / "s.tif")
    with SlideCache() as slides:
        read(slides, linked, DIRECT)
        shutil.rmtree(info.path.parent)
        assert fault_of_reading(linked, DIRECT, slides).fault_class is FaultClass.ENVIRONMENT


def test_a_link_that_never_led_anywhere_is_the_fault_of_the_slide(tmp_path: Path) -> None:
    (tmp_path / "s.tif").symlink_to(tmp_path / "nowhere" / "s.tif")
    with pytest.raises(SlideError) as caught:
        describe_slide(SlideFile(slide_id="s", path=tmp_path / "s.tif"), override=None)
    assert find_lost_mount(caught.value) is None


def test_a_slide_seen_for_the_first_time_blames_no_slide_either(info: SlideInfo) -> None:
    file = SlideFile(slide_id="s", path=info.path)
    shutil.rmtree(info.path.parent)
    with pytest.raises(SlideError) as caught:
        describe_slide(file, override=None)
    assert find_lost_mount(caught.value) is not None


@pytest.mark.parametrize(
    ("reader", "n_left"),
    [(ReaderChoice(), 0), (ReaderChoice(), 1), (DIRECT, 0)],
    ids=["openslide", "openslide, which needs two", "direct"],
)
def test_too_few_files_to_open_are_the_machines_fault(info: SlideInfo, reader: ReaderChoice, n_left: int) -> None:
    with SlideCache() as slides, no_file_to_open(n_left=n_left):
        fault = fault_of_reading(info, reader, slides)
    assert (fault.fault_class, fault.errno_name, fault.n_attempts) == (FaultClass.ENVIRONMENT, "EMFILE", 1)
    assert "ulimit" in fault.remedy


def test_too_few_files_do_not_decide_who_reads(info: SlideInfo) -> None:
    """Else a slide would be read in another way, or refused, because of what the machine lacked for a moment."""
    with SlideCache() as slides:
        slides.get(info)
        with no_file_to_open(), pytest.raises(SlideError) as caught:
            choose_reader(info, slides, mode=ReaderMode.AUTO, levels=(), patch_level=0, seed=1)
        assert errno_of(caught.value) == errno.EMFILE
        assert choose_reader(info, slides, mode=ReaderMode.AUTO, levels=(), patch_level=0, seed=1) == DIRECT


def test_too_few_files_do_not_tear_a_series_apart(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"no DICOM")
    assert dicom_series_of(tmp_path / "x.dcm") is None
    with no_file_to_open(), pytest.raises(EnvironmentFaultError, match="Too many open files"):
        dicom_series_of(tmp_path / "x.dcm")


# --- a disk that cannot be read


@pytest.fixture
def unreadable_place() -> Iterator[int]:
    """A descriptor whose reading really fails with EIO: memory that is not there."""
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    yield memory
    os.close(memory)


def test_a_disk_that_fails_is_told_from_a_damaged_tile(info: SlideInfo, unreadable_place: int) -> None:
    found, _ = find_jpeg_tiles(info.path, levels=info.levels, vendor=info.vendor)
    reader = TiledJpegReader("s", info.path, levels=found, cache=TileCache())
    os.dup2(unreadable_place, reader._file)
    with pytest.raises(SlideError, match=r"cannot read tile 0 .* of .*s\.tif: Input/output error") as caught:
        reader.read_region(0, x_lv=0, y_lv=0, w_px=9, h_px=9)
    reader.close()
    assert (errno_of(caught.value), caught.value.path) == (errno.EIO, info.path)


def test_a_disk_that_recovers_costs_nothing(
    info: SlideInfo, unreadable_place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "BACKOFF_S", (0.001, 0.001, 0.001))
    n_calls = 0

    def function(_item: object, slides: SlideCache) -> np.ndarray:
        nonlocal n_calls
        n_calls += 1
        slide = slides.get(info, reader=DIRECT)
        if n_calls < 4:  # the fourth handle is sound
            assert slide._tiles is not None
            os.dup2(unreadable_place, slide._tiles._file)
        return read(slides, info, DIRECT)

    with SlideCache() as slides:
        task = Task(stage="extract", slide_ordinal=0, slide_id="s", index=0, function=function, item=None)
        value = attempt(task, slides).value
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, read(slides, info, ReaderChoice()))
    assert n_calls == 4


# --- nothing of an error remains


@READERS
def test_after_an_error_nothing_of_a_slide_is_kept(info: SlideInfo, reader: ReaderChoice) -> None:
    def function(_item: object, slides: SlideCache) -> None:
        read(slides, info, reader)
        raise SlideError("x.")

    with SlideCache() as slides:
        task = Task(stage="extract", slide_ordinal=0, slide_id="s", index=0, function=function, item=None)
        composer = slides._tile_cache
        n_open = len(open_files())
        attempt(task, slides)
        assert len(open_files()) == n_open
        assert slides._tile_cache is not composer
        assert (len(slides._direct_tiles), len(slides._open), len(slides._known)) == (0, 0, 0)


@READERS
def test_a_slide_that_does_not_open_leaves_no_file_open(info: SlideInfo, reader: ReaderChoice) -> None:
    other = replace(info, fingerprint="of another file")
    n_open = len(open_files())
    errors = []
    with SlideCache() as slides:
        for _ in range(3):
            with pytest.raises(SlideError, match="changed since the run began") as caught:
                slides.get(other, reader=reader)
            errors.append(caught.value)  # with its traceback, hence all that its frames refer to
        assert len(open_files()) == n_open


def test_closing_survives_a_mount_that_has_gone(info: SlideInfo) -> None:
    slide = OpenedSlide(info, direct_levels=(0,))
    assert slide._tiles is not None
    os.close(slide._tiles._file)  # so that closing fails
    slide.close()
    slide.close()


# --- all slides together


def faults_of(*numbers: int | None) -> list[Fault]:
    """Faults of so many slides, from what the system said of each."""
    faults = []
    for index, number in enumerate(numbers):
        error = SlideError(f"slide s{index}: cannot be read.", path=Path("/mnt/s.svs"))
        error.__cause__ = None if number is None else OSError(number, os.strerror(number))
        faults.append(fault_from(error, slide_id=f"s{index}", stage="describe"))
    return faults


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTCONN, errno.ESTALE, errno.EIO])
def test_when_no_slide_can_be_read_none_is_blamed(number: int) -> None:
    with pytest.raises(
        EnvironmentFaultError, match=r"none of 2 slides in /mnt can be read: slide s0: cannot"
    ) as caught:
        refuse_lost_slides(faults_of(number, errno.EIO), n_slides=2, folder=Path("/mnt"))
    assert "mount" in caught.value.remedy


@pytest.mark.parametrize(
    ("numbers", "n_slides"),
    [((errno.EIO, errno.EIO), 3), ((errno.EIO, None), 2), ((errno.EACCES, errno.EIO), 2), ((), 0)],
    ids=["one is fine", "one is damaged", "one is forbidden", "none there"],
)
def test_otherwise_slides_fail_one_by_one(numbers: tuple[int | None, ...], n_slides: int) -> None:
    refuse_lost_slides(faults_of(*numbers), n_slides=n_slides, folder=Path("/mnt"))


def test_an_error_of_ours_has_no_number_of_the_system() -> None:
    """Python takes any two arguments of an OSError for its number and its text."""
    error = EnvironmentFaultError("the disk is odd", "Mend it.")
    assert errno_of(error) is None
    assert fault_from(error, slide_id="s", stage="survey").errno_name == ""
    error.__cause__ = OSError(errno.EIO, "Input/output error")
    assert errno_of(error) == errno.EIO
