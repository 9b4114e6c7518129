"""Tables in Markdown, the bar chart as SVG, and what the figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from math import log10
from pathlib import Path

_LABEL_PX, _BAR_PX, _ROW_PX = 300, 420, 24


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table padded to read well as plain text; the first column is aligned left, others right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [_line(header, widths), "| " + " | ".join(rule) + " |", *(_line(row, widths) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def environment_line(packages: Sequence[str]) -> str:
    """Return one line on the processor, the cores this process may use, Python and the versions of ``packages``."""
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    n_cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {n_cores} cores; Python {platform.python_version()}, {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def bar_chart_svg(title: str, bars: Sequence[tuple[str, float]], *, unit: str, highlighted: frozenset[str]) -> str:
    """Return a horizontal bar chart on a logarithmic axis, shortest bar first; ``highlighted`` labels stand out.

    Raises
    ------
    ValueError
        When there is no bar, or a value has no logarithm.
    """
    if not bars or min(value for _, value in bars) <= 0:
        raise ValueError(f"a logarithmic chart needs positive values, got {list(bars)}")
    ordered = sorted(bars, key=lambda bar: bar[1])
    low = log10(ordered[0][1]) - 0.3
    scale = _BAR_PX / (log10(ordered[-1][1]) - low)
    height = _ROW_PX * (len(ordered) + 2)
    size = f'width="{_LABEL_PX + _BAR_PX + 110}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for i, (label, value) in enumerate(ordered):
        y, width = _ROW_PX * (i + 1) + 12, scale * (log10(value) - low)
        colour = "#7b2d8b" if label in highlighted else "#b9b4c2"
        parts.append(f'<text x="{_LABEL_PX - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect x="{_LABEL_PX}" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>')
        parts.append(f'<text x="{_LABEL_PX + width + 6:.1f}" y="{y + 14}">{value:.3g} {escape(unit)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
