"""Slides whose names are no text take part like others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.annotations.test_hostile_names import hostile_inputs, is_obeyed, rows_of
from tests.helpers_run import Inputs, extract
from wsi_extract.state.layout import ERRORS, SLIDES_TABLE
from wsi_extract.verify import audit, compare

NO_TEXT = os.fsdecode(b"\xff\xfe.svs")


def undecodable_inputs(folder: Path, *, broken: bool) -> Inputs:
    inputs = hostile_inputs(folder, ("a.svs", "b.svs"))
    (inputs.wsi_dir / "b.svs").rename(inputs.wsi_dir / NO_TEXT)
    if broken:
        (inputs.wsi_dir / NO_TEXT).write_bytes(b"no slide")
    return inputs


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("store", ["png", "both", "pixels"])
def test_a_slide_whose_name_is_no_text(tmp_path: Path, store: str, broken: bool) -> None:
    inputs = undecodable_inputs(tmp_path / "in", broken=broken)
    settings: dict[str, Any] = {
        "store": store,
        "unannotated_slides": "negative",
        "category_map": {"2": "target"},
        "group_regex": r"(?s)^(.+)\.svs$",
    }
    for out in (tmp_path / "a", tmp_path / "b"):
        result = extract(inputs, out, **settings)
        assert result.has_failures == broken
        assert audit(out).is_sound, audit(out).problems
    assert compare(tmp_path / "a", tmp_path / "b").is_sound
    extract(inputs, tmp_path / "a", **settings)
    assert audit(tmp_path / "a").is_sound
    assert compare(tmp_path / "a", tmp_path / "b").is_sound
    assert "\\udcff\\udcfe.svs" in {row["file"] for row in rows_of(tmp_path / "a")}
    for name in ("manifest.json", SLIDES_TABLE, *([ERRORS] if broken else [])):
        assert not is_obeyed((tmp_path / "a" / name).read_text(encoding="utf-8"))


def test_in_a_folder_whose_name_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = undecodable_inputs(tmp_path / "in", broken=True)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    folder.mkdir()
    shutil.move(inputs.wsi_dir, folder / "WSI")
    monkeypatch.chdir(folder)
    for out in ("x", "y"):
        extract(inputs, folder / out, wsi_dir="WSI", output_dir=out, category_map={"2": "target"}, stain_norm="macenko")
        extract(inputs, folder / out, wsi_dir="WSI", output_dir=out, category_map={"2": "target"}, stain_norm="macenko")
        assert audit(folder / out).is_sound, audit(folder / out).problems
    assert compare(folder / "x", folder / "y").is_sound
