"""Spans of requests that have ended, made afterwards of the times that were kept of them. Pure.

No span is there while a request is under way. Whoever ends a request that failed, was slow or is to be sampled tells the
`Tracer` its times; an exporter takes them from there when it has time, as spans of OpenTelemetry's OTLP in JSON
(opentelemetry-proto 1.x). Where nobody takes them fast enough, the newest are dropped and counted.
"""

from __future__ import annotations

import math
import random
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

MOST_WAITING: Final = 1_000
"""Requests that may wait for the exporter (guess: ten seconds of 100 failures a second, 1 MB)."""
MOST_TEXT: Final = 200
"""The most characters of a text that comes from elsewhere."""
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
"""The kinds of spans, by OTLP's numbers."""
_FAILED: Final = 2
"""The status of a span that failed, by OTLP's numbers."""


class TraceParent(NamedTuple):
    """The trace that a caller's request belongs to, as its header `traceparent` has it (W3C Trace Context)."""

    trace_id: str
    span_id: str
    is_sampled: bool


def parsed_traceparent(header: str) -> TraceParent | None:
    """Return what a `traceparent` says; None where it is not one, which is no error of the request's."""
    found = _TRACEPARENT.fullmatch(header)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    is_known = version != "ff" and not (version == "00" and rest)
    if not is_known or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & 1))


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """The times of one attempt at a node, on the router's clock, and what became of it."""

    peer: str
    address: str
    sent_s: float
    ended_s: float
    outcome: str
    """The outcome: `answered`, or why not."""
    queue_s: float = 0.0
    """The time in the node's queue, as the node told; 0 if it did not."""
    run_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """The times of one request that has ended, on the router's clock."""

    model: str
    version: str
    """The version that answered, or that was asked for; empty where none was."""
    code: str
    """`ok`, or the code of the error."""
    started_s: float
    ended_s: float
    attempts: tuple[AttemptTimes, ...] = ()
    parent: TraceParent | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """The requests of which spans are made: all that fail, are slower than `slow_s` or whose caller samples them."""

    slow_s: float = math.inf
    ratio: float = 0.0
    """The share of all others, from 0 to 1."""

    def wants(self, times: RequestTimes, draw: float) -> bool:
        """Return whether spans are to be made of a request; `draw` is a number from [0, 1)."""
        return (
            times.code != "ok"
            or times.ended_s - times.started_s > self.slow_s
            or (times.parent is not None and times.parent.is_sampled)
            or draw < self.ratio
        )


class Tracer:
    """The requests that wait for an exporter. Telling it of one takes about a microsecond and never waits."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        wall_clock_ns: Callable[[], int],
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """`clock` is the one that requests' times are of, `wall_clock_ns` that of the day."""
        self._sampling = sampling
        self._rng = rng
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._most_waiting = most_waiting
        self._waiting: deque[RequestTimes] = deque()
        self.dropped = 0
        """The number of requests of which no spans were made for lack of room."""

    @property
    def slow_s(self) -> float:
        """Return the time in seconds of which an answered request must take more to be of interest, unless its caller samples it."""
        return -math.inf if self._sampling.ratio > 0 else self._sampling.slow_s

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return len(self._waiting)

    def ended(self, times: RequestTimes) -> None:
        """Take a request that has ended, if spans are to be made of it and there is room."""
        if not self._sampling.wants(times, self._rng.random()):
            return
        if len(self._waiting) >= self._most_waiting:
            self.dropped += 1
        else:
            self._waiting.append(times)

    def taken(self, most: int) -> list[dict[str, Any]]:
        """Return the spans of the first requests that wait, at most so many, which wait no more."""
        spans: list[dict[str, Any]] = []
        offset_ns = self._wall_clock_ns() - int(self._clock() * 1e9)
        for _ in range(min(most, len(self._waiting))):
            spans += self._spans(self._waiting.popleft(), offset_ns)
        return spans

    def _spans(self, times: RequestTimes, offset_ns: int) -> Iterator[dict[str, Any]]:
        parent = times.parent
        trace_id = parent.trace_id if parent is not None else self._new_id(128)

        def span(
            above: str, name: str, kind: int, start_s: float, end_s: float, **attributes: str
        ) -> dict[str, Any]:
            made = {
                "traceId": trace_id,
                "spanId": self._new_id(64),
                "name": name,
                "kind": kind,
                "startTimeUnixNano": str(offset_ns + int(start_s * 1e9)),
                "endTimeUnixNano": str(offset_ns + int(max(start_s, end_s) * 1e9)),
                "attributes": attributes_of(attributes),
            }
            return {**made, "parentSpanId": above} if above else made

        root = span(
            parent.span_id if parent is not None else "",
            "infer",
            _SERVER,
            times.started_s,
            times.ended_s,
            **{"capamesh.model": times.model, "capamesh.version": times.version},
            **{"capamesh.code": times.code},
        )
        yield _failed(root, times.code) if times.code != "ok" else root
        for number, each in enumerate(times.attempts, 1):
            attempt = span(
                root["spanId"],
                "attempt",
                _CLIENT,
                each.sent_s,
                each.ended_s,
                **{"capamesh.node": each.peer, "server.address": each.address},
                **{"capamesh.attempt": str(number), "capamesh.outcome": each.outcome},
            )
            yield attempt if each.outcome == "answered" else _failed(attempt, each.outcome)
            # where between sent and answered the node was at it is not known: half of the rest is taken for each way
            asked_s = max(0.0, each.ended_s - each.sent_s)
            # a node may tell of any time, a collector refuses a batch with a moment that it cannot hold
            queue_s = min(each.queue_s, asked_s)
            run_s = min(each.run_s, asked_s - queue_s)
            queued_s = each.sent_s + (asked_s - queue_s - run_s) / 2
            for name, begun_s, took_s in (
                ("queue", queued_s, queue_s),
                ("run", queued_s + queue_s, run_s),
            ):
                if took_s > 0:
                    yield span(attempt["spanId"], name, _INTERNAL, begun_s, begun_s + took_s)

    def _new_id(self, bits: int) -> str:
        return f"{self._rng.getrandbits(bits) or 1:0{bits // 4}x}"


def _failed(span: dict[str, Any], why: str) -> dict[str, Any]:
    return {**span, "status": {"code": _FAILED, "message": why[:MOST_TEXT]}}


def attributes_of(texts: dict[str, str]) -> list[dict[str, Any]]:
    """Return attributes as OTLP has them, without those that are empty."""
    return [
        {"key": key, "value": {"stringValue": text[:MOST_TEXT]}}
        for key, text in texts.items()
        if text
    ]


def export_request(spans: list[dict[str, Any]], resource: dict[str, str]) -> dict[str, Any]:
    """Return the body that a collector takes at `/v1/traces`; `resource` says whose spans they are."""
    scope = {"scope": {"name": "capamesh.router"}, "spans": spans}
    attributes = {"attributes": attributes_of(resource)}
    return {"resourceSpans": [{"resource": attributes, "scopeSpans": [scope]}]}
