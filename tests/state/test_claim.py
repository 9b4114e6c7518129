"""One run owns an output folder; nothing foreign is ever deleted."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.state.test_fault_records import fault_of
from wsi_extract.disk.files import temporary_beside
from wsi_extract.errors import EnvironmentFaultError, InputError, IntegrityError
from wsi_extract.model import Split
from wsi_extract.state.claim import check_folder, claim_folder, is_unclaimed, known_stain_target
from wsi_extract.state.fault_records import note_fault, slides_at_fault
from wsi_extract.state.folder_lock import locked, refuse_locked
from wsi_extract.state.layout import (
    MANIFEST,
    patch_shard_path,
    pixel_record_path,
    pixel_shard_path,
    plan_path,
    record_path,
    run_path,
    slide_manifest_path,
    survey_path,
)


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


def test_half_written_files_are_found_at_every_depth(tmp_path: Path) -> None:
    claim_folder(tmp_path / "out", description=describe(), fresh=False)
    kept = tmp_path / "out" / "val2017" / "scan.partial"
    removed = [
        temporary_beside(tmp_path / "out" / name)
        for name in ("train2017/s1/a.png", "patches.zarr/train/s1/c/0/0/0/0", "annotations/a.json", "manifest.json")
    ]
    for path in (kept, *removed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    aside = temporary_beside(tmp_path / "out" / "index.zarr")  # of a run that was killed while it took the index away
    (aside / "train").mkdir(parents=True)
    claim_folder(tmp_path / "out", description=describe(), fresh=False)
    assert [path.exists() for path in (kept, *removed, aside)] == [True] + [False] * 5


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("place", ["train2017/s1", "patches.zarr/train/s1/c/0", ".wsi_extract/records/s1/000000.json"])
def test_a_link_at_any_depth_is_refused_before_anything_is_touched(tmp_path: Path, place: str, fresh: bool) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    claim_folder(out, description=describe(), fresh=False)
    outside.mkdir()
    theirs = temporary_beside(outside / "theirs.png")
    for path in (theirs, out / "manifest.json"):
        path.write_bytes(b"x")
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).symlink_to(outside)
    with pytest.raises(InputError, match="is a link"):
        claim_folder(out, description=describe(), fresh=fresh)
    assert theirs.exists()
    assert (out / "manifest.json").exists()


def test_a_run_killed_before_it_could_say_whose_folder_it_is_can_be_repeated(tmp_path: Path) -> None:
    run_path(tmp_path).parent.mkdir(parents=True)
    temporary_beside(run_path(tmp_path)).write_bytes(b"half")
    claim_folder(tmp_path, description=describe(), fresh=False)
    assert {path.name for path in run_path(tmp_path).parent.iterdir()} == {"claim", "run.json"}


@contextlib.contextmanager
def dying_after(n_deletions: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process be interrupted when it is about to delete one more file."""
    left = n_deletions
    unlink = os.unlink

    def dying(path: str, **how: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        unlink(path, **how)

    with monkeypatch.context() as patch:
        for name in ("unlink", "remove"):
            patch.setattr(os, name, dying)
        yield


@pytest.mark.parametrize("n_deletions", range(1, 12))
def test_fresh_never_leaves_what_looks_finished_or_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_deletions: int
) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    for name in (
        "train2017/s1/s1_x0_y9.png",
        "patches.zarr/train/s1/c/0/0/0/0",
        "index.zarr/train/zarr.json",
        "manifest.json",
        "patches.zarr/train/s1/zarr.json",
        ".wsi_extract/records/s1/000000.json",
        "slides.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with dying_after(n_deletions, monkeypatch), contextlib.suppress(KeyboardInterrupt):
        claim_folder(tmp_path, description=describe(), fresh=True)
    assert not (tmp_path / "manifest.json").exists()
    is_open = any(tmp_path.glob("patches.zarr/**/zarr.json"))
    assert (tmp_path / "patches.zarr/train/s1/c/0/0/0/0").exists() or not is_open
    claim_folder(tmp_path, description=describe(), fresh=False)


def test_fresh_deletes_what_the_program_wrote_and_nothing_else(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    (tmp_path / "train2017" / "s1").mkdir(parents=True)
    (tmp_path / "train2017" / "s1" / "s1_x0_y0.png").write_bytes(b"x")
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


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["val2017", ".wsi_extract", "manifest.json", ".wsi_extract/records", "pixels.zarr"])
def test_links_in_place_of_what_a_run_writes_are_refused(tmp_path: Path, name: str, *, fresh: bool) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    claim_folder(out, description=describe(), fresh=False)
    (out / ".wsi_extract").rename(outside) if name == ".wsi_extract" else outside.mkdir()
    (outside / "precious.jpg").write_bytes(b"x")
    temporary_beside(outside / "precious.jpg").write_bytes(b"x")
    before = sorted(path.name for path in outside.iterdir())
    (out / name).symlink_to(outside)
    with pytest.raises(InputError, match=f"{name} is a link, to {outside}"):
        claim_folder(out, description=describe(), fresh=fresh)
    assert sorted(path.name for path in outside.iterdir()) == before


def test_the_output_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for fresh in (False, False, True):
        claim_folder(tmp_path / "out", description=describe(), fresh=fresh)
    assert run_path(tmp_path / "disk").exists()


# --- the lock


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_nothing_but_a_lock_is_empty_and_keeps_it(tmp_path: Path, *, fresh: bool) -> None:
    with locked(tmp_path, command="x"):
        assert is_unclaimed(tmp_path)
        claim_folder(tmp_path, description=describe(), fresh=fresh)
        assert not is_unclaimed(tmp_path)
        claim_folder(tmp_path, description=describe(annotations="b" * 64), fresh=True)
        with pytest.raises(EnvironmentFaultError):
            refuse_locked(tmp_path)


# --- slides that come back


def write_all_of(out: Path, slide_id: str) -> list[Path]:
    """Write a file for everything a run keeps of a slide."""
    paths = [
        slide_manifest_path(out, slide_id=slide_id),
        record_path(out, slide_id=slide_id, index=0),
        record_path(out, slide_id=slide_id, index=1),
        survey_path(out, slide_id=slide_id),
        plan_path(out, slide_id=slide_id),
        pixel_record_path(out, slide_id=slide_id, row=0, column=0),
        pixel_shard_path(out, slide_id=slide_id, row=0, column=0),
        patch_shard_path(out, slide_id=slide_id, split=Split.TRAIN, shard=0),
        out / "train2017" / slide_id / "a.png",
        out / "val2017" / slide_id / "a.png",
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def describe_repaired(slide_id: str = "s1", **changes: Any) -> dict[str, Any]:
    """Return the description with another file of one slide."""
    slides = describe()["slides"]
    return describe(slides={**slides, slide_id: {**slides[slide_id], "fingerprint": "new", **changes}})


def claim_with_fault(out: Path, slide_id: str = "s1") -> None:
    claim_folder(out, description=describe(), fresh=False)
    note_fault(out, fault_of(slide_id), fingerprint="f1")


def test_a_failed_slide_may_come_back_with_another_file(tmp_path: Path) -> None:
    claim_with_fault(tmp_path)
    discarded, kept = write_all_of(tmp_path, "s1"), write_all_of(tmp_path, "s2")
    repaired = describe_repaired(um_per_px_xy=[0.5, 0.5])
    assert check_folder(tmp_path, description=repaired, fresh=False) == repaired
    assert all(path.exists() for path in discarded)
    claim_folder(tmp_path, description=repaired, fresh=False)
    assert json.loads(run_path(tmp_path).read_bytes()) == repaired
    assert [path for path in discarded if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert slides_at_fault(tmp_path) == {"s1"}  # until it is done


def test_a_failed_slide_that_is_as_it_was_keeps_its_work(tmp_path: Path) -> None:
    claim_with_fault(tmp_path)
    kept = write_all_of(tmp_path, "s1")
    claim_folder(tmp_path, description=describe(), fresh=False)
    assert all(path.exists() for path in kept)


def test_a_failed_slide_may_come_back_more_than_once(tmp_path: Path) -> None:
    claim_with_fault(tmp_path)
    claim_folder(tmp_path, description=describe_repaired(), fresh=False)
    again = write_all_of(tmp_path, "s1")
    claim_folder(tmp_path, description=describe_repaired(fingerprint="newer"), fresh=False)
    assert not any(path.exists() for path in again)


@pytest.mark.parametrize(
    ("description", "named"),
    [
        pytest.param(describe_repaired("s2"), "slide s2: changed", id="a slide that did not fail"),
        pytest.param(describe_repaired(splits=["val"]), "slide s1: changed", id="another split"),
        pytest.param(describe_repaired(annotations="b"), "slide s1: changed", id="other annotations"),
        pytest.param(describe(slides={"s2": describe()["slides"]["s2"]}), "slide s1: no longer", id="gone"),
        pytest.param({**describe_repaired(), "settings": {"seed": 1}}, "settings.seed", id="a setting besides"),
    ],
)
def test_every_other_change_is_refused_and_discards_nothing(
    tmp_path: Path, description: dict[str, Any], named: str
) -> None:
    claim_with_fault(tmp_path)
    kept = [*write_all_of(tmp_path, "s1"), *write_all_of(tmp_path, "s2")]
    with pytest.raises(IntegrityError, match=named):
        claim_folder(tmp_path, description=description, fresh=False)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("n_deletions", range(12))
def test_discarding_that_was_interrupted_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_deletions: int
) -> None:
    """No moment at which run.json speaks of the new file while work on the old one counts as done."""
    claim_with_fault(tmp_path)
    discarded = write_all_of(tmp_path, "s1")
    with dying_after(n_deletions, monkeypatch), contextlib.suppress(KeyboardInterrupt):
        claim_folder(tmp_path, description=describe_repaired(), fresh=False)
    is_new = json.loads(run_path(tmp_path).read_bytes()) == describe_repaired()
    assert not is_new or not any(path.exists() for path in discarded)
    claim_folder(tmp_path, description=describe_repaired(), fresh=False)
    assert [path for path in discarded if path.exists()] == []


# --- what run.json knows


def test_the_fitted_stain_target_is_known_without_its_picture(tmp_path: Path) -> None:
    assert known_stain_target(tmp_path) is None
    claim_folder(tmp_path, description=describe(stain_target=TARGET), fresh=False)
    assert known_stain_target(tmp_path) == TARGET
    claim_folder(tmp_path, description=describe(), fresh=True)
    assert known_stain_target(tmp_path) is None


@pytest.mark.parametrize("slides", [[], {"s1": "x"}, {"s1": None}])
def test_a_run_file_of_another_shape_is_named(tmp_path: Path, slides: object) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    run_path(tmp_path).write_text(json.dumps(describe(slides=slides)))
    with pytest.raises(IntegrityError, match=r"run\.json is damaged"):
        claim_folder(tmp_path, description=describe(), fresh=False)


def test_damaged_run_file_is_named(tmp_path: Path) -> None:
    claim_folder(tmp_path, description=describe(), fresh=False)
    run_path(tmp_path).write_bytes(b'{"settings": ')
    (tmp_path / "train2017").mkdir()
    with pytest.raises(IntegrityError, match=r"run\.json"):
        claim_folder(tmp_path, description=describe(), fresh=False)


def test_output_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        claim_folder(tmp_path / "out", description=describe(), fresh=False)
