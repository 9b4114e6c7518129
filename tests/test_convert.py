"""Converting finished data sets to other stores: the same data set, whatever happens in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers_convert import StoppedError, assert_same_patches, assert_unfinished, convert, finished
from tests.helpers_dataset import flip_byte, shared_inputs
from tests.helpers_run import content_of, copy_inputs, extract, read_manifest
from wsi_extract import blocks
from wsi_extract.__main__ import main
from wsi_extract.blocks import block_ranges, patches_per_block
from wsi_extract.convert.blocks import place_of
from wsi_extract.convert.destination import UNFINISHED
from wsi_extract.model import Split
from wsi_extract.state.layout import patch_shard_path, record_path
from wsi_extract.state.records import read_document
from wsi_extract.verify import audit, compare


@pytest.mark.parametrize(
    ("store", "to", "codec", "split_mode"),
    [
        ("png", "zarr", None, "slide"),
        ("png", "both", "none", "half"),
        ("zarr", "png", None, "half"),
        ("zarr", "zarr", "webp", "slide"),
        ("both", "png", None, "slide"),
        ("pixels", "both", None, "half"),
        ("pixels", "png", None, "slide"),
    ],
)
def test_a_converted_data_set_is_sound_and_the_same(
    tmp_path: Path, store: str, to: str, codec: str | None, split_mode: str
) -> None:
    source = finished(tmp_path, store, split_mode=split_mode)
    result, notices = convert(source, tmp_path / "dest", to, codec=codec)
    assert (result.n_patches, result.n_converted, notices) == (60 if split_mode == "slide" else 120,) * 2 + ([],)
    report = audit(tmp_path / "dest")
    assert report.is_sound, report.problems
    assert_same_patches(source, tmp_path / "dest")
    assert not (tmp_path / "dest" / UNFINISHED).exists()
    for name in ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "slides.csv"):
        assert (tmp_path / "dest" / name).read_bytes() == (source / name).read_bytes()


def _comparable(out: Path) -> dict[str, Any]:
    """Return a data set without what a conversion cannot know: digests of settings, the order of chunks in shards."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = {"job_key", "plan_digest", "plan_sha256", "pixels_sha256", "content_sha256", "run"}
            kept = {key: known(item) for key, item in value.items() if key not in left_out}
            return {key: item for key, item in kept.items() if key != "sha256"} if "n_rows" in kept else kept
        return [known(item) for item in value] if isinstance(value, list) else value

    content: dict[str, Any] = {}
    for name, data in content_of(out).items():
        if name.startswith(".wsi_extract/records"):
            content[name] = known(json.loads(data)["block"])
        elif name.startswith(".wsi_extract/plans") and name.endswith(".json"):
            content[name] = known(json.loads(data)["survey"])
        elif name.startswith(".wsi_extract/slides"):
            slide = known(json.loads(data)["slide"])
            content[name] = {**slide, "blocks": len(slide["blocks"]), "pixels": None, "coverage_digest": None}
        elif "/c/" in name and name.startswith("patches.zarr"):
            content[name] = len(data)
        else:
            content[name] = known(json.loads(data)) if name == "manifest.json" else data
    return content


@pytest.mark.parametrize(
    ("store", "to", "split_mode"), [("png", "zarr", "half"), ("zarr", "png", "slide"), ("pixels", "both", "half")]
)
def test_the_result_is_what_extraction_writes(tmp_path: Path, store: str, to: str, split_mode: str) -> None:
    convert(finished(tmp_path, store, split_mode=split_mode), tmp_path / "dest", to)
    assert _comparable(tmp_path / "dest") == _comparable(finished(tmp_path, to, split_mode=split_mode))


def test_there_and_back_gives_the_same_bytes(tmp_path: Path) -> None:
    source = finished(tmp_path, "png", split_mode="half")
    convert(source, tmp_path / "there", "zarr", codec="jpeg-xl")
    convert(tmp_path / "there", tmp_path / "back", "png")
    report = compare(source, tmp_path / "back")
    assert report.is_sound, report.problems


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    for n_workers in (1, 5):
        convert(finished(tmp_path, "pixels"), tmp_path / str(n_workers), "both", n_workers=n_workers)
    assert content_of(tmp_path / "1") == content_of(tmp_path / "5")


@pytest.mark.parametrize("to", ["png", "zarr"])
def test_an_interrupted_conversion_goes_on(tmp_path: Path, to: str) -> None:
    source, dest = finished(tmp_path, "both"), tmp_path / "dest"
    with pytest.raises(StoppedError):
        convert(source, dest, to, n_workers=1, stop_at=1)
    assert_unfinished(dest)
    result, _ = convert(source, dest, to)
    assert 0 < result.n_converted < result.n_patches == 60
    convert(source, tmp_path / "whole", to)
    assert content_of(dest) == content_of(tmp_path / "whole")


def _convert_until_killed(source: Path, dest: Path, min_block_patches: int) -> None:
    blocks.MIN_BLOCK_PATCHES = min_block_patches
    convert(source, dest, "both", stop_at=1, stop=lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_killed_conversion_goes_on(tmp_path: Path) -> None:
    source, dest = finished(tmp_path, "png"), tmp_path / "dest"
    # Not forked: a copy of this process would inherit locks that threads of other tests may hold.
    killed = multiprocessing.get_context("spawn").Process(
        target=_convert_until_killed, args=(source, dest, blocks.MIN_BLOCK_PATCHES)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert_unfinished(dest)
    (dest / "train2017" / "left.png.0123456789ab.partial").write_bytes(b"half")
    convert(source, dest, "both")
    convert(source, tmp_path / "whole", "both")
    assert content_of(dest) == content_of(tmp_path / "whole")


def _lose_record(dest: Path) -> None:
    record_path(dest, slide_id="slide_1", index=0).unlink()


def _damage_record(dest: Path) -> None:
    flip_byte(record_path(dest, slide_id="slide_1", index=0), at=100)


def _lose_file(dest: Path) -> None:
    next((dest / "train2017" / "slide_1").iterdir()).unlink()


def _cut_shard(dest: Path) -> None:
    path = patch_shard_path(dest, slide_id="slide_1", split=Split.TRAIN, shard=0)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("lose", [_lose_record, _damage_record, _lose_file, _cut_shard])
def test_only_what_was_lost_is_converted_again(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    source, dest = finished(tmp_path, "png"), tmp_path / "dest"
    convert(source, dest, "both")
    whole = content_of(dest)
    lose(dest)
    first = read_document(record_path(source, slide_id="slide_1", index=0))
    assert first is not None
    result, _ = convert(source, dest, "both")
    assert result.n_converted == len(first["patches"]) < result.n_patches
    assert content_of(dest) == whole
    assert convert(source, dest, "both")[0].n_converted == 0


def test_lossy_codecs_are_named(tmp_path: Path) -> None:
    _, notices = convert(finished(tmp_path, "png"), tmp_path / "lossy", "zarr", codec="jpeg")
    assert ["will differ" in notice for notice in notices] == [True]
    assert audit(tmp_path / "lossy").is_sound
    for source, to in (("lossy", "png"), ("png", "both")):  # the second time nothing in the settings tells of it
        _, notices = convert(tmp_path / source, tmp_path / to, to)
        assert ["went through jpeg 95, which is lossy" in notice for notice in notices] == [True]
        assert read_manifest(tmp_path / to)["run"]["conversion"]["lossy_codecs"] == ["jpeg 95"]
    assert_same_patches(tmp_path / "lossy", tmp_path / "both")


def test_lossless_files_are_read_where_arrays_are_lossy(tmp_path: Path) -> None:
    _, notices = convert(finished(tmp_path, "both", codec="jpeg"), tmp_path / "dest", "zarr")
    assert notices == []
    assert_same_patches(finished(tmp_path, "png"), tmp_path / "dest")


@given(
    n_of=st.lists(st.integers(0, 300), min_size=1, max_size=3).filter(any),
    patch_px=st.sampled_from([64, 512, 1024, 4096]),
)
def test_blocks_fill_shards_in_order(n_of: list[int], patch_px: int) -> None:
    """Blocks cut as extraction cuts them are whole shards: numbered from 0 in each split, full but for the last."""
    codes = np.repeat(np.arange(len(n_of)), n_of)
    size = patches_per_block(len(codes), patch_bytes=patch_px**2 * 3)
    n_before, n_shards = Counter[int](), Counter[int]()
    for index, (start, stop) in enumerate(block_ranges(codes, size=size)):
        document: Any = {
            "slide_id": "a",
            "index": index,
            "split": "train",
            "patch_wh_px": [patch_px, patch_px],
            "patches": [{}] * (stop - start),
        }
        code = int(codes[start])
        place = place_of(document, n_before=n_before[code], n_patches=len(codes))
        assert (place.number, place.n_rows) == (n_shards[code], size)
        n_before[code] += stop - start
        n_shards[code] += 1


def test_the_command_converts_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(finished(tmp_path, "png"))
    arguments = ["convert", source, "--store", "zarr", "--dest", str(tmp_path / "dest")]
    assert main([*arguments, "--codec", "jpeg", "--codec_level", "80", "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert "60 patches with store zarr, 60 of them converted now" in captured.out
    assert captured.err.startswith("warning: codec jpeg is lossy")
    assert read_manifest(tmp_path / "dest")["settings"]["codec_level"] == 80
    assert main(["verify", str(tmp_path / "dest")]) == 0


def test_slides_that_failed_stay_what_they_are(tmp_path: Path) -> None:
    inputs = copy_inputs(shared_inputs(tmp_path), tmp_path / "input")
    slide = inputs.wsi_dir / "slide_3.svs"
    data, third = slide.read_bytes(), slide.stat().st_size // 3
    slide.write_bytes(data[:third] + bytes(third) + data[2 * third :])  # it opens, but pixels are gone
    source = tmp_path / "source"
    extract(inputs, source, patches_per_slide=8)
    assert read_manifest(source)["status"] == "partial"
    convert(source, tmp_path / "there", "zarr")
    report = audit(tmp_path / "there")
    assert report.is_sound, report.problems
    assert (tmp_path / "there" / "errors.jsonl").read_bytes() == (source / "errors.jsonl").read_bytes()
    convert(tmp_path / "there", tmp_path / "back", "png")
    report = compare(source, tmp_path / "back")
    assert report.is_sound, report.problems
