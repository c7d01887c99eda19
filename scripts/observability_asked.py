"""The queries by which dashboards and alerts of `deploy/observability` ask Prometheus, to be tried. Reads these files."""

from __future__ import annotations

import json

from generate_observability import FOLDER
from observability_alerts import ALERTS
from observability_queries import PANEL_RATE

BEGIN_LATER = {
    "CapameshErrors",
    "CapameshOverloaded",
    "CapameshFirstTokensLate",
    "CapameshNodeLost",
    "CapameshModelShort",
    "CapameshCertificateEnds",
    "CapameshCertificateRefused",
    "CapameshLogLinesLost",
}
"""Alerts whose values have no series until a request has failed or a node was lost, or where there is no certificate, or no log of requests;
`alerts.test.yml` has them fire."""
RATE_OVER = "20s"
"""The time that Grafana takes for `$__rate_interval`: four scrapes."""


def asked(rate_over: str = RATE_OVER) -> dict[str, str]:
    """Return the queries by who asks: each panel of each dashboard, and each alert that has a value from the beginning.

    Variables have the values that Grafana gives them at first. An alert asks for what it compares, whatever that is now.
    """
    panels = {
        f"{dashboard['title']}, {panel['title']}, {target['refId']}": target["expr"]
        for dashboard in (
            json.loads(file.read_text()) for file in sorted(FOLDER.glob("dashboards/*.json"))
        )
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    alerts = {each.name: each.value for each in ALERTS if each.name not in BEGIN_LATER}
    return {
        who: query.replace(PANEL_RATE, rate_over).replace("$model", ".*")
        for who, query in (panels | alerts).items()
    }
