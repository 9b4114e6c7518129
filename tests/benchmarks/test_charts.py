from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.charts import Series, log_log_svg, stacked_bars_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_parts() -> None:
    svg = stacked_bars_svg("Cost & more", {"a": {"x": 1.0, "y": 3.0}, "b": {"x": 2.0, "z": 0.0}}, unit="ms")
    root = ElementTree.fromstring(svg)
    rects = [r for r in root.iter(f"{SVG}rect") if r.get("height") == "21"]
    widths = [float(r.attrib["width"]) for r in rects]
    assert widths[0] + widths[1] == pytest.approx(2 * widths[2], abs=0.2)
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.2)
    assert float(rects[1].attrib["x"]) == pytest.approx(float(rects[0].attrib["x"]) + widths[0], abs=0.2)
    assert rects[0].get("fill") == rects[2].get("fill") != rects[1].get("fill")
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Cost & more", "a", "b", "x", "y", "z", "4 ms", "2 ms"} <= set(words)


@pytest.mark.parametrize("bars", [{}, {"a": {}}, {"a": {"x": 0.0}}, {"a": {"x": 2.0, "y": -1.0}}])
def test_bars_of_nothing_are_refused(bars: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="not negative"):
        stacked_bars_svg("t", bars, unit="ms")


def test_dots_and_lines_lie_where_their_logarithms_are() -> None:
    points = ((10.0, 1.0), (100.0, 10.0), (1000.0, 100.0))
    series = [Series(name="seen", points=points, is_line=False), Series(name="model", points=points, is_line=True)]
    root = ElementTree.fromstring(log_log_svg("t", series, x_label="patches", y_label="seconds"))
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.2)
    assert dots[0][1] > dots[1][1] > dots[2][1]
    (line,) = root.iter(f"{SVG}polyline")
    assert line.attrib["points"].split() == [f"{x:.1f},{y:.1f}" for x, y in dots]
    assert {"patches", "seconds", "seen", "model", "1,000"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_a_single_point_has_axes() -> None:
    svg = log_log_svg("t", [Series(name="one", points=((100.0, 1.0),), is_line=False)], x_label="x", y_label="y")
    assert "circle" in svg


@pytest.mark.parametrize("points", [(), ((0.0, 1.0),), ((1.0, -1.0),)])
def test_points_without_logarithm_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        log_log_svg("t", [Series(name="s", points=points, is_line=True)], x_label="x", y_label="y")
