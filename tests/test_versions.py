"""Floors of libraries: compared as numbers, the same as in requirements.txt, and refused with what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsi_extract import versions
from wsi_extract.versions import FLOORS, OPENSLIDE_LIBRARY, Floor, OldLibrariesError, check_versions


def test_this_environment_is_good_enough() -> None:
    check_versions()


def test_the_floors_are_those_of_the_requirements() -> None:
    text = (Path(__file__).resolve().parent.parent / "requirements.txt").read_text()
    required = dict(re.findall(r"^([\w-]+)>=([\d.]+)", text, re.MULTILINE))
    required[OPENSLIDE_LIBRARY] = required["openslide-bin"]
    assert {floor.library: floor.least for floor in FLOORS} == {
        floor.library: required[floor.library] for floor in FLOORS
    }


def test_a_library_that_is_too_old_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    floors = [
        Floor(library=OPENSLIDE_LIBRARY, least="999.1", why="slides can do harm (CVE-1)"),
        Floor(library="pillow", least="999.2", why="images can do harm (CVE-2)"),
        Floor(library="tornado", least="1.0", why="nothing"),
        Floor(library="not-installed-anywhere", least="1.0", why="nothing"),
    ]
    monkeypatch.setattr(versions, "FLOORS", tuple(floors))
    with pytest.raises(OldLibrariesError) as caught:
        check_versions()
    assert re.search(r"OpenSlide library 4\.\S+, needed 999\.1: slides can do harm \(CVE-1\)\n", str(caught.value))
    assert re.search(r"pillow \d\S+, needed 999\.2: images can do harm \(CVE-2\)\n", str(caught.value))
    assert "--upgrade 'openslide-bin>=999.1' 'pillow>=999.2'" in str(caught.value)
    assert "tornado" not in str(caught.value)
    assert caught.value.exit_code == 2
