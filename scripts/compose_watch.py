"""Prometheus of the compose project: whom it asks, and whether every dashboard and alert has data. Asks over HTTP."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

import numpy as np
from compose_load import Digits, Report, Traffic
from compose_stack import REQUEST_LIMIT_S, Failed, Stack, wait_for
from observability_alerts import ALERTS
from observability_asked import asked

SCRAPED = {
    "router:8000": "up",
    "node-1:9100": "up",
    "node-2:9100": "up",
    "node-3:9100": "up",
}
"""The members by the address that Prometheus asks, when all answer."""
STOPPED = "node-3"
"""The node that is stopped to see an alert begin."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """The Prometheus of the project."""

    port: int

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401  # JSON
        """Return the data of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=REQUEST_LIMIT_S) as reply:  # http, to this machine
            return json.load(reply)["data"]

    def has_data(self, query: str) -> bool:
        """Return whether a query has a value now that is a number."""
        found = self.get("query", query=query)["result"]
        return any(not math.isnan(float(each["value"][1])) for each in found)

    def targets(self) -> dict[str, str]:
        """Return how the members are by the addresses that are asked: `up`, `down` or `unknown`."""
        found = self.get("targets", state="active")["activeTargets"]
        return {each["labels"]["instance"]: each["health"] for each in found}

    def rules(self) -> dict[str, str]:
        """Return how the evaluation of each alert went: `ok`, `err` or `unknown`."""
        groups = self.get("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def alerting(self) -> set[tuple[str, str]]:
        """Return the alerts that are pending or firing, each with the address that it is about."""
        found = self.get("alerts")["alerts"]
        return {(each["labels"]["alertname"], each["labels"].get("instance", "")) for each in found}


def check_watched(stack: Stack, report: Report, digits: Digits, truth: np.ndarray) -> None:
    """Check that Prometheus asks every member, has data for every panel and alert, and notices a node that is gone."""
    watcher = Watcher(stack.watch_port)
    took_s = wait_for("Prometheus scrapes every member", lambda: watcher.targets() == SCRAPED)
    report.check(
        "Prometheus scrapes the router and three nodes", held=True, detail=f"{took_s:.1f} s"
    )
    wait_for("every alert was evaluated", lambda: "unknown" not in watcher.rules().values())
    rules = watcher.rules()
    is_so = rules == {alert.name: "ok" for alert in ALERTS}
    report.check("every alert is loaded and evaluated", is_so, f"{len(rules)} alerts")
    _check_data(watcher, report, Traffic(digits, truth))
    _check_alert(stack, watcher, report)


def _check_data(watcher: Watcher, report: Report, traffic: Traffic) -> None:
    """Ask all that dashboards and alerts ask, while requests flow, until each question has data."""
    empty = asked()
    count = len(empty)

    def is_answered() -> bool:
        for who, query in list(empty.items()):
            if watcher.has_data(query):
                del empty[who]
        return not empty

    with traffic.flowing():
        try:
            detail = f"{wait_for('every query has data', is_answered):.1f} s of load"
        except Failed:
            detail = f"none for: {'; '.join(empty)}"
    report.check(f"all {count} queries of dashboards and alerts have data", not empty, detail)


def _check_alert(stack: Stack, watcher: Watcher, report: Report) -> None:
    """Stop a node, see its alert begin, start the node, and see the alert end."""
    alert = ("CapameshMemberDown", f"{STOPPED}:9100")
    before = watcher.alerting()
    stack.compose("stop", STOPPED)
    took_s = wait_for(f"{alert[0]} begins", lambda: alert in watcher.alerting())
    is_new = alert not in before
    report.check("an alert begins for a node that was stopped", is_new, f"{took_s:.1f} s")
    stack.compose("start", STOPPED)
    took_s = wait_for(f"{alert[0]} ends", lambda: alert not in watcher.alerting())
    report.check("it ends when the node is back", held=True, detail=f"{took_s:.1f} s")
    wait_for("three nodes are usable again", lambda: len(stack.usable()) == 3)
