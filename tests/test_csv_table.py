"""Tables that users write: strict columns, clear lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_extract.csv_table import read_pairs, read_rows
from wsi_extract.errors import InputError

HEADER = ("slide", "group")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("slide,group\na.svs,p1\nb.svs,p2\n", id="plain"),
        pytest.param("\ufeffslide,group\r\n a.svs , p1\r\n\r\nb.svs,p2\r\n,\r\n", id="byte-order mark, blanks, CRLF"),
        pytest.param('slide,group\n"a.svs",p1\n"b.svs",p2', id="quotes, no line end"),
    ],
)
def test_pairs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    assert read_pairs(path, header=HEADER) == {"a.svs": "p1", "b.svs": "p2"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("group,slide\np1,a\n", "It must be slide,group", id="other header"),
        pytest.param("", "It must be slide,group", id="empty file"),
        pytest.param("slide,group\na\n", "line 2: 1 columns", id="too few cells"),
        pytest.param("slide,group\na,b,c\n", "line 2: 3 columns", id="too many cells"),
        pytest.param("slide,group\na,p1\na,p2\n", "line 3: a second row", id="twice"),
        pytest.param("slide,group\na,\n", "line 2: an empty group", id="empty cell"),
        pytest.param('slide,group\n"a,p1\n', "not a CSV file", id="open quote"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_pairs(path, header=HEADER)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        read_rows(tmp_path / "nowhere.csv", headers=(HEADER,))
    (tmp_path / "b.csv").write_bytes(b"slide,group\n\xff\xfe,\x00\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_rows(tmp_path / "b.csv", headers=(HEADER,))
