"""Any bytes as a table: rows of clean cells, or `InputError`."""

from __future__ import annotations

import contextlib

from tests.fuzz.runner import fuzz
from tests.fuzz.scratch import scratch
from wsi_extract.csv_table import read_pairs
from wsi_extract.errors import InputError

HEADER = ("slide", "group")


def check(data: bytes) -> dict[str, str] | None:
    """Return the pairs, ``None`` when the table was refused; every other error is a finding."""
    path = scratch() / "t.csv"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        pairs = read_pairs(path, header=HEADER)
        for cell in (*pairs, *pairs.values()):
            assert cell
            assert cell == cell.strip()
            assert not any(character < " " for character in cell)
            cell.encode()
        return pairs
    return None


def seeds() -> list[bytes]:
    """Return tables in every dialect that is read."""
    return [
        b"slide,group\na.svs,p1\n",
        b'\xef\xbb\xbfslide,group\r\n"a,b",p1\r\n\r\n,\r\n"x""y",p2',
        b"slide,group\r1,2",
    ]


if __name__ == "__main__":
    fuzz("tests.fuzz.tables", seeds=seeds())
