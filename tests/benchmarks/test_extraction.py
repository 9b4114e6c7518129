from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.anchored import main as anchored_main
from benchmarks.extraction import all_setups, median_limit
from benchmarks.extraction import main as extraction_main
from benchmarks.jobs import Job
from benchmarks.limit import Limit, encoders, measure_limit, touched_tiles
from benchmarks.naive import main as naive_main
from benchmarks.patch_list import (
    PatchList,
    SlidePatches,
    check_same_patches,
    patches_of,
    read_patch_list,
    write_patch_list,
)
from benchmarks.processes import ProcessCost, run_measured
from benchmarks.results import read_result
from benchmarks.rounds import one_core, run_rounds
from benchmarks.scanned_slides import annotations_of, scanned_slide
from wsi_extract.errors import InputError
from wsi_extract.storage import Store

SIZE = ("--width-px", "1000", "--height-px", "800")


@pytest.fixture(scope="module")
def slides_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def slide(slides_folder: Path) -> Path:
    return scanned_slide(slides_folder, width_px=1000, height_px=800)


def list_of(slide: Path, *origins: tuple[int, int], patch_px: int = 100) -> PatchList:
    xy = np.array(origins, dtype=np.int64).reshape(-1, 2)
    return PatchList(patch_px=patch_px, slides=(SlidePatches(path=slide, origins_l0=xy),))


def test_patch_list_round_trips(slide: Path, tmp_path: Path) -> None:
    write_patch_list(tmp_path / "list.json", list_of(slide, (3, 5), (7, 11)))
    found = read_patch_list(tmp_path / "list.json")
    assert (found.patch_px, len(found), found.slides[0].path) == (100, 2, slide)
    assert found.slides[0].origins_l0.tolist() == [[3, 5], [7, 11]]


def test_naive_script_saves_what_openslide_reads(slide: Path, tmp_path: Path) -> None:
    write_patch_list(tmp_path / "list.json", list_of(slide, (0, 0), (333, 471)))
    assert naive_main(["--patches", str(tmp_path / "list.json"), "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / slide.stem
    assert sorted(path.name for path in folder.iterdir()) == [f"{slide.stem}_x0_y0.png", f"{slide.stem}_x333_y471.png"]
    with openslide.OpenSlide(slide) as opened, Image.open(folder / f"{slide.stem}_x333_y471.png") as image:
        expected = opened.read_region((333, 471), 0, (100, 100)).convert("RGB")
        assert np.array_equal(np.asarray(image), np.asarray(expected))


@given(
    origins=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 150)), min_size=1, max_size=6),
    patch_px=st.integers(1, 90),
    tile_w_px=st.integers(1, 40),
    tile_h_px=st.integers(1, 40),
)
def test_touched_tiles_are_those_under_the_patches(
    origins: list[tuple[int, int]], patch_px: int, tile_w_px: int, tile_h_px: int
) -> None:
    n_columns = -(-240 // tile_w_px)
    under = np.zeros((240, 240), dtype=bool)
    for x, y in origins:
        under[y : y + patch_px, x : x + patch_px] = True
    rows, columns = np.nonzero(under)
    expected = np.unique(rows // tile_h_px * n_columns + columns // tile_w_px)
    found = touched_tiles(
        np.array(origins, dtype=np.int64),
        patch_px=patch_px,
        tile_wh_px=(tile_w_px, tile_h_px),
        n_columns=n_columns,
    )
    assert found.tolist() == expected.tolist()


def test_limit_counts_each_tile_and_each_patch_once(slide: Path) -> None:
    # The first two share a tile, the third lies on four tiles, the last reaches into the partial tiles at the corner.
    patches = list_of(slide, (0, 0), (100, 100), (190, 190), (900, 700))
    limit = measure_limit(patches, seed=0)
    assert (limit.n_patches, limit.n_tiles) == (4, 4 + 4)
    assert limit.decode_s > 0
    assert set(limit.encode_s) == set(encoders()) >= {"isal", "opencv", "zstd"}
    assert all(limit.cpu_s(name) > limit.decode_s for name in limit.encode_s)
    assert all(n_bytes > 0 for n_bytes in limit.encoded_bytes.values())


def test_limit_refuses_pixels_that_differ_from_openslide(slide: Path) -> None:
    # Beyond the slide's edge a tile holds whatever its encoder put there, and OpenSlide nothing.
    with pytest.raises(RuntimeError, match=r"patch at \(950, 20\) differs from OpenSlide's"):
        measure_limit(list_of(slide, (0, 0), (950, 20)), seed=0)


def test_limit_is_for_jpeg_tiles(tmp_path: Path) -> None:
    path = tmp_path / "deflate.tif"
    rgb = np.zeros((512, 512, 3), np.uint8)
    tifffile.imwrite(path, rgb, tile=(256, 256), photometric="rgb", compression="deflate")
    with pytest.raises(InputError, match="not JPEG tiles"):
        measure_limit(list_of(path, (0, 0)), seed=0)


def test_median_of_limits_is_taken_figure_by_figure() -> None:
    limits = [
        Limit(n_patches=9, n_tiles=4, decode_s=d, encode_s={"a": e, "b": 1.0}, encoded_bytes={"a": 5, "b": 6})
        for d, e in ((1.0, 30.0), (2.0, 10.0), (9.0, 20.0))
    ]
    found = median_limit(limits)
    assert (found.decode_s, found.encode_s, found.cpu_s("a")) == (2.0, {"a": 20.0, "b": 1.0}, 22.0)


def test_rounds_run_every_contender_once_each() -> None:
    order: list[str] = []

    def contender(name: str) -> ProcessCost:
        order.append(name)
        return run_measured([sys.executable, "-S", "-c", "sum(range(10**6))"], cores=one_core())

    names = ("a", "b", "c")
    found = run_rounds({name: partial(contender, name) for name in names}, n_rounds=3, seed=1)
    assert [sorted(order[i : i + 3]) for i in (0, 3, 6)] == [list(names)] * 3
    assert tuple(found) == names
    assert all(len(rounds.cpu_s) == 3 and rounds.cpu_median_s > 0 and rounds.spread >= 1 for rounds in found.values())
    with pytest.raises(ValueError, match="nothing to measure"):
        run_rounds({}, n_rounds=3, seed=1)


def test_every_store_and_every_installed_encoder_is_measured() -> None:
    setups = all_setups()
    assert setups[0].name == "png, isal"
    assert {store for setup in setups for store in setup.stores} == {Store.PNG, Store.ZARR, Store.PIXELS}
    assert all(set(setup.encoders) <= set(encoders()) for setup in setups)
    assert len({setup.name for setup in setups}) == len(setups)


@pytest.fixture(scope="module")
def results(slides_folder: Path, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measure the default setup on a tiny slide."""
    out = tmp_path_factory.mktemp("results")
    flags = ["--out", str(out), "--slides", str(slides_folder), *SIZE, "--rounds", "1"]
    assert extraction_main([*flags, "--overlaps", "0.5", "--only", "png, isal"]) == 0
    return out


def test_command_writes_tables_chart_and_figures(results: Path) -> None:
    assert sorted(path.name for path in results.iterdir()) == ["extraction.json", "extraction.svg"]
    found = read_result(results / "extraction.json")
    text = found.to_markdown()
    assert "naive script, Pillow PNG" in text
    assert "png, isal" in text
    (comparison,) = json.loads((results / "extraction.json").read_bytes())["figures"]["comparisons"]
    job, limit = comparison["jobs"]["png, isal"], comparison["limit"]
    assert comparison["n_patches"] >= 4
    cpu_s = job["cpu_s"][0]
    assert job["times_naive"] == pytest.approx(comparison["naive"]["cpu_s"][0] / cpu_s)
    assert job["times_limit"] == pytest.approx(cpu_s / (limit["decode_s"] + limit["encode_s"]["isal"]))
    share = 1 - comparison["start"]["cpu_s"][0] / cpu_s
    assert job["times_limit_after_start"] == pytest.approx(job["times_limit"] * share)
    assert share < 1  # of a slide this small it may be less than nothing: all but the start is noise
    assert job["times_fastest_limit"] >= job["times_limit"] > 1
    assert job["peak_bytes"] > 2e7


def test_unknown_setups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        extraction_main(["--out", str(tmp_path), "--only", "tiff"])


def test_patches_are_compared_before_anything_is_timed(slide: Path, tmp_path: Path) -> None:
    out, naive = tmp_path / "out", tmp_path / "naive"
    job = Job(
        name="grid",
        slides=slide.parent,
        annotations=annotations_of(slide),
        settings=("--sampling", "grid", "--overlap", "0.5"),
    )
    run_measured(job.command(out))
    patches = patches_of(out, slides_folder=slide.parent)
    (origins,) = (each.origins_l0.tolist() for each in patches.slides)
    assert origins == sorted(origins, key=lambda xy: (xy[1], xy[0]))
    write_patch_list(tmp_path / "list.json", patches)
    assert naive_main(["--patches", str(tmp_path / "list.json"), "--out", str(naive)]) == 0
    assert check_same_patches(out, naive, n_compared=99, seed=0, store="png") == len(patches)
    one = min(naive.rglob("*.png"))
    with Image.open(one) as image:
        pixels = np.array(image)
    pixels[7, 7, 1] ^= 1
    Image.fromarray(pixels).save(one)
    with pytest.raises(RuntimeError, match=f"{one.name} has other pixels"):
        check_same_patches(out, naive, n_compared=99, seed=0, store="png")
    one.unlink()
    with pytest.raises(RuntimeError, match=f"{one.name} is in one only"):
        check_same_patches(out, naive, n_compared=99, seed=0, store="png")


def test_anchored_job_is_compared_with_the_script(slides_folder: Path, slide: Path, tmp_path: Path) -> None:
    flags = ["--out", str(tmp_path), "--slides", str(slides_folder), *SIZE]
    assert anchored_main([*flags, "--n-slides", "2", "--patches-per-slide", "4", "--rounds", "1"]) == 0
    figures = json.loads((tmp_path / "anchored.json").read_bytes())["figures"]
    assert (figures["n_slides"], figures["n_patches"]) == (2, 8)
    assert figures["times_naive"] == pytest.approx(figures["naive"]["wall_s"][0] / figures["ours"]["wall_s"][0])
    assert [path.name for path in tmp_path.iterdir()] == ["anchored.json"]
