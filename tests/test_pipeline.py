"""The whole job: pixels, boxes and counts agree, whatever executes it and however often it is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers_run import (
    Inputs,
    ShuffledExecutor,
    content_of,
    extract,
    make_config,
    make_inputs,
    read_coco,
    read_manifest,
)
from tests.helpers_slides import fit_ramp
from wsi_extract.cluster.schedule import dask_executor, local_cluster
from wsi_extract.console.reporters import SilentReporter
from wsi_extract.errors import ConfigError, IntegrityError
from wsi_extract.pipeline import run
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.stores.png import decode_png
from wsi_extract.tasks import SerialExecutor

SPLITS = ("train", "val")
SAME_BYTES: dict[str, dict[str, Any]] = {
    "anchored": {},
    "grid": {"sampling": "grid", "overlap": 0.25},
    "half": {"split_mode": "half", "patches_per_slide": 12, "guard_px": 10},
    "resampled": {"mpp": 0.7},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Two slides with targets, one for each split, for what has many patches per slide."""
    return make_inputs(tmp_path_factory.mktemp("pair"), n_slides=2, counts=lambda uid: {2: 9, 7: 4, 3: 2})


def images_of(out: Path, *splits: str) -> list[dict[str, Any]]:
    return [image for split in splits or SPLITS for image in read_coco(out, split)["images"]]


def patch_pixels(out: Path, image: dict[str, Any]) -> Any:
    return decode_png((out / f"{image['split']}2017" / image["file_name"]).read_bytes())


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="level 0"),
        pytest.param({"mpp": 0.5}, id="2x"),
        pytest.param({"mpp": 0.4}, id="1.6x, from level 0"),
        pytest.param({"mpp": 1.3, "patch_size": 96}, id="5.2x, from level 1"),
        pytest.param({"mpp": 0.2}, id="finer than the slide"),
        pytest.param({"level": 1, "patch_size": 96}, id="level 1, fractional downsample"),
        pytest.param({"sampling": "grid"}, id="grid"),
        pytest.param({"sampling": "grid", "mpp": 0.4}, id="grid, 1.6x"),
    ],
)
def test_pixels_and_boxes_are_where_the_data_set_says(
    inputs: Inputs, pair: Inputs, tmp_path: Path, settings: dict[str, Any]
) -> None:
    slides = pair if "sampling" in settings else inputs
    extract(slides, tmp_path / "out", **settings)
    check_pixels(slides, tmp_path / "out")
    check_boxes(slides, tmp_path / "out")


def check_pixels(inputs: Inputs, out: Path) -> None:
    sizes = {slide.file_name.removesuffix(".svs"): slide for slide in inputs.slides}
    n_checked = 0
    for image in images_of(out):
        if min(image["x_l0"], image["y_l0"]) < 110:
            continue  # reaches over the tissue's edge, where the ramp ends
        slide = sizes[image["slide_id"]]
        fit = fit_ramp(patch_pixels(out, image), width_px=slide.width_px, height_px=slide.height_px)
        scale_x, scale_y = image["l0_per_px_xy"]
        half = image["width"] / 2
        # The middle of the patch is what a straight line fits best.
        assert fit.x_l0 + half * fit.l0_per_px_x == pytest.approx(image["x_l0"] + half * scale_x, abs=1.0 * scale_x)
        assert fit.y_l0 + half * fit.l0_per_px_y == pytest.approx(image["y_l0"] + half * scale_y, abs=1.0 * scale_y)
        n_checked += 1
    assert n_checked >= 20


def check_boxes(inputs: Inputs, out: Path) -> None:
    centres = {str(row.uid): row.points_l0[0] for row in inputs.annotations}
    for split in SPLITS:
        document = read_coco(out, split)
        images = {image["id"]: image for image in document["images"]}
        assert document["annotations"]
        for annotation in document["annotations"]:
            image = images[annotation["image_id"]]
            x, y, width, height = annotation["bbox"]
            for low, side, origin, scale, centre, size in zip(
                (x, y),
                (width, height),
                (image["x_l0"], image["y_l0"]),
                image["l0_per_px_xy"],
                centres[annotation["source_id"]],
                (image["width"], image["height"]),
                strict=True,
            ):
                # The box is the annotation's 50 px, less what the patch cuts off.
                start = max(0.0, (centre - 25 - origin) / scale)
                stop = min(float(size), (centre + 25 - origin) / scale)
                assert (low, low + side) == pytest.approx((start, stop), abs=1e-3)


def test_every_visible_target_is_labelled_in_every_patch(pair: Inputs, tmp_path: Path) -> None:
    extract(pair, tmp_path / "out", sampling="grid")
    for split in SPLITS:
        document = read_coco(tmp_path / "out", split)
        found = {(a["image_id"], a["source_id"]) for a in document["annotations"] if not a["iscrowd"]}
        expected = {
            (image["id"], str(row.uid))
            for image in document["images"]
            for row in pair.annotations
            if f"slide_{row.slide_uid}" == image["slide_id"]
            and row.class_id == 2
            and 0 <= row.points_l0[0][0] - image["x_l0"] < image["width"]
            and 0 <= row.points_l0[0][1] - image["y_l0"] < image["height"]
        }
        assert found == expected


@pytest.mark.xdist_group("dask")
def test_b14_same_bytes_whatever_executes_it(inputs: Inputs, tmp_path: Path) -> None:
    """One cluster for all, as its processes take seconds to start."""
    with (
        SlideCache() as slides,
        local_cluster(n_workers=2, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as client,
    ):
        for name, settings in SAME_BYTES.items():
            folder = tmp_path / name
            extract(inputs, folder / "serial", **settings)
            expected = content_of(folder / "serial")
            extract(inputs, folder / "shuffled", executor=ShuffledExecutor(slides=slides, seed=3), **settings)
            assert content_of(folder / "shuffled") == expected, name
            with dask_executor(client, worker_memory_bytes=10**9, report_path=None) as executor:
                extract(inputs, folder / "dask", executor=executor, **settings)
            assert content_of(folder / "dask") == expected, name


def test_another_seed_gives_other_patches(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "a", seed=42)
    extract(inputs, tmp_path / "b", seed=43)
    names = [{image["file_name"] for image in images_of(tmp_path / run)} for run in ("a", "b")]
    assert len(names[0] & names[1]) < 5


def test_b21_sqlite_and_published_json_give_the_same_data_set(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "sqlite")
    extract(inputs, tmp_path / "coco", annotation_json=str(inputs.coco))
    for split in SPLITS:
        assert read_coco(tmp_path / "sqlite", split) == read_coco(tmp_path / "coco", split)
    assert read_manifest(tmp_path / "coco")["annotations"]["bbox_convention"]["format"] == "xyxy"


def test_b12_slides_without_targets_are_kept(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out")
    kinds = {image["kind"] for image in images_of(tmp_path / "out") if image["slide_id"] == "slide_2"}
    assert kinds == {"random", "hard_negative"}


def test_counts_are_exact_and_add_up(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out", patches_per_slide=100)
    manifest = read_manifest(tmp_path / "out")
    by_slide = {row["slide_id"]: row for row in manifest["slides"]}
    assert by_slide["slide_4"]["patches_by_kind"] == {"hard_negative": 40, "mitosis": 50, "random": 10}
    counts = manifest["counts"]
    assert counts["patches_planned"] == counts["patches_written"] + counts["patches_failed"] == 400
    for split in SPLITS:
        document = read_coco(tmp_path / "out", split)
        assert manifest["splits"][split]["n_images"] == len(document["images"])
        assert [image["id"] for image in document["images"]] == list(range(1, len(document["images"]) + 1))


def test_grid_covers_the_slide_up_to_its_edges(pair: Inputs, tmp_path: Path) -> None:
    extract(pair, tmp_path / "out", sampling="grid", overlap=0, min_tissue_fraction=0)
    for slide in pair.slides:
        covered = np.zeros((slide.height_px, slide.width_px), dtype=bool)
        for image in images_of(tmp_path / "out"):
            if image["slide_id"] == slide.file_name.removesuffix(".svs"):
                covered[image["y_l0"] : image["y_l0"] + 128, image["x_l0"] : image["x_l0"] + 128] = True
        assert covered.all()


def test_b03_b04_halves_share_no_pixel(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out", split_mode="half", guard_px=8)
    middle = {slide.file_name.removesuffix(".svs"): slide.height_px // 2 for slide in inputs.slides}
    for image in images_of(tmp_path / "out", "train"):
        assert image["y_l0"] + 128 <= middle[image["slide_id"]] - 8
    for image in images_of(tmp_path / "out", "val"):
        assert image["y_l0"] >= middle[image["slide_id"]] + 8
    leakage = read_manifest(tmp_path / "out")["leakage"]
    assert leakage["n_overlapping_patch_pairs"] == 0
    assert leakage["same_slide_halves"] is True


def test_look_alikes_become_a_category_on_request(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out", label_hard_negatives=True)
    document = read_coco(tmp_path / "out", "train")
    assert {annotation["category_id"] for annotation in document["annotations"]} == {1, 2}
    assert [category["id"] for category in document["categories"]] == [1, 2]
    assert not any("look_alikes" in image for image in document["images"])


# --- running again


def test_a_second_run_repeats_only_what_is_missing(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(inputs, out)
    expected = content_of(out)
    patches = sorted(out.glob("train2017/*/*.png"))
    kept = {path: path.stat().st_mtime_ns for path in patches}
    (out / ".wsi_extract" / "records" / "slide_1" / "000000.json").unlink()
    next(path for path in patches if path.parent.name == "slide_2").unlink()
    (out / "manifest.json").unlink()
    extract(inputs, out)
    assert content_of(out) == expected
    untouched = [path for path in patches if path.parent.name == "slide_3"]
    assert untouched
    assert all(path.stat().st_mtime_ns == kept[path] for path in untouched)


def test_other_settings_on_an_old_folder_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out")
    before = content_of(tmp_path / "out")
    with pytest.raises(IntegrityError, match=r"settings\.seed"):
        extract(inputs, tmp_path / "out", seed=1)
    assert content_of(tmp_path / "out") == before
    extract(inputs, tmp_path / "out", seed=1, fresh=True)
    assert content_of(tmp_path / "out") != before


def test_dry_run_plans_everything_and_writes_nothing(inputs: Inputs, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    result = extract(inputs, tmp_path / "out", dry_run=True)
    assert result.plan.n_patches == 80
    assert result.plan.n_bytes > 0
    assert result.finished is None
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_too_little_memory_is_refused_before_anything_is_written(inputs: Inputs, tmp_path: Path) -> None:
    config = make_config(inputs, tmp_path / "out")
    with SlideCache() as slides, pytest.raises(ConfigError, match="MB"):
        run(
            config,
            executor=SerialExecutor(slides=slides, worker_memory_bytes=100_000_000),
            reporter=SilentReporter(),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"mpp": 1.3}, {"mpp": 0.4}, {"level": 1}])
def test_no_white_seeps_in_at_the_edge_of_the_level(pair: Inputs, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Green does not change from row to row of the ramp, nor blue from column to column."""
    extract(pair, tmp_path / "out", sampling="grid", patch_size=96, **settings)
    images = images_of(tmp_path / "out")
    for axis, channel in ((0, 2), (1, 1)):
        furthest = max(images, key=lambda image: (image[("x_l0", "y_l0")[axis]], image["tissue_fraction"]))
        means = patch_pixels(tmp_path / "out", furthest)[..., channel].mean(axis=axis)
        assert means[-1] == pytest.approx(means[-4:-1].mean(), abs=1.0)
