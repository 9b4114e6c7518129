from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from benchmarks.scanned_pixels import write_scanned_slide
from benchmarks.scanned_slides import COPIES_ANNOTATIONS, annotations_of, main, scanned_copies, scanned_slide
from benchmarks.texture import TISSUE_GREY
from wsi_extract.model import SlideFile
from wsi_extract.slides.open_slides import fingerprint_of
from wsi_extract.synthetic import HeSlideSpec

WIDTH_PX, HEIGHT_PX = 1_300, 1_000  # no multiple of tiles or downsamples
SHIFTS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
DENSE_TILE_BYTES = 19_000
"""Of a 240 px tile of scanned H&E, quality 80, 4:2:2."""
DENSE_PNG_BYTES = 136_000
"""Of a 256 px patch of the same, Pillow's default."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def slide(folder: Path) -> Path:
    return scanned_slide(folder, width_px=WIDTH_PX, height_px=HEIGHT_PX)


def test_slide_is_a_pyramid_that_openslide_reads(slide: Path) -> None:
    with openslide.OpenSlide(slide) as opened:
        assert opened.properties["openslide.vendor"] == "aperio"
        assert opened.level_dimensions == tuple((WIDTH_PX // d, HEIGHT_PX // d) for d in (1, 4, 16))
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.2533)
        full = np.asarray(opened.read_region((0, 0), 0, (1280, 960)).convert("RGB")).astype(float)
        quarter = np.asarray(opened.read_region((0, 0), 1, (320, 240)).convert("RGB")).astype(float)
    shrunk = full.reshape(240, 4, 320, 4, 3).mean(axis=(1, 3))
    # The same picture up to JPEG: any shift fits worse, and colours agree on the mean.
    fit = {shift: np.abs(shrunk - np.roll(quarter, shift, axis=(0, 1))).mean() for shift in SHIFTS}
    assert min(fit, key=lambda shift: fit[shift]) == (0, 0)
    assert np.allclose(shrunk.mean(axis=(0, 1)), quarter.mean(axis=(0, 1)), atol=1)


def test_dense_tissue_has_the_bytes_of_scans(slide: Path) -> None:
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages.first
        assert page.tags["YCbCrSubSampling"].value == (2, 1)
        assert (page.tilewidth, page.tilelength, len(page.databytecounts)) == (240, 240, 6 * 5)
        assert max(page.databytecounts) == pytest.approx(DENSE_TILE_BYTES, rel=0.1)
        assert min(page.databytecounts) < DENSE_TILE_BYTES / 4  # glass
    sizes = []
    with openslide.OpenSlide(slide) as opened:
        for y in range(0, HEIGHT_PX - 256, 128):
            for x in range(0, WIDTH_PX - 256, 128):
                patch = opened.read_region((x, y), 0, (256, 256)).convert("RGB")
                if (np.asarray(patch).mean(axis=2) < TISSUE_GREY).mean() >= 0.9:
                    stream = io.BytesIO()
                    patch.save(stream, "PNG")
                    sizes.append(len(stream.getvalue()))
    assert np.mean(sizes) == pytest.approx(DENSE_PNG_BYTES, rel=0.08)


def test_slide_is_drawn_once(slide: Path, folder: Path) -> None:
    before = slide.stat().st_mtime_ns
    assert scanned_slide(folder, width_px=WIDTH_PX, height_px=HEIGHT_PX) == slide
    assert slide.stat().st_mtime_ns == before


def test_processes_do_not_change_the_bytes(tmp_path: Path) -> None:
    # More than three bands of four tiles, so that two processes have work.
    spec = HeSlideSpec(width_px=300, height_px=900, seed=3, tissue_share=0.6, tile_px=64)
    write_scanned_slide(tmp_path / "one.svs", spec=spec, n_processes=1)
    write_scanned_slide(tmp_path / "two.svs", spec=spec, n_processes=2)
    assert (tmp_path / "one.svs").read_bytes() == (tmp_path / "two.svs").read_bytes()


def test_annotations_lie_on_dark_cells(slide: Path) -> None:
    document = json.loads(annotations_of(slide).read_bytes())
    assert [image["file_name"] for image in document["images"]] == [slide.name]
    assert {row["category_id"] for row in document["annotations"]} == {2, 7}
    with openslide.OpenSlide(slide) as opened:
        for row in document["annotations"]:
            x0, y0, x1, y1 = (int(value) for value in row["bbox"])
            box = opened.read_region((x0, y0), 0, (x1 - x0, y1 - y0)).convert("L")
            assert np.asarray(box).min() < 110


def test_copies_differ_in_bytes_and_not_in_pixels(slide: Path, folder: Path) -> None:
    copies = scanned_copies(folder, n_slides=2, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    paths = sorted(copies.glob("*.svs"))
    assert len({fingerprint_of(SlideFile(slide_id=path.stem, path=path)) for path in [*paths, slide]}) == 3
    pixels = []
    for path in paths:
        with openslide.OpenSlide(path) as opened:
            pixels.append(np.asarray(opened.read_region((0, 0), 0, (WIDTH_PX, HEIGHT_PX))))
    assert np.array_equal(pixels[0], pixels[1])
    one = json.loads(annotations_of(slide).read_bytes())["annotations"]
    both = json.loads((copies / COPIES_ANNOTATIONS).read_bytes())
    assert [image["file_name"] for image in both["images"]] == [path.name for path in paths]
    for number in (1, 2):
        own = [row for row in both["annotations"] if row["image_id"] == number]
        assert [(row["bbox"], row["category_id"]) for row in own] == [(row["bbox"], row["category_id"]) for row in one]
    assert len({row["id"] for row in both["annotations"]}) == 2 * len(one)


def test_command_prints_where_the_slide_is(slide: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--width-px", str(WIDTH_PX), "--height-px", str(HEIGHT_PX)]
    assert main(["--out", str(folder), *size]) == 0
    assert str(slide) in capsys.readouterr().out
