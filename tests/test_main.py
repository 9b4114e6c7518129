"""The tools beside the main job, as users call them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers_run import make_dataset
from wsi_extract.__main__ import main


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
    assert "is sound: 80 images" in capsys.readouterr().out
    patch = next(out.glob("train2017/*/*.png"))
    patch.unlink()
    assert main(["verify", str(out)]) == 6
    captured = capsys.readouterr()
    assert "NOT sound" in captured.out
    assert patch.name in captured.err


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
