from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.formats import Payload
from benchmarks.results import read_result
from benchmarks.stain import Contender, compare, contenders_of, main, our_transform
from benchmarks.stain_peers import Peer, install_peers
from wsi_extract.reading import StainNorm

OURS = ("Macenko, whole window", "Macenko, patch by patch", "Reinhard, whole window", "Reinhard, patch by patch")


def test_our_code_is_within_rounding_of_the_book_and_others_are_measured_too(payload: Payload) -> None:
    patches = payload.patches[:3]
    grey = Contender(name="grey", method=StainNorm.MACENKO, normalise=np.zeros_like)
    contenders = [*contenders_of(patches, installed=()), grey]
    costs = {cost.name: cost for cost in compare(patches, contenders, n_rounds=1, seed=0)}
    assert list(costs) == [contender.name for contender in contenders]
    assert all(costs[name].max_difference < 0.51 for name in OURS)
    assert costs["grey"].mean_difference > 50
    assert costs["Macenko, float64 by the book"].max_difference <= 0.5


def test_a_contender_that_loses_patches_is_refused(payload: Payload) -> None:
    half = Contender(name="half", method=StainNorm.MACENKO, normalise=lambda rgb: rgb[::2])
    with pytest.raises(RuntimeError, match="half handled 0 of 2 patches"):
        compare(payload.patches[:2], [half], n_rounds=1, seed=0)


def test_texture_without_stain_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no stain for macenko"):
        our_transform(np.full((5000, 3), 250, dtype=np.uint8), StainNorm.MACENKO)


def test_a_package_that_cannot_be_imported_is_listed_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, source in (("whole_peer", "VALUE = 1"), ("broken_peer", "import a_module_that_is_not_there")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(source)
    peers = [Peer(name=name, module=name, alone=()) for name in ("whole_peer", "broken_peer")]
    before = list(sys.path)
    reasons = install_peers(tmp_path, peers=peers)
    assert list(reasons) == ["broken_peer"]
    assert "a_module_that_is_not_there" in reasons["broken_peer"]
    assert sys.path == [*before, str(tmp_path / "whole_peer")]
    monkeypatch.delitem(sys.modules, "whole_peer")


def test_command_writes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--patches", "2", "--patch-px", "128", "--repeats", "1"]
    assert main(arguments, peers=()) == 0
    result = read_result(tmp_path / "stain.json")
    figures = json.loads((tmp_path / "stain.json").read_text())["figures"]
    assert set(figures["cpu_ms"]) == {*OURS, "Macenko, float64 by the book", "Reinhard, float64 by the book"}
    assert (tmp_path / "stain.svg").read_text().startswith("<svg")
    assert result.to_markdown() == capsys.readouterr().out
