"""The tools beside the main job, as users call them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers_bit_flips import make_tiny_dataset
from tests.helpers_run import content_of, extract, make_dataset, make_inputs, read_manifest
from wsi_extract.__main__ import main
from wsi_extract.state.layout import MANIFEST, run_path
from wsi_extract.storage import Store


def test_demo_is_extracted_like_any_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", str(tmp_path), "--slides", "2", "--width", "1501", "--height", "1203"]
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "WSI").iterdir()) == ["demo_01.svs", "demo_02.svs"]
    assert "2 slides" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "named"),
    [(["--slides", "0"], "at least one slide"), (["--width", "100"], "100"), (["--height", "-3"], "-3")],
)
def test_impossible_demos_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    assert main(["demo", str(tmp_path / "demo"), *more]) == 2
    assert named in capsys.readouterr().err


def test_verify_says_sound_or_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_dataset(tmp_path)
    assert main(["verify", str(out)]) == 0
    said = capsys.readouterr().out
    assert "is sound: 80 images" in said
    assert f"content {read_manifest(out)['content_sha256']} (sha256)" in said
    patch = next(out.glob("train2017/*/*.png"))
    patch.unlink()
    assert main(["verify", str(out)]) == 6
    captured = capsys.readouterr()
    assert "NOT sound" in captured.out
    assert "content as recorded, which is not what is there: " in captured.out
    assert f"slide {patch.parent.name}: 0 damaged, 1 missing files of block" in captured.out
    assert f"verify {out} --repair" in captured.out
    assert patch.name in captured.err


def test_verify_repairs_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_dataset(tmp_path)
    before = content_of(out)
    patch = next(out.glob("train2017/*/*.png"))
    patch.write_bytes(patch.read_bytes()[:-5])
    assert main(["verify", str(out), "--repair", "--dry_run"]) == 6
    assert "would repair 1 files of 1 blocks" in capsys.readouterr().out
    assert content_of(out) != before
    assert main(["verify", str(out), "--repair"]) == 0
    assert "repaired 1 files of 1 blocks, and all documents; content digest: as before" in capsys.readouterr().out
    assert content_of(out) == before
    assert main(["verify", str(out), "--repair"]) == 0
    assert "there is nothing to repair" in capsys.readouterr().out


def test_a_data_set_without_a_slide_is_sound_but_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_tiny_dataset(tmp_path, Store.PNG)
    second = Path(shutil.copytree(first, tmp_path / "second"))
    verdict = (
        f"{first} is sound, but INCOMPLETE: 1 of 3 slides failed (broken): see errors.jsonl; mend it and run the "
        "extraction again: 8 images"
    )
    assert main(["verify", str(first)]) == 3
    assert verdict in capsys.readouterr().out
    assert main(["verify", str(first), "--repair"]) == 3
    said = capsys.readouterr().out
    assert verdict in said
    assert "nothing to repair: what is missing comes with another run of the extraction" in said
    assert main(["verify", str(first), "--same", str(second)]) == 0
    next(first.glob("train2017/*/*.png")).unlink()
    assert main(["verify", str(first)]) == 6
    assert "is NOT sound (1 problems), and INCOMPLETE: 1 of 3 slides failed (broken)" in capsys.readouterr().out
    assert main(["verify", str(first), "--repair"]) == 3
    said = capsys.readouterr().out
    assert verdict in said
    assert "repaired 1 files of 1 blocks" in said


def test_splits_without_patches_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=1)
    extract(inputs, tmp_path / "whole", patches_per_slide=2, train_val_split=1.0)
    assert main(["verify", str(tmp_path / "whole")]) == 0
    assert "note: no patches in val" in capsys.readouterr().out
    (inputs.wsi_dir / "broken.svs").write_bytes(b"II*\0 and nothing else")
    extract(inputs, tmp_path / "partial", patches_per_slide=2, train_val_split=1.0)
    assert main(["verify", str(tmp_path / "partial")]) == 3
    assert "1 of 2 slides failed (broken), no patches in val: see errors.jsonl" in capsys.readouterr().out


def test_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    said = capsys.readouterr().out
    assert [line.split()[0].rstrip(",") for line in said.partition("exit codes:\n")[2].splitlines()] == [
        *("0", "2", "3", "5", "6"),
        "129",
    ]


def test_the_command_that_is_recommended_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a damaged manifest nobody knows where the input lies."""
    out = make_tiny_dataset(tmp_path, Store.PNG)
    manifest = out / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert main(["verify", str(out)]) == 6
    said = capsys.readouterr().out
    command = next(line.partition("python -m wsi_extract ")[2] for line in said.splitlines() if "--repair" in line)
    assert command == f"verify {out} --repair --wsi_dir SLIDES --annotation_json ANNOTATIONS"
    places = {"SLIDES": tmp_path / "input" / "WSI", "ANNOTATIONS": tmp_path / "input" / "annotations.sqlite"}
    assert main([str(places.get(word, word)) for word in command.split()]) == 3


def test_a_lost_run_json_is_said_to_need_a_repair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_tiny_dataset(tmp_path, Store.PNG)
    run_path(out).write_bytes(b"{")
    assert main(["verify", str(out)]) == 6
    assert "run.json is damaged or missing: a run of the extraction would refuse this folder" in capsys.readouterr().out
    assert main(["verify", str(out), "--repair"]) == 3


@pytest.mark.xdist_group("dask")
def test_repair_finds_slides_that_were_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=2)
    out = tmp_path / "out"
    extract(inputs, out, patches_per_slide=2, train_val_split=0.5)
    next(out.glob("val2017/*/*.png")).unlink()
    moved = (tmp_path / "input").rename(tmp_path / "moved")
    assert main(["verify", str(out), "--repair"]) == 2
    assert "does not exist" in capsys.readouterr().err
    flags = ["--wsi_dir", str(moved / "WSI"), "--annotation-json", str(moved / "annotations.sqlite"), "--workers", "1"]
    assert main(["verify", str(out), "--repair", *flags]) == 0
    assert main(["verify", str(out)]) == 0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--dry_run"], "--dry_run: they belong to --repair"),
        (["--wsi_dir", "x"], "--wsi_dir: they"),
        (["--repair", "--same", "."], "--repair and --same"),
    ],
)
def test_flags_that_have_no_meaning_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    assert main(["verify", str(tmp_path), *flags]) == 2
    assert named in capsys.readouterr().err


def test_a_folder_of_something_else_cannot_be_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path), "--repair"]) == 6
    assert "manifest.json and run.json are both damaged or missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_verify_same_compares_two_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = make_dataset(tmp_path / "a"), make_dataset(tmp_path / "b")
    assert main(["verify", str(first), "--same", str(second)]) == 0
    assert "are the same" in capsys.readouterr().out
    patch = next(second.glob("val2017/*/*.png"))
    patch.write_bytes(patch.read_bytes()[:-1])
    assert main(["verify", str(first), "--same", str(second)]) == 6
    assert patch.name in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["verify", "/nowhere"], ["verify", ".", "--same", "/nowhere"]])
def test_folders_that_are_not_there(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    assert "/nowhere" in capsys.readouterr().err
