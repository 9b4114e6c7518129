"""Read small CSV tables that users write: strict about their columns, clear about their lines.

And cells for tables that people open in spreadsheets, which take some texts for formulas.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from wsi_extract.errors import InputError
from wsi_extract.input_files import read_regular

LARGEST_TABLE_BYTES = 64_000_000
LONGEST_CELL = 4096
"""Characters: no name is longer."""
N_SHOWN = 200
"""Characters of a cell or header that a message shows."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def read_rows(path: Path, *, headers: Sequence[tuple[str, ...]]) -> list[tuple[int, list[str]]]:
    """Return the non-empty rows below the header, each with its line number, all cells stripped.

    Parameters
    ----------
    headers
        The headers that are understood; the file must begin with one of them.

    Raises
    ------
    InputError
        When the file cannot be read or is no file, its header is another, a row has more or fewer cells, or a cell
        holds a control character, such as a line end.
    """
    try:
        text = read_regular(path, largest_bytes=LARGEST_TABLE_BYTES).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise InputError(f"cannot read the table {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}.") from error
    rows = [(line, row) for line, row in rows if any(row)]
    header = tuple(rows[0][1]) if rows else ()
    if header not in headers:
        expected = " or ".join(",".join(columns) for columns in headers)
        raise InputError(f"{path}: the first line is {','.join(header)[:N_SHOWN]!r}.", f"It must be {expected}.")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} columns instead of {len(header)}.")
        if any(len(cell) > LONGEST_CELL for cell in row):
            raise InputError(f"{path}, line {line}: a cell is longer than {LONGEST_CELL} characters.")
        control = next((cell for cell in row if any(map(_is_control, cell))), None)
        if control is not None:
            raise InputError(f"{path}, line {line}: {control[:N_SHOWN]!r} holds a control character.", "Remove it.")
    return rows[1:]


def _is_control(character: str) -> bool:
    return character < " " or unicodedata.category(character) == "Cc"


def without_formula(cell: str) -> str:
    """Return a text for a cell of a table that people open in a spreadsheet.

    A program like Excel runs what begins as a formula. Such texts get an apostrophe, which shows it that they are
    texts. Numbers are no texts: give only names and reasons.

    >>> without_formula("=cmd()"), without_formula("a=1")
    ("'=cmd()", 'a=1')
    """
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def read_pairs(path: Path, *, header: tuple[str, str]) -> dict[str, str]:
    """Return a two-column table as a mapping.

    Raises
    ------
    InputError
        Also when a key occurs twice or a cell is empty.
    """
    pairs: dict[str, str] = {}
    for line, (key, value) in read_rows(path, headers=(header,)):
        if not key or not value:
            raise InputError(f"{path}, line {line}: an empty {header[0] if not key else header[1]}.")
        if key in pairs:
            raise InputError(f"{path}, line {line}: a second row for {key[:N_SHOWN]!r}.", "Keep one row for each.")
        pairs[key] = value
    return pairs
