from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.png_encoders import (
    STAGES,
    all_encoders,
    all_readers,
    compare_encoders,
    main,
    measure_writing,
    patches_by_texture,
    tables_of,
)
from benchmarks.results import read_result
from benchmarks.texture import TexturedSlide
from wsi_extract.storage import PngEncoder


def test_all_encoders_are_compared_on_all_textures(slide: TexturedSlide, tmp_path: Path) -> None:
    patches = patches_by_texture(slide, n_patches=2)["tissue"]
    costs = compare_encoders(patches, texture="tissue", n_rounds=1, seed=0)
    assert [cost.encoder for cost in costs] == list(all_encoders())
    assert set(PngEncoder) <= set(all_encoders())
    for cost in costs:
        assert 0 < cost.n_bytes < patches[0].nbytes
        assert list(cost.decode_ms) == list(all_readers())
    writing = measure_writing(patches, folder=tmp_path, n_rounds=2)
    assert [cost.stage for cost in writing][: len(STAGES)] == list(STAGES)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2 * 2 * len(patches)  # stages and the product's way
    encoders, reading, stages = tables_of(costs, writing)
    assert [row[0] for row in encoders.rows] == [row[0] for row in reading.rows] == list(all_encoders())
    assert len(stages.rows) == len(STAGES) + 1


def test_textures_are_told_apart_by_their_tissue(slide: TexturedSlide) -> None:
    half = slide.rgb.copy()
    half[:, : half.shape[1] // 2] = 245
    found = patches_by_texture(TexturedSlide(rgb=half, origins=slide.origins, patch_px=slide.patch_px), n_patches=1)
    assert found["glass"].mean() == 245
    assert found["tissue"].mean() < 215
    assert found["glass"].shape == (1, 128, 128, 3)


def test_an_encoder_that_changes_pixels_is_refused(slide: TexturedSlide, monkeypatch: pytest.MonkeyPatch) -> None:
    right = all_encoders()["isal"]
    monkeypatch.setattr("benchmarks.png_encoders.all_encoders", lambda: {"wrong": lambda rgb: right(np.flipud(rgb))})
    with pytest.raises(RuntimeError, match="from the files of wrong"):
        compare_encoders(slide.patches()[:1], texture="tissue", n_rounds=1, seed=0)


def test_command_prints_the_tables_and_writes_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--patches", "2", "--rounds", "1", "--patch-px", "128", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| isal " in printed
    assert read_result(tmp_path / "png_encoders.json").to_markdown() == printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["png_encoders.json", "png_encoders.svg"]
