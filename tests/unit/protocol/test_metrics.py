"""The definitions of all metrics: they read well, and each name means one thing."""

from __future__ import annotations

import re

import capamesh.node.agent.metrics.definitions
import capamesh.protocol.metrics
import capamesh.router.telemetry.metrics
from capamesh.protocol.metrics import Kind, defined_in

ALL = [
    metric
    for module in (
        capamesh.node.agent.metrics.definitions,
        capamesh.protocol.metrics,
        capamesh.router.telemetry.metrics,
    )
    for metric in defined_in(module)
]


def test_metrics_are_described_by_full_sentences_and_named_once_as_prometheus_asks() -> None:
    for metric in ALL:
        assert re.fullmatch(r"[A-Z][^\n]+\.", metric.help_text), metric
        assert re.fullmatch(r"capamesh_[a-z]+(_[a-z]+)*", metric.name), metric
        assert not metric.name.endswith(("_total", "_bucket", "_sum", "_count")), metric
        assert len(set(metric.labels)) == len(metric.labels), metric
        assert metric.kind is not Kind.HISTOGRAM or "node" not in metric.labels, metric
    assert len({metric.name for metric in ALL}) == len(ALL)
