"""The node's metrics, in Prometheus' form. The node's only importer of prometheus-client. IO: a look at the disk."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from typing_extensions import override

from capamesh.node.agent.metrics import definitions as of_node
from capamesh.protocol import implementation
from capamesh.protocol import metrics as of_all
from capamesh.protocol.adverts import ModelState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from capamesh.node.agent.metrics.totals import (
        AgentReadings,
        GenerationFigures,
        Histogram,
        LoopFigures,
        WorkerSample,
    )
    from capamesh.protocol.metrics import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class NodeTelemetry:
    """Turns what the workers counted into text; reads it anew each time, and counts nothing itself."""

    def __init__(
        self, read: Callable[[], Iterable[WorkerSample]], agent: AgentReadings | None = None
    ) -> None:
        """Tell of the workers, and of the agent where its readings are given."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_Workers(read, agent))

    def exposition(self) -> bytes:
        """Return all metrics as text, of `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Workers(Collector):
    def __init__(
        self, read: Callable[[], Iterable[WorkerSample]], agent: AgentReadings | None
    ) -> None:
        self._read = read
        self._agent = agent

    @override
    def collect(self) -> Iterator[Family]:
        samples = list(self._read())
        yield from _processes(samples)
        yield from _models(samples)
        loops = {("worker", str(sample.number)): sample.loop for sample in samples}
        if self._agent is not None:
            yield from _agent(self._agent)
            loops["agent", ""] = self._agent.loop()
        yield from _loops(loops)


def _gauge(metric: Metric, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.help_text, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _counter(metric: Metric, values: Iterable[tuple[Sequence[str], float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(metric.name, metric.help_text, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _histogram(
    metric: Metric,
    values: Iterable[tuple[Sequence[str], Histogram]],
    labels: tuple[str, ...] | None = None,
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help_text, labels=labels or metric.labels)
    for of, histogram in values:
        family.add_metric(of, _buckets(histogram), histogram.sum)
    return family


def _agent(agent: AgentReadings) -> Iterator[Family]:
    disk = shutil.disk_usage(agent.data_folder)
    yield _gauge(of_all.BUILD, [((agent.version, implementation.RUNNING), 1)])
    membership = agent.membership()
    yield _gauge(of_all.MEMBERSHIP_LEFT, [((), membership.left_s)])
    yield _gauge(of_all.MEMBERSHIP_LIFE_LEFT, [((), membership.ratio)])
    yield _gauge(of_all.CLOCK_BEHIND, [((), agent.clock_behind_s())])
    yield _gauge(of_all.DISK_FREE, [((), disk.free)])
    yield _gauge(of_all.DISK, [((), disk.total)])


def _processes(samples: list[WorkerSample]) -> Iterator[Family]:
    by_device = [((str(sample.number),), sample) for sample in samples]
    yield _gauge(of_node.WORKER_UP, [(of, one.is_up) for of, one in by_device])
    yield _counter(of_node.WORKER_STARTS, [(of, one.starts) for of, one in by_device])
    yield _gauge(of_node.LINKS, [(of, one.links) for of, one in by_device])
    yield _gauge(of_node.DEVICE_MEMORY, [(of, one.memory_bytes) for of, one in by_device])
    yield _gauge(of_node.DEVICE_MEMORY_FREE, [(of, one.memory_free_bytes) for of, one in by_device])
    yield _gauge(
        of_node.MODELS,
        [
            ((*of, state.value), list(one.states.values()).count(state.value))
            for of, one in by_device
            for state in ModelState
        ],
    )
    yield _gauge(
        of_node.READY,
        [
            ((*key, *of), state == ModelState.READY.value)
            for of, one in by_device
            for key, state in one.states.items()
        ],
    )


def _loops(loops: Mapping[tuple[str, str], LoopFigures]) -> Iterator[Family]:
    """Yield what a router tells of its loop, here by the process and the device that it is for."""
    of = ("process", "device")
    for metric, histograms in (
        (of_all.LOOP_DELAY, [(key, figures.delay_s) for key, figures in loops.items()]),
        (of_all.LOOP_BUSY, [(key, figures.busy_s) for key, figures in loops.items()]),
    ):
        yield _histogram(metric, histograms, of)


def _models(samples: list[WorkerSample]) -> Iterator[Family]:
    all_figures = [
        ((name, version, str(sample.number)), figures)
        for sample in samples
        for (name, version), figures in sample.models.items()
    ]
    yield _counter(
        of_node.REQUESTS,
        [((*of, code), n) for of, each in all_figures for code, n in each.requests.items()],
    )
    yield _counter(
        of_node.DROPPED,
        [((*of, reason), n) for of, each in all_figures for reason, n in each.dropped.items()],
    )
    yield _counter(of_node.ROWS, [(of, each.rows) for of, each in all_figures])
    yield _histogram(of_node.BATCH_ROWS, [(of, each.batch_rows) for of, each in all_figures])
    yield _histogram(of_node.QUEUE, [(of, each.queue_s) for of, each in all_figures])
    yield _histogram(of_node.RUN, [(of, each.run_s) for of, each in all_figures])
    yield _gauge(of_node.MEMORY, [(of, each.memory_bytes) for of, each in all_figures])
    yield _gauge(of_node.IN_FLIGHT, [(of, each.in_flight) for of, each in all_figures])
    yield _gauge(of_node.LIMIT, [(of, each.limit) for of, each in all_figures])
    yield from _generations(
        [(of, each.generation) for of, each in all_figures if each.generation is not None]
    )


def _generations(all_figures: list[tuple[tuple[str, ...], GenerationFigures]]) -> Iterator[Family]:
    yield _histogram(of_node.FIRST_TOKEN, [(of, each.first_token_s) for of, each in all_figures])
    yield _histogram(of_node.TOKEN_GAP, [(of, each.gap_s) for of, each in all_figures])
    yield _counter(of_node.TOKENS, [(of, each.tokens) for of, each in all_figures])
    yield _counter(of_node.PROMPT_TOKENS, [(of, each.prompt_tokens) for of, each in all_figures])
    yield _counter(of_node.CACHED_TOKENS, [(of, each.cached_tokens) for of, each in all_figures])
    yield _counter(of_node.PREEMPTIONS, [(of, each.preemptions) for of, each in all_figures])
    yield _counter(of_node.DRAFTED_TOKENS, [(of, each.drafted_tokens) for of, each in all_figures])
    yield _counter(
        of_node.ACCEPTED_TOKENS, [(of, each.accepted_tokens) for of, each in all_figures]
    )
    yield _gauge(of_node.HELD_TOKENS, [(of, each.held_tokens) for of, each in all_figures])
    yield _gauge(
        of_node.MOST_HELD_TOKENS, [(of, each.most_held_tokens) for of, each in all_figures]
    )


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [
        ("+Inf" if bound == math.inf else repr(bound), at_most)
        for bound, at_most in histogram.cumulative()
    ]
