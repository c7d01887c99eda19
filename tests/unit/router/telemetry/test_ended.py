from __future__ import annotations

import random
from dataclasses import replace

import pytest

from capamesh.protocol.errors import InvalidRequest, Overloaded
from capamesh.router.telemetry.ended import (
    MOST_CHARS,
    MOST_KINDS,
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


def test_requests_of_models_that_nobody_hosts_are_one_kind() -> None:
    told, _ = ended()
    for name in ("x", "y\x1b"):
        told.failed("", InvalidRequest(f"no {name}"))
        told.ended(replace(request("invalid_request"), model=name))
    (kind,) = told.rows()
    assert (kind["model"], kind["count"]) == ("", 2)
    assert [each["model"] for each in kind["newest"]] == ["y\ufffd", "x"]


def test_kind_that_was_not_seen_for_longest_gives_way() -> None:
    told, _ = ended()
    for number in range(MOST_KINDS):
        told.failed(f"m{number}", Overloaded())
    told.failed("m0", Overloaded())
    told.failed("new", Overloaded())
    models = [kind["model"] for kind in told.rows()]
    assert models == ["new", "m0", *(f"m{n}" for n in range(MOST_KINDS - 1, 1, -1))]


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
