"""The definitions of all metrics: they read well, and each name means one thing."""

from __future__ import annotations

import re
from collections import Counter

import pytest

import capamesh.node.agent.metrics.definitions
import capamesh.protocol.metrics
import capamesh.router.telemetry.metrics
from capamesh.protocol.metrics import Kind, Metric, counter, defined_in, gauge, histogram

ALL = [
    metric
    for module in (
        capamesh.node.agent.metrics.definitions,
        capamesh.protocol.metrics,
        capamesh.router.telemetry.metrics,
    )
    for metric in defined_in(module)
]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_metric_is_described_by_full_sentences_and_named_as_prometheus_asks(metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z][^\n]+\.", metric.help_text)
    assert re.fullmatch(r"capamesh_[a-z]+(_[a-z]+)*", metric.name)
    assert not metric.name.endswith(("_total", "_bucket", "_sum", "_count"))
    assert len(set(metric.labels)) == len(metric.labels)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_histogram_has_no_label_for_nodes(metric: Metric) -> None:
    assert metric.kind is not Kind.HISTOGRAM or "node" not in metric.labels


def test_each_name_is_defined_once() -> None:
    assert [
        name for name, count in Counter(metric.name for metric in ALL).items() if count > 1
    ] == []


def test_unit_and_series_follow_from_the_name() -> None:
    assert gauge("x_free_bytes", "X.").unit == "bytes"
    assert gauge("x_rowsets", "X.").unit == ""
    assert counter("x", "X.", "a", "b").series == "x_total"
    assert histogram("x_seconds", "X.").series == "x_seconds"
    assert counter("x", "X.", "a", "b").labels == ("a", "b")
