"""Ids of slides are names that any file system and any shell takes as they are, and that differ when slides do."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.slide_names import MAX_ID_LENGTH, fold_name, slide_id_of, strip_extension

PART = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=[]) | st.sampled_from("._- aA\\\n\x1b=\udcff\u0308"),
    min_size=1,
    max_size=20,
).filter(lambda part: part not in {".", ".."})
PATHS = st.lists(PART, min_size=1, max_size=4).map(lambda parts: Path(*parts))


@given(PATHS.filter(lambda path: not re.search("[\ud800-\udc7f\udd00-\udfff]", str(path))))
def test_ids_are_safe_names(path: Path) -> None:
    slide_id = slide_id_of(path)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", slide_id)
    assert len(slide_id) <= MAX_ID_LENGTH
    assert slide_id.strip(".")
    assert not slide_id.startswith("__")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("a b", "a_b", "a\nb", "a\\b", "a\x1bb"), id="odd characters"),
        pytest.param(("\u00fc", "u\u0308", "ü_"), id="composition"),
        pytest.param(("a/b", "a/b/c", "a b/c", "a/b c"), id="folders"),
        pytest.param((":", "ü", "_", "__", "slide"), id="nothing but one odd character"),
        pytest.param(("x" * 200, "x" * 201, "x" * 128), id="long"),
        pytest.param(("...", ".. .", "__a", "a"), id="dots and underscores"),
        pytest.param(("\udcff", "\udcfe"), id="bytes that are no text"),
    ],
)
def test_different_names_have_different_ids(names: tuple[str, ...]) -> None:
    ids = [slide_id_of(Path(f"{name}.svs")) for name in names]
    assert len(set(ids)) == len(ids)


@given(st.text(max_size=30))
def test_comparing_names_is_the_same_twice_and_for_every_composition(name: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)
    assert fold_name(unicodedata.normalize("NFD", name)) == fold_name(name)
    assert strip_extension(f"{name}x.SVS") == strip_extension(f"{name}x")
