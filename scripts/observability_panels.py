"""Dashboards of panels, as plain JSON for Grafana. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from observability_queries import Query, named

from capamesh.router.telemetry import metrics as router

WIDTH = 24
"""The columns of Grafana's grid."""
HEIGHT = 8
"""The rows of a panel (guess: three fit on a screen)."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: lines over time, or the newest number where `is_number`."""

    title: str
    unit: str
    """The unit, as Grafana calls it."""
    queries: tuple[Query, ...]
    width: int = 12
    is_number: bool = False


def line(title: str, unit: str, text: str, legend: str) -> Panel:
    """Return a panel of one query."""
    return Panel(title, unit, (Query(text, legend),))


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `models`: one can choose which models it shows."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    models: bool = False


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}
    ]
    if dashboard.models:
        query = f"label_values({named(router.MODEL_NODES)}, model)"
        found.append(
            {
                "name": "model",
                "label": "Model",
                "type": "query",
                "datasource": SOURCE,
                "query": {"query": query, "refId": "models"},
                "definition": query,
                "refresh": 2,
                "includeAll": True,
                "multi": True,
                "allValue": ".*",
                "current": {"text": "All", "value": "$__all"},
            }
        )
    return found


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    height = HEIGHT // 2 if panel.is_number else HEIGHT
    targets = [
        {
            "refId": chr(ord("A") + place),
            "expr": query.text,
            "legendFormat": query.legend,
            "datasource": SOURCE,
        }
        for place, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "title": panel.title,
        "type": "stat" if panel.is_number else "timeseries",
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def body(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(dashboard.panels, 1):
        if x + panel.width > WIDTH:
            x, y = 0, y + panels[-1]["gridPos"]["h"]
        panels.append(_panel(panel, number, x, y))
        x += panel.width
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["capamesh"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {"type": "dashboards", "tags": ["capamesh"], "title": "Capamesh", "asDropdown": True}
        ],
        "templating": {"list": _variables(dashboard)},
        "panels": panels,
    }
