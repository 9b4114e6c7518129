"""One run owns an output folder; nothing foreign is ever deleted."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from wsi_extract.claim import claim_folder
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.files import temporary_beside
from wsi_extract.layout import MANIFEST, run_path


def describe(**changes: Any) -> dict[str, Any]:
    description: dict[str, Any] = {
        "program": "wsi_extract 0",
        "settings": {"seed": 42, "patch_size": 256},
        "libraries": {"openslide": "4.0.1"},
        "annotations": "a" * 64,
        "slides": {"s1": {"fingerprint": "f1", "splits": ["train"]}, "s2": {"fingerprint": "f2", "splits": ["val"]}},
    }
    return {**description, **changes}


def test_new_folder_is_made_and_marked(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    claim_folder(out, description=describe(), fresh=False)
    assert json.loads(run_path(out).read_bytes()) == describe()


def test_same_run_resumes_and_no_longer_looks_finished(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    (tmp_path / MANIFEST).write_text("{}")
    claim_folder(tmp_path, description=describe(), fresh=False)
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"settings": {"seed": 43, "patch_size": 256}}, "settings.seed: was 42, now 43", id="setting"),
        pytest.param({"annotations": "b" * 64}, "annotations", id="annotation file"),
        pytest.param({"program": "wsi_extract 1"}, "program", id="version"),
        pytest.param({"libraries": {"openslide": "5"}}, "libraries.openslide: was '4.0.1', now '5'", id="library"),
        pytest.param({"slides": {"s1": {"fingerprint": "f1", "splits": ["train"]}}}, "slide s2: no longer", id="gone"),
        pytest.param(
            {"slides": {**describe()["slides"], "s1": {"fingerprint": "x", "splits": ["train"]}}},
            "slide s1: changed",
            id="replaced slide",
        ),
    ],
)
def test_another_run_is_refused_with_what_changed(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    with pytest.raises(IntegrityError) as caught:
        claim_folder(tmp_path, description=describe(**changes), fresh=False)
    assert named in str(caught.value)
    assert json.loads(run_path(tmp_path).read_bytes()) == describe()


TARGET = {"method": "macenko", "name": "a.png", "values": [1.0, 2.0]}


@pytest.mark.parametrize("other", [None, {**TARGET, "values": [1.0, 3.0]}], ids=["none", "values"])
def test_another_stain_target_is_refused(tmp_path: Path, other: dict[str, Any] | None) -> None:
    claim_folder(tmp_path, description=describe(stain_target=TARGET), fresh=False)
    with pytest.raises(IntegrityError, match="stain_target"):
        claim_folder(tmp_path, description=describe(stain_target=other), fresh=False)


def test_a_renamed_picture_is_the_same_stain_target(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(stain_target=TARGET), fresh=False)
    renamed = describe(stain_target={**TARGET, "name": "b.png"})
    claim_folder(tmp_path, description=renamed, fresh=False)
    assert json.loads(run_path(tmp_path).read_bytes()) == renamed


def test_a_further_slide_that_moves_no_other_is_welcome(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    more = describe(slides={**describe()["slides"], "s3": {"fingerprint": "f3", "splits": ["train"]}})
    claim_folder(tmp_path, description=more, fresh=False)
    assert json.loads(run_path(tmp_path).read_bytes()) == more


def test_what_is_known_of_a_slide_that_fails_this_time_is_kept(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    without = describe(slides={"s1": describe()["slides"]["s1"]})
    claim_folder(tmp_path, description=without, failed=["s2"], fresh=False)
    assert json.loads(run_path(tmp_path).read_bytes())["slides"] == describe()["slides"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    for folder in ("train2017/s1", ".wsi_extract/records/s1", "annotations"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        temporary_beside(tmp_path / folder / "x.png").write_bytes(b"half")
    temporary_beside(tmp_path / "manifest.json").write_bytes(b"half")
    (tmp_path / "mine.partial").write_text("not ours")
    (tmp_path / "train2017" / "slide.partial").mkdir()  # of a slide that is called so
    claim_folder(tmp_path, description=describe(), fresh=False)
    assert sorted(path.name for path in tmp_path.rglob("*.partial")) == ["mine.partial", "slide.partial"]


def test_half_written_files_are_found_at_every_depth_but_not_through_links(tmp_path: Path) -> None:
    claim_folder(tmp_path / "out", description=describe(), fresh=False)
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = [temporary_beside(outside / "theirs.png"), tmp_path / "out" / "val2017" / "scan.partial"]
    removed = [
        temporary_beside(tmp_path / "out" / name)
        for name in ("train2017/s1/a.png", "patches.zarr/train/s1/c/0/0/0/0", "annotations/a.json", "manifest.json")
    ]
    for path in (*kept, *removed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "out" / "train2017" / "link").symlink_to(outside)
    claim_folder(tmp_path / "out", description=describe(), fresh=False)
    assert [path.exists() for path in (*kept, *removed)] == [True] * 2 + [False] * 4


def test_a_run_killed_before_it_could_say_whose_folder_it_is_can_be_repeated(tmp_path: Path) -> None:
    run_path(tmp_path).parent.mkdir(parents=True)
    temporary_beside(run_path(tmp_path)).write_bytes(b"half")
    claim_folder(tmp_path, description=describe(), fresh=False)
    assert [path.name for path in run_path(tmp_path).parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("n_deletions", range(1, 12))
def test_fresh_never_leaves_what_looks_finished_or_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_deletions: int
) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    for name in ("train2017/s1/a.png", "patches.zarr/train/s1/c/0/0/0/0", "index.zarr/train/zarr.json", "manifest.json",
                 "patches.zarr/train/s1/zarr.json", ".wsi_extract/records/s1/000000.json", "slides.csv"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    left = n_deletions
    unlink = os.unlink

    def dying(path: str, **how: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        unlink(path, **how)

    for name in ("unlink", "remove"):
        monkeypatch.setattr(os, name, dying)
    with contextlib.suppress(KeyboardInterrupt):
        claim_folder(tmp_path, description=describe(), fresh=True)
    monkeypatch.undo()
    assert not (tmp_path / "manifest.json").exists()
    is_open = any(tmp_path.glob("patches.zarr/**/zarr.json"))
    assert (tmp_path / "patches.zarr/train/s1/c/0/0/0/0").exists() or not is_open
    claim_folder(tmp_path, description=describe(), fresh=False)


def test_fresh_deletes_what_the_program_wrote_and_nothing_else(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    (tmp_path / "train2017" / "s1").mkdir(parents=True)
    (tmp_path / "train2017" / "s1" / "p.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    claim_folder(tmp_path, description=describe(annotations="b" * 64), fresh=True)
    assert not (tmp_path / "train2017").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fresh", [False, True])
def test_somebody_elses_data_set_is_never_touched(tmp_path: Path, *, fresh: bool) -> None:
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "precious.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="train2017"):
        claim_folder(tmp_path, description=describe(), fresh=fresh)
    assert (tmp_path / "train2017" / "precious.jpg").exists()


def test_fresh_does_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.jpg").write_bytes(b"x")
    out = tmp_path / "out"
    claim_folder(out, description=describe(), fresh=False)
    (out / "val2017").symlink_to(outside)
    claim_folder(out, description=describe(), fresh=True)
    assert (outside / "precious.jpg").exists()


def test_damaged_run_file_is_named(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    run_path(tmp_path).write_bytes(b'{"settings": ')
    with pytest.raises(IntegrityError, match=r"run\.json"):
        claim_folder(tmp_path, description=describe(), fresh=False)


def test_output_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        claim_folder(tmp_path / "out", description=describe(), fresh=False)
