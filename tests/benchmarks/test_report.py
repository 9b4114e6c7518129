from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from benchmarks.report import bar_chart_svg, environment_line, markdown_table


def test_table_is_padded_and_aligned() -> None:
    assert markdown_table(["name", "ms"], [["a", "1.0"], ["longer", "10.0"]]) == (
        "| name   |   ms |\n| ------ | ---: |\n| a      |  1.0 |\n| longer | 10.0 |\n"
    )


def test_chart_has_a_bar_per_value_in_order_and_proportion() -> None:
    svg = bar_chart_svg(
        "A & B", [("slow", 10.0), ("fast", 0.1), ("mid", 1.0)], unit="ms", highlighted=frozenset({"fast"})
    )
    root = ET.fromstring(svg)
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))[1:]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert names[0] == "A & B"
    assert names[1::2] == ["fast", "mid", "slow"]
    assert widths[2] - widths[1] == pytest.approx(widths[1] - widths[0], abs=0.2)
    assert bars[0].attrib["fill"] != bars[1].attrib["fill"] == bars[2].attrib["fill"]


@pytest.mark.parametrize("bars", [[], [("none", 0.0)]])
def test_chart_without_values_is_refused(bars: list[tuple[str, float]]) -> None:
    with pytest.raises(ValueError, match="positive"):
        bar_chart_svg("title", bars, unit="ms", highlighted=frozenset())


def test_environment_names_versions_and_what_is_absent() -> None:
    line = environment_line(["numpy", "no-such-package"])
    assert "numpy 2" in line
    assert "no-such-package absent" in line
    assert "cores" in line
