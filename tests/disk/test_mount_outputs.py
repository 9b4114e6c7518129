"""What a run leaves in its output folder: only final files, each of a known kind, whatever became of its slides."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.roles import role_of_file
from tests.helpers_mounts import FORBIDDEN
from tests.helpers_run import Inputs, make_inputs, read_manifest
from wsi_extract.disk.files import is_temporary
from wsi_extract.disk.mounts import COMMIT_VARIABLE, CommitForm
from wsi_extract.state.layout import COMPLETE, FAILED
from wsi_extract.verify import audit

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = {"record", "plan", "survey", "slide_manifest", "run", "claim", "index", "coco", "manifest", "slides_table"}
PIXELS = {
    "png": {"patch"},
    "zarr": {"shard", "zarr_document"},
    "both": {"patch", "shard", "zarr_document"},
    "pixels": {"pixel_shard", "pixel_record", "zarr_document"},
}


def run(inputs: Inputs, out: Path, *, store: str, form: CommitForm) -> subprocess.CompletedProcess[str]:
    """Run the program so that it is watched for what a mounted store refuses."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.helpers_mounts", str(out), "--", "--workers", "0", "--patch_size", "64"),
            *("--wsi_dir", str(inputs.wsi_dir), "--annotation_json", str(inputs.sqlite), "--output_dir", str(out)),
            *("--patches_per_slide", "20", "--train_val_split", "0.5", "--store", store, "--on_partial", "warn"),
        ],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", COMMIT_VARIABLE: form.value},
        capture_output=True,
        text=True,
        check=False,
    )


def kinds_in(out: Path) -> Counter[str]:
    """Return how many files of each kind there are; temporaries and unknown ones have kinds of their own."""
    kinds: Counter[str] = Counter()
    for path in out.rglob("*"):
        if path.is_file():
            kinds["temporary" if is_temporary(path.name) else role_of_file(path.relative_to(out).as_posix())] += 1
        else:
            assert path.is_dir()
            assert any(path.iterdir()), f"{path} is empty"
    return kinds


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


@pytest.mark.parametrize("store", sorted(PIXELS.keys() - {"both"}))  # that one is below
def test_a_complete_run_leaves_nothing_but_what_it_was_to_make(tmp_path: Path, inputs: Inputs, store: str) -> None:
    end = run(inputs, tmp_path / "out", store=store, form=CommitForm.DIRECT)
    assert end.returncode == 0, end.stderr
    assert set(kinds_in(tmp_path / "out")) == ALWAYS | PIXELS[store]  # the note has gone
    assert audit(tmp_path / "out").is_sound


def test_a_run_that_renames_makes_the_same_and_would_be_noticed(tmp_path: Path, inputs: Inputs) -> None:
    ends = [run(inputs, tmp_path / form.value, store="both", form=form).returncode for form in CommitForm]
    assert dict(zip(CommitForm, ends, strict=True)) == {CommitForm.RENAME: FORBIDDEN, CommitForm.DIRECT: 0}
    out = tmp_path / CommitForm.RENAME.value
    assert set(kinds_in(out)) == ALWAYS | PIXELS["both"] | {"lock"}
    assert set(kinds_in(tmp_path / CommitForm.DIRECT.value)) == ALWAYS | PIXELS["both"]
    assert (out / ".wsi_extract" / "lock").read_bytes() == b""
    assert audit(out).is_sound
    same = [read_manifest(tmp_path / form.value)["content_sha256"] for form in CommitForm]
    assert same[0] == same[1]


def test_a_run_that_lost_a_slide_leaves_whole_files_only(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=3)
    slide = inputs.wsi_dir / "slide_2.svs"
    data = bytearray(slide.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    slide.write_bytes(data)
    out = tmp_path / "out"
    end = run(inputs, out, store="png", form=CommitForm.DIRECT)
    assert end.returncode == 0, end.stderr
    assert {row["slide_id"]: row["status"] for row in read_manifest(out)["slides"]} == {
        "slide_1": COMPLETE,
        "slide_2": FAILED,
        "slide_3": COMPLETE,
    }
    kinds = kinds_in(out)
    assert set(kinds) == ALWAYS | PIXELS["png"] | {"errors", "fault"}
    assert kinds["slide_manifest"] == 2
    assert audit(out).is_sound
