"""What a benchmark leaves behind: ``<name>.json`` with its figures, and the tables and plots that documents show.

    {"schema": 1, "name": "scaling", "conditions": ["..."],
     "tables": [{"caption": "...", "header": ["..."], "rows": [["..."]]}], "notes": ["..."], "plots": ["scaling.svg"],
     "figures": {...}}

``figures`` holds the numbers for programs; tables, notes and plots are what people see. The same content gives the
same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias, cast

from benchmarks.report import markdown_table
from wsi_extract.disk.files import pretty_json, write_atomically
from wsi_extract.errors import InputError

SCHEMA = 1
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of a report."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    """A sentence that stands before it."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"every row has as many cells as the header: {self.header}")

    def to_markdown(self) -> str:
        """Return the table with its caption."""
        table = markdown_table(self.header, self.rows)
        return f"{self.caption}\n\n{table}" if self.caption else table


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """All that one benchmark found."""

    name: str
    conditions: tuple[str, ...]
    """Sentences: what was measured, on which machine, with which versions."""
    tables: tuple[Table, ...]
    figures: Mapping[str, Json]
    notes: tuple[str, ...] = ()
    """Sentences that follow the tables."""
    plots: tuple[str, ...] = ()
    """Names of SVG files that lie beside the JSON file."""

    def to_markdown(self) -> str:
        """Return conditions, tables, plots and notes as Markdown."""
        parts = [" ".join(self.conditions) + "\n" if self.conditions else ""]
        parts += [table.to_markdown() for table in self.tables]
        parts += [f"![{Path(plot).stem.replace('_', ' ')}]({plot})\n" for plot in self.plots]
        parts += ["\n".join(f"* {note}" for note in self.notes) + "\n" if self.notes else ""]
        return "\n".join(part for part in parts if part)


def write_result(folder: Path, result: BenchmarkResult, *, plots: Mapping[str, str]) -> Path:
    """Write ``<name>.json`` and its plots to ``folder``, and return the path of the JSON file.

    Parameters
    ----------
    plots
        SVG documents by file name: those that ``result.plots`` lists.

    Raises
    ------
    ValueError
        When a plot is missing, or one is given that the result does not list.
    """
    if set(plots) != set(result.plots):
        raise ValueError(f"{result.name} lists the plots {sorted(result.plots)} and is given {sorted(plots)}")
    for name, svg in plots.items():
        write_atomically(folder / name, svg.encode())
    path = folder / f"{result.name}.json"
    write_atomically(path, pretty_json({"schema": SCHEMA, **asdict(result)}))
    return path


def read_result(path: Path) -> BenchmarkResult:
    """Return what `write_result` wrote.

    Raises
    ------
    InputError
        When the file is missing or is no such result.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']}")
        return BenchmarkResult(
            name=str(document["name"]),
            conditions=_texts(document["conditions"]),
            tables=tuple(
                Table(
                    caption=str(table["caption"]),
                    header=_texts(table["header"]),
                    rows=tuple(_texts(row) for row in table["rows"]),
                )
                for table in document["tables"]
            ),
            figures=cast("Mapping[str, Json]", document["figures"]),
            notes=_texts(document["notes"]),
            plots=_texts(document["plots"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no benchmark result: {error!r}.", "Run the benchmark that writes it again."
        ) from error


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"a list of texts is wanted, not the text {values!r}")
    return tuple(str(value) for value in values)
