from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import BenchmarkResult, Table, read_result, write_result
from wsi_extract.errors import InputError

TABLE = Table(caption="What it costs:", header=("job", "s"), rows=(("one", "1.5"), ("two", "3.0")))
RESULT = BenchmarkResult(
    name="speed",
    conditions=("A machine.", "Some versions."),
    tables=(TABLE,),
    figures={"one": {"wall_s": [1.5, 1.6]}, "n": 2, "none": None},
    notes=("Two take twice as long.",),
    plots=("speed.svg",),
)


def test_results_are_written_and_read(tmp_path: Path) -> None:
    path = write_result(tmp_path, RESULT, plots={"speed.svg": "<svg/>"})
    assert path == tmp_path / "speed.json"
    assert read_result(path) == RESULT
    assert (tmp_path / "speed.svg").read_text() == "<svg/>"
    first = path.read_bytes()
    write_result(tmp_path, RESULT, plots={"speed.svg": "<svg/>"})
    assert path.read_bytes() == first


texts = st.text(max_size=8)


@given(
    conditions=st.lists(texts, max_size=3),
    cells=st.lists(st.tuples(texts, texts), max_size=4),
    notes=st.lists(texts, max_size=2),
    figures=st.dictionaries(texts, st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)),
)
def test_any_result_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    conditions: list[str],
    cells: list[tuple[str, str]],
    notes: list[str],
    figures: dict[str, int | float | str],
) -> None:
    result = BenchmarkResult(
        name="any",
        conditions=tuple(conditions),
        tables=(Table(header=("a", "b"), rows=tuple(cells)),),
        figures=figures,
        notes=tuple(notes),
    )
    folder = tmp_path_factory.getbasetemp() / "any"
    assert read_result(write_result(folder, result, plots={})) == result


def test_markdown_holds_everything_a_reader_wants() -> None:
    text = RESULT.to_markdown()
    order = [
        "A machine. Some versions.",
        "What it costs:",
        "| two |",
        "![speed](speed.svg)",
        "* Two take twice as long.",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_plots_are_those_that_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lists the plots"):
        write_result(tmp_path, RESULT, plots={})


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="as many cells as the header"):
        Table(header=("a", "b"), rows=(("1",),))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param("[]", id="not an object"),
        pytest.param('{"schema": 2}', id="another schema"),
        pytest.param('{"schema": 1, "name": "x", "conditions": "text", "tables": []}', id="text for a list"),
        pytest.param('{"schema": 1', id="cut short"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"x\.json is no benchmark result"):
        read_result(path)
