"""Charts as SVG that need no library: stacked bars, and points with lines on two logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

COLOURS = (
    *("#7b2d8b", "#2a7ab8", "#e08a1e", "#3a9a5b", "#c23b3b", "#8c6d46", "#d16ba5", "#6f7d8c"),
    *("#b5a42e", "#45b0ad", "#a9a4b2", "#4d4d57"),
)
_LABEL_PX, _BAR_PX, _ROW_PX, _LEGEND_COLUMNS = 250, 460, 30, 4
_PLOT_W_PX, _PLOT_H_PX, _MARGIN_PX = 520, 340, 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points ``(x, y)`` of one name, both positive."""

    name: str
    points: tuple[tuple[float, float], ...]
    is_line: bool
    """Drawn as a line, e.g. a model; else as dots, e.g. measurements."""


def stacked_bars_svg(title: str, bars: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """Return one horizontal bar per entry, made of named parts in the order they first appear; linear axis from 0.

    Raises
    ------
    ValueError
        When there is nothing to show, or a part is negative.
    """
    longest = max((sum(parts.values()) for parts in bars.values()), default=0.0)
    if longest <= 0 or any(value < 0 for parts in bars.values() for value in parts.values()):
        raise ValueError(f"bars are made of parts that are not negative, got {bars}")
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    colour_of = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    svg: list[str] = []
    for row, (label, parts) in enumerate(bars.items()):
        x, y = float(_LABEL_PX), 34 + _ROW_PX * row
        svg.append(_text(_LABEL_PX - 8, y + 15, label, anchor="end"))
        for name, value in parts.items():
            width = _BAR_PX * value / longest
            tip = f"<title>{escape(name)}: {value:.3g} {escape(unit)}</title>"
            shape = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="21" fill="{colour_of[name]}"'
            svg.append(f"<rect {shape}>{tip}</rect>")
            x += width
        svg.append(_text(x + 6, y + 15, f"{sum(parts.values()):.3g} {unit}"))
    below = 34 + _ROW_PX * len(bars) + 14
    width_px = _LABEL_PX + _BAR_PX + 110
    step_px = (width_px - 20) // _LEGEND_COLUMNS
    for i, name in enumerate(names):
        x, y = 10 + step_px * (i % _LEGEND_COLUMNS), below + 20 * (i // _LEGEND_COLUMNS)
        svg.append(f'<rect x="{x}" y="{y - 10}" width="11" height="11" fill="{colour_of[name]}"/>')
        svg.append(_text(x + 16, y, name))
    return _document(title, svg, width_px=width_px, height_px=below + 20 * -(-len(names) // _LEGEND_COLUMNS))


def log_log_svg(title: str, series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Return dots and lines on logarithmic axes that end at whole powers of ten.

    Raises
    ------
    ValueError
        When there is no point, or one has no logarithm.
    """
    points = [point for each in series for point in each.points]
    if not points or min(min(point) for point in points) <= 0:
        raise ValueError(f"logarithmic axes need positive values, got {points}")
    x_axis, y_axis = (_decades([point[i] for point in points]) for i in (0, 1))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = ((log10(value) - low) / (high - low) for value, (low, high) in zip(point, (x_axis, y_axis), strict=True))
        return _MARGIN_PX + _PLOT_W_PX * x, 34 + _PLOT_H_PX * (1 - y)

    svg = _axes(x_axis, y_axis, x_label=x_label, y_label=y_label)
    for i, each in enumerate(series):
        colour, places = COLOURS[i % len(COLOURS)], [place(point) for point in each.points]
        y = 50 + 20 * i
        if each.is_line:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        else:
            svg += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>' for x, y in places]
        svg.append(f'<rect x="{_MARGIN_PX + _PLOT_W_PX + 20}" y="{y - 9}" width="11" height="11" fill="{colour}"/>')
        svg.append(_text(_MARGIN_PX + _PLOT_W_PX + 37, y, each.name))
    return _document(title, svg, width_px=_MARGIN_PX + _PLOT_W_PX + 250, height_px=34 + _PLOT_H_PX + 56)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return low, max(high, low + 1)


def _axes(x_axis: tuple[int, int], y_axis: tuple[int, int], *, x_label: str, y_label: str) -> list[str]:
    left, bottom = _MARGIN_PX, 34 + _PLOT_H_PX
    svg = [f'<rect x="{left}" y="34" width="{_PLOT_W_PX}" height="{_PLOT_H_PX}" fill="none" stroke="#999"/>']
    for power in range(x_axis[0], x_axis[1] + 1):
        x = left + _PLOT_W_PX * (power - x_axis[0]) / (x_axis[1] - x_axis[0])
        svg.append(f'<line x1="{x:.1f}" y1="34" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
        svg.append(_text(x, bottom + 18, f"{10.0**power:,g}", anchor="middle"))
    for power in range(y_axis[0], y_axis[1] + 1):
        y = bottom - _PLOT_H_PX * (power - y_axis[0]) / (y_axis[1] - y_axis[0])
        svg.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PLOT_W_PX}" y2="{y:.1f}" stroke="#ddd"/>')
        svg.append(_text(left - 6, y + 4, f"{10.0**power:,g}", anchor="end"))
    svg.append(_text(left + _PLOT_W_PX / 2, bottom + 40, x_label, anchor="middle"))
    middle = 34 + _PLOT_H_PX / 2
    turned = f'transform="rotate(-90 16 {middle})"'
    svg.append(f'<text x="16" y="{middle}" text-anchor="middle" {turned}>{escape(y_label)}</text>')
    return svg


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _document(title: str, parts: Sequence[str], *, width_px: int, height_px: int) -> str:
    size = f'width="{width_px}" height="{height_px}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"
