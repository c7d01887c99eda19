"""The results of a simulation: counted while it runs, summed up when it is over. Pure."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, cast

from typing_extensions import override

from capamesh.router.telemetry import AttemptCounts

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import ModelName
    from capamesh.simulation.events import Events
    from capamesh.simulation.scenario import RequestKind, Scenario

CDF_POINTS = 200
TIMELINE_POINTS = 60
DIGITS = 9
"""The digits after the point of numbers in the JSON: nanoseconds."""
OK = "ok"


@dataclass(frozen=True, slots=True)
class KindResults:
    """The results of one kind of requests."""

    name: str
    requests: int
    answered: int
    p50_s: float
    p99_s: float
    """The 99th percentile of the latencies of answered requests; 0 when none was answered."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One stretch of the time."""

    at_s: float
    """The beginning of the slice."""
    requests: int
    """The requests that came in it."""
    answered: int
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class FaultResults:
    """The results of one of the scenario's faults, in the time that was simulated."""

    kind: str
    at_s: float
    for_s: float
    """Infinite: it does not end."""
    planned: int
    """The number of times that it was to begin: at each of its nodes, or once everywhere."""
    begun: int
    ended: int


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one run. Requests that came in the warm-up are in none of it but `events`."""

    scenario: str
    policy: str
    seed: int
    routers: int
    nodes: int
    counted_s: float
    """Virtual time without the warm-up."""
    capacity_per_s: float
    """The requests a second that the fleet can run, by its profiles."""
    requests: int
    answered: int
    """The requests that were answered in time."""
    failed: dict[str, int]
    """The requests that failed, by the error's code."""
    p50_s: float
    p90_s: float
    p99_s: float
    p999_s: float
    mean_s: float
    """The mean latency of answered requests, from arrival at the router to the answer there."""
    attempts: int
    """Requests sent to nodes after the warm-up, copies for a shadow version aside."""
    let_in: int
    """The requests of them that were sent for the first time; what `attempts` is above it are retries, hedges, and what was
    passed on by a node that was full."""
    probes: int
    node_shares: tuple[float, ...]
    """The nodes' shares of all that was sent to them, copies included."""
    verdicts: dict[str, int]
    """Inhibitions, ejections and returns, by kind and reason."""
    kinds: tuple[KindResults, ...]
    faults: tuple[FaultResults, ...]
    cdf: tuple[tuple[float, float], ...]
    """(latency, share of the answered that took no longer)."""
    timeline: tuple[Moment, ...]
    events: int
    """The events of the simulation."""
    events_per_s: float = field(default=0.0, compare=False)
    """The speed of the simulation, by its processor time; 0 if not measured. Not in the JSON, which repeats exactly."""

    @property
    def goodput_share(self) -> float:
        """The share answered of what could be: of the requests, or of the capacity where more came than that."""
        possible = min(self.requests, self.capacity_per_s * self.counted_s)
        return self.answered / possible if possible else 0.0

    @property
    def failed_share(self) -> float:
        """The share of the requests that failed."""
        return 1 - self.answered / self.requests if self.requests else 0.0

    @property
    def extra_share(self) -> float:
        """Attempts beyond the first of each request that was let in, as a share of these."""
        return self.attempts / self.let_in - 1 if self.let_in else 0.0

    @property
    def probe_share(self) -> float:
        """Probes for each request."""
        return self.probes / self.requests if self.requests else 0.0

    def to_json(self) -> str:
        """Return it as JSON, the same for the same seed, byte for byte."""
        values = {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.compare}
        values["goodput_share"] = _plain(self.goodput_share)
        values["extra_share"] = _plain(self.extra_share)
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


class Recorder(AttemptCounts):
    """Counts while the simulation runs."""

    def __init__(self, scenario: Scenario, events: Events) -> None:
        self._scenario = scenario
        self._events = events
        self._from_s = scenario.warm_up_s
        self._arrived_s = array("d")
        self._latency_s = array("d")
        self._kind = array("H")
        self._numbers = {kind.name: number for number, kind in enumerate(scenario.requests)}
        self._requests = [0] * len(scenario.requests)
        self._failed: dict[str, int] = {}
        self._came = array("d")
        self._node_attempts = [0] * scenario.node_count
        self._extra = 0
        self._copies = 0
        self._probes = 0
        self._verdicts: dict[str, int] = {}
        self.open = 0
        """Requests without an outcome, those of the warm-up included."""

    @override
    def __repr__(self) -> str:
        return f"Recorder({len(self._came)} requests, {len(self._latency_s)} answered)"

    def came(self, kind: RequestKind, now_s: float) -> None:
        """Count a request that came."""
        self.open += 1
        if now_s >= self._from_s:
            self._requests[self._numbers[kind.name]] += 1
            self._came.append(now_s)

    def ended(self, kind: RequestKind, arrived_s: float, code: str, now_s: float) -> None:
        """Count a request that was answered, by `OK`, or failed with an error's code."""
        self.open -= 1
        if arrived_s < self._from_s:
            return
        if code == OK:
            self._arrived_s.append(arrived_s)
            self._latency_s.append(now_s - arrived_s)
            self._kind.append(self._numbers[kind.name])
        else:
            self._failed[code] = self._failed.get(code, 0) + 1

    def sent(self, node: int) -> None:
        """Count a request that was sent to a node, for the first time or again."""
        if self._events.now_s >= self._from_s:
            self._node_attempts[node] += 1

    @override
    def attempted_again(self, model: ModelName) -> None:
        if self._events.now_s >= self._from_s:
            self._extra += 1

    def copied(self) -> None:
        """Count a copy that was sent to a shadow version: it is in no share of what callers asked for."""
        if self._events.now_s >= self._from_s:
            self._copies += 1

    @override
    def attempt_failed(self, model: ModelName, error: CapameshError) -> None:
        pass

    def probed(self) -> None:
        """Count a probe of a node."""
        if self._events.now_s >= self._from_s:
            self._probes += 1

    def verdict(self, name: str) -> None:
        """Count a verdict on a node's health."""
        self._verdicts[name] = self._verdicts.get(name, 0) + 1

    def results(self, policy: str, seed: int, events: int) -> Results:
        """Return what came of it."""
        scenario = self._scenario
        latencies = sorted(self._latency_s)
        sent = sum(self._node_attempts)
        attempts = sent - self._copies
        return Results(
            scenario=scenario.name,
            policy=policy,
            seed=seed,
            routers=scenario.routers,
            nodes=scenario.node_count,
            counted_s=scenario.duration_s - scenario.warm_up_s,
            capacity_per_s=scenario.capacity_per_s,
            requests=len(self._came),
            answered=len(latencies),
            failed=dict(sorted(self._failed.items())),
            p50_s=quantile(latencies, 0.5),
            p90_s=quantile(latencies, 0.9),
            p99_s=quantile(latencies, 0.99),
            p999_s=quantile(latencies, 0.999),
            mean_s=math.fsum(latencies) / len(latencies) if latencies else 0.0,
            attempts=attempts,
            let_in=attempts - self._extra,
            probes=self._probes,
            node_shares=tuple(n / sent if sent else 0.0 for n in self._node_attempts),
            verdicts=dict(sorted(self._verdicts.items())),
            kinds=tuple(self._kinds()),
            faults=tuple(fault_results(scenario)),
            cdf=_cdf(latencies),
            timeline=tuple(self._timeline()),
            events=events,
        )

    def _kinds(self) -> list[KindResults]:
        of: list[list[float]] = [[] for _ in self._requests]
        for number, latency_s in zip(self._kind, self._latency_s, strict=True):
            of[number].append(latency_s)
        found: list[KindResults] = []
        for kind, requests, latencies in zip(
            self._scenario.requests, self._requests, of, strict=True
        ):
            latencies.sort()
            found.append(
                KindResults(
                    kind.name,
                    requests,
                    len(latencies),
                    quantile(latencies, 0.5),
                    quantile(latencies, 0.99),
                )
            )
        return found

    def _timeline(self) -> list[Moment]:
        scenario = self._scenario
        step_s = (scenario.duration_s - scenario.warm_up_s) / TIMELINE_POINTS
        came = [0] * TIMELINE_POINTS
        of: list[list[float]] = [[] for _ in range(TIMELINE_POINTS)]
        last = TIMELINE_POINTS - 1
        for at_s in self._came:
            came[min(int((at_s - self._from_s) / step_s), last)] += 1
        for at_s, latency_s in zip(self._arrived_s, self._latency_s, strict=True):
            of[min(int((at_s - self._from_s) / step_s), last)].append(latency_s)
        moments: list[Moment] = []
        for number, (requests, latencies) in enumerate(zip(came, of, strict=True)):
            latencies.sort()
            moments.append(
                Moment(
                    self._from_s + number * step_s,
                    requests,
                    len(latencies),
                    quantile(latencies, 0.5),
                    quantile(latencies, 0.99),
                )
            )
        return moments


def fault_results(scenario: Scenario) -> list[FaultResults]:
    """Return what becomes of each fault before the scenario's time is over."""
    found: list[FaultResults] = []
    for fault in scenario.faults:
        nodes = scenario.node_count if fault.nodes == "all" else max(1, len(fault.nodes))
        begins_s = [fault.at_s + turn * fault.stagger_s for turn in range(nodes)]
        found.append(
            FaultResults(
                fault.kind.value,
                fault.at_s,
                fault.for_s,
                planned=nodes,
                begun=sum(at_s < scenario.duration_s for at_s in begins_s),
                ended=sum(at_s + fault.for_s <= scenario.duration_s for at_s in begins_s),
            )
        )
    return found


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the smallest of `ordered` that a share of at least `q` does not exceed; 0 when there is none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def _cdf(ordered: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Return points that lie closer together towards the slowest, where there is most to see."""
    if not ordered:
        return ()
    most = math.log10(max(len(ordered), 10))
    shares = [1 - 10 ** (-most * point / CDF_POINTS) for point in range(1, CDF_POINTS + 1)]
    return tuple((quantile(ordered, share), share) for share in shares)


def _plain(value: object) -> object:
    match value:
        case float():
            return round(value, DIGITS) if math.isfinite(value) else None
        case tuple():
            return [_plain(one) for one in cast("tuple[object, ...]", value)]
        case KindResults() | Moment() | FaultResults():
            return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        case _:
            return value
