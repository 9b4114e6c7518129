"""Put the results of the benchmarks into the documentation: ``python -m benchmarks.document --results DIR``.

A section of the document that a benchmark fills stands between two lines:

    <!-- begin extraction -->
    <!-- end extraction -->

What lies between them is replaced by the tables of ``DIR/extraction.json``; its plots are copied beside the document.
Everything else stays as it is.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results import BenchmarkResult, read_result
from wsi_extract.disk.files import write_atomically
from wsi_extract.errors import InputError

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
_MARK = re.compile(r"^<!-- (begin|end) ([a-z0-9_]+) -->$", re.MULTILINE)


def section_names(text: str) -> list[str]:
    """Return the sections of a document in their order.

    Raises
    ------
    InputError
        When the marks are not pairs, or a section occurs twice.
    """
    marks = [(match[1], match[2]) for match in _MARK.finditer(text)]
    names = [name for _, name in marks[::2]]
    if marks != [(kind, name) for name in names for kind in ("begin", "end")]:
        raise InputError(
            f"the marks of sections are not pairs: {marks}.", "Write <!-- begin NAME -->, <!-- end NAME -->."
        )
    if len(set(names)) != len(names):
        raise InputError(f"a section occurs twice: {names}.", "Remove one of them.")
    return names


def fill_sections(text: str, sections: Mapping[str, str]) -> str:
    """Replace what stands between the marks of the given sections; others stay.

    Raises
    ------
    InputError
        When the document has no such section; see `section_names` too.
    """
    missing = sorted(set(sections) - set(section_names(text)))
    if missing:
        raise InputError(f"the document has no section {', '.join(missing)}.", "Add its two lines where it belongs.")
    for name, content in sections.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{content.strip()}\n\n{end}{rest.partition(end)[2]}"
    return text


def read_results(folder: Path) -> dict[str, BenchmarkResult]:
    """Return all results of a folder by their name.

    Raises
    ------
    InputError
        When there is none, or one is damaged or stands under another name.
    """
    results = {path.stem: read_result(path) for path in sorted(folder.glob("*.json"))}
    wrong = [name for name, result in results.items() if name != result.name]
    if wrong or not results:
        what = f"{wrong[0]}.json holds the result of another benchmark" if wrong else "there is no result"
        raise InputError(f"{what} in {folder}.", "Give the folder that the benchmarks wrote to as --results.")
    return results


def update_document(document: Path, results: Mapping[str, BenchmarkResult], *, plots_from: Path) -> list[str]:
    """Fill the sections whose results are there, copy their plots, and return the names of those that were filled.

    Results without a section are left out.

    Raises
    ------
    InputError
        When the document cannot be read, or a plot is missing.
    """
    try:
        text = document.read_text()
    except OSError as error:
        raise InputError(f"cannot read {document}: {error.strerror}.") from error
    filled = [name for name in section_names(text) if name in results]
    new = fill_sections(text, {name: results[name].to_markdown() for name in filled})
    for name in filled:
        for plot in results[name].plots:
            if not (plots_from / plot).is_file():
                raise InputError(f"the plot {plot} of {name} is missing in {plots_from}.", "Run the benchmark again.")
            if plots_from.resolve() != document.parent.resolve():
                shutil.copyfile(plots_from / plot, document.parent / plot)
    write_atomically(document, new.encode())
    return filled


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the document and say what was done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.document", description="Fill in measured figures.")
    parser.add_argument("--results", type=Path, required=True, help="folder that the benchmarks wrote to")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args(arguments)
    results = read_results(options.results)
    filled = update_document(options.document, results, plots_from=options.results)
    left_out = sorted(set(results) - set(filled))
    sys.stdout.write(f"{options.document}: {', '.join(filled) or 'nothing'} filled in\n")
    if left_out:
        sys.stdout.write(f"without a section: {', '.join(left_out)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
