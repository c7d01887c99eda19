"""The dashboards of `deploy/observability`, as plain JSON for Grafana. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from observability_queries import FAULTS, Query, named, or_zero, quantile, rate

from capamesh.node.agent.metrics import definitions as node
from capamesh.protocol import metrics as both
from capamesh.router.telemetry import metrics as router

WIDTH = 24
"""The columns of Grafana's grid."""
HEIGHT = 8
"""The rows of a panel (guess: three fit on a screen)."""
USABLE = 'state="usable"'
OF_MODEL = 'model=~"$model"'
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


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `models`: one can choose which models it shows."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    models: bool = False


def _line(title: str, unit: str, text: str, legend: str) -> Panel:
    return Panel(title, unit, (Query(text, legend),))


def _number(title: str, unit: str, text: str) -> Panel:
    return Panel(title, unit, (Query(text),), width=4, is_number=True)


def _mean(metric_name: str, by: str) -> str:
    sums, counts = (
        f"sum by ({by}) (rate({metric_name}_{end}[$__rate_interval]))" for end in ("sum", "count")
    )
    return f"{sums} / {counts}"


_ALL_RATE = f"sum(rate({named(router.REQUESTS)}[$__rate_interval]))"
_ALL_FAULTS = f"(sum(rate({named(router.REQUESTS, FAULTS)}[$__rate_interval])) or vector(0))"

FLEET = Dashboard(
    "capamesh-fleet",
    "Capamesh: fleet",
    (
        _number("Requests", "reqps", _ALL_RATE),
        _number("Failed by no fault of the caller", "percentunit", f"{_ALL_FAULTS} / {_ALL_RATE}"),
        _number("99th percentile", "s", quantile(0.99, router.LATENCY, "")),
        _number("Usable nodes", "none", f"max({named(router.NODES, USABLE)})"),
        _number(
            "Models without a node",
            "none",
            f"count(max by (model) ({named(router.MODEL_NODES_USABLE)}) == 0) or vector(0)",
        ),
        _number("Next membership to end", "s", f"min({named(both.MEMBERSHIP_LEFT)})"),
        _line("Requests by model", "reqps", rate(router.REQUESTS, "model", OF_MODEL), "{{model}}"),
        _line("Requests by code", "reqps", rate(router.REQUESTS, "code", OF_MODEL), "{{code}}"),
        Panel(
            "Latency of answers",
            "s",
            tuple(
                Query(
                    quantile(part, router.LATENCY, "model", OF_MODEL),
                    f"{{{{model}}}} p{part * 100:.0f}",
                )
                for part in (0.5, 0.99)
            ),
        ),
        _line(
            "Refused before a node was asked",
            "reqps",
            or_zero(rate(router.NOT_ADMITTED, "model, reason", OF_MODEL)),
            "{{model}} {{reason}}",
        ),
        Panel(
            "Second attempts",
            "reqps",
            (
                Query(
                    or_zero(f"sum(rate({named(router.RETRIES, OF_MODEL)}[$__rate_interval]))"),
                    "retries",
                ),
                Query(
                    or_zero(f"sum(rate({named(router.HEDGES, OF_MODEL)}[$__rate_interval]))"),
                    "hedges",
                ),
                Query(
                    or_zero(
                        f"sum(rate({named(router.ATTEMPTS_EXTRA, OF_MODEL)}[$__rate_interval]))"
                    ),
                    "all",
                ),
            ),
        ),
        _line(
            "Failed attempts",
            "reqps",
            or_zero(rate(router.ATTEMPTS_FAILED, "model, code", OF_MODEL)),
            "{{model}} {{code}}",
        ),
        _line("Nodes by state", "none", f"max by (state) ({named(router.NODES)})", "{{state}}"),
        _line(
            "Nodes that can be asked, by model",
            "none",
            f"max by (model) ({named(router.MODEL_NODES_USABLE, OF_MODEL)})",
            "{{model}}",
        ),
    ),
    models=True,
)
NODES = Dashboard(
    "capamesh-nodes",
    "Capamesh: nodes, as routers see them",
    (
        _line("Usable", "none", f"max by (node) ({named(router.NODE_USABLE)})", "{{node}}"),
        _line(
            "Links that are up", "none", f"sum by (node) ({named(router.NODE_LINKS)})", "{{node}}"
        ),
        _line("Attempts answered", "reqps", rate(router.NODE_ANSWERED, "node"), "{{node}}"),
        _line(
            "Attempts failed",
            "reqps",
            or_zero(rate(router.NODE_FAILED, "node, code")),
            "{{node}} {{code}}",
        ),
        _line("In flight", "none", f"sum by (node) ({named(router.NODE_IN_FLIGHT)})", "{{node}}"),
        _line("Round trip", "s", f"max by (node) ({named(router.NODE_ROUND_TRIP)})", "{{node}}"),
        _line("Circuits", "none", f"sum by (state) ({named(router.NODE_CIRCUITS)})", "{{state}}"),
        Panel(
            "Probes",
            "reqps",
            (
                Query(f"sum(rate({named(router.PROBES_SENT)}[$__rate_interval]))", "sent"),
                Query(f"sum(rate({named(router.PROBES_LOST)}[$__rate_interval]))", "lost"),
            ),
        ),
    ),
)
DEVICES = Dashboard(
    "capamesh-devices",
    "Capamesh: models on devices, as nodes see them",
    (
        _line(
            "Rows run",
            "rowsps",
            rate(node.ROWS, "instance, model", OF_MODEL),
            "{{instance}} {{model}}",
        ),
        _line(
            "Requests",
            "reqps",
            rate(node.REQUESTS, "instance, model, code", OF_MODEL),
            "{{instance}} {{model}} {{code}}",
        ),
        _line(
            "Rows of a batch",
            "none",
            _mean(node.BATCH_ROWS.name, "instance, model"),
            "{{instance}} {{model}}",
        ),
        _line(
            "Run time of a batch, 99th percentile",
            "s",
            quantile(0.99, node.RUN, "instance, model", OF_MODEL),
            "{{instance}} {{model}}",
        ),
        _line(
            "Time in the queue, 99th percentile",
            "s",
            quantile(0.99, node.QUEUE, "instance, model", OF_MODEL),
            "{{instance}} {{model}}",
        ),
        _line(
            "In flight, of what is allowed",
            "percentunit",
            f"sum by (instance, model) ({named(node.IN_FLIGHT, OF_MODEL)}) / (sum by (instance, model) ({named(node.LIMIT, OF_MODEL)}) > 0)",
            "{{instance}} {{model}}",
        ),
        _line(
            "Not run",
            "reqps",
            or_zero(rate(node.DROPPED, "instance, model, reason", OF_MODEL)),
            "{{instance}} {{model}} {{reason}}",
        ),
        Panel(
            "Memory of devices",
            "bytes",
            (
                Query(named(node.DEVICE_MEMORY), "{{instance}} {{device}}"),
                Query(named(node.DEVICE_MEMORY_FREE), "{{instance}} {{device}} free"),
            ),
        ),
        _line(
            "Memory of models",
            "bytes",
            f"sum by (instance, model) ({named(node.MEMORY, OF_MODEL)})",
            "{{instance}} {{model}}",
        ),
        _line("Models by state", "none", f"sum by (state) ({named(node.MODELS)})", "{{state}}"),
        _line("Workers that run", "none", named(node.WORKER_UP), "{{instance}} {{device}}"),
        _line(
            "Restarts of workers in an hour",
            "none",
            f"increase({named(node.WORKER_STARTS)}[1h])",
            "{{instance}} {{device}}",
        ),
    ),
    models=True,
)
PROCESSES = Dashboard(
    "capamesh-processes",
    "Capamesh: processes",
    (
        _line("Versions", "none", f"count by (version) ({named(both.BUILD)})", "{{version}}"),
        _line(
            "Memory of processes",
            "bytes",
            'process_resident_memory_bytes{job=~"capamesh-.*"}',
            "{{instance}}",
        ),
        _line(
            "Processors used",
            "none",
            'rate(process_cpu_seconds_total{job=~"capamesh-.*"}[$__rate_interval])',
            "{{instance}}",
        ),
        _line(
            "Delay of event loops, 99th percentile",
            "s",
            quantile(0.99, both.LOOP_DELAY, "instance, process, device"),
            "{{instance}} {{process}} {{device}}",
        ),
        _line(
            "Work of event loops, a second",
            "percentunit",
            f"sum by (instance, process, device) (rate({both.LOOP_BUSY.name}_sum[$__rate_interval]))",
            "{{instance}} {{process}} {{device}}",
        ),
        _line(
            "Free disk",
            "percentunit",
            f"{named(both.DISK_FREE)} / {named(both.DISK)}",
            "{{instance}}",
        ),
        _line("Until the membership ends", "s", named(both.MEMBERSHIP_LEFT), "{{instance}}"),
        _line("Clock behind most others", "s", named(both.CLOCK_BEHIND), "{{instance}}"),
        _line(
            "HTTP connections, of what is allowed",
            "percentunit",
            f"{named(router.HTTP_CONNECTIONS)} / {named(router.HTTP_CONNECTIONS_MOST)}",
            "{{instance}}",
        ),
        _line(
            "Bytes of bodies, of what is allowed",
            "percentunit",
            f"{named(router.BODY_BYTES)} / {named(router.BODY_BYTES_MOST)}",
            "{{instance}}",
        ),
        _line(
            "Turns ended by bugs",
            "none",
            or_zero(rate(router.TURNS_CRASHED, "instance, loop")),
            "{{instance}} {{loop}}",
        ),
    ),
)
DASHBOARDS = (FLEET, NODES, DEVICES, PROCESSES)


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
