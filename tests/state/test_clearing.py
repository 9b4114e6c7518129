"""What is taken away from an output folder, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.state.test_claim import describe
from wsi_extract.state.claim import claim_folder
from wsi_extract.state.clearing import delete_output, unfinish
from wsi_extract.state.layout import run_path


def test_nothing_looks_finished_at_any_moment_of_taking_a_folder_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may undo what is not durable: each step is, before the next one begins."""
    out = tmp_path / "out"
    claim_folder(out, description=describe(), fresh=False)
    steps = ["manifest.json", "patches.zarr/zarr.json", "patches.zarr/train/zarr.json", "index.zarr/zarr.json"]
    for name in steps:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"{}")
    seen: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((folder.name, [name for name in steps if (out / name).exists()]))

    monkeypatch.setattr(os, "fsync", note)
    unfinish(out)
    assert seen == [("out", steps[1:]), ("patches.zarr", steps[2:]), ("train", steps[3:]), ("out", [])]


def test_starting_over_deletes_what_vouches_for_a_file_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    state = run_path(tmp_path).parent
    pairs = {
        "plans/s1.json": "plans/s1.npz",
        "slides/s1.json": "records/s1/000000.json",
        "records/s1/000000.json": "../train2017/s1/s1_x0_y0.png",
    }
    for name in {*pairs, *pairs.values()}:
        (state / name).resolve().parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_bytes(b"x")
    fsync = os.fsync

    def look(descriptor: int) -> None:
        fsync(descriptor)
        for voucher, file in pairs.items():
            assert (state / file).exists() or not (state / voucher).exists()

    monkeypatch.setattr(os, "fsync", look)
    delete_output(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [state.name]
