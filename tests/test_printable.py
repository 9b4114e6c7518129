"""No text of a file reaches a terminal as an order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.printable import as_printable


@given(st.text(st.characters(exclude_categories=[]) | st.sampled_from("\x1b\x9b\x07\r\x08\u202e\u2028\udcff")))
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    shown = as_printable(text)
    assert not any(character < " " and character not in "\n\t" for character in shown)
    assert not any("\x7f" <= character <= "\x9f" or character in "\u202e\u2028" for character in shown)
    shown.encode()
    assert as_printable(shown) == shown


@pytest.mark.parametrize("text", ["", "C:\\x\\1b", "Größe [red]x[/red]\n\t肿瘤", "e\u0301"])
def test_all_other_text_stays_as_it_is(text: str) -> None:
    assert as_printable(text) == text


def test_what_is_escaped_can_be_read() -> None:
    assert as_printable("\x1b]0;a\x07\r\u202esvs.exe") == "\\x1b]0;a\\x07\\r\\u202esvs.exe"
