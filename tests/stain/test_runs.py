"""What a run says and records of the stain of its slides, and what of it makes another data set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.helpers_run import MEMORY_BYTES, extract, make_config, make_inputs, read_manifest
from tests.stain.helpers import stained_pixels
from wsi_extract.console.reporters import ConsoleReporter
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.pipeline import run
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.layout import MANIFEST, SLIDES_TABLE
from wsi_extract.tasks import SerialExecutor
from wsi_extract.verify import compare


def write_picture(path: Path, *, amount: float) -> Path:
    pixels = stained_pixels(30_000, amounts=(amount, amount)).reshape(150, 200, 3)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def problems(first: Path, second: Path) -> list[str]:
    return [problem.message for problem in compare(first, second).problems]


def test_the_plan_names_slides_that_keep_their_stain(tmp_path: Path) -> None:
    config = make_config(make_inputs(tmp_path / "input"), tmp_path / "out", stain_norm="reinhard")
    text = io.StringIO()
    with SlideCache() as slides:
        reporter = ConsoleReporter(config, console=Console(file=text, width=300), check_signals=lambda: None)
        run(config, executor=SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES), reporter=reporter)
    manifest = read_manifest(tmp_path / "out")
    kept = [row for row in manifest["slides"] if row["stain_reason"]]
    assert kept
    assert manifest["counts"]["slides_keeping_their_stain"] == len(kept)
    assert f"{len(kept)} of 4 slides keep their own stain:" in text.getvalue()
    assert f"slide {kept[0]['slide_id']}: {kept[0]['stain_reason']}" in text.getvalue()


def test_a_bad_stain_target_is_refused_before_any_slide_is_opened(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input")
    for slide in inputs.wsi_dir.iterdir():
        slide.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        extract(inputs, tmp_path / "out", stain_norm="macenko", stain_target=str(tmp_path / "none.png"))


def test_the_stain_target_is_part_of_the_data_set_but_its_name_is_not(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input")
    first, renamed, other = tmp_path / "first", tmp_path / "renamed", tmp_path / "other"
    picture = write_picture(tmp_path / "a.png", amount=1.5)
    copy = tmp_path / "b.png"
    copy.write_bytes(picture.read_bytes())
    darker = write_picture(tmp_path / "darker.png", amount=2.0)
    for out, target in ((first, picture), (renamed, copy), (other, darker)):
        extract(inputs, out, stain_norm="macenko", stain_target=str(target))
    written = read_manifest(first)["stain_target"]
    assert (written["method"], written["name"], len(written["values"])) == ("macenko", "a.png", 8)
    assert problems(first, renamed) == []
    found = problems(first, other)
    assert found
    assert all("stain_target.values" in message for message in found)
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*.png")}
    extract(inputs, first, stain_norm="macenko", stain_target=str(copy))
    assert before == {path: path.stat().st_mtime_ns for path in first.rglob("*.png")}
    assert read_manifest(first)["stain_target"]["name"] == "b.png"
    with pytest.raises(IntegrityError, match="stain_target"):
        extract(inputs, first, stain_norm="macenko", stain_target=str(darker))
    assert (first / MANIFEST).is_file()
    copy.unlink()  # what it was measured to be stands in run.json
    extract(inputs, first, stain_norm="macenko", stain_target=str(copy))
    assert problems(first, renamed) == []
    with pytest.raises(InputError):
        extract(inputs, first, stain_norm="macenko", stain_target=str(copy), fresh=True)


def test_the_table_of_slides_may_differ_in_the_reader_only(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input")
    for name in ("first", "second"):
        extract(inputs, tmp_path / name)
    assert "stain_target" not in read_manifest(tmp_path / "first")
    assert problems(tmp_path / "first", tmp_path / "second") == []
    table = tmp_path / "second" / SLIDES_TABLE
    original = table.read_text(encoding="utf-8")
    lines = [line.split(",") for line in original.splitlines()]
    for changed in (
        "".join(",".join([second, first, *rest]) + "\n" for first, second, *rest in lines),
        original.replace("\n", "\r\n"),
        original.removesuffix("\n"),
    ):
        table.write_bytes(changed.encode())
        assert any("slides.csv" in message for message in problems(tmp_path / "first", tmp_path / "second"))
    table.write_bytes(original.replace("direct", "openslide").encode())
    assert problems(tmp_path / "first", tmp_path / "second") == []
