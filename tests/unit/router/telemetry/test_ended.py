from __future__ import annotations

import random

from capamesh.protocol.errors import InvalidRequest, Overloaded
from capamesh.router.telemetry.ended import (
    MOST_CHARS,
    MOST_OF_A_KIND,
    SLOW_S,
    EndedRequests,
)
from capamesh.router.telemetry.tracing import RequestTimes, Sampling, TraceParent, Tracer


def ended(sampling: Sampling | None = None) -> tuple[EndedRequests, Tracer | None]:
    tracer = None
    if sampling is not None:
        tracer = Tracer(
            sampling, rng=random.Random(1), clock=lambda: 9.0, wall_clock_ns=lambda: 10**18
        )
    return EndedRequests(clock=lambda: 9.0, wall_clock=lambda: 109.0, tracer=tracer), tracer


def request(
    code: str = "ok", took_s: float = 0.1, parent: TraceParent | None = None
) -> RequestTimes:
    return RequestTimes("m", "1", code, 5.0, 5.0 + took_s, parent=parent)


def test_requests_that_failed_or_were_slow_are_kept_by_model_and_code() -> None:
    told, _ = ended()
    told.ended(request())
    told.ended(request(took_s=SLOW_S))
    assert told.rows() == []
    told.failed("m", Overloaded("first"))
    told.ended(request("overloaded"))
    told.ended(request(took_s=SLOW_S + 0.5))
    told.failed("m", Overloaded("second\x1b[31m" + "x" * 999))
    told.ended(request("overloaded", took_s=0.2))
    failed, slow = told.rows()
    assert (failed["model"], failed["code"], failed["count"]) == ("m", "overloaded", 2)
    assert failed["error"] == ("second\ufffd[31m" + "x" * 999)[:MOST_CHARS]
    assert [each["took_s"] for each in failed["newest"]] == [0.2, 0.1]
    assert (slow["code"], slow["count"], slow["error"], slow["last_at"]) == ("ok", 1, "", 109.0)
    assert slow["newest"] == [
        {"model": "m", "version": "1", "began_at": 105.0, "took_s": 1.5, "attempts": []}
    ]


def test_flood_of_one_failure_is_counted_and_drives_no_other_out() -> None:
    told, _ = ended()
    told.failed("other", InvalidRequest("bad"))
    for _ in range(1_000):
        told.failed("m", Overloaded("full"))
        told.ended(request("overloaded"))
    flood, other = told.rows()
    assert (flood["count"], len(flood["newest"])) == (1_000, MOST_OF_A_KIND)
    assert (other["model"], other["error"], other["newest"]) == ("other", "bad", [])
