"""A user's regular expression is searched in names as `re` does, within a time limit."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.errors import SplitError
from wsi_extract.splits import search
from wsi_extract.splits.search import search_names


@pytest.mark.parametrize(
    ("regex", "names", "expected"),
    [
        pytest.param(r"^(\d+)_", ["12_a.svs", "x_a.svs"], ["12", None], id="a group"),
        pytest.param(r"\d+", ["a12.svs"], ["12"], id="no group"),
        pytest.param(r"(a)|b", ["b"], [None], id="a group that takes no part"),
        pytest.param("x*", ["abc"], [""], id="an empty match"),
        pytest.param(r"(\w+)", ["\udcffü\n\x00.svs"], ["ü"], id="names that are no text"),
        pytest.param("a", [], [], id="no names"),
    ],
)
def test_what_is_found(regex: str, names: list[str], expected: list[str | None]) -> None:
    assert search_names(regex, names, setting="--test_regex") == expected


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(max_size=6), max_size=5))
def test_the_same_as_searching_here(names: list[str]) -> None:
    matches = [re.search("([^a])b?", name) for name in names]
    expected = [match and match.group(1) for match in matches]
    assert search_names("([^a])b?", names, setting="--group_regex") == expected


@pytest.mark.parametrize("regex", ["(", "[", "(" * 4000 + ")" * 4000, "a{99999999999}", "(?P<1>a)"])
def test_what_is_no_regular_expression(regex: str) -> None:
    with pytest.raises(SplitError, match=r"--group_regex .* is not a regular expression"):
        search_names(regex, ["a"], setting="--group_regex")


def test_an_expression_that_takes_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LONGEST_S", 1.0)
    started_s = time.monotonic()
    with pytest.raises(SplitError, match=r"--group_regex .* takes more than 1 s on the names of 1 slides"):
        search_names("(a+)+$", ["a" * 60 + "!.svs"], setting="--group_regex")
    assert time.monotonic() - started_s < 60  # on a loaded machine, too
