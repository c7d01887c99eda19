"""The router's counts and what it exports of them, in Prometheus' form. The only importer of prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Protocol

from mypy_extensions import mypyc_attr
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelName
from capamesh.protocol.metrics import LOOP_BUSY, LOOP_DELAY, Kind, Metric
from capamesh.router.telemetry.generations import GeneratedTexts
from capamesh.router.telemetry.metrics import (
    ATTEMPTS_EXTRA,
    ATTEMPTS_FAILED,
    CIRCUIT_CHANGES,
    FIRST_TOKEN,
    GENERATIONS_RESUMED,
    LATENCY,
    REQUESTS,
    TENANT_REQUESTS,
    TENANT_SECONDS,
    TENANT_TOKENS,
    TOKEN_GAP,
    TOKENS,
    TURNS_CRASHED,
    WIRE_LATENCY,
    WIRE_REQUESTS,
)
from capamesh.router.telemetry.totals import OTHERS, Latencies, RequestTotals

ReadValues = Callable[[], Iterable[tuple[Sequence[str], float]]]
"""Returns the values of a metric's labels, and its value for them; those of the same labels are added up."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_MODELS: Final = 200
"""This many models have series of their own, those that were asked for first (guess: four times what a large fleet hosts)."""
MOST_NODES: Final = 200
"""This many nodes have series of their own, those that came first (guess: 200 lines are more than a dashboard can show)."""
VALUES_A_PIECE: Final = 500
"""Values that are read at a time (measured: half a millisecond to one)."""
HTTP: Final = "http"
"""The wire that requests come by if nothing else is said."""


class BoundedLabel:
    """The names that have series of their own: the first that come, up to a number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """Return the label for a name."""
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHERS
            self._known.add(name)
        return name

    def keep(self, names: Iterable[str]) -> None:
        """Give the places of all other names to those that come."""
        self._known.intersection_update(names)


class _Requests:
    """Requests that have ended, well or not, and how long the former took. What a registry collects."""

    def __init__(self, label: BoundedLabel, totals: RequestTotals) -> None:
        self._label = label
        self._totals = totals
        self.failed: dict[tuple[str, str, str], int] = {}
        """The number of those that were not answered well, by model, wire and code."""

    def collect(self) -> Iterator[Family]:
        """Yield the metrics."""
        of_models, of_wires = self._sums()
        yield from _families(REQUESTS, LATENCY, of_models, self._failed(0))
        yield from _families(WIRE_REQUESTS, WIRE_LATENCY, of_wires, self._failed(1))

    def _sums(self) -> tuple[dict[str, Latencies], dict[str, Latencies]]:
        """Return those that were answered well by model, and by wire."""
        of_models: dict[str, Latencies] = {}
        of_wires: dict[str, Latencies] = {}
        for (model, wire), each in list(self._totals.latencies.items()):
            of_models.setdefault(self._label.of(model), Latencies()).add(each)
            of_wires.setdefault(wire, Latencies()).add(each)
        return of_models, of_wires

    def _failed(self, place: int) -> dict[tuple[str, str], int]:
        """Return how many failed by model (`place` 0) or wire (1), and by code."""
        found: dict[tuple[str, str], int] = {}
        for labels, count in list(self.failed.items()):
            name = labels[place] if place else self._label.of(labels[0])
            key = name, labels[2]
            found[key] = found.get(key, 0) + count
        return found


def _families(
    requests: Metric,
    latency: Metric,
    answered: Mapping[str, Latencies],
    failed: Mapping[tuple[str, str], int],
) -> tuple[Family, Family]:
    """Return the count of requests and the histogram of their latencies, by name."""
    counts = CounterMetricFamily(requests.name, requests.help_text, labels=requests.labels)
    for name, each in answered.items():
        counts.add_metric((name, "ok"), sum(each.counts))
    for labels, count in failed.items():
        counts.add_metric(labels, count)
    return counts, _histogram(latency, answered)


def _histogram(metric: Metric, found: Mapping[str, Latencies]) -> Family:
    """Return a histogram of times, by name."""
    seconds = HistogramMetricFamily(metric.name, metric.help_text, labels=metric.labels)
    bounds = [*(str(float(bound)) for bound in metric.bounds), "+Inf"]
    for name, each in found.items():
        totals = list(accumulate(each.counts))
        seconds.add_metric((name,), list(zip(bounds, totals, strict=True)), each.seconds)
    return seconds


class _Texts:
    """The times that callers wait for tokens. What a registry collects."""

    def __init__(self, label: BoundedLabel, texts: GeneratedTexts) -> None:
        self._label = label
        self._texts = texts

    def collect(self) -> Iterator[Family]:
        """Yield the metrics."""
        first: dict[str, Latencies] = {}
        gaps: dict[str, Latencies] = {}
        for model, each in list(self._texts.models.items()):
            name = self._label.of(model)
            first.setdefault(name, Latencies()).add(each.first)
            gaps.setdefault(name, Latencies()).add(each.gaps)
        yield _histogram(FIRST_TOKEN, first)
        yield _histogram(TOKEN_GAP, gaps)


class _Values:
    """A metric whose values another part of the router keeps."""

    def __init__(self, metric: Metric, read: ReadValues, label: BoundedLabel) -> None:
        """`label` bounds the names of models, where the metric has a label for them."""
        self._metric = metric
        self._read = read
        self._label = label
        self._place = metric.labels.index("model") if "model" in metric.labels else None

    def pieces(self) -> Iterator[bytes]:
        """Yield the text; before that nothing, again and again, so that many values can be read in slices."""
        metric, place, label = self._metric, self._place, self._label
        sums: dict[tuple[str, ...], float] = {}
        for number, (labels, value) in enumerate(self._read(), 1):
            key = tuple(labels) if place is None else _bounded(labels, place, label)
            sums[key] = sums.get(key, 0) + value
            if number % VALUES_A_PIECE == 0:
                yield b""
        make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        family = make(metric.name, metric.help_text, labels=metric.labels)
        for labels, value in sums.items():
            family.add_metric(labels, value)
        yield generate_latest(_One(family))


def _bounded(labels: Sequence[str], place: int, label: BoundedLabel) -> tuple[str, ...]:
    """Return labels with the one at `place` bounded."""
    return (*labels[:place], label.of(labels[place]), *labels[place + 1 :])


@mypyc_attr(native_class=False)
class AttemptCounts(Protocol):
    """The counters of attempts beyond the first of each request."""

    __slots__ = ()

    def attempt_failed(self, model: ModelName, error: CapameshError) -> None:
        """Count one node that failed or refused."""
        ...

    def attempted_again(self, model: ModelName) -> None:
        """Count a request that was sent to one more node."""
        ...


def _ignore(model: str, error: CapameshError) -> None:
    """Do nothing: nobody follows failures."""


class Telemetry(AttemptCounts):
    """Counts requests, failures, attempts and latencies; knows nothing of HTTP."""

    def __init__(self, *, is_of_process: bool = True) -> None:
        """Tell what this process takes of its machine too, if `is_of_process`."""
        self._registry = CollectorRegistry()
        if is_of_process:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
        self._asked, self._hosted = BoundedLabel(MOST_MODELS), BoundedLabel(MOST_MODELS)
        """The labels of models that were asked for, and of those that are only hosted: whoever hosts many names takes no
        place of a model that is in use."""
        self.totals = RequestTotals()
        """The requests that were answered well."""
        self._requests = _Requests(self._asked, self.totals)
        self._registry.register(self._requests)
        self.texts = GeneratedTexts()
        """The texts that language models have generated."""
        self._registry.register(_Texts(self._asked, self.texts))
        self._values: list[_Values] = []
        self._on_failed: Callable[[str, CapameshError], None] = _ignore
        self._attempts_failed: dict[tuple[str, str], int] = {}
        self._attempts_extra: dict[tuple[str], int] = {}
        self._resumed: dict[tuple[str], int] = {}
        self._crashes: dict[tuple[str], int] = {}
        self._changes: dict[tuple[str], int] = {}
        self.watch_each(ATTEMPTS_FAILED, lambda: list(self._attempts_failed.items()))
        self.watch_each(ATTEMPTS_EXTRA, lambda: list(self._attempts_extra.items()))
        self.watch_each(GENERATIONS_RESUMED, lambda: list(self._resumed.items()))
        self.watch_each(TOKENS, lambda: list(self.texts.of_models()))
        self.watch_each(TENANT_TOKENS, lambda: list(self.texts.of_tenants()))
        self.watch_each(TURNS_CRASHED, lambda: list(self._crashes.items()))
        self.watch_each(CIRCUIT_CHANGES, lambda: list(self._changes.items()))
        self.watch_each(TENANT_REQUESTS, self._requests_of_tenants)
        self.watch_each(
            TENANT_SECONDS,
            lambda: [((name,), each.seconds) for name, each in list(self.totals.tenants.items())],
        )
        self._delay, self._busy = (
            Histogram(each.name, each.help_text, buckets=each.bounds, registry=self._registry)
            for each in (LOOP_DELAY, LOOP_BUSY)
        )

    def watch(self, metric: Metric, read: Callable[[], float]) -> None:
        """Export what `read` returns when metrics are asked for, as the one value of a metric without labels."""
        self.watch_each(metric, lambda: [((), read())])

    def watch_each(self, metric: Metric, read: ReadValues, *, is_hosted: bool = False) -> None:
        """Export what `read` returns when metrics are asked for: the values of the metric's labels, and its value for them.

        Where one label is the model, all but the first `MOST_MODELS` are added up; `is_hosted`: the models are all that
        nodes host, not only those that somebody has asked for.
        """
        label = self._hosted if is_hosted else self._asked
        self._values.append(_Values(metric, read, label))

    def refused(
        self, model: ModelName, error: CapameshError, *, is_known: bool, wire: str = HTTP
    ) -> None:
        """A request was answered with an error, or withdrawn. A model nobody hosts is not named: anyone can invent names."""
        named = model if is_known else ""
        failed, labels = self._requests.failed, (named, wire, error.code)
        failed[labels] = failed.get(labels, 0) + 1
        self._on_failed(named, error)

    def tenant_refused(self, tenant: str, error: CapameshError) -> None:
        """A request of a key's tenant was answered with an error, or withdrawn."""
        failed = self.totals.tenant(tenant).failed
        failed[error.code] = failed.get(error.code, 0) + 1

    def _requests_of_tenants(self) -> Iterator[tuple[tuple[str, str], float]]:
        for name, each in list(self.totals.tenants.items()):
            yield (name, "ok"), each.answered
            for code, count in list(each.failed.items()):
                yield (name, code), count

    def circuit_changed(self, change: str) -> None:
        """A circuit is in another state than before."""
        self._changes[change,] = self._changes.get((change,), 0) + 1

    def resumed(self, model: ModelName) -> None:
        """Another node goes on with an answer, for the one before was lost."""
        self._resumed[model,] = self._resumed.get((model,), 0) + 1

    def follow_failures(self, on_failed: Callable[[str, CapameshError], None]) -> None:
        """Tell `on_failed` of each request that is answered with an error: its model, "" if nobody hosts it, and the error."""
        self._on_failed = on_failed

    @override
    def attempt_failed(self, model: ModelName, error: CapameshError) -> None:
        failed, labels = self._attempts_failed, (model, error.code)
        failed[labels] = failed.get(labels, 0) + 1

    @override
    def attempted_again(self, model: ModelName) -> None:
        self._attempts_extra[model,] = self._attempts_extra.get((model,), 0) + 1

    def latency_counts(self) -> Mapping[ModelName, Sequence[int]]:
        """Return how many requests of each model were answered well, by bucket: those of `LATENCY.bounds`, and beyond."""
        found: dict[ModelName, Sequence[int]] = {}
        for (model, _), each in self.totals.latencies.items():
            known = found.get(model)
            found[model] = (
                each.counts
                if known is None
                else [a + b for a, b in zip(known, each.counts, strict=True)]
            )
        return found

    def refusals(self) -> Mapping[tuple[str, str], int]:
        """Return how many requests were answered with an error, or withdrawn, by model and error code."""
        found: dict[tuple[str, str], int] = {}
        for (model, _, code), count in self._requests.failed.items():
            found[model, code] = found.get((model, code), 0) + count
        return found

    def crashed(self, loop: str) -> None:
        """A bug has ended one turn of a loop of the router's own."""
        self._crashes[loop,] = self._crashes.get((loop,), 0) + 1

    def loop_beat(self, late_s: float, busy_s: float) -> None:
        """The event loop came so much later than it should have, and took so much CPU time since it came last."""
        self._delay.observe(late_s)
        self._busy.observe(busy_s)

    def exposition(self) -> bytes:
        """Return all metrics as text, of `CONTENT_TYPE`."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Yield the same, at most a metric at a time; what is read meanwhile may change between two pieces."""
        for family in self._registry.collect():
            yield generate_latest(_One(family))
        for values in self._values:
            yield from values.pieces()


class _One:
    """The part of a registry that making its text needs."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterator[Family]:
        """Yield the metric."""
        yield self._family
