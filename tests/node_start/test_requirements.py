"""What requirements.txt asks for, and what of it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.node_start.requirements import Requirement, find_problems, installed, is_below, read_requirements

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = st.lists(st.integers(0, 3000), min_size=1, max_size=4)


def pretend_installed(folder: Path, name: str, version: str | None) -> None:
    """Write what an installer writes down."""
    described = folder / f"{name.replace('-', '_')}-1.dist-info"
    described.mkdir()
    version_line = "" if version is None else f"Version: {version}\n"
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n{version_line}")


def test_this_environment_has_everything() -> None:
    requirements = read_requirements(ROOT / "requirements.txt")
    assert len(requirements) > 15
    assert find_problems(requirements) == []


@given(NUMBERS, NUMBERS)
def test_versions_are_ordered_as_numbers(found: list[int], least: list[int]) -> None:
    length = max(len(found), len(least))
    padded = [numbers + [0] * (length - len(numbers)) for numbers in (found, least)]
    assert is_below(".".join(map(str, found)), ".".join(map(str, least))) is (padded[0] < padded[1])


@pytest.mark.parametrize(
    ("found", "is_too_old"),
    [("4.0.0-8.el10", True), ("4.0.1+dfsg", False), ("4.0.1-dev-ab12", False), ("10.0", False), ("unknown", True)],
)
def test_what_follows_the_numbers_does_not_count(found: str, is_too_old: bool) -> None:
    assert is_below(found, "4.0.1") is is_too_old


@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        (">=1.2", ["1.2", "1.2.1", "2"], ["1.1.9", "0.9"]),
        (">=1.35.2,<2", ["1.35.2", "1.99"], ["2", "2.0.1", "1.35.1"]),
        ("==3.1", ["3.1", "3.1.0"], ["3.1.1", "3.0"]),
        ("", ["0.0.1"], []),
    ],
)
def test_conditions(tmp_path: Path, condition: str, good: list[str], bad: list[str]) -> None:
    (tmp_path / "requirements.txt").write_text(f"\n# why\nSome-Thing {condition}   # because\n")
    (requirement,) = read_requirements(tmp_path / "requirements.txt")
    assert (requirement.name, requirement.wanted()) == ("Some-Thing", condition)
    assert [requirement.accepts(version) for version in good + bad] == [True] * len(good) + [False] * len(bad)


@pytest.mark.parametrize(
    "line", ["-r other.txt", "a>=1; python_version < '3'", "a~=1.0", "a @ file:///a.whl", "a[b]>=1"]
)
def test_a_line_that_cannot_be_checked_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"numpy\n{line}\n")
    with pytest.raises(ValueError, match="line 2"):
        read_requirements(tmp_path / "requirements.txt")


def test_everything_missing_or_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    pretend_installed(tmp_path, "old-thing", "1.9")
    pretend_installed(tmp_path, "good-thing", "2.0")
    pretend_installed(tmp_path, "half-removed", None)
    names = ("old-thing", "good-thing", "half-removed", "not-there")
    requirements = tuple(Requirement(name, ((">=", "2.0"),)) for name in names)
    assert find_problems(requirements) == [
        "old-thing 1.9, needed >=2.0",
        "half-removed is missing, needed >=2.0",
        "not-there is missing, needed >=2.0",
    ]


def test_a_package_without_a_version_is_missing_by_the_backport_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("importlib_metadata")  # it answers for the library of Python from then on
    monkeypatch.syspath_prepend(str(tmp_path))
    pretend_installed(tmp_path, "half-removed", None)
    assert installed("half-removed") is None


def test_another_build_of_the_same_modules_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in environments for training, which have opencv-python or mlflow."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed("mlflow-skinny") is None
    pretend_installed(tmp_path, "mlflow", "3.1")
    assert installed("mlflow-skinny") == ("mlflow", "3.1")
