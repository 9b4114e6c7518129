"""Tables that users write: strict columns, clear lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import tables as fuzzed
from wsi_extract.csv_table import LARGEST_TABLE_BYTES, read_pairs, read_rows, without_formula
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


HOSTILE = {
    "NUL": (b"slide,group\na,p\x001\n", "line 2: 'p\\x001' holds a control character"),
    "a line end in quotes": (b'slide,group\na,"p\n1"\n', "holds a control character"),
    "an escape code": (b"slide,group\na,\x1b[31m\n", "holds a control character"),
    "an escape code of one byte": ("slide,group\na,\x9b31m\n".encode(), "holds a control character"),
    "a large cell": (b"slide,group\na," + b"x" * 200_000, "field larger than field limit"),
    "a long cell": (b"slide,group\n" + b"1" * 5000 + b",p1\n", "longer than 4096 characters"),
    "a large header": (b"x" * 100_000 + b",group\n", "the first line is"),
    "a wide header": (b"," * 3_000_000 + b"x\n", "the first line is"),
    "wrong quotes": (b'slide,group\n"a"b,p1\n', "not a CSV file"),
    "UTF-16": ("slide,group\na,p1\n".encode("utf-16"), "not a CSV file in UTF-8"),
    "half a character": (b"slide,group\na,\xed\xa0\x80\n", "not a CSV file in UTF-8"),
    "semicolons": (b"slide;group\na;p1\n", "It must be slide,group"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_tables(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_pairs(path, header=HEADER)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


@pytest.mark.timeout(10)
def test_what_is_no_file(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe.csv", tmp_path / "large.csv"
    os.mkfifo(pipe)
    with large.open("wb") as stream:
        stream.truncate(LARGEST_TABLE_BYTES + 1)
    for path, message in {pipe: "a named pipe", Path("/dev/zero"): "a device", large: "at most 64 MB"}.items():
        with pytest.raises(InputError, match=message):
            read_rows(path, headers=(HEADER,))


@given(st.binary(max_size=60).map(lambda data: b"slide,group\n" + data))
def test_any_bytes_below_the_header_are_refused_or_clean(data: bytes) -> None:
    fuzzed.check(data)


@given(st.text(max_size=12))
def test_no_cell_is_taken_for_a_formula(text: str) -> None:
    cell = without_formula(text)
    assert cell.removeprefix("'") == text.removeprefix("'")
    assert cell[:1] not in {"=", "+", "-", "@", "\t", "\r", "\n"}
