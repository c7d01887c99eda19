"""Draws a model's profile as SVG: rows per second and latency over the rows of a batch. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final
from xml.sax.saxutils import escape

from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile

_WIDTH: Final = 640
_HEIGHT: Final = 480
_LEFT, _RIGHT, _TOP, _GAP = 90, 20, 50, 60
_PANEL: Final = (_HEIGHT - _TOP - 2 * _GAP) / 2
_LINE: Final = "#1f77b4"
_BEST: Final = "#d62728"


def profile_svg(title: str, profile: ServiceProfile) -> str:
    """Return an SVG document with two panels over the rows, which are on a logarithmic axis; the best is red."""
    panels = [
        _panel(profile, "rows per second", _TOP, lambda point: point.rows / point.seconds),
        _panel(profile, "ms per batch", _TOP + _PANEL + _GAP, lambda point: point.seconds * 1e3),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n'
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def _panel(
    profile: ServiceProfile, label: str, top: float, value: Callable[[ProfilePoint], float]
) -> str:
    """Return one panel: frame, scale, line and dots."""
    points = profile.points
    span = math.log2(points[-1].rows / points[0].rows) or 1.0
    most = max(map(value, points))
    bottom = top + _PANEL

    def x(point: ProfilePoint) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log2(point.rows / points[0].rows) / span

    def y(point: ProfilePoint) -> float:
        return bottom - _PANEL * value(point) / most

    line = " ".join(f"{x(point):.1f},{y(point):.1f}" for point in points)
    parts = [
        f'<text x="{_LEFT}" y="{top - 8:.1f}">{label}</text>',
        f'<path d="M{_LEFT},{top:.1f}V{bottom:.1f}H{_WIDTH - _RIGHT}" fill="none" stroke="black"/>',
        f'<text x="{_LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{most:.4g}</text>',
        f'<text x="{_LEFT - 6}" y="{bottom:.1f}" text-anchor="end">0</text>',
        f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="2"/>',
    ]
    for point in points:
        colour = _BEST if point.rows == profile.best_rows else _LINE
        parts += [
            f'<circle cx="{x(point):.1f}" cy="{y(point):.1f}" r="4" fill="{colour}">'
            f"<title>{point.rows} rows: {value(point):.6g} {label}</title></circle>",
            f'<text x="{x(point):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{point.rows}</text>',
        ]
    return "\n".join(parts)
