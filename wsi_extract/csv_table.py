"""Read small CSV tables that users write: strict about their columns, clear about their lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from wsi_extract.errors import InputError


def read_rows(path: Path, *, headers: Sequence[tuple[str, ...]]) -> list[tuple[int, list[str]]]:
    """Return the non-empty rows below the header, each with its line number, all cells stripped.

    Parameters
    ----------
    headers
        The headers that are understood; the file must begin with one of them.

    Raises
    ------
    InputError
        When the file cannot be read, its header is another, or a row has more or fewer cells.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise InputError(f"cannot read the table {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}.") from error
    rows = [(line, row) for line, row in rows if any(row)]
    header = tuple(rows[0][1]) if rows else ()
    if header not in headers:
        expected = " or ".join(",".join(columns) for columns in headers)
        raise InputError(f"{path}: the first line is {','.join(header)!r}.", f"It must be {expected}.")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} columns instead of {len(header)}.")
    return rows[1:]


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
            raise InputError(f"{path}, line {line}: a second row for {key!r}.", "Keep one row for each.")
        pairs[key] = value
    return pairs
