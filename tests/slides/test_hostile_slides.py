"""Slides that are damaged or lie: refused in words, with bounded time and memory, whoever reads them."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.fuzz import shards, tiff_tiles
from tests.helpers_jpeg_slides import TILE_BYTE_COUNTS, JpegSlide, describe, patch_tag, write_jpeg_file
from tests.helpers_run import extract, make_inputs
from tests.helpers_slides import write_position_slide
from wsi_extract.blocks import MAX_MASK_PX
from wsi_extract.errors import InputError, SlideError
from wsi_extract.geometry import Scale
from wsi_extract.model import OutputFrame, SlideFile, SlideInfo, SlideLevel
from wsi_extract.reading import ReaderMode
from wsi_extract.resolution import choose_frame, choose_overview
from wsi_extract.sampling import MAX_PATCHES, check_grid, count_positions
from wsi_extract.slides.jpeg_tiles import first_pages
from wsi_extract.slides.open_slides import SlideCache, choose_reader, read_overview
from wsi_extract.slides.slide_description import describe_slide
from wsi_extract.stain import read_picture

IMAGE_WIDTH, IMAGE_LENGTH, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS = 256, 257, 322, 323, 324
SMALL = JpegSlide(width_px=256, height_px=192, tile_w_px=64, tile_h_px=64, downsamples=(1, 2), vendor="aperio")


def read_all(path: Path, *, mode: ReaderMode) -> None:
    """Describe a slide and read all of it, as a run does."""
    info = describe(path)
    levels = range(len(info.levels))
    with SlideCache() as slides:
        reader = choose_reader(info, slides, mode=mode, levels=levels, patch_level=0, seed=0)
        for level in levels:
            size = info.levels[level]
            w_px, h_px = min(size.width_px, 600), min(size.height_px, 600)
            slides.get(info, reader=reader).read_region(level, x_l0=0, y_l0=0, w_lv_px=w_px, h_lv_px=h_px)


def outcome(path: Path, *, limit_s: int = 120) -> str:
    """Return how reading a slide ends, in a process of its own: a crash of native code is seen, a hang is ended."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(limit_s)
        code = 3
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            for mode in (ReaderMode.OPENSLIDE, ReaderMode.AUTO):
                read_all(path, mode=mode)
            code = 0
        except SlideError:
            code = 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return {0: "read", 1: "refused"}.get(os.WEXITSTATUS(status), "bug")


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("slides") / "a.svs"
    found = {}
    write_jpeg_file(path, SMALL)
    found["jpeg"] = path.read_bytes()
    write_position_slide(path, width_px=300, height_px=200, vendor="aperio")
    found["deflate"] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", ["jpeg", "deflate"])
def test_a_slide_cut_short_anywhere_is_read_or_refused(contents: dict[str, bytes], tmp_path: Path, name: str) -> None:
    data = contents[name]
    outcomes = set()
    for number in range(0, 64, 3):
        path = tmp_path / f"{number}.svs"
        path.write_bytes(data[: len(data) * number // 64])
        outcomes.add(outcome(path))
    assert outcomes <= {"read", "refused"}
    assert "refused" in outcomes


@pytest.mark.parametrize("seed", [1, 2])
def test_flipped_bytes_of_directories_never_crash(contents: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    outcomes = set()
    path = tmp_path / "a.svs"
    for _ in range(20):
        data = bytearray(contents[rng.choice(sorted(contents))])
        path.write_bytes(data)
        with tifffile.TiffFile(path) as tiff:
            page = rng.choice(list(first_pages(tiff)))
            where = rng.randrange(page.offset, page.offset + 2 + 12 * len(page.tags))
        data[where] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        outcomes.add(outcome(path))
    assert outcomes <= {"read", "refused"}


def set_numbers(path: Path, **tags: int) -> None:
    for name, value in tags.items():
        patch_tag(path, level=0, tag=globals()[name], value=value)


def widen_counts(path: Path) -> None:
    """Turn a slide into one of a single tile that claims 2 GiB."""
    write_jpeg_file(path, JpegSlide(width_px=64, height_px=64, tile_w_px=64, tile_h_px=64, vendor="aperio"))
    patch_tag(path, level=0, tag=TILE_BYTE_COUNTS, value=2**31)


def write_vast(path: Path) -> None:
    write_jpeg_file(path, SMALL)
    set_numbers(path, TILE_WIDTH=65520, TILE_LENGTH=65520)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(
            widen_counts, "of up to 2,147,483,648 bytes", id="bytes that are not there end OpenSlide's process"
        ),
        pytest.param(write_vast, "65520 x 65520 px; each would take", id="17 GB for one tile"),
    ],
)
def test_tiles_that_cannot_be_are_refused_before_openslide(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "a.svs"
    make(path)
    with pytest.raises(SlideError, match=said):
        describe(path)


def test_large_but_possible_tiles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, JpegSlide(width_px=2100, height_px=2050, tile_w_px=2048, tile_h_px=2048, vendor="aperio"))
    read_all(path, mode=ReaderMode.AUTO)


def test_descriptions_in_other_encodings_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, SMALL)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"AppMag = 40|", b"Gr\xf6\xdfe  = 40|"))
    info = describe(path)
    assert info.um_per_px_xy == (0.25, 0.25)
    assert info.objective_power is None


def info_of(*sizes: tuple[int, int], um_per_px: float | None = None) -> SlideInfo:
    """Return a slide whose levels claim these sizes, as OpenSlide reckons their downsamples."""
    w, h = sizes[0]
    return SlideInfo(
        slide_id="s",
        path=Path("s.svs"),
        vendor="aperio",
        levels=tuple(SlideLevel(width_px=x, height_px=y, downsample=(w / x + h / y) / 2) for x, y in sizes),
        um_per_px_xy=None if um_per_px is None else (um_per_px, um_per_px),
        um_per_px_source="property",
        bounds_l0=None,
        objective_power=None,
        fingerprint="",
    )


def test_a_level_of_another_shape_is_never_read() -> None:
    info = info_of((40_000, 30_000), (10_000, 300), um_per_px=0.25)
    with pytest.raises(SlideError, match="does not have the shape"):
        choose_frame(info, patch_size_px=256, target_um_per_px=None, level=1)
    assert choose_frame(info, patch_size_px=256, target_um_per_px=20.0, level=None).level == 0
    assert choose_overview(info.levels, target_downsample=64, max_px=MAX_MASK_PX)[0] == 0


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((10_000, 7_500), id="exact"),
        pytest.param((10_240, 7_680), id="padded to tiles of 512 px"),
        pytest.param((19, 15), id="tiny, rounded up"),
        pytest.param((1, 1), id="one pixel"),
    ],
)
def test_levels_that_were_rounded_or_padded_are_read(size: tuple[int, int]) -> None:
    info = info_of((40_000, 30_000), size)
    assert choose_frame(info, patch_size_px=16, target_um_per_px=None, level=1).level == 1


def write_header(path: Path, *, width_px: int, height_px: int, tile_px: int) -> None:
    """Write an Aperio slide of one level, all of whose tiles are missing: BigTIFF of a few kB."""
    n_tiles = -(-width_px // tile_px) * -(-height_px // tile_px)
    text = b"Aperio Image Library\n|MPP = 0.25\0"
    tags = [
        (256, 4, 1, width_px),
        (257, 4, 1, height_px),
        (258, 3, 3, 8 | 8 << 16 | 8 << 32),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (270, 2, len(text), 1000),
        (277, 3, 1, 3),
        (284, 3, 1, 1),
        (322, 4, 1, tile_px),
        (323, 4, 1, tile_px),
        (324, 4, n_tiles, 2000),
        (325, 4, n_tiles, 2000),
        (530, 3, 2, 2 | 2 << 16),
    ]
    head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(tags)) + b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    body = (head + bytes(8)).ljust(1000, b"\0") + text
    path.write_bytes(body.ljust(2000, b"\0") + bytes(4 * n_tiles))


def test_a_slide_larger_than_glass_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    started_s = time.process_time()
    write_header(path, width_px=1_500_000, height_px=1_500_000, tile_px=2**13)
    with pytest.raises(SlideError, match="more than any slide can have"):
        describe(path)
    assert time.process_time() - started_s < 5


def test_a_large_slide_without_a_pyramid_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_header(path, width_px=300_000, height_px=300_000, tile_px=2**13)
    info = describe(path)
    with SlideCache() as slides, pytest.raises(SlideError, match="reading all of level 0, 300000 x 300000 px"):
        read_overview(slides.get(info), info, target_downsample=16, max_px=MAX_MASK_PX)


def frame_of(side_px: int) -> OutputFrame:
    return OutputFrame(
        patch_w_out_px=side_px,
        patch_h_out_px=side_px,
        scale=Scale(x=1.0, y=1.0),
        level=0,
        level_downsample=1.0,
        um_per_px_out_xy=None,
    )


def test_grids_are_counted_before_they_are_made() -> None:
    assert count_positions(info_of((1000, 500)), frame_of(256), stride_px=128) == 7 * 3
    check_grid(info_of((200_000, 200_000)), frame_of(256), stride_px=64)
    with pytest.raises(SlideError, match=r"9,\d{3},\d{3},\d{3} positions, 1 px apart") as caught:
        check_grid(info_of((100_000, 100_000)), frame_of(256), stride_px=1)
    assert "--stride_px" in caught.value.remedy
    assert MAX_PATCHES * 100 < 2**30  # what a plan takes, against what may be read back of one


def test_a_run_refuses_a_grid_that_no_plan_can_hold(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=2)
    write_header(inputs.wsi_dir / "vast.svs", width_px=180_000, height_px=180_000, tile_px=2**13)
    result = extract(
        inputs, tmp_path / "out", sampling="grid", stride_px=5, unannotated_slides="negative", dry_run=True
    )
    (fault,) = result.plan.inputs.faults
    assert fault.slide_id == "vast"
    assert "positions, 5 px apart" in fault.message


# --- replaced while the run works


def test_a_slide_rewritten_under_its_old_times_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, SMALL)
    info = describe(path)
    facts = path.stat()
    with SlideCache() as slides:
        slides.get(info)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert path.stat().st_mtime_ns == facts.st_mtime_ns
        with pytest.raises(SlideError, match="changed while it was open"):
            slides.get(info)


def test_a_slide_with_other_rights_or_another_name_beside_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, SMALL)
    info = describe(path)
    with SlideCache() as slides:
        slide = slides.get(info)
        path.chmod(0o444)
        os.link(path, tmp_path / "b.svs")
        assert slides.get(info) is slide
        slide.check_unchanged()


@pytest.mark.parametrize("how", ["truncated", "removed"])
def test_a_slide_that_shrinks_or_goes_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, SMALL)
    (tmp_path / "other.svs").touch()
    info = describe(path)
    with SlideCache() as slides:
        slides.get(info)
        if how == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
        with pytest.raises(SlideError):
            slides.get(info)


# --- what fuzzing must survive, on a small scale


@pytest.mark.parametrize("harness", [tiff_tiles, shards], ids=["tiff_tiles", "shards"])
def test_harnesses_read_their_seeds_and_survive_damage(harness: object) -> None:
    assert hasattr(harness, "seeds")
    assert hasattr(harness, "check")
    rng = np.random.default_rng(0)
    n_read = 0
    for seed in harness.seeds():
        n_read += harness.check(seed)
        for _ in range(30):
            data = bytearray(seed)
            for where in rng.integers(0, len(data), 3).tolist():
                data[where] = int(rng.choice([0, 1, 127, 128, 255]))
            harness.check(bytes(data[: int(rng.integers(1, len(data) + 1))]) if rng.random() < 0.2 else bytes(data))
    assert n_read > 0


def test_files_that_are_no_tiff_are_left_to_openslide(tmp_path: Path) -> None:
    for name, data in (("empty", b""), ("one", b"I"), ("text", b"hello"), ("magic", b"II*\0")):
        path = tmp_path / f"{name}.svs"
        path.write_bytes(data)
        with pytest.raises(SlideError, match="cannot open"):
            describe_slide(SlideFile(slide_id=name, path=path), override=None)


def test_a_size_that_its_tiles_cannot_fill_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, SMALL)
    set_numbers(path, IMAGE_WIDTH=60_000)
    with pytest.raises(SlideError, match=r"lists 12 of the 2,814 tiles that 60000 x 192 px take"):
        describe(path)


def test_directories_without_end_are_not_followed_and_not_reported_one_by_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, SMALL)
    rng = np.random.default_rng(0)
    data = path.read_bytes()
    n_pages = 3000
    # Directories of nothing but strange tags, each of which leads to the next.
    entries = b"".join(struct.pack("<HHII", 60_000 + i, 99, 2**31, int(rng.integers(2**31))) for i in range(20))
    links = [len(data) + i * (len(entries) + 6) for i in range(1, n_pages)] + [0]
    chain = b"".join(struct.pack("<H", 20) + entries + struct.pack("<I", link) for link in links)
    with tifffile.TiffFile(path) as tiff:
        *_, last = first_pages(tiff)
        where = last.offset + 2 + 12 * len(last.tags)
    capfd.readouterr()
    path.write_bytes(data[:where] + struct.pack("<I", len(data)) + data[where + 4 :] + chain)
    assert outcome(path) in {"read", "refused"}
    with pytest.raises(SlideError) if outcome(path) == "refused" else SlideCache():
        describe(path)
    assert capfd.readouterr().err.count("\n") < 20


def test_sizes_that_are_no_numbers_are_not_multiplied(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_jpeg_file(path, SMALL)
    with tifffile.TiffFile(path) as tiff:
        where = next(first_pages(tiff)).tags[TILE_WIDTH].offset
    data = bytearray(path.read_bytes())
    data[where + 2 : where + 12] = struct.pack("<HII", 7, 4096, 8)  # bytes, from the start of the file on
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"no whole numbers|cannot open"):
        describe(path)


@pytest.mark.parametrize("head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", b"\xc5\xd0\xd3\xc6"])
def test_a_stain_target_that_is_a_program_is_not_run(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "target.png"
    path.write_bytes(head + b"(%pipe%true) (w) file\n")
    with pytest.raises(InputError, match="no picture of a known format"):
        read_picture(path)
