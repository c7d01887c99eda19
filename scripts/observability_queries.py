"""The queries of dashboards and alerts, made of the definitions of the metrics: none can ask for what is not exported. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import capamesh.protocol.errors
from capamesh.protocol.errors import ClientError
from capamesh.protocol.metrics import Metric

PANEL_RATE = "$__rate_interval"
"""The time over which Grafana takes rates: four scrapes at least."""


def callers_codes() -> list[str]:
    """Return the codes of errors that are the caller's fault."""
    found: set[str] = set()
    todo: list[type[ClientError]] = [ClientError]
    while todo:
        kind = todo.pop()
        if kind.__module__ == capamesh.protocol.errors.__name__:
            found.add(kind.code)
            todo += kind.__subclasses__()
    return sorted(found)


FAULTS = f'code!~"ok|{"|".join(callers_codes())}"'
"""Selects the requests that failed by no fault of their caller."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query, and how its series are called in a legend."""

    text: str
    legend: str = ""


def named(metric: Metric, where: str = "") -> str:
    """Return the selector of a metric's series."""
    return f"{metric.series}{{{where}}}" if where else metric.series


def rate(metric: Metric, by: str, where: str = "", over: str = PANEL_RATE) -> str:
    """Return the growth a second of a counter, added up by labels."""
    return f"sum by ({by}) (rate({named(metric, where)}[{over}]))"


def or_zero(query: str) -> str:
    """Return a query that tells 0 where nothing was counted yet."""
    return f"{query} or on() vector(0)"


def quantile(part: float, metric: Metric, by: str, where: str = "", over: str = PANEL_RATE) -> str:
    """Return a quantile of a histogram."""
    selector = f"{metric.name}_bucket{{{where}}}" if where else f"{metric.name}_bucket"
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({part}, sum by ({groups}) (rate({selector}[{over}])))"


def mean(metric_name: str, by: str) -> str:
    """Return the mean of a histogram."""
    sums, counts = (
        f"sum by ({by}) (rate({metric_name}_{end}[{PANEL_RATE}]))" for end in ("sum", "count")
    )
    return f"{sums} / {counts}"
