"""Who reads a slide is decided by proof, and whoever reads gives the same pixels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers_jpeg_slides import (
    JpegSlide,
    describe,
    overwrite,
    tile_place,
    write_jpeg_file,
    write_jpeg_slide,
)
from tests.helpers_slides import write_position_slide
from wsi_extract.arrays import RgbImage
from wsi_extract.errors import SlideError
from wsi_extract.model import SlideFile, SlideInfo
from wsi_extract.reading import ReaderChoice, ReaderMode
from wsi_extract.slides.open_slides import SlideCache, choose_reader, read_overview
from wsi_extract.slides.opened_slide import OpenedSlide

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"
PYRAMID = JpegSlide(width_px=800, height_px=640, vendor="aperio", downsamples=(1, 2, 4))
DIRECT = ReaderChoice(direct_levels=(0, 1, 2))


@dataclass(frozen=True, slots=True)
class Invert:
    """The simplest change of colours; white becomes black where it is applied by mistake."""

    top: int = 255

    def __call__(self, rgb: RgbImage) -> RgbImage:
        return np.uint8(self.top) - rgb


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> SlideInfo:
    return write_jpeg_slide(tmp_path_factory.mktemp("pyramid") / "s.svs", PYRAMID)


def choose(
    info: SlideInfo, *, mode: ReaderMode = ReaderMode.AUTO, levels: tuple[int, ...] = (), patch_level: int = 0
) -> ReaderChoice:
    with SlideCache() as slides:
        return choose_reader(info, slides, mode=mode, levels=levels, patch_level=patch_level, seed=7)


# --- choosing


def test_the_direct_reader_is_chosen_for_the_levels_that_are_used(pyramid: SlideInfo) -> None:
    assert choose(pyramid) == ReaderChoice(direct_levels=(0,))
    assert choose(pyramid, levels=(2, 0), mode=ReaderMode.DIRECT) == ReaderChoice(direct_levels=(0, 2))
    assert choose(pyramid, levels=(1, 2), mode=ReaderMode.OPENSLIDE) == ReaderChoice()


def test_another_level_that_cannot_be_read_directly_is_left_to_openslide(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.svs", replace(PYRAMID, missing=((1, 2),)))
    assert choose(info, levels=(1, 2), mode=ReaderMode.DIRECT) == ReaderChoice(direct_levels=(0,))
    choice = choose(info, levels=(0,), patch_level=1)
    assert choice.direct_levels == (0,)
    assert choice.reason == "level 1: tiles are missing, or may be, in it or in the levels before"


def test_a_slide_of_another_format_is_left_to_openslide_unless_direct_is_demanded(tmp_path: Path) -> None:
    write_position_slide(tmp_path / "s.tif", width_px=600, height_px=400)
    info = describe(tmp_path / "s.tif")
    choice = choose(info, levels=(1,))
    assert choice.direct_levels == ()
    assert choice.reason.startswith("level 0: its compression is ")
    with pytest.raises(SlideError, match=r"slide s: .*s\.tif cannot be read directly: level 0: its compression"):
        choose(info, mode=ReaderMode.DIRECT)


def test_a_slide_that_openslide_shows_otherwise_is_left_to_it(pyramid: SlideInfo) -> None:
    # A description without level 0 makes the two readers look at different levels.
    askew = replace(pyramid, levels=(replace(pyramid.levels[1], downsample=1.0),))
    choice = choose(askew)
    assert choice.direct_levels == ()
    assert choice.reason.startswith("level 0: its pixels differ from OpenSlide's by up to ")
    with pytest.raises(SlideError, match=r"slide s: .*s\.svs cannot be read directly: level 0: its pixels differ"):
        choose(askew, mode=ReaderMode.DIRECT)


def test_a_slide_damaged_for_both_readers_is_no_difference(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.tif", JpegSlide(width_px=96 * 2, height_px=96 * 2))
    start, _ = tile_place(info.path, tile=0)
    overwrite(info.path, at=start, data=bytes(100))
    info = describe(info.path)
    choice = choose(info, mode=ReaderMode.DIRECT)
    assert choice == ReaderChoice(direct_levels=(0,))
    with SlideCache() as slides, pytest.raises(SlideError, match="cannot decode tile 0"):
        slides.get(info, reader=choice).read_region(0, x_l0=0, y_l0=0, w_lv_px=9, h_lv_px=9)


def test_a_slide_that_does_not_open_is_an_error(tmp_path: Path, pyramid: SlideInfo) -> None:
    (tmp_path / "s.svs").write_bytes(b"no slide")
    with pytest.raises(SlideError):
        choose(replace(pyramid, path=tmp_path / "s.svs"), mode=ReaderMode.DIRECT)


def test_the_same_seed_makes_the_same_choice(pyramid: SlideInfo) -> None:
    assert choose(pyramid, levels=(0, 1, 2)) == choose(pyramid, levels=(2, 1, 0)) == DIRECT


# --- reading


@pytest.mark.parametrize("pixel_map", [None, Invert()], ids=["as scanned", "mapped"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_both_readers_give_the_same_pixels_everywhere(pyramid: SlideInfo, level: int, pixel_map: Invert | None) -> None:
    with SlideCache() as slides:
        direct = slides.get(pyramid, reader=DIRECT, pixel_map=pixel_map)
        composed = slides.get(pyramid, pixel_map=pixel_map)
        assert direct.reads_tiles(level)
        assert not composed.reads_tiles(level)
        for x, y, w, h in [(0, 0, 800, 640), (-40, -24, 120, 60), (801, 8, 5, 5), (90, 641, 8, 8), (760, 620, 99, 99)]:
            np.testing.assert_array_equal(
                direct.read_region(level, x_l0=x, y_l0=y, w_lv_px=w, h_lv_px=h),
                composed.read_region(level, x_l0=x, y_l0=y, w_lv_px=w, h_lv_px=h),
            )


def test_positions_between_the_pixels_of_a_level_go_through_openslide(pyramid: SlideInfo) -> None:
    with SlideCache() as slides:
        direct, composed = slides.get(pyramid, reader=DIRECT), slides.get(pyramid)
        for x, y in [(101, 100), (100, 102)]:
            np.testing.assert_array_equal(
                direct.read_region(2, x_l0=x, y_l0=y, w_lv_px=50, h_lv_px=50),
                composed.read_region(2, x_l0=x, y_l0=y, w_lv_px=50, h_lv_px=50),
            )


@pytest.mark.parametrize("reader", [ReaderChoice(), DIRECT], ids=["openslide", "direct"])
def test_the_map_changes_pixels_of_the_slide_and_never_the_white_around_it(
    pyramid: SlideInfo, reader: ReaderChoice
) -> None:
    with SlideCache() as slides:
        plain = slides.get(pyramid, reader=reader)
        mapped = slides.get(pyramid, reader=reader, pixel_map=Invert())
        inside = plain.read_region(1, x_l0=0, y_l0=0, w_lv_px=400, h_lv_px=320)
        around = mapped.read_region(1, x_l0=-20, y_l0=-40, w_lv_px=450, h_lv_px=400)
    np.testing.assert_array_equal(around[20:340, 10:410], 255 - inside)
    around[20:340, 10:410] = 255
    assert (around == 255).all()


def test_a_missing_tile_is_mapped_by_neither_reader_or_by_both(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.svs", replace(PYRAMID, downsamples=(1,), missing=((0, 3),)))
    with SlideCache() as slides:
        regions = [
            slides.get(info, reader=reader, pixel_map=Invert()).read_region(
                0, x_l0=90 * 3, y_l0=0, w_lv_px=120, h_lv_px=120
            )
            for reader in (ReaderChoice(), ReaderChoice(direct_levels=(0,)))
        ]
    np.testing.assert_array_equal(regions[0], regions[1])


def test_overviews_are_the_same(pyramid: SlideInfo) -> None:
    with SlideCache() as slides:
        for downsample in (1.0, 4.0, 9.0):
            overviews = [
                read_overview(slides.get(pyramid, reader=reader), pyramid, target_downsample=downsample)
                for reader in (ReaderChoice(), DIRECT)
            ]
            np.testing.assert_array_equal(overviews[0][0], overviews[1][0])
            assert overviews[0][1] == overviews[1][1]


def test_openslide_is_not_opened_when_it_is_not_needed(tmp_path: Path) -> None:
    spec = JpegSlide(downsamples=(1, 2))
    info = write_jpeg_slide(tmp_path / "s.tif", spec)
    with OpenedSlide(info) as slide:
        expected = slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=700, h_lv_px=500)
    write_jpeg_file(info.path, replace(spec, byteorder=">"))  # OpenSlide does not open such a file
    with OpenedSlide(info, direct_levels=(0,)) as slide:
        assert slide.levels == info.levels
        np.testing.assert_array_equal(slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=700, h_lv_px=500), expected)
        with pytest.raises(SlideError, match=r"cannot open .*s\.tif"):
            slide.read_region(1, x_l0=0, y_l0=0, w_lv_px=9, h_lv_px=9)
        with pytest.raises(SlideError, match=r"cannot open .*s\.tif"):
            _ = slide.properties
    with pytest.raises(SlideError, match=r"cannot open .*s\.tif"):
        OpenedSlide(info)


def test_what_cannot_be_read_directly_is_refused(tmp_path: Path, pyramid: SlideInfo) -> None:
    with pytest.raises(SlideError, match=r"level 7 of .*s\.svs cannot be read directly: there is none"):
        OpenedSlide(pyramid, direct_levels=(7,))
    with pytest.raises(ValueError, match="only a described slide"):
        OpenedSlide(SlideFile(slide_id="s", path=pyramid.path), direct_levels=(0,))
    write_position_slide(tmp_path / "s.tif", width_px=600, height_px=400)
    with pytest.raises(SlideError, match="cannot be read directly: its compression"):
        OpenedSlide(describe(tmp_path / "s.tif"), direct_levels=(0,))


# --- the cache of open slides


def test_readers_and_maps_are_kept_apart(pyramid: SlideInfo) -> None:
    with SlideCache(max_open=3) as slides:
        slide, direct = slides.get(pyramid), slides.get(pyramid, reader=DIRECT)
        mapped = slides.get(pyramid, reader=DIRECT, pixel_map=Invert())
        assert len({id(slide), id(direct), id(mapped)}) == 3
        assert slides.get(pyramid) is slide
        assert slides.get(pyramid, reader=replace(DIRECT, reason="told elsewhere")) is direct
        assert slides.get(pyramid, reader=DIRECT, pixel_map=Invert(255)) is mapped
        slides.evict(pyramid)
        assert slides.get(pyramid, reader=DIRECT) is not direct


def test_a_slide_changed_before_it_is_opened_directly_is_noticed(tmp_path: Path) -> None:
    info = write_jpeg_slide(tmp_path / "s.svs", PYRAMID)
    with SlideCache() as slides:
        slides.get(info)
        write_jpeg_slide(info.path, replace(PYRAMID, holds_rgb=True))
        with pytest.raises(SlideError, match="changed since the run began"):
            slides.get(info, reader=DIRECT)


def test_tiles_can_be_dropped_and_are_read_again(pyramid: SlideInfo) -> None:
    with SlideCache() as slides:
        slide = slides.get(pyramid, reader=DIRECT)
        before = slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=500, h_lv_px=500)
        slide.drop_tiles()
        np.testing.assert_array_equal(slide.read_region(0, x_l0=0, y_l0=0, w_lv_px=500, h_lv_px=500), before)
        slides.get(pyramid).drop_tiles()  # harmless where there are none


@pytest.mark.shared
def test_a_real_slide_is_read_directly_and_equals_openslide() -> None:
    info = describe(SHARED / "cmu-1-small-region.svs")
    choice = choose(info, mode=ReaderMode.DIRECT)
    assert choice == ReaderChoice(direct_levels=(0,))
    with SlideCache() as slides:
        regions = [
            slides.get(info, reader=reader).read_region(0, x_l0=0, y_l0=0, w_lv_px=2300, h_lv_px=3000)
            for reader in (ReaderChoice(), choice)
        ]
    np.testing.assert_array_equal(regions[0], regions[1])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("leica_bounds.scn", "its format, leica, is not one of tiled JPEG images"),
        ("osp_boxes.tiff", "its compression is"),
        ("osp_boxes_0.dcm", "its format, dicom, is not one of tiled JPEG images"),
    ],
)
def test_other_real_slides_are_left_to_openslide(name: str, reason: str) -> None:
    choice = choose(describe(SHARED / name))
    assert choice.direct_levels == ()
    assert reason in choice.reason
