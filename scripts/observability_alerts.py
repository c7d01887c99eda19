"""The alerts of `deploy/observability`: what is compared with what, for how long, and what to do then. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from observability_queries import FAULTS, named, quantile, rate

from capamesh.node.agent.metrics import definitions as node
from capamesh.protocol import metrics as both
from capamesh.router.telemetry import OTHERS
from capamesh.router.telemetry import metrics as router

PAGE = "docs/how-to/monitor.md"
USABLE = 'state="usable"'
NAMED = f'node!="{OTHERS}"'
WHICH = "{{ if $labels.name }}{{ $labels.name }} ({{ $labels.node }}){{ else }}{{ $labels.node }}{{ end }}"
"""The name of a node with its peer id, or that alone."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: it fires while `value` compares so with a number for as long as `lasting`."""

    name: str
    value: str
    compared: str
    lasting: str
    severity: str
    summary: str
    """The sentence that says what is wrong, and what to do."""
    heading: str
    """The section of the page that tells more, as the end of a link."""
    only_where: str = ""
    """A condition that must hold besides."""

    @property
    def expression(self) -> str:
        """Return the expression of the rule."""
        condition = f" and {self.only_where}" if self.only_where else ""
        return f"{self.value} {self.compared}{condition}"


REQUEST_RATE = rate(router.REQUESTS, "model", over="5m")
P99_NOW = quantile(0.99, router.LATENCY, "model", over="10m")
P99_BEFORE = quantile(0.99, router.LATENCY, "model", over="1d")
NOT_WRITTEN = 'outcome=~"dropped|lost"'

ALERTS = (
    Alert(
        "CapameshMemberDown",
        'up{job=~"capamesh-.*"}',
        "== 0",
        "5m",
        "critical",
        "{{ $labels.instance }} does not answer Prometheus: see whether it runs, with `capamesh router status` or `capamesh node"
        " status` on its machine.",
        "a-member-is-down",
    ),
    Alert(
        "CapameshNoNodeUsable",
        f"sum by (instance) ({named(router.NODES, USABLE)})",
        "== 0",
        "2m",
        "critical",
        "The router {{ $labels.instance }} can send requests to no node: `capamesh nodes` says why for each of them.",
        "no-node-is-usable",
    ),
    Alert(
        "CapameshModelWithoutNode",
        f"max by (model) ({named(router.MODEL_NODES_USABLE)})",
        "== 0",
        "2m",
        "critical",
        "No node can be asked for the model {{ $labels.model }}: `capamesh explain {{ $labels.model }}` says what keeps each"
        " node out; start another node with the model.",
        "a-model-has-no-node",
    ),
    Alert(
        "CapameshErrors",
        f"{rate(router.REQUESTS, 'model', FAULTS, '5m')} / {REQUEST_RATE}",
        "> 0.02",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} fail by no fault of their callers: see the"
        " codes on the dashboard, and the nodes that fail.",
        "requests-fail",
        only_where=f"{REQUEST_RATE} > 0.1",
    ),
    Alert(
        "CapameshOverloaded",
        f"{rate(router.NOT_ADMITTED, 'model', over='5m')} / {REQUEST_RATE}",
        "> 0.05",
        "10m",
        "warning",
        "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} are refused before a node is asked: add a"
        " node that hosts it.",
        "a-model-is-overloaded",
    ),
    Alert(
        "CapameshSlow",
        f"{P99_NOW} / ({P99_BEFORE})",
        "> 3",
        "15m",
        "warning",
        "The 99th percentile of {{ $labels.model }} is {{ $value | humanize }} times that of the last day: see the queues of its"
        " nodes.",
        "a-model-is-slow",
        only_where=f"{P99_NOW} > 0.05 and {REQUEST_RATE} > 0.1",
    ),
    Alert(
        "CapameshFirstTokensLate",
        quantile(0.99, router.FIRST_TOKEN, "model", over="10m"),
        "> 10",
        "10m",
        "warning",
        "One of a hundred callers of {{ $labels.model }} waits {{ $value | humanizeDuration }} and longer for the first token: see"
        " what waits at its nodes.",
        "first-tokens-are-late",
    ),
    Alert(
        "CapameshNodeLost",
        f"min by (node, name) ({named(router.NODE_LOST)})",
        "> 0",
        "0m",
        "critical",
        f"{WHICH} is lost: it said no goodbye and was missed at {{{{ $value | humanizeTimestamp }}}}. See its machine; if it is"
        " not to return: `capamesh node forget`.",
        "a-node-is-lost",
    ),
    Alert(
        "CapameshModelShort",
        f"max by (model) ({named(router.MODEL_NODES_MISSING)})",
        "> 0",
        "1m",
        "warning",
        "{{ $labels.model }} has fewer nodes ready than before one was lost ({{ $value }} missing): start another with it, or forget the lost"
        " one with `capamesh node forget`.",
        "a-node-is-lost",
    ),
    Alert(
        "CapameshNodeUnusable",
        f"max by (node, name) ({named(router.NODE_USABLE, NAMED)})",
        "== 0",
        "15m",
        "warning",
        f"{WHICH} is in the network and no router can use it: `capamesh nodes` says why.",
        "a-node-is-not-used",
    ),
    Alert(
        "CapameshNodeFlaps",
        f"max by (node, name) (changes({named(router.NODE_USABLE, NAMED)}[30m]))",
        "> 6",
        "0m",
        "warning",
        f"{WHICH} came and went {{{{ $value }}}} times in half an hour: see its log and its network; take it out"
        " with `capamesh circuit` meanwhile.",
        "a-node-comes-and-goes",
    ),
    Alert(
        "CapameshMembershipEnds",
        named(both.MEMBERSHIP_LEFT),
        "< 7 * 86400",
        "10m",
        "warning",
        "The membership of {{ $labels.instance }} ends in {{ $value | humanizeDuration }}: renew its token.",
        "a-membership-ends",
    ),
    Alert(
        "CapameshWorkerRestarts",
        f"increase({named(node.WORKER_STARTS)}[30m])",
        "> 3",
        "0m",
        "warning",
        "The worker of device {{ $labels.device }} at {{ $labels.instance }} was started anew {{ $value | humanize }} times in half"
        " an hour: `capamesh node status` says what it was lost by.",
        "a-worker-restarts",
    ),
    Alert(
        "CapameshModelFailed",
        named(node.MODELS, 'state="failed"'),
        "> 0",
        "5m",
        "warning",
        "{{ $value }} models cannot be loaded on device {{ $labels.device }} at {{ $labels.instance }}: `capamesh node status`"
        " says why.",
        "a-model-cannot-be-loaded",
    ),
    Alert(
        "CapameshDiskFull",
        f"{named(both.DISK_FREE)} / {named(both.DISK)}",
        "< 0.05",
        "10m",
        "warning",
        "The disk of the data folder of {{ $labels.instance }} has {{ $value | humanizePercentage }} left: make room; the"
        " member cannot keep its state without.",
        "a-disk-is-full",
    ),
    Alert(
        "CapameshLoopLate",
        quantile(0.99, both.LOOP_DELAY, "instance, process, device", over="5m"),
        "> 0.25",
        "5m",
        "warning",
        "The event loop of {{ $labels.instance }} {{ $labels.process }} is late by {{ $value | humanizeDuration }}: its"
        " machine is overloaded, or `loop_late` in its log names what keeps it.",
        "an-event-loop-is-late",
    ),
    Alert(
        "CapameshClockWrong",
        f"abs({named(both.CLOCK_BEHIND)})",
        "> 5",
        "10m",
        "warning",
        "The clock of {{ $labels.instance }} differs from those of most members by {{ $value | humanizeDuration }}: set it.",
        "a-clock-is-wrong",
    ),
    Alert(
        "CapameshCertificateEnds",
        f"{named(router.CERTIFICATE_EXPIRY)} - time()",
        "< 7 * 86400",
        "10m",
        "warning",
        "The certificate that clients of {{ $labels.instance }} see expires in {{ $value | humanizeDuration }}: renew its files,"
        " which the router reads by itself.",
        "a-certificate-ends",
    ),
    Alert(
        "CapameshCertificateRefused",
        named(router.CERTIFICATE_REFUSED),
        "== 1",
        "5m",
        "warning",
        "The files of the certificate of {{ $labels.instance }} have changed and cannot be used: `certificate_refused` in its log"
        " says why.",
        "a-certificate-ends",
    ),
    Alert(
        "CapameshClientsSentAway",
        f"increase({named(router.HTTP_TURNED_AWAY)}[10m]) + increase({named(router.BODIES_REFUSED)}[10m])",
        "> 10",
        "10m",
        "warning",
        "The router {{ $labels.instance }} had no room for {{ $value | humanize }} connections or bodies in ten minutes: see who"
        " sends them, or give it more.",
        "clients-are-sent-away",
    ),
    Alert(
        "CapameshLogLinesLost",
        f"sum by (instance, log) (increase({named(router.LOG_LINES, NOT_WRITTEN)}[10m]))",
        "> 0",
        "10m",
        "warning",
        "{{ $value | humanize }} lines of the {{ $labels.log }} log of {{ $labels.instance }} were not written in ten minutes: see"
        " its disk.",
        "lines-of-a-log-are-lost",
    ),
)


def rules() -> str:
    """Return Prometheus' file of rules; a text is written as JSON writes it, which is YAML as well."""
    lines = ["groups:", "  - name: capamesh", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression)}",
            f"        for: {alert.lasting}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          runbook: {PAGE}#{alert.heading}",
        ]
    return "\n".join(lines) + "\n"
