from __future__ import annotations

import math

import pytest
from replicas import host

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.load_check import FADE_S, Claims

LIE = LoadReport(in_flight=0, limit=64, latency_us=1, run_us=1)


def test_who_was_never_measured_is_believed() -> None:
    assert Claims().believable(host(rif=9), LIE, 5.0) is LIE


def test_a_latency_far_below_what_was_measured_is_raised_to_half_of_it() -> None:
    claims, liar = Claims(), host()
    claims.measured(liar, 0.2, 5.0)
    told = claims.believable(liar, LIE, 5.0)
    assert (told.latency_us, told.run_us, told.limit) == (100_000, 100_000, 64)
    honest = LoadReport(latency_us=100_000)
    assert claims.believable(liar, honest, 5.0) is honest


@pytest.mark.parametrize("load", [LoadReport(), LoadReport(queue_us=2, run_us=3)])
def test_saying_nothing_of_latency_is_no_way_around(load: LoadReport) -> None:
    claims, liar = Claims(), host(row_us=7)
    claims.measured(liar, 0.2, 5.0)
    assert claims.believable(liar, load, 5.0).latency_us == 100_000


def test_what_was_measured_fades_so_that_a_load_that_fell_is_believed() -> None:
    claims, one = Claims(), host()
    claims.measured(one, 0.2, 5.0)
    told = claims.believable(one, LIE, 5.0 + FADE_S)
    assert told.latency_us == int(100_000 * math.exp(-1))
    told = claims.believable(one, LIE, 5.0 + 30 * FADE_S)
    assert told == LIE
    assert claims.believable(one, LIE, 4.0).latency_us == 100_000  # a clock that was set back


def test_one_slow_answer_hardly_counts_and_one_fast_answer_does() -> None:
    claims, one = Claims(), host()
    claims.measured(one, 0.1, 5.0)
    claims.measured(one, 0.9, 5.0)
    assert claims.believable(one, LIE, 5.0).latency_us == 100_000  # 0.1 + 0.8 / 8, halved
    claims.measured(one, 0.1, 5.0)
    assert claims.believable(one, LIE, 5.0).latency_us == 75_000
    claims.measured(one, -1.0, 5.0)
    assert claims.believable(one, LIE, 5.0).latency_us == 37_500


def test_who_claims_to_be_idle_has_at_least_half_of_what_this_router_has_there() -> None:
    claims, near, far = Claims(), host(rif=8), host(rif=8, rtt_s=0.3)
    for one in (near, far):
        claims.measured(one, 0.1, 5.0)
    assert claims.believable(near, LIE, 5.0).in_flight == 4
    assert claims.believable(far, LIE, 5.0).in_flight == 1  # most of the 8 are on the way
    busy = LoadReport(in_flight=5, latency_us=100_000)
    assert claims.believable(near, busy, 5.0) is busy


def test_who_tells_of_far_less_than_is_measured_answer_by_answer_is_not_believed_at_all() -> None:
    claims, liar, honest = Claims(), host("a"), host("b")
    slow = LoadReport(latency_us=170_000)
    for _ in range(9):
        claims.measured(liar, 0.2, 5.0, LIE)
        claims.measured(honest, 0.2, 5.0, slow)
    told = claims.believable(liar, LIE, 5.0)
    assert (told.latency_us, told.run_us) == (200_000, 200_000)
    idle = LoadReport(latency_us=110_000)  # its load has just fallen
    assert claims.believable(honest, idle, 5.0) is idle
    for _ in range(40):
        claims.measured(liar, 0.2, 5.0, slow)
    assert claims.believable(liar, idle, 5.0) is idle


def test_hosts_that_are_gone_are_forgotten() -> None:
    claims, gone, here = Claims(), host("a"), host("b")
    claims.measured(gone, 0.1, 5.0)
    claims.measured(here, 0.1, 5.0)
    gone.is_gone = True
    claims.forget_gone()
    assert repr(claims) == "Claims(1 hosts measured)"
