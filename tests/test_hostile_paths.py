"""Strange names, strange places: slides are never deleted, folders never written to that are not the output."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_run import Inputs, copy_inputs, extract, make_inputs
from wsi_extract.errors import EnvironmentFaultError, InputError
from wsi_extract.input_places import refuse_input_in_output
from wsi_extract.model import SlideFile
from wsi_extract.slides.open_slides import find_slides

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


@pytest.fixture
def inputs(original: Inputs, tmp_path: Path) -> Inputs:
    return copy_inputs(original, tmp_path / "input")


def run(inputs: Inputs, out: Path, **settings: Any) -> bool:
    """Run on few patches; return whether slides failed."""
    values: dict[str, Any] = {"patches_per_slide": 2, "train_val_split": 0.5, **settings}
    return extract(inputs, out, **values).has_failures


LOCK = ".wsi_extract/lock"
"""Held, and let go, by every run; empty both times."""


def tree_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every file with size, time of change and content."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["train2017", "train2017/mine", "annotations", "patches.zarr/x", ".wsi_extract/plans"])
def test_slides_below_what_a_run_owns_are_refused_and_stay(inputs: Inputs, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    run(inputs, out)
    shutil.copytree(inputs.wsi_dir, out / name, dirs_exist_ok=True)
    before = tree_of(out) | {LOCK: None}
    link = tmp_path / "link"
    link.symlink_to(out / name)
    for wsi_dir in (out / name, link, tmp_path / "input" / ".." / "out" / name):
        for fresh in (True, False):
            with pytest.raises(InputError, match="--fresh would delete it"):
                run(inputs, out, wsi_dir=str(wsi_dir), fresh=fresh)
    assert tree_of(out) | {LOCK: None} == before


def test_an_annotation_file_among_the_output_is_refused_and_stays(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(inputs, out)
    mine = out / "annotations" / "mine.sqlite"
    shutil.copy(inputs.sqlite, mine)
    with pytest.raises(InputError, match="--annotation_json"):
        run(inputs, out, annotation_json=str(mine), fresh=True)
    assert mine.read_bytes() == inputs.sqlite.read_bytes()


def test_a_slide_that_is_a_link_into_the_output_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(inputs, out)
    moved = out / "val2017" / "moved.svs"
    (inputs.wsi_dir / "slide_1.svs").rename(moved)
    (inputs.wsi_dir / "slide_1.svs").symlink_to(moved)
    with pytest.raises(InputError, match="slide slide_1"):
        run(inputs, out, fresh=True)
    assert moved.is_file()


def test_a_link_among_the_output_that_leads_out_of_it_would_be_lost_too(tmp_path: Path) -> None:
    (tmp_path / "slide.svs").touch()
    (tmp_path / "out" / "train2017").mkdir(parents=True)
    link = tmp_path / "out" / "train2017" / "slide.svs"
    link.symlink_to(tmp_path / "slide.svs")
    with pytest.raises(InputError):
        refuse_input_in_output({}, slides=[SlideFile(slide_id="slide", path=link)], output_dir=tmp_path / "out")


@pytest.mark.parametrize("where", [".", "out", "train2017"])
def test_the_output_may_be_the_slide_folder_or_lie_in_it(inputs: Inputs, where: str) -> None:
    out = inputs.wsi_dir / where
    slides = {path.name: path.read_bytes() for path in inputs.wsi_dir.glob("*.svs")}
    for fresh in (False, True, False):
        assert not run(inputs, out, fresh=fresh)
    assert {path.name: path.read_bytes() for path in inputs.wsi_dir.glob("*.svs")} == slides


def test_nothing_is_written_to_the_input(inputs: Inputs, tmp_path: Path) -> None:
    before = tree_of(inputs.folder)
    run(inputs, tmp_path / "out")
    run(inputs, tmp_path / "out2", annotation_json=str(inputs.coco), store="zarr")
    assert tree_of(inputs.folder) == before


def test_what_is_no_slide_costs_itself_alone(inputs: Inputs, tmp_path: Path) -> None:
    folder = inputs.wsi_dir
    (folder / "zero.svs").write_bytes(b"")
    (folder / "one.svs").write_bytes(b"I")
    (folder / "text.svs").write_text("hello")
    (folder / "folder.svs").mkdir()
    os.mkfifo(folder / "pipe.svs")
    os.mkfifo(folder / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.svs"))
    (folder / "device.svs").symlink_to("/dev/zero")
    (folder / "dangling.svs").symlink_to(tmp_path / "nowhere")
    (folder / "itself.svs").symlink_to("itself.svs")
    (folder / "round").symlink_to(".")
    result = extract(inputs, tmp_path / "out", train_val_split=0.5, patches_per_slide=2)
    assert sorted(fault.slide_id for fault in result.plan.inputs.faults) == [
        "dangling",
        "itself",
        "one",
        "text",
        "zero",
    ]
    assert result.plan.n_patches == 4
    ignored = {path.name for path in result.plan.inputs.found.ignored}
    assert ignored == {"pipe.svs", "pipe.dcm", "socket.svs", "device.svs"}


NAMES = (
    "a b.svs", "q'\"`$(id).svs", "new\nline.svs", "\u00e9.svs", "e\u0301.svs", "\U0001f600.svs", "-rf.svs", "%s%n.svs",
    "#x.svs", "l" * 251 + ".svs", "[red]bold[\u2215red].svs", "\x1b[31mred\x07.svs", "a_b.svs", "a?b.svs", "CON.svs",
)  # fmt: skip


@pytest.mark.parametrize("store", ["png", "pixels"])
def test_any_name_that_is_text_is_a_slide(inputs: Inputs, tmp_path: Path, store: str) -> None:
    data = (inputs.wsi_dir / "slide_1.svs").read_bytes()
    for number, name in enumerate(NAMES):
        (inputs.wsi_dir / name).write_bytes(data + bytes([number]))
    out = tmp_path / "out"
    assert not run(inputs, out, unannotated_slides="negative", patches_per_slide=1, store=store)
    ids = [slide.slide_id for slide in find_slides(inputs.wsi_dir).slides]
    assert len({slide_id.casefold() for slide_id in ids}) == len(NAMES) + 2
    assert all(len(slide_id) <= 128 and not slide_id.startswith("__") for slide_id in ids)


def test_names_cannot_speak_to_the_terminal(inputs: Inputs, tmp_path: Path) -> None:
    (inputs.wsi_dir / "[red]\x1b]0;owned\x07\nerror: lie.svs").write_text("no slide")
    command: list[str | Path] = [sys.executable, REPOSITORY / "run_extraction.py", "--wsi_dir", inputs.wsi_dir]
    command += [
        "--output_dir",
        tmp_path / "out",
        "--annotation_json",
        inputs.sqlite,
        "--patch_size",
        "128",
        "--patches_per_slide",
        "1",
    ]
    command += ["--train_val_split", "0.5", "--workers", "0", "--unannotated_slides", "negative"]
    ended = subprocess.run([os.fspath(part) for part in command], capture_output=True, check=False, timeout=240)
    assert ended.returncode == 3, ended.stderr
    assert b"\x1b]0;" not in ended.stdout + ended.stderr
    assert b"\x07" not in ended.stdout + ended.stderr


def test_a_run_whose_slides_have_all_gone_is_the_machines_fault(inputs: Inputs, tmp_path: Path) -> None:
    for path in list(inputs.wsi_dir.iterdir()):
        path.unlink()
        path.symlink_to(tmp_path / "unmounted" / path.name)
    with pytest.raises(EnvironmentFaultError, match="none of 2 slides"):
        run(inputs, tmp_path / "out")


def test_many_other_files_and_deep_folders_are_walked_in_seconds(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(400):
        deep = deep / "d"
        deep.mkdir()
    for number in range(5000):
        (tmp_path / f"{number}.txt").touch()
    (deep / "a.svs").touch()
    found = find_slides(tmp_path)
    assert len(found.slides) == 1
    assert len(found.slides[0].slide_id) == 128
    assert len(found.ignored) == 5000
