"""Draws what simulations found, as SVG: p99 by policy, latency distributions, p99 over time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 760
_LEFT, _RIGHT, _TOP, _GAP = 90, 150, 50, 64
_PANEL: Final = 190.0
_BAR: Final = 22
_COLOURS: Final = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with the range that it was seen in."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """Points in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


def document(title: str, panels: Sequence[str], height: float) -> str:
    """Return an SVG document of `panels` under a title."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>\n'
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def comparison_svg(
    title: str, bars: Sequence[Bar], cdf: Sequence[Line], timeline: Sequence[Line]
) -> str:
    """Return three panels: bars of milliseconds, shares over milliseconds, milliseconds over seconds.

    A colour stands for the same name in all of them, by its place among `bars`.
    """
    colours = {bar.name: _COLOURS[i % len(_COLOURS)] for i, bar in enumerate(bars)}
    top = float(_TOP + 20)
    first, top = bars_panel("p99, ms (least and most of the seeds)", bars, colours, top)
    second, top = tail_panel("share that takes longer, over ms", cdf, colours, top + _GAP)
    third, top = lines_panel(
        "p99 of those that came then, ms, over s", timeline, colours, top + _GAP
    )
    return document(title, (first, second, third), top + _GAP)


def bars_panel(
    label: str, bars: Sequence[Bar], colours: dict[str, str], top: float
) -> tuple[str, float]:
    """Return a panel of horizontal bars from 0, with their ranges, and where it ends."""
    most = max((bar.high for bar in bars), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    parts = [f'<text x="{_LEFT}" y="{top - 8:.1f}">{escape(label)}</text>']
    for index, bar in enumerate(bars):
        y = top + index * _BAR
        middle = y + _BAR / 2
        end = _LEFT + bar.value * scale
        parts += [
            f'<text x="{_LEFT - 6}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect x="{_LEFT}" y="{y + 3:.1f}" width="{bar.value * scale:.1f}" height="{_BAR - 6}" '
            f'fill="{colours[bar.name]}"/>',
            f'<path d="M{_LEFT + bar.low * scale:.1f},{middle:.1f}H{_LEFT + bar.high * scale:.1f}" '
            'stroke="black"/>',
            f'<text x="{max(end, _LEFT + bar.high * scale) + 6:.1f}" y="{middle + 4:.1f}">'
            f"{bar.value:.4g}</text>",
        ]
    bottom = top + len(bars) * _BAR
    parts.append(f'<path d="M{_LEFT},{top:.1f}V{bottom:.1f}" stroke="black"/>')
    return "\n".join(parts), bottom


def tail_panel(
    label: str, lines: Sequence[Line], colours: dict[str, str], top: float
) -> tuple[str, float]:
    """Return a panel of (x, share that takes longer), both axes logarithmic, and where it ends."""
    points = [point for line in lines for point in line.points if point[0] > 0 and point[1] > 0]
    if not points:
        return lines_panel(label, (), colours, top)
    low_x, high_x = _decades([x for x, _ in points])
    low_y, _ = _decades([share for _, share in points])
    bottom = top + _PANEL
    wide = _WIDTH - _LEFT - _RIGHT

    def x_of(x: float) -> float:
        return _LEFT + wide * (math.log10(x) - low_x) / (high_x - low_x)

    def y_of(share: float) -> float:
        return top + _PANEL * math.log10(share) / low_y

    parts = [_frame(label, top, bottom)]
    for power in range(low_x, high_x + 1):
        x = x_of(10.0**power)
        parts += [
            f'<path d="M{x:.1f},{top:.1f}V{bottom:.1f}" stroke="#ddd"/>',
            f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{10.0**power:g}</text>',
        ]
    for power in range(low_y, 1):
        y = y_of(10.0**power)
        parts += [
            f'<path d="M{_LEFT},{y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * 10.0**power:g} %</text>',
        ]
    for index, line in enumerate(lines):
        shown = [(x_of(x), y_of(share)) for x, share in line.points if x > 0 and share > 0]
        parts += _polyline(line.name, shown, colours[line.name], top, index)
    return "\n".join(parts), bottom


def lines_panel(
    label: str, lines: Sequence[Line], colours: dict[str, str], top: float
) -> tuple[str, float]:
    """Return a panel of lines, y from 0, and where it ends."""
    bottom = top + _PANEL
    xs = [x for line in lines for x, _ in line.points] or [0.0, 1.0]
    low, span = min(xs), (max(xs) - min(xs)) or 1.0
    most = max((y for line in lines for _, y in line.points), default=0.0) or 1.0
    wide = _WIDTH - _LEFT - _RIGHT
    parts = [
        _frame(label, top, bottom),
        f'<text x="{_LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{most:.4g}</text>',
        f'<text x="{_LEFT - 6}" y="{bottom:.1f}" text-anchor="end">0</text>',
        f'<text x="{_LEFT}" y="{bottom + 16:.1f}" text-anchor="middle">{low:.4g}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 16:.1f}" text-anchor="middle">{low + span:.4g}</text>',
    ]
    for index, line in enumerate(lines):
        shown = [
            (_LEFT + wide * (x - low) / span, bottom - _PANEL * y / most) for x, y in line.points
        ]
        parts += _polyline(line.name, shown, colours[line.name], top, index)
    return "\n".join(parts), bottom


def _frame(label: str, top: float, bottom: float) -> str:
    return (
        f'<text x="{_LEFT}" y="{top - 8:.1f}">{escape(label)}</text>\n'
        f'<path d="M{_LEFT},{top:.1f}V{bottom:.1f}H{_WIDTH - _RIGHT}" fill="none" stroke="black"/>'
    )


def _polyline(
    name: str, points: Sequence[tuple[float, float]], colour: str, top: float, index: int
) -> list[str]:
    """Return a line and its entry in the legend."""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    y = top + 10 + 16 * index
    return [
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5">'
        f"<title>{escape(name)}</title></polyline>",
        f'<rect x="{_WIDTH - _RIGHT + 12}" y="{y - 8:.1f}" width="10" height="10" fill="{colour}"/>',
        f'<text x="{_WIDTH - _RIGHT + 28}" y="{y + 1:.1f}">{escape(name)}</text>',
    ]


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten between which `values`, all above 0, lie; at least one apart."""
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))
