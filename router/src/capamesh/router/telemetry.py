"""The router's metrics, in Prometheus' form. The only importer of prometheus-client."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelName
from capamesh.protocol.loop_watch import BUSY, DELAY

ReadCounts = Callable[[], Iterable[tuple[Sequence[str], float]]]
"""Returns the values of a counter's labels, and its count for them."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""The bounds of the buckets: from a tiny model on this machine to the default deadline, in the usual 1-2-5 steps."""


class _Latencies:
    """One model's answered requests, as plain numbers: a request adds to two of them."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        """The count of each bucket alone; the last is of what is beyond all."""
        self.seconds = 0.0


class _Requests:
    """Requests that were answered, well or not, and how long the former took. What a registry collects."""

    def __init__(self) -> None:
        self.latencies: dict[ModelName, _Latencies] = {}
        self.refused: dict[tuple[str, str], int] = {}
        """The number of refusals, by model and error code."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        requests = CounterMetricFamily(
            "capamesh_requests",
            "Inference requests answered, by model and error code",
            labels=("model", "code"),
        )
        seconds = HistogramMetricFamily(
            "capamesh_request_seconds",
            "From a request's last byte read to its answer's first byte written",
            labels=("model",),
        )
        bounds = [*(str(float(bound)) for bound in BUCKETS_S), "+Inf"]
        for model, latencies in list(self.latencies.items()):
            totals = list(accumulate(latencies.counts))
            requests.add_metric((model, "ok"), totals[-1])
            buckets = list(zip(bounds, totals, strict=True))
            seconds.add_metric((model,), buckets, latencies.seconds)
        for labels, count in list(self.refused.items()):
            requests.add_metric(labels, count)
        yield requests
        yield seconds


class _Counts:
    """A counter whose values another part of the router keeps. What a registry collects."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str], read: ReadCounts) -> None:
        self._name = name
        self._help_text = help_text
        self._labels = labels
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the metric."""
        counter = CounterMetricFamily(self._name, self._help_text, labels=self._labels)
        for labels, count in self._read():
            counter.add_metric(labels, count)
        yield counter


class AttemptCounts(Protocol):
    """The counters of attempts beyond the first of each request."""

    __slots__ = ()

    def attempt_failed(self, model: ModelName, error: CapameshError) -> None:
        """Count one node that failed or refused."""
        ...

    def attempted_again(self, model: ModelName) -> None:
        """Count a request that was sent to one more node."""
        ...


class Telemetry(AttemptCounts):
    """Counts requests, failures, attempts and latencies; knows nothing of HTTP."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = _Requests()
        self._registry.register(self._requests)
        self._attempts_failed = Counter(
            "capamesh_attempts_failed",
            "Attempts at a node that failed or were refused, by model and error code",
            ("model", "code"),
            registry=self._registry,
        )
        self._attempts_extra = Counter(
            "capamesh_attempts_extra",
            "Attempts beyond a request's first: retries, hedges, and nodes asked after one that refused",
            ("model",),
            registry=self._registry,
        )
        self._crashes = Counter(
            "capamesh_turns_crashed",
            "Turns of the router's own loops that a bug ended, by loop; the log has the traceback",
            ("loop",),
            registry=self._registry,
        )
        self._delay, self._busy = (
            Histogram(each.name, each.help_text, buckets=each.bounds, registry=self._registry)
            for each in (DELAY, BUSY)
        )
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Export what `read` returns when metrics are asked for."""
        gauge = Gauge(name, help_text, registry=self._registry)
        gauge.set_function(read)
        self._gauges.append((gauge, read))

    def watch_count(
        self, name: str, help_text: str, labels: Sequence[str], read: ReadCounts
    ) -> None:
        """Export as a counter what `read` returns when metrics are asked for: the values of `labels`, and the count."""
        self._registry.register(_Counts(name, help_text, labels, read))

    def answered(self, model: ModelName, seconds: float) -> None:
        """A request of a hosted model was answered well."""
        latencies = self._requests.latencies.get(model)
        if latencies is None:
            latencies = self._requests.latencies[model] = _Latencies()
        latencies.counts[bisect_left(BUCKETS_S, seconds)] += 1
        latencies.seconds += seconds

    def refused(self, model: ModelName, error: CapameshError, *, is_known: bool) -> None:
        """A request was answered with an error. A model nobody replicas is not named: anyone can invent names."""
        refused, labels = self._requests.refused, (model if is_known else "", error.code)
        refused[labels] = refused.get(labels, 0) + 1

    @override
    def attempt_failed(self, model: ModelName, error: CapameshError) -> None:
        self._attempts_failed.labels(model=model, code=error.code).inc()

    @override
    def attempted_again(self, model: ModelName) -> None:
        self._attempts_extra.labels(model=model).inc()

    def crashed(self, loop: str) -> None:
        """A bug has ended one turn of a loop of the router's own."""
        self._crashes.labels(loop=loop).inc()

    def loop_beat(self, late_s: float, busy_s: float) -> None:
        """The event loop came so much later than it should have, and took so much CPU time since it came last."""
        self._delay.observe(late_s)
        self._busy.observe(busy_s)

    def exposition(self) -> bytes:
        """Return all metrics as text, of `CONTENT_TYPE`."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Yield the same, a metric at a time."""
        for metric in self._registry.collect():
            yield generate_latest(_One(metric))


class _One:
    """The part of a registry that making its text needs."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """Yield the metric."""
        yield self._metric
