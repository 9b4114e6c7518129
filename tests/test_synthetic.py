from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers_slides import (
    CODE_PERIOD_PX,
    Vendor,
    coloured,
    darkest_decile,
    decode_positions,
    encode_positions,
    fit_ramp,
    ramp_position,
    read_level,
    read_rgb,
    write_blank_slide,
    write_pen_slide,
    write_position_slide,
    write_ramp_slide,
)
from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError
from wsi_extract.geometry import Rect
from wsi_extract.synthetic import (
    CELL_SPACING_PX,
    DEMO_CLASSES,
    EDGE_MARGIN_PX,
    SPOT_RADIUS_PX,
    AnnotatedSlide,
    AnnotationRow,
    AnnotationShape,
    CellKind,
    DemoSummary,
    HeSlideSpec,
    PenMarks,
    PlacedCell,
    write_coco,
    write_demo,
    write_he_slide,
    write_sliderunner,
)

HeSlide: TypeAlias = tuple[Path, tuple[PlacedCell, ...]]

SPEC = HeSlideSpec(
    width_px=3001,
    height_px=2003,
    seed=5,
    n_cells=((CellKind.MITOSIS, 16), (CellKind.LOOK_ALIKE, 16), (CellKind.TUMOR_CELL, 16), (CellKind.GRANULOCYTE, 8)),
    tissue_share=0.6,
)


@pytest.fixture(scope="module")
def he_slide(tmp_path_factory: pytest.TempPathFactory) -> HeSlide:
    path = tmp_path_factory.mktemp("he") / "slide.svs"
    return path, write_he_slide(path, SPEC)


@pytest.fixture(scope="module")
def level_0(he_slide: HeSlide) -> RgbImage:
    return read_level(he_slide[0], level=0)


def test_openslide_takes_the_slide_for_an_aperio_pyramid(he_slide: HeSlide) -> None:
    with openslide.OpenSlide(he_slide[0]) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2533)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2533)
        assert float(slide.properties["openslide.objective-power"]) == 40
        assert slide.level_dimensions == ((3001, 2003), (750, 500), (187, 125))
        assert slide.level_downsamples[1] == pytest.approx((3001 / 750 + 2003 / 500) / 2)
        assert slide.level_downsamples[1] != 4
        assert slide.properties["openslide.level[0].tile-width"] == "240"
        assert set(slide.associated_images) == {"thumbnail"}


def test_pages_follow_the_order_of_aperio_and_hold_no_date(he_slide: HeSlide) -> None:
    with tifffile.TiffFile(he_slide[0]) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        assert [page.is_tiled for page in pages] == [True, False, True, True]
        assert all(page.compression == tifffile.COMPRESSION.JPEG for page in pages)
        assert not {"DateTime", "Software"} & {tag.name for page in pages for tag in page.tags}


def test_tile_size_and_chroma_do_not_move_a_cell_and_another_seed_does(tmp_path: Path, he_slide: HeSlide) -> None:
    spec = replace(SPEC, seed=6, tile_px=256, chroma_subsampling="420", quality=90)
    cells = write_he_slide(tmp_path / "slide.svs", spec)
    picture = read_level(tmp_path / "slide.svs", level=0)
    mitoses = [cell for cell in cells if cell.kind is CellKind.MITOSIS]
    assert len(mitoses) == 16
    assert all(darkest_decile(picture, x=cell.x_l0, y=cell.y_l0) < 75 for cell in mitoses)
    assert {(cell.x_l0, cell.y_l0) for cell in cells}.isdisjoint((cell.x_l0, cell.y_l0) for cell in he_slide[1])


@pytest.mark.parametrize("level", [1, 2])
def test_lower_levels_show_level_0_averaged(he_slide: HeSlide, level_0: RgbImage, level: int) -> None:
    shown = read_level(he_slide[0], level=level)
    d = (1, 4, 16)[level]
    height, width = shown.shape[:2]
    expected = cv2.resize(level_0[: height * d, : width * d], (width, height), interpolation=cv2.INTER_AREA)
    difference = shown.astype(np.float64) - expected
    assert np.abs(difference).mean() < 5  # what JPEG loses
    shifted = np.roll(expected, 1, axis=1).astype(np.float64) - shown
    assert np.abs(shifted).mean() > 1.5 * np.abs(difference).mean()


# --- cells


def test_every_cell_asked_for_is_placed_apart_and_inside(he_slide: HeSlide) -> None:
    cells = he_slide[1]
    assert [(kind, sum(cell.kind is kind for cell in cells)) for kind in CellKind] == list(SPEC.n_cells)
    xy = np.array([(cell.x_l0, cell.y_l0) for cell in cells])
    assert (xy >= EDGE_MARGIN_PX).all()
    assert (xy < (SPEC.width_px - EDGE_MARGIN_PX, SPEC.height_px - EDGE_MARGIN_PX)).all()
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=2) + np.eye(len(xy)) * 1e9
    assert distances.min() >= CELL_SPACING_PX


def test_mitoses_and_look_alikes_are_dark_and_other_cells_are_not(he_slide: HeSlide, level_0: RgbImage) -> None:
    darkness = {
        kind: [darkest_decile(level_0, x=cell.x_l0, y=cell.y_l0) for cell in he_slide[1] if cell.kind is kind]
        for kind in CellKind
    }
    assert max(darkness[CellKind.MITOSIS]) < 75
    assert max(darkness[CellKind.LOOK_ALIKE]) < 90
    assert min(darkness[CellKind.TUMOR_CELL]) > 90
    rng = np.random.default_rng(0)
    elsewhere = [
        darkest_decile(level_0, x=x, y=y)
        for x, y in rng.integers(100, (2900, 1900), (400, 2)).tolist()
        if all(np.hypot(cell.x_l0 - x, cell.y_l0 - y) > 60 for cell in he_slide[1])
    ]
    assert len(elsewhere) > 200
    assert np.mean(np.array(elsewhere) < 75) < 0.02


def test_dark_matter_of_mitoses_is_centred(he_slide: HeSlide, level_0: RgbImage) -> None:
    offsets = []
    for cell in he_slide[1]:
        if cell.kind is CellKind.MITOSIS:
            window = level_0[cell.y_l0 - 25 : cell.y_l0 + 26, cell.x_l0 - 25 : cell.x_l0 + 26].mean(axis=2)
            rows, columns = np.nonzero(window < 85)
            assert len(rows) > 150, cell
            offsets.append((columns.mean() - 25, rows.mean() - 25))
    assert np.abs(np.mean(offsets, axis=0)).max() < 1.5
    assert np.abs(offsets).max() < 6


def test_more_cells_than_room_is_an_error_that_names_both_counts(tmp_path: Path) -> None:
    spec = replace(SPEC, width_px=600, height_px=500, n_cells=((CellKind.MITOSIS, 500),))
    with pytest.raises(InputError, match=r"600 x 500 px has room for \d+ of 500 cells.*Ask for fewer cells"):
        write_he_slide(tmp_path / "slide.svs", spec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width_px": 160}, "larger than 160 x 160 px, got 160 x 2003"),
        ({"tile_px": 250}, "multiple of 16 px up to 256, got 250"),
        ({"tissue_share": 0.95}, "0 .. 0.9, got 0.95"),
        ({"quality": 0}, "1 .. 100, got 0"),
        ({"um_per_px": 0.0}, "must be positive"),
        ({"n_cells": ((CellKind.MITOSIS, -1),)}, "counts not negative"),
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)  # type: ignore[arg-type]  # each case gives its field a value of the right type


# --- tissue, glass and ink


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_tissue_covers_the_share_asked_for(tmp_path: Path, share: float) -> None:
    spec = HeSlideSpec(width_px=2401, height_px=1801, seed=2, tissue_share=share)
    write_he_slide(tmp_path / "slide.svs", spec)
    assert coloured(read_level(tmp_path / "slide.svs", level=2)).mean() == pytest.approx(share, abs=0.08)


def test_slides_without_tissue_show_glass_or_ink(tmp_path: Path) -> None:
    write_blank_slide(tmp_path / "blank.svs", width_px=801, height_px=603)
    glass = read_level(tmp_path / "blank.svs", level=0)
    assert glass.min() > 230
    assert glass.std() > 0.3  # scanners leave noise
    write_pen_slide(tmp_path / "pen.svs", width_px=801, height_px=603)
    ink = read_level(tmp_path / "pen.svs", level=0).astype(np.int64)
    assert (ink[..., 2] - ink[..., 0]).min() > 100


def test_strokes_of_three_inks_cross_the_slide_and_avoid_cells(tmp_path: Path) -> None:
    spec = replace(SPEC, width_px=4001, height_px=3001, pen_marks=PenMarks.STROKES)
    cells = write_he_slide(tmp_path / "pen.svs", spec)
    picture = read_level(tmp_path / "pen.svs", level=2).astype(np.int64)
    red, green, blue = np.moveaxis(picture, -1, 0)
    inks = (blue - red > 60) & (blue - green > 40), green - np.maximum(red, blue) > 25, picture.max(axis=2) < 60
    assert all(0.01 < ink.mean() < 0.15 for ink in inks)
    marked = cv2.erode(np.any(inks, axis=0).astype(np.uint8), np.ones((3, 3), dtype=np.uint8))
    assert not any(marked[cell.y_l0 // 16, cell.x_l0 // 16] for cell in cells)


def test_memory_does_not_grow_with_the_height_of_the_slide(tmp_path: Path) -> None:
    """The tall slide has 54 MB more pixels at level 0 than the small one.

    Linux hands the peak memory of a process on to its children, so pytest's own peak would hide theirs. The launcher in
    between is small; its peak of all children so far is the small slide's, then the tall one's.
    """
    write = """
import sys
from pathlib import Path
from wsi_extract.synthetic import HeSlideSpec, write_he_slide
write_he_slide(Path(sys.argv[1]), HeSlideSpec(width_px=2_000, height_px=int(sys.argv[2]), seed=1))
"""
    launch = """
import resource, subprocess, sys
for height in ("1000", "10000"):
    subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2], height], check=True)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    path = tmp_path / "slide.svs"
    done = subprocess.run([sys.executable, "-c", launch, write, path], capture_output=True, text=True, check=True)
    small, tall = map(int, done.stdout.split())
    assert tall < 1.15 * small
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((2_000, 10_000), (500, 2_500), (125, 625))
        assert read_rgb(slide, x_l0=1_900, y_l0=9_900, level=0, size_wh=(100, 100)).min() > 60


# --- annotations


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    """An ordinary and a negative slide."""
    return write_demo(tmp_path_factory.mktemp("demo"), n_slides=2, width_px=2001, height_px=1603, seed=3)


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        return database.execute(sql).fetchall()


def test_demo_repeats_byte_for_byte(tmp_path: Path, demo: DemoSummary) -> None:
    again = write_demo(tmp_path, n_slides=2, width_px=2001, height_px=1603, seed=3)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    expected = ["WSI/demo_01.svs", "WSI/demo_02.svs", "annotations.json", "annotations.sqlite"]
    assert [str(name) for name in names] == expected
    assert all((tmp_path / name).read_bytes() == (demo.sqlite_path.parent / name).read_bytes() for name in names)
    assert again.annotations == demo.annotations


def test_database_and_json_hold_the_same_spots(demo: DemoSummary) -> None:
    assert query(demo.sqlite_path, "PRAGMA integrity_check") == [("ok",)]
    spots = query(
        demo.sqlite_path,
        "SELECT a.uid, a.slide, a.agreedClass, c.coordinateX, c.coordinateY FROM Annotations a JOIN "
        "Annotations_coordinates c ON c.annoId = a.uid WHERE a.type = 1 AND a.deleted = 0 ORDER BY a.uid",
    )
    document = json.loads(demo.coco_path.read_text())
    boxes = [(a["id"], a["image_id"], a["category_id"], *a["bbox"]) for a in document["annotations"]]
    r = SPOT_RADIUS_PX
    assert boxes == [(*row[:3], row[3] - r, row[4] - r, row[3] + r, row[4] + r) for row in spots]  # type: ignore[operator]  # SQLite's numbers
    assert query(demo.sqlite_path, "SELECT uid, filename, width, height FROM Slides") == [
        (image["id"], image["file_name"], image["width"], image["height"]) for image in document["images"]
    ]
    assert query(demo.sqlite_path, "SELECT uid, name FROM Classes") == list(DEMO_CLASSES.items())
    assert not {"area", "iscrowd", "segmentation"} & set(document["annotations"][0])


def test_demo_holds_the_traps_of_real_files(demo: DemoSummary) -> None:
    by_type = query(
        demo.sqlite_path, "SELECT type, count(*) FROM Annotations WHERE deleted = 0 AND type > 1 GROUP BY 1"
    )
    assert by_type == [(2, 1), (4, 1)]
    deleted = query(demo.sqlite_path, "SELECT slide, agreedClass FROM Annotations WHERE deleted = 1")
    assert deleted == [(1, 2), (1, 2), (2, 2), (2, 2)]
    mitoses = "SELECT slide, count(*) > 0 FROM Annotations WHERE agreedClass = 2 AND deleted = 0 GROUP BY 1"
    assert query(demo.sqlite_path, mitoses) == [(1, 1)]  # the second slide has none
    assert demo.count(7) > demo.count(2) > 3


def test_polygons_keep_their_points_in_the_database_and_stay_out_of_the_json(tmp_path: Path) -> None:
    slide = AnnotatedSlide(uid=4, file_name="a.svs", width_px=900, height_px=800)
    ring = ((10.0, 20.0), (30.5, 20.0), (30.0, 50.0), (10.0, 20.0))
    row = AnnotationRow(uid=9, slide_uid=4, class_id=1, points_l0=ring, shape=AnnotationShape.POLYGON)
    write_sliderunner(tmp_path / "a.sqlite", slides=[slide], classes={1: "Tumor"}, annotations=[row])
    points = "SELECT coordinateX, coordinateY FROM Annotations_coordinates WHERE annoId = 9 ORDER BY orderIdx"
    assert query(tmp_path / "a.sqlite", points) == list(ring)
    spot = AnnotationRow(uid=10, slide_uid=4, class_id=1, points_l0=((100, 200),))
    write_coco(tmp_path / "a.json", slides=[slide], classes={1: "Tumor"}, annotations=[row, spot], bbox_format="xywh")
    (written,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert (written["id"], written["bbox"]) == (10, [75, 175, 50, 50])


# --- position slides


@given(
    x=st.integers(min_value=0, max_value=CODE_PERIOD_PX - 1), y=st.integers(min_value=0, max_value=CODE_PERIOD_PX - 1)
)
def test_position_codes_round_trip(x: int, y: int) -> None:
    decoded = decode_positions(encode_positions(np.array([x]), np.array([y])))
    assert (decoded[0].item(), decoded[1].item()) == (x, y)


@pytest.mark.parametrize("vendor", ["generic-tiff", "aperio"])
@pytest.mark.parametrize("downsamples", [(1,), (1, 4), (1, 2.5, 16)], ids=str)
def test_positions_are_read_back_at_every_level(tmp_path: Path, vendor: Vendor, downsamples: tuple[float, ...]) -> None:
    path = tmp_path / "slide.tif"
    write_position_slide(path, width_px=1501, height_px=1203, downsamples=downsamples, vendor=vendor)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == vendor
        assert slide.level_count == len(downsamples)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        for level, downsample in enumerate(downsamples):
            width, height = slide.level_dimensions[level]
            assert (width, height) == (1501 // downsample, 1203 // downsample)
            x, y = decode_positions(read_rgb(slide, x_l0=0, y_l0=0, level=level, size_wh=(width, height)))
            assert (x == np.floor(np.arange(width) * downsample)).all()
            assert (y == np.floor(np.arange(height) * downsample)[:, None]).all()
        x, y = decode_positions(read_rgb(slide, x_l0=777, y_l0=501, level=0, size_wh=(300, 200)))
        assert (x == np.arange(777, 1077)).all()
        assert (y == np.arange(501, 701)[:, None]).all()


@pytest.mark.parametrize(
    ("um_per_px", "expected"),
    [(0.25, ("0.25", "0.25")), ((0.25, 0.5), ("0.25", "0.5")), (None, (None, None))],
    ids=["square", "not square", "unknown"],
)
def test_resolution_is_written_as_said(
    tmp_path: Path, um_per_px: float | tuple[float, float] | None, expected: tuple[str | None, str | None]
) -> None:
    write_position_slide(tmp_path / "slide.tif", width_px=300, height_px=300, downsamples=(1,), um_per_px=um_per_px)
    with openslide.OpenSlide(tmp_path / "slide.tif") as slide:
        assert (slide.properties.get("openslide.mpp-x"), slide.properties.get("openslide.mpp-y")) == expected


# --- ramp slides


@pytest.fixture(scope="module")
def ramp_slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openslide.OpenSlide]:
    path = tmp_path_factory.mktemp("ramp") / "ramp.tif"
    tissue = (Rect(x0=500, y0=300, x1=3000, y1=2000), Rect(x0=3200, y0=2100, x1=3300, y1=2300))
    write_ramp_slide(path, width_px=4000, height_px=3004, tissue_l0=tissue)
    with openslide.OpenSlide(path) as slide:
        yield slide


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("xy", [(500, 300), (1003, 777), (2200, 1400)], ids=str)
def test_ramp_tells_origin_and_scale(ramp_slide: openslide.OpenSlide, level: int, xy: tuple[int, int]) -> None:
    d = (1, 4)[level]
    x, y = xy[0] // 4 * 4, xy[1] // 4 * 4
    patch = read_rgb(ramp_slide, x_l0=x, y_l0=y, level=level, size_wh=(128, 96))
    fit = fit_ramp(patch, width_px=4000, height_px=3004)
    assert (fit.x_l0, fit.y_l0) == pytest.approx((x, y), abs=1)
    assert (fit.l0_per_px_x, fit.l0_per_px_y) == pytest.approx((d, d), rel=0.01)
    centre = ramp_position(patch, width_px=4000, height_px=3004)
    assert centre == pytest.approx((x + 64 * d, y + 48 * d), abs=0.5)


def test_ramp_slide_is_white_outside_its_tissue(ramp_slide: openslide.OpenSlide) -> None:
    picture = read_rgb(ramp_slide, x_l0=0, y_l0=0, level=0, size_wh=(4000, 3004))
    is_tissue = (picture != 255).any(axis=2)
    expected = np.zeros((3004, 4000), dtype=np.bool_)
    expected[300:2000, 500:3000] = True
    expected[2100:2300, 3200:3300] = True
    assert (is_tissue == expected).all()
    assert coloured(picture[expected][None]).all()
