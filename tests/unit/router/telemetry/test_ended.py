from __future__ import annotations

import random

import pytest

from capamesh.router.telemetry.ended import MOST_KEPT, SLOW_S, EndedRequests
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


def test_newest_that_failed_or_were_slow_are_kept() -> None:
    told, _ = ended()
    told.ended(request())
    told.ended(request(took_s=SLOW_S))
    assert told.rows() == []
    for number in range(MOST_KEPT + 1):
        told.ended(request(f"code{number}"))
    told.ended(request(took_s=SLOW_S + 0.5))
    rows = told.rows()
    assert [row["code"] for row in rows] == ["ok", *(f"code{n}" for n in range(MOST_KEPT, 1, -1))]
    assert (rows[0]["began_at"], rows[0]["took_s"], rows[0]["attempts"]) == (105.0, 1.5, [])


@pytest.mark.parametrize(
    ("sampling", "slow_s"),
    [
        (None, SLOW_S),
        (Sampling(), SLOW_S),
        (Sampling(slow_s=0.2), 0.2),
        (Sampling(slow_s=5.0), SLOW_S),
        (Sampling(ratio=0.01), float("-inf")),
    ],
)
def test_answered_request_need_be_told_only_where_somebody_may_want_it(
    sampling: Sampling | None, slow_s: float
) -> None:
    told, tracer = ended(sampling)
    assert (told.slow_s, told.has_tracer) == (slow_s, tracer is not None)


def test_tracer_hears_of_all_that_are_told() -> None:
    told, tracer = ended(Sampling())
    assert tracer is not None
    told.ended(request("overloaded"))
    told.ended(request(parent=TraceParent("1" * 32, "2" * 16, is_sampled=True)))
    told.ended(request())
    assert tracer.waiting == 2
