"""One run, four stores: the same patches, pixels and boxes, however they are kept and however often interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers_run import Inputs, ShuffledExecutor, content_of, extract, read_manifest
from tests.test_failures import damage
from tests.verify.helpers_stores import SLIDE, write_wide_inputs
from wsi_extract.dataset import open_dataset
from wsi_extract.errors import ConfigError, WsiExtractError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.layout import INDEX, MANIFEST, PATCHES, PIXELS, STATE, plan_path
from wsi_extract.tasks import Task, TaskResult
from wsi_extract.verify import audit, compare

Json = dict[str, Any]

SPLITS = ("train", "val")
SMALL: Json = {"patch_size": 64, "patches_per_slide": 36}
"""Three blocks per slide, the last of which is not full."""
MODES = [
    pytest.param(SMALL, id="anchored"),
    pytest.param({"sampling": "grid", "overlap": 0.1, "min_tissue_fraction": 0}, id="grid"),
    pytest.param({**SMALL, "split_mode": "half", "guard_px": 10}, id="half"),
    pytest.param({**SMALL, "level": 1, "label_hard_negatives": True}, id="level 1"),
]
COCO_FILES = tuple(f"annotations/instances_{split}2017.json" for split in SPLITS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_wide_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


@pytest.fixture(scope="module")
def finished(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run per store that nothing disturbed; must not be changed."""
    folder = tmp_path_factory.mktemp("finished")
    for store in ("zarr", "both", "pixels"):
        extract(inputs, folder / store, store=store, **SMALL)
    return {store: folder / store for store in ("zarr", "both", "pixels")}


def pixels_of(out: Path, split: str, *, store: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    dataset = open_dataset(out, split, store)
    return dataset.read_many(range(len(dataset)))


# --- the same data set


@pytest.mark.parametrize("settings", MODES)
def test_every_store_holds_the_same_patches(inputs: Inputs, tmp_path: Path, settings: Json) -> None:
    both, images = tmp_path / "both", tmp_path / "pixels"
    extract(inputs, both, store="both", **settings)
    extract(inputs, images, store="pixels", **settings)
    for out in (both, images):
        assert audit(out).problems == ()
    for name in COCO_FILES:
        assert (both / name).read_bytes() == (images / name).read_bytes()
    for split in SPLITS:
        expected = pixels_of(both, split, store="png")
        assert len(expected) >= 16
        assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) > len(expected) / 2
        assert np.array_equal(pixels_of(both, split, store="zarr"), expected)
        assert np.array_equal(pixels_of(images, split, store="pixels"), expected)


def test_a_store_is_all_that_differs(inputs: Inputs, tmp_path: Path, finished: dict[str, Path]) -> None:
    """Both stores together are the two alone: the same shards, files, index and documents."""
    extract(inputs, tmp_path / "png", store="png", **SMALL)
    png, zarr, both = (content_of(out) for out in (tmp_path / "png", finished["zarr"], finished["both"]))
    of_data = [name for name in both if not name.startswith((STATE, MANIFEST))]
    assert {name: both[name] for name in of_data} == {
        **{name: data for name, data in png.items() if not name.startswith((STATE, MANIFEST))},
        **{name: data for name, data in zarr.items() if not name.startswith((STATE, MANIFEST))},
    }
    assert {PATCHES, INDEX, "train2017"} <= {name.split("/", maxsplit=1)[0] for name in of_data}


@pytest.mark.parametrize("codec", [{"codec": "none"}, {"codec": "zstd", "codec_level": -3}, {"codec": "webp"}])
def test_lossless_codecs_change_nothing(inputs: Inputs, tmp_path: Path, finished: dict[str, Path], codec: Json) -> None:
    settings = {**SMALL, "patches_per_slide": 6}
    extract(inputs, tmp_path / "out", store="both", **codec, **settings)
    report = audit(tmp_path / "out")
    assert report.problems == ()
    assert bool(report.notes) is (codec["codec"] == "webp")
    for split in SPLITS:
        assert np.array_equal(
            pixels_of(tmp_path / "out", split, store="zarr"), pixels_of(tmp_path / "out", split, store="png")
        )


def test_the_audit_says_that_a_lossy_store_was_not_compared(inputs: Inputs, tmp_path: Path) -> None:
    extract(inputs, tmp_path / "out", store="both", codec="jpeg", **{**SMALL, "patches_per_slide": 6})
    report = audit(tmp_path / "out")
    assert report.problems == ()
    assert any("not compared: jpeg changes pixels" in note for note in report.notes)


def test_stores_are_told_apart(finished: dict[str, Path]) -> None:
    messages = [problem.message for problem in compare(finished["zarr"], finished["both"]).problems]
    differing = ['png_encoder: null against "isal"', 'store: "zarr" against "both"']
    assert [message.partition(": ")[2] for message in messages] == differing


# --- pixels that are stored


@pytest.mark.parametrize("coverage", ["planned", "tissue"])
def test_every_coverage_is_sound(inputs: Inputs, tmp_path: Path, finished: dict[str, Path], coverage: str) -> None:
    out = tmp_path / "out"
    extract(inputs, out, store="pixels", coverage=coverage, **SMALL)
    assert audit(out).problems == ()
    n_bytes, of_anchors = (
        sum(path.stat().st_size for path in (folder / PIXELS).rglob("*") if path.is_file())
        for folder in (out, finished["pixels"])
    )
    assert (n_bytes < of_anchors) is (coverage == "planned")
    for split in SPLITS:
        expected = pixels_of(finished["both"], split, store="png")
        assert np.array_equal(pixels_of(out, split, store="pixels"), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"mpp": 0.4}, r"slide wide_1 cannot be kept in a pixel store.*resampled.*--store zarr", id="mpp"),
        pytest.param({"codec": "gif"}, "codec.*gif", id="unknown codec"),
        pytest.param({"codec": "zstd", "codec_level": 40}, "levels -7 to 19, got 40", id="unknown level"),
        pytest.param({"coverage": "all"}, "coverage.*all", id="unknown coverage"),
        pytest.param({"store": "tape"}, "store.*tape", id="unknown store"),
        pytest.param({"store": "png", "codec": "zstd"}, "codec", id="codec of PNG files"),
        pytest.param({"store": "zarr", "coverage": "planned"}, "coverage", id="coverage of patches"),
    ],
)
def test_impossible_stores_are_refused_before_anything_is_written(
    inputs: Inputs, tmp_path: Path, settings: Json, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        extract(inputs, tmp_path / "out", **{"store": "pixels", **settings})
    assert not (tmp_path / "out").exists()


# --- in any order, and running again


@pytest.mark.parametrize("store", ["both", "pixels"])
def test_same_bytes_in_any_order(inputs: Inputs, tmp_path: Path, finished: dict[str, Path], store: str) -> None:
    with SlideCache() as slides:
        extract(inputs, tmp_path / "out", executor=ShuffledExecutor(slides=slides, seed=3), store=store, **SMALL)
    assert content_of(tmp_path / "out") == content_of(finished[store])
    assert compare(tmp_path / "out", finished[store]).is_sound


def shards_of(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("*.zarr/**/c/**/*") if path.is_file() and INDEX not in path.parts)


def lose_block_record(out: Path) -> None:
    (out / STATE / "records" / SLIDE / "000001.json").unlink()


def lose_shard(out: Path) -> None:
    shards_of(out)[0].unlink()


def truncate_shard(out: Path) -> None:
    shards_of(out)[-1].write_bytes(b"half")


def spoil_pixel_record(out: Path) -> None:
    next(iter(sorted((out / STATE / "pixels" / SLIDE).iterdir()))).write_bytes(b"{")


def lose_png(out: Path) -> None:
    sorted(out.glob("train2017/*/*.png"))[0].unlink()


@pytest.mark.parametrize(
    ("store", "losses"),
    [
        pytest.param("both", (lose_block_record, lose_shard, lose_png), id="both"),
        pytest.param("pixels", (lose_block_record, spoil_pixel_record, truncate_shard), id="pixels"),
    ],
)
def test_running_again_restores_what_is_missing_and_touches_nothing_else(
    inputs: Inputs, tmp_path: Path, store: str, losses: tuple[Callable[[Path], object], ...]
) -> None:
    out = tmp_path / "out"
    extract(inputs, out, store=store, **SMALL)
    expected = content_of(out)
    before = {path: path.stat().st_mtime_ns for path in shards_of(out)}
    for lose in losses:
        lose(out)
    (out / MANIFEST).unlink()
    extract(inputs, out, store=store, **SMALL)
    assert content_of(out) == expected
    kept = [path for path, written in before.items() if path.stat().st_mtime_ns == written]
    assert 0 < len(before) - len(kept) <= len(losses)


def test_an_unfinished_store_does_not_open(inputs: Inputs, tmp_path: Path) -> None:
    """What a run in the making leaves in the folder is not mistaken for a data set."""
    out = tmp_path / "out"
    extract(inputs, out, store="zarr", **SMALL)
    with pytest.raises(WsiExtractError), SlideCache() as slides:
        extract(inputs, out, store="zarr", executor=BrokenExecutor(slides=slides, seed=1), **SMALL)
    assert shards_of(out)
    assert not list(out.glob("*.zarr/**/zarr.json"))


class BrokenExecutor(ShuffledExecutor):
    """Ends when all surveys are done, before the first task of the extraction, if there is any."""

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        return super().run(self.until_extraction(tasks))

    def until_extraction(self, tasks: Iterable[Task | None]) -> Iterator[Task | None]:
        stage = ""
        for task in tasks:
            stage = stage if task is None else task.stage
            if stage == "extract":
                break
            yield task
        if stage in {"survey", "extract"}:
            raise WsiExtractError("the machine failed.")


@pytest.mark.parametrize("store", ["zarr", "pixels"])
def test_a_slide_that_fails_does_not_open(tmp_path: Path, store: str) -> None:
    broken = write_wide_inputs(tmp_path / "input", n_slides=3)
    path = broken.wsi_dir / "wide_3.svs"
    damage(path)
    out = tmp_path / "out"
    extract(broken, out, store=store, **SMALL)
    statuses = {row["slide_id"]: row["status"] for row in read_manifest(out)["slides"]}
    assert statuses == {"wide_1": "complete", "wide_2": "complete", "wide_3": "failed"}
    assert not [path for path in out.rglob("zarr.json") if "wide_3" in path.parts]
    assert audit(out).problems == ()


def test_a_damaged_coverage_is_made_again(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(inputs, out, store="pixels", **SMALL)
    expected, path = content_of(out), plan_path(out, slide_id=SLIDE)
    with np.load(path) as archive:
        columns = {name: archive[name] for name in archive.files}
    columns["coverage_bits"] = np.zeros_like(columns["coverage_bits"])
    np.savez_compressed(path, **columns)
    extract(inputs, out, store="pixels", **SMALL)
    assert content_of(out) == expected


@pytest.mark.parametrize("store", ["zarr", "pixels"])
def test_the_remedy_for_damaged_pixels_works(inputs: Inputs, tmp_path: Path, store: str) -> None:
    out = tmp_path / "out"
    extract(inputs, out, store=store, **SMALL)
    expected, shard = content_of(out), shards_of(out)[0]
    damage(shard)
    assert not audit(out).is_sound
    shard.unlink()
    extract(inputs, out, store=store, **SMALL)
    assert content_of(out) == expected


def test_slides_with_names_that_zarr_reserves_can_be_stored(tmp_path: Path) -> None:
    inputs = write_wide_inputs(tmp_path / "input", n_slides=2)
    (inputs.wsi_dir / "wide_1.svs").rename(inputs.wsi_dir / "ä b.svs")
    table = tmp_path / "names.csv"
    table.write_text("annotation_name,slide\nwide_1.svs,ä b.svs\n", encoding="utf-8")
    extract(inputs, tmp_path / "out", store="zarr", slide_aliases_csv=str(table), **SMALL)
    assert audit(tmp_path / "out").is_sound
