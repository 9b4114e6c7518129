"""Slides are generated, tiny, and their pixels encode their own position."""

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError, SlideError
from wsi_extract.geometry import Rect
from wsi_extract.model import SlideFile, SlideInfo
from wsi_extract.resolution import RUN_OVERRIDE, ResolutionOverride
from wsi_extract.slide_names import MAX_ID_LENGTH, slide_id_of
from wsi_extract.slides.open_slides import (
    OpenedSlide,
    SlideCache,
    describe_slide,
    find_slides,
    fingerprint_of,
    openslide_version,
    read_overview,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"
N_LEVELS = 4


def position_image(width: int, height: int) -> RgbImage:
    """R = x, G = y, modulo 251 so that no period of 2 hides a shift; B = 10: never white, never black."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 251, y % 251, np.full_like(x, 10)], axis=-1).astype(np.uint8)


def write_slide(path: Path, levels: list[np.ndarray], *, tile_px: int = 64, um_per_px: float | None = 0.25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for number, image in enumerate(levels):
            tiff.write(
                image,
                tile=(tile_px, tile_px),
                photometric="rgb",
                compression="deflate",
                subfiletype=1 if number else 0,
                resolution=None if um_per_px is None else (1e4 / um_per_px, 1e4 / um_per_px),
                resolutionunit=None if um_per_px is None else "CENTIMETER",
                extrasamples=["assocalpha"] if image.shape[-1] == 4 else None,
            )
    return path


def as_file(path: Path) -> SlideFile:
    return SlideFile(slide_id=path.stem, path=path)


def as_info(path: Path) -> SlideInfo:
    return describe_slide(as_file(path), override=None)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Four levels, downsamples 1, 2, 4, 8, each encoding its own positions."""
    levels = [position_image(640 >> n, 480 >> n) for n in range(N_LEVELS)]
    return write_slide(tmp_path_factory.mktemp("slides") / "pyramid.tif", levels), levels


def test_find_slides_follows_known_extensions_and_names_the_rest(tmp_path: Path) -> None:
    for name in ("b/x.SVS", "a.ome.tif", "b/.hidden.svs", ".cache/y.svs", "m.mrxs", "m/Dat.tif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_slides(tmp_path)
    assert [(slide.slide_id, slide.path.name) for slide in found.slides] == [
        ("a.ome", "a.ome.tif"),
        ("b__x", "x.SVS"),
        ("m", "m.mrxs"),
    ]
    assert found.ignored == (tmp_path / "notes.txt",)


def test_find_slides_survives_link_loops_and_pipes_and_reports_broken_links_later(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "s.svs").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    (tmp_path / "self.svs").symlink_to(tmp_path / "self.svs")
    os.mkfifo(tmp_path / "pipe.svs")
    found = find_slides(tmp_path)
    assert [slide.slide_id for slide in found.slides] == ["a__s", "gone", "self"]
    assert found.ignored == (tmp_path / "pipe.svs",)
    with pytest.raises(SlideError, match=r"gone: cannot find .*gone\.svs: No such file"):
        describe_slide(found.slides[1], override=None)


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    with pytest.raises(SlideError, match="not a regular file"):
        OpenedSlide(as_file(tmp_path / "pipe.svs"))


@pytest.mark.parametrize(
    "names", [("a.svs", "a.tif"), ("a.svs", "A.svs"), ("x/y.svs", "x__y.svs")], ids=["extension", "case", "folder"]
)
def test_two_slides_with_one_id_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        find_slides(tmp_path)
    assert all(str(tmp_path / name) in str(caught.value) for name in names)


def test_one_file_under_two_names_is_refused_because_it_would_leak(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    (tmp_path / "b.svs").symlink_to(tmp_path / "a.svs")
    with pytest.raises(InputError, match="are one file"):
        find_slides(tmp_path)


def test_find_slides_refuses_what_is_no_folder_of_slides(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"no slides in .*1 other files"):
        find_slides(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_slides(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a folder"):
        find_slides(tmp_path / "notes.txt")


part = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=70)
path_parts = st.lists(part.filter(lambda text: text not in {".", ".."}), min_size=1, max_size=3)


@settings(deadline=None)
@given(path_parts, path_parts)
def test_slide_ids_are_safe_and_differ_when_the_paths_do(first: list[str], second: list[str]) -> None:
    ids = [slide_id_of(Path(*parts[:-1], parts[-1] + ".svs")) for parts in (first, second)]
    for slide_id in ids:
        assert 0 < len(slide_id) <= MAX_ID_LENGTH
        assert slide_id.isascii()
        assert slide_id.strip(".")
        assert not set(slide_id) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert (ids[0] == ids[1]) == ("__".join(first) == "__".join(second))


def test_openslide_is_at_least_the_release_that_mended_uninitialised_pixels() -> None:
    assert tuple(int(number) for number in openslide_version().split(".")) >= (4, 0, 1)


def test_describe_slide(pyramid: tuple[Path, list[np.ndarray]]) -> None:
    info = as_info(pyramid[0])
    assert [(level.width_px, level.height_px, level.downsample) for level in info.levels] == [
        (640, 480, 1.0),
        (320, 240, 2.0),
        (160, 120, 4.0),
        (80, 60, 8.0),
    ]
    assert info.um_per_px_xy == pytest.approx((0.25, 0.25), rel=1e-5)
    assert (info.um_per_px_source, info.vendor, info.bounds_l0) == ("property", "generic-tiff", None)
    override = ResolutionOverride(um_per_px_x=0.5, um_per_px_y=0.4, source=RUN_OVERRIDE)
    told = describe_slide(as_file(pyramid[0]), override=override)
    assert (told.um_per_px_xy, told.um_per_px_source) == ((0.5, 0.4), "run override")


def test_16_bit_grey_is_refused_and_16_bit_colour_is_read(tmp_path: Path) -> None:
    image = position_image(100, 83).astype(np.uint16) * 257
    path = write_slide(tmp_path / "colour.tif", [image])
    with OpenedSlide(as_info(path)) as slide:
        rgb = slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=100, h_lv_px=83)
    np.testing.assert_array_equal(rgb, position_image(100, 83))
    tifffile.imwrite(tmp_path / "grey.tif", image[..., 0], tile=(64, 64), photometric="minisblack")
    with pytest.raises(SlideError, match="slide grey holds 16-bit grey values"):
        as_info(tmp_path / "grey.tif")


def test_fingerprint_depends_on_content_size_and_companions(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(5 * 2**20)
    path = tmp_path / "a.svs"
    seen = set()
    for place in (0, 2**20 - 1, len(data) * 6 // 17, len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        seen.add(fingerprint_of(as_file(path)))
    path.write_bytes(data + b"0")
    seen.add(fingerprint_of(as_file(path)))
    path.write_bytes(data)
    assert fingerprint_of(as_file(path)) == fingerprint_of(as_file(path))
    seen |= {fingerprint_of(as_file(path))}
    seen |= {fingerprint_of(SlideFile(slide_id="a", path=path, companions=(path,)))}
    assert len(seen) == 7


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, N_LEVELS - 1), st.integers(-60, 700), st.integers(-60, 500), st.integers(1, 90), st.integers(1, 90)
)
def test_read_region_is_the_level_on_white(
    pyramid: tuple[Path, list[np.ndarray]], level: int, x_lv: int, y_lv: int, w: int, h: int
) -> None:
    path, levels = pyramid
    canvas = np.full((1200, 1200, 3), 255, dtype=np.uint8)
    canvas[100 : 100 + levels[level].shape[0], 100 : 100 + levels[level].shape[1]] = levels[level]
    with OpenedSlide(as_file(path)) as slide:
        x_l0, y_l0 = x_lv << level, y_lv << level
        got = slide.read_region(level, x_l0=x_l0, y_l0=y_l0, w_lv_px=w, h_lv_px=h)
    assert got.flags.c_contiguous
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, canvas[100 + y_lv : 100 + y_lv + h, 100 + x_lv : 100 + x_lv + w])


def test_b05_beyond_the_slide_is_white_never_black(pyramid: tuple[Path, list[np.ndarray]]) -> None:
    with OpenedSlide(as_file(pyramid[0])) as slide:
        for x_l0, y_l0 in [(-100, 0), (640, 0), (0, 480), (10**9, 10**9), (-(10**9), 0)]:
            assert slide.read_region(0, x_l0=x_l0, y_l0=y_l0, w_lv_px=50, h_lv_px=50).min() == 255


def test_read_region_refuses_nonsense(pyramid: tuple[Path, list[np.ndarray]]) -> None:
    with OpenedSlide(as_file(pyramid[0])) as slide:
        for level, width in [(N_LEVELS, 5), (-1, 5), (0, 0)]:
            with pytest.raises(ValueError, match="no region of"):
                slide.read_region(level, x_l0=0, y_l0=0, w_lv_px=width, h_lv_px=5)


def test_transparency_is_composited_on_white_exactly(tmp_path: Path) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (300, 64, 4)).astype(np.uint8)
    rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])  # premultiplied, as the file states
    rgba[:20, :, :] = 0
    path = write_slide(tmp_path / "a.tif", [rgba])
    with OpenedSlide(as_file(path)) as slide:
        got = slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=64, h_lv_px=300)
    np.testing.assert_array_equal(got, rgba[..., :3].astype(int) + 255 - rgba[..., 3:])


def damage_tile(path: Path, *, tile: int) -> None:
    """Overwrite one compressed tile of level 0 with bytes that cannot be decoded."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        start, n_bytes = page.dataoffsets[tile], page.databytecounts[tile]
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(b"\xff" * n_bytes)


def test_b27_unreadable_pixels_are_an_error_never_a_colour(tmp_path: Path) -> None:
    image = position_image(256, 256)
    path = write_slide(tmp_path / "s.tif", [image])
    damage_tile(path, tile=5)  # second row, second column
    info = as_info(path)
    with SlideCache() as cache:
        first = cache.get(info)
        good = first.read_region(0, x_l0=0, y_l0=0, w_lv_px=64, h_lv_px=64)
        np.testing.assert_array_equal(good, image[:64, :64])
        with pytest.raises(SlideError, match=r"slide s: cannot read 64 x 64 px of level 0 .*\(64, 64\) of .*s\.tif"):
            first.read_region(0, x_l0=64, y_l0=64, w_lv_px=64, h_lv_px=64)
        cache.evict(info)
        again = cache.get(info)
        assert again is not first
        np.testing.assert_array_equal(again.read_region(0, x_l0=0, y_l0=0, w_lv_px=64, h_lv_px=64), good)
        with pytest.raises(SlideError, match="cannot read"):
            read_overview(again, info, target_downsample=4)


def test_b15_open_slides_never_leave_their_process(pyramid: tuple[Path, list[np.ndarray]]) -> None:
    info = as_info(pyramid[0])
    assert pickle.loads(pickle.dumps(info)) == info
    with SlideCache() as cache, pytest.raises(TypeError, match="cannot be pickled: send its SlideInfo"):
        pickle.dumps(cache.get(info))


def test_cache_closes_the_least_recently_used(tmp_path: Path) -> None:
    infos = [as_info(write_slide(tmp_path / f"{name}.tif", [position_image(64, 64)])) for name in "abc"]
    n_open_before = len(list(Path("/proc/self/fd").iterdir()))
    with SlideCache(max_open=2) as cache:
        a, b = cache.get(infos[0]), cache.get(infos[1])
        assert cache.get(infos[0]) is a
        c = cache.get(infos[2])  # closes b
        assert (cache.get(infos[0]), cache.get(infos[2])) == (a, c)
        assert cache.get(infos[1]) is not b
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open_before


def test_cache_notices_a_replaced_slide(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", [position_image(64, 64)])
    info = as_info(path)
    with SlideCache() as cache:
        cache.get(info)
        os.utime(path, ns=(1, 1))
        with pytest.raises(SlideError, match="changed while it was open"):
            cache.get(info)
        cache.get(info)  # only the time differs: the same content is opened afresh
        write_slide(path, [255 - position_image(64, 64)])
        with pytest.raises(SlideError, match="changed while it was open"):
            cache.get(info)
        with pytest.raises(SlideError, match="changed since the run began"):
            cache.get(info)


def test_overview_of_a_single_level_averages_areas_across_chunks(tmp_path: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (2115, 2209, 3)).astype(np.uint8)
    path = write_slide(tmp_path / "s.tif", [image], tile_px=256)
    with OpenedSlide(as_file(path)) as slide:
        rgb, scale = read_overview(slide, as_info(path), target_downsample=10.5)
    padded = np.full((2120, 2210, 3), 255.0)
    padded[:2115, :2209] = image
    expected = padded.reshape(212, 10, 221, 10, 3).mean(axis=(1, 3))
    assert np.abs(rgb - expected).max() <= 0.5 + 1e-9
    assert (scale.x, scale.y) == (10.0, 10.0)


def test_overview_takes_the_nearest_level_and_its_own_exact_scale(tmp_path: Path) -> None:
    levels = [position_image(1003, 801), position_image(250, 200), position_image(62, 50)]
    path = write_slide(tmp_path / "s.tif", levels)
    with OpenedSlide(as_file(path)) as slide:
        info = as_info(path)
        rgb, scale = read_overview(slide, info, target_downsample=16.0)
        assert rgb.shape == (50, 62, 3) or info.levels[2].downsample > 16 * 1.001
        rgb, scale = read_overview(slide, info, target_downsample=5.0)
        np.testing.assert_array_equal(rgb, levels[1])
        assert (scale.x, scale.y) == (1003 / 250, 801 / 200)
        rgb, scale = read_overview(slide, info, target_downsample=5.0, max_px=250 * 200 // 4)
        assert rgb.shape == (100, 125, 3)
        assert (scale.x, scale.y) == (2 * 1003 / 250, 2 * 801 / 200)
        assert np.abs(rgb - cv2.resize(levels[1], (125, 100), interpolation=cv2.INTER_AREA).astype(int)).max() <= 1


@pytest.mark.shared
def test_real_aperio_slide() -> None:
    info = as_info(SHARED / "cmu-1-small-region.svs")
    assert [(level.width_px, level.height_px) for level in info.levels] == [(2220, 2967)]
    assert (info.um_per_px_xy, info.objective_power, info.vendor) == ((0.499, 0.499), 20.0, "aperio")
    small = as_info(SHARED / "osp_small.svs")
    assert (small.width_l0_px, small.height_l0_px) == (16, 16)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["osp_unopenable.tiff", "histolab_broken.svs", "kidney-48-5.tif"])
def test_real_files_that_do_not_open(name: str) -> None:
    with pytest.raises(SlideError, match=rf"cannot open .*{name}.* replace it, or leave it out"):
        as_info(SHARED / name)


@pytest.mark.shared
def test_b27_real_slide_that_opens_but_cannot_be_read() -> None:
    info = as_info(SHARED / "osp_unreadable.svs")
    with OpenedSlide(info) as slide, pytest.raises(SlideError, match="cannot read 16 x 16 px"):
        read_overview(slide, info, target_downsample=1)


@pytest.mark.shared
def test_real_tiff_with_absurd_resolution() -> None:
    info = as_info(SHARED / "osp_boxes.tiff")
    assert [round(level.downsample, 3) for level in info.levels] == [1, 2, 4.016, 8.086]
    assert info.um_per_px_xy is None
    assert "352.777" in info.um_per_px_source


@pytest.mark.shared
def test_real_leica_bounds() -> None:
    info = as_info(SHARED / "leica_bounds.scn")
    assert info.bounds_l0 == Rect(x0=600, y0=400, x1=1624, y1=1168)
    with OpenedSlide(info) as slide:
        rgb = slide.read_region(0, x_l0=590, y_l0=390, w_lv_px=1044, h_lv_px=788)
    expected = np.full((788, 1044, 3), 255, dtype=np.uint8)
    v, u = np.mgrid[:768, :1024]
    expected[10:778, 10:1034] = np.stack([u % 256, v % 256, np.full_like(u, 128)], axis=-1)
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.shared
def test_real_transparent_tiff() -> None:
    path = SHARED / "imagecodecs_rgba.tiled.u1.tif"
    with OpenedSlide(as_info(path)) as slide:
        rgb = slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=111, h_lv_px=83)
    with tifffile.TiffFile(path) as tiff:
        image = tiff.pages.first.asarray().astype(float)
    assert np.abs(rgb - (255 + (image[..., :3] - 255) * image[..., 3:] / 255)).max() <= 1


@pytest.mark.shared
def test_real_16_bit_grey_tiff_is_refused_because_openslide_scrambles_it() -> None:
    with pytest.raises(SlideError, match="holds 16-bit grey values"):
        as_info(SHARED / "imagecodecs_gray.tiled.u2.tif")


@pytest.mark.shared
def test_real_dicom_series_is_one_slide(tmp_path: Path) -> None:
    for name in ("osp_boxes_1.dcm", "osp_boxes_0.dcm"):
        (tmp_path / name).symlink_to(SHARED / name)
    (found,) = find_slides(tmp_path).slides
    assert (found.slide_id, [path.name for path in found.companions]) == ("osp_boxes_0", ["osp_boxes_1.dcm"])
    assert as_info(found.path).vendor == "dicom"
