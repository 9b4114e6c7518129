from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.document import fill_sections, main, section_names
from benchmarks.results import BenchmarkResult, Table, write_result
from wsi_extract.errors import InputError

TEXT = """# Speed

Written by hand.

<!-- begin scaling -->
old
<!-- end scaling -->

More by hand.

<!-- begin stages -->
<!-- end stages -->
"""


def result_of(name: str, *, value: str) -> BenchmarkResult:
    table = Table(header=("what", "ms"), rows=(("all", value),))
    return BenchmarkResult(name=name, conditions=("Here.",), tables=(table,), figures={}, plots=(f"{name}.svg",))


def test_sections_are_filled_and_the_rest_stays() -> None:
    new = fill_sections(TEXT, {"scaling": "new\n", "stages": "| table |"})
    assert section_names(new) == ["scaling", "stages"]
    assert "old" not in new
    assert new.startswith(
        "# Speed\n\nWritten by hand.\n\n<!-- begin scaling -->\n\nnew\n\n<!-- end scaling -->\n\nMore"
    )
    assert new.endswith("<!-- begin stages -->\n\n| table |\n\n<!-- end stages -->\n")


@given(st.dictionaries(st.sampled_from(["scaling", "stages"]), st.text(alphabet="ab|-\n \\1", max_size=20)))
def test_filling_twice_is_filling_once(sections: dict[str, str]) -> None:
    once = fill_sections(TEXT, sections)
    assert fill_sections(once, sections) == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("<!-- begin a -->\n", "not pairs", id="no end"),
        pytest.param("<!-- end a -->\n<!-- begin a -->\n", "not pairs", id="end first"),
        pytest.param("<!-- begin a -->\n<!-- begin b -->\n<!-- end b -->\n<!-- end a -->\n", "not pairs", id="nested"),
        pytest.param("<!-- begin a -->\n<!-- end a -->\n<!-- begin a -->\n<!-- end a -->\n", "twice", id="twice"),
    ],
)
def test_wrong_marks_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        section_names(text)


def test_a_section_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="no section stain"):
        fill_sections(TEXT, {"stain": "x"})


def test_command_fills_the_document_from_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, results = tmp_path / "docs" / "performance.md", tmp_path / "bench"
    document.parent.mkdir()
    document.write_text(TEXT)
    for name, value in (("scaling", "1.25"), ("unknown", "7")):
        write_result(results, result_of(name, value=value), plots={f"{name}.svg": "<svg/>"})
    assert main(["--results", str(results), "--document", str(document)]) == 0
    text = document.read_text()
    assert "1.25" in text
    assert "![scaling](scaling.svg)" in text
    assert "<!-- begin stages -->\n<!-- end stages -->" in text
    assert (document.parent / "scaling.svg").read_text() == "<svg/>"
    assert not (document.parent / "unknown.svg").exists()
    assert "without a section: unknown" in capsys.readouterr().out


def test_a_document_is_left_alone_when_a_plot_is_missing(tmp_path: Path) -> None:
    document, results = tmp_path / "performance.md", tmp_path / "bench"
    document.write_text(TEXT)
    write_result(results, result_of("scaling", value="1"), plots={"scaling.svg": "<svg/>"})
    (results / "scaling.svg").unlink()
    with pytest.raises(InputError, match=r"the plot scaling\.svg of scaling is missing"):
        main(["--results", str(results), "--document", str(document)])
    assert document.read_text() == TEXT


def test_results_stand_under_their_own_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no result"):
        main(["--results", str(tmp_path)])
    path = write_result(tmp_path, result_of("scaling", value="1"), plots={"scaling.svg": ""})
    path.rename(tmp_path / "stages.json")
    with pytest.raises(InputError, match="holds the result of another benchmark"):
        main(["--results", str(tmp_path)])
