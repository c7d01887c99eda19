"""The node's metrics, in Prometheus' form. The node's only importer of prometheus-client; does no IO of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from typing_extensions import override

from capamesh.protocol.loop_watch import BUSY, DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from capamesh.node.agent.metrics.totals import Histogram, LoopFigures, WorkerSample

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class NodeTelemetry:
    """Turns what the workers counted into text; reads it anew each time, and counts nothing itself."""

    def __init__(
        self,
        read: Callable[[], Iterable[WorkerSample]],
        membership_left_s: Callable[[], float] | None = None,
        read_loop: Callable[[], LoopFigures] | None = None,
    ) -> None:
        """Tell of `membership_left_s`, when the node's membership ends, and of the agent's own event loop, where given."""
        self._registry = CollectorRegistry()
        if membership_left_s is not None:
            Gauge(
                "capamesh_membership_expires_seconds",
                "Until this node's membership ends; negative once it has",
                registry=self._registry,
            ).set_function(membership_left_s)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_Workers(read, read_loop))

    def exposition(self) -> bytes:
        """Return all metrics as text, of `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Workers(Collector):
    def __init__(
        self,
        read: Callable[[], Iterable[WorkerSample]],
        read_loop: Callable[[], LoopFigures] | None,
    ) -> None:
        self._read = read
        self._read_loop = read_loop

    @override
    def collect(self) -> Iterator[Metric]:
        samples = list(self._read())
        yield from _processes(samples)
        yield from _models(samples)
        loops = {("worker", str(sample.number)): sample.loop for sample in samples}
        if self._read_loop is not None:
            loops["agent", ""] = self._read_loop()
        yield from _loops(loops)


def _processes(samples: list[WorkerSample]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "capamesh_node_worker_up", "Whether a device's worker process runs", labels=["device"]
    )
    starts = CounterMetricFamily(
        "capamesh_node_worker_starts", "Starts of a device's worker process", labels=["device"]
    )
    for sample in samples:
        up.add_metric([str(sample.number)], float(sample.is_up))
        starts.add_metric([str(sample.number)], sample.starts)
    yield from (up, starts)


def _loops(loops: Mapping[tuple[str, str], LoopFigures]) -> Iterator[Metric]:
    """Yield what a router tells of its loop, here by the process and the device that it is for."""
    of = ["process", "device"]
    delay_s = HistogramMetricFamily(DELAY.name, DELAY.help_text, labels=of)
    busy_s = HistogramMetricFamily(BUSY.name, BUSY.help_text, labels=of)
    for labels, figures in loops.items():
        delay_s.add_metric(labels, _buckets(figures.delay_s), figures.delay_s.sum)
        busy_s.add_metric(labels, _buckets(figures.busy_s), figures.busy_s.sum)
    yield from (delay_s, busy_s)


def _models(samples: list[WorkerSample]) -> Iterator[Metric]:
    model = ["model", "version", "device"]
    requests = CounterMetricFamily(
        "capamesh_node_requests", "Requests answered, by error code", labels=[*model, "code"]
    )
    dropped = CounterMetricFamily(
        "capamesh_node_dropped",
        "Requests taken and not run, by reason",
        labels=[*model, "reason"],
    )
    rows = CounterMetricFamily("capamesh_node_rows", "Rows run", labels=model)
    batch_rows = HistogramMetricFamily(
        "capamesh_node_batch_rows", "Rows of a batch that was run", labels=model
    )
    queue_s = HistogramMetricFamily(
        "capamesh_node_queue_seconds", "From a request's arrival to its run", labels=model
    )
    run_s = HistogramMetricFamily("capamesh_node_run_seconds", "How long a batch ran", labels=model)
    memory = GaugeMetricFamily(
        "capamesh_node_model_memory_bytes", "What a model occupies on its device", labels=model
    )
    in_flight = GaugeMetricFamily(
        "capamesh_node_in_flight", "Requests that wait or run", labels=model
    )
    limit = GaugeMetricFamily(
        "capamesh_node_limit", "How many requests may wait or run", labels=model
    )
    for sample in samples:
        for (name, version), figures in sample.models.items():
            of = [name, version, str(sample.number)]
            for code, count in figures.requests.items():
                requests.add_metric([*of, code], count)
            for reason, count in figures.dropped.items():
                dropped.add_metric([*of, reason], count)
            rows.add_metric(of, figures.rows)
            batch_rows.add_metric(of, _buckets(figures.batch_rows), figures.batch_rows.sum)
            queue_s.add_metric(of, _buckets(figures.queue_s), figures.queue_s.sum)
            run_s.add_metric(of, _buckets(figures.run_s), figures.run_s.sum)
            memory.add_metric(of, figures.memory_bytes)
            in_flight.add_metric(of, figures.in_flight)
            limit.add_metric(of, figures.limit)
    yield from (requests, dropped, rows, batch_rows, queue_s, run_s, memory, in_flight, limit)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [
        ("+Inf" if bound == math.inf else repr(bound), at_most)
        for bound, at_most in histogram.cumulative()
    ]
