"""Spans that are made of a request's times once it is over."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from capamesh.router.telemetry.tracing import (
    AttemptTimes,
    RequestTimes,
    Sampling,
    TraceParent,
    Tracer,
    parsed_traceparent,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = TraceParent(TRACE, SPAN, is_sampled=True)
LOST = AttemptTimes("A", "127.0.0.1:1", 10.0, 10.5, "link_lost: gone")
ANSWERED = AttemptTimes("B", "127.0.0.1:2", 10.5, 11.5, "answered", queue_s=0.25, run_s=0.5)
FINE = RequestTimes("m", "1", "ok", 10.0, 11.5, (LOST, ANSWERED))
NOW_S, NOW_NS = 20.0, 1_000 * 10**9


ALL = Sampling(ratio=1.0)


def tracer(sampling: Sampling = ALL, most_waiting: int = 10) -> Tracer:
    return Tracer(
        sampling,
        rng=random.Random(1),
        clock=lambda: NOW_S,
        wall_clock_ns=lambda: NOW_NS,
        most_waiting=most_waiting,
    )


def spans_of(times: RequestTimes) -> list[dict[str, Any]]:
    made = tracer()
    made.ended(times)
    return made.taken(10)


def attributes(span: dict[str, Any]) -> dict[str, str]:
    return {each["key"]: each["value"]["stringValue"] for each in span["attributes"]}


def seconds(span: dict[str, Any]) -> tuple[float, float]:
    """Return start and end on the clock of the request's times."""
    return tuple(
        (int(span[name]) - NOW_NS) / 1e9 + NOW_S
        for name in ("startTimeUnixNano", "endTimeUnixNano")
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (f"00-{TRACE}-{SPAN}-01", PARENT),
        (f"00-{TRACE}-{SPAN}-00", PARENT._replace(is_sampled=False)),
        (f"00-{TRACE}-{SPAN}-03", PARENT),
        (f"cc-{TRACE}-{SPAN}-01-more", PARENT),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
    ],
)
def test_traceparent_is_read_as_w3c_says_and_anything_else_is_none(
    header: str, found: TraceParent | None
) -> None:
    assert parsed_traceparent(header) == found


def test_request_and_its_attempts_become_spans_of_one_trace() -> None:
    root, lost, answered, queue, run = spans_of(replace(FINE, parent=PARENT))
    assert {span["traceId"] for span in (root, lost, answered, queue, run)} == {TRACE}
    assert root["parentSpanId"] == SPAN
    assert lost["parentSpanId"] == answered["parentSpanId"] == root["spanId"]
    assert queue["parentSpanId"] == run["parentSpanId"] == answered["spanId"]
    assert [span["kind"] for span in (root, lost, queue)] == [2, 3, 1]
    assert [seconds(each) for each in (root, lost, answered, queue, run)] == [
        (10.0, 11.5),
        (10.0, 10.5),
        (10.5, 11.5),
        (10.625, 10.875),
        (10.875, 11.375),
    ]
    assert "status" not in root
    assert "status" not in answered
    assert lost["status"] == {"code": 2, "message": "link_lost: gone"}
    assert attributes(root) == {
        "capamesh.model": "m",
        "capamesh.version": "1",
        "capamesh.code": "ok",
    }
    assert attributes(answered)["capamesh.node"] == "B"


def test_requests_beyond_the_room_are_dropped_and_counted() -> None:
    made = tracer(most_waiting=2)
    for _ in range(5):
        made.ended(replace(FINE, attempts=()))
    assert (made.waiting, made.dropped) == (2, 3)
    assert len(made.taken(1)) == 1
    assert made.waiting == 1
    assert len(made.taken(10)) == 1
    assert made.taken(10) == []
