from __future__ import annotations

import math

import pytest
from replicas import replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.load_check import FADE_S, ReportedLoadCheck
from capamesh.router.fleet.replica import Replica

LIE = LoadReport(in_flight=0, limit=64, latency_us=1, run_us=1)


def measure(
    load_check: ReportedLoadCheck, replica: Replica, service_s: float, now_s: float
) -> None:
    """Let an answer have taken so long, and its node say so."""
    load_check.measured(
        replica, service_s, now_s, LoadReport(latency_us=round(max(0.0, service_s) * 1e6))
    )


def test_replica_that_was_never_measured_is_believed() -> None:
    assert ReportedLoadCheck().believable(replica(rif=9), LIE, 5.0) is LIE


def test_latency_far_below_what_was_measured_is_raised_to_half_of_it() -> None:
    load_check, liar = ReportedLoadCheck(), replica()
    measure(load_check, liar, 0.2, 5.0)
    reported = load_check.believable(liar, LIE, 5.0)
    assert (reported.latency_us, reported.run_us, reported.limit) == (100_000, 100_000, 64)
    honest = LoadReport(latency_us=100_000)
    assert load_check.believable(liar, honest, 5.0) is honest


@pytest.mark.parametrize("load", [LoadReport(), LoadReport(queue_us=2, run_us=3)])
def test_saying_nothing_of_latency_is_no_way_around(load: LoadReport) -> None:
    load_check, liar = ReportedLoadCheck(), replica(row_us=7)
    measure(load_check, liar, 0.2, 5.0)
    assert load_check.believable(liar, load, 5.0).latency_us == 100_000


def test_measured_load_fades_so_that_one_that_fell_is_believed() -> None:
    load_check, one = ReportedLoadCheck(), replica()
    measure(load_check, one, 0.2, 5.0)
    reported = load_check.believable(one, LIE, 5.0 + FADE_S)
    assert reported.latency_us == int(100_000 * math.exp(-1))
    reported = load_check.believable(one, LIE, 5.0 + 30 * FADE_S)
    assert reported == LIE
    assert load_check.believable(one, LIE, 4.0).latency_us == 100_000  # a clock that was set back


def test_one_slow_answer_hardly_counts_and_one_fast_answer_does() -> None:
    load_check, one = ReportedLoadCheck(), replica()
    measure(load_check, one, 0.1, 5.0)
    measure(load_check, one, 0.9, 5.0)
    assert load_check.believable(one, LIE, 5.0).latency_us == 100_000  # 0.1 + 0.8 / 8, halved
    measure(load_check, one, 0.1, 5.0)
    assert load_check.believable(one, LIE, 5.0).latency_us == 75_000
    measure(load_check, one, -1.0, 5.0)
    assert load_check.believable(one, LIE, 5.0).latency_us == 37_500


def test_replica_that_claims_to_be_idle_has_at_least_half_of_what_this_router_has_there() -> None:
    load_check, near, far = ReportedLoadCheck(), replica(rif=8), replica(rif=8, rtt_s=0.3)
    for one in (near, far):
        measure(load_check, one, 0.1, 5.0)
    reported = load_check.believable(near, LIE, 5.0)
    assert (reported.in_flight, reported.queued) == (4, 4)  # it does not say that any of them runs
    assert load_check.believable(far, LIE, 5.0).in_flight == 1  # most of the 8 are on the way
    busy = LoadReport(in_flight=5, latency_us=100_000)
    assert load_check.believable(near, busy, 5.0) is busy


def test_replica_that_reports_far_less_than_is_measured_is_not_believed_at_all() -> None:
    load_check, liar, honest = ReportedLoadCheck(), replica("a"), replica("b")
    slow = LoadReport(latency_us=170_000)
    for _ in range(9):
        load_check.measured(liar, 0.2, 5.0, LIE)
        load_check.measured(honest, 0.2, 5.0, slow)
    reported = load_check.believable(liar, LIE, 5.0)
    assert (reported.latency_us, reported.run_us) == (200_000, 200_000)
    idle = LoadReport(latency_us=110_000)  # its load has just fallen
    assert load_check.believable(honest, idle, 5.0) is idle
    for _ in range(40):
        load_check.measured(liar, 0.2, 5.0, slow)
    assert load_check.believable(liar, idle, 5.0) is idle


def test_replicas_that_are_gone_are_forgotten() -> None:
    load_check, gone, here = ReportedLoadCheck(), replica("a"), replica("b")
    measure(load_check, gone, 0.1, 5.0)
    measure(load_check, here, 0.1, 5.0)
    gone.is_gone = True
    load_check.forget_gone()
    assert repr(load_check) == "ReportedLoadCheck(1 hosts measured)"


def test_report_of_just_the_credible_part_is_believed_down_to_half_of_what_was_measured() -> None:
    load_check, one = ReportedLoadCheck(), replica()
    load_check.measured(one, 2.5, 5.0, LoadReport(latency_us=2_000_000))
    half = LoadReport(queue_us=1_000_000, run_us=250_000)
    assert load_check.believable(one, half, 5.0) is half
    reported = load_check.believable(one, LIE, 5.0)
    assert (reported.latency_us, reported.run_us) == (1_250_000, 1_250_000)


def test_average_of_the_reports_moves_by_an_eighth_with_each_answer() -> None:
    load_check, one = ReportedLoadCheck(), replica()
    floors = []
    for latency_us in (200_000, 40_000, 40_000, 40_000):  # 0.2, 0.18, 0.1625 and 0.147 on average
        load_check.measured(one, 0.2, 5.0, LoadReport(latency_us=latency_us))
        floors.append(load_check.believable(one, LIE, 5.0).latency_us)
    assert floors == [100_000, 100_000, 100_000, 200_000]


def test_measurement_fades_from_its_first_moment() -> None:
    load_check, one = ReportedLoadCheck(), replica()
    measure(load_check, one, 0.2, 5.0)
    assert load_check.believable(one, LIE, 5.5).latency_us == int(100_000 * math.exp(-0.25))


def test_answer_that_took_no_time_at_the_node_says_nothing_of_requests_there() -> None:
    load_check, near = ReportedLoadCheck(), replica(rif=8)
    measure(load_check, near, 0.0, 5.0)
    assert load_check.believable(near, LIE, 5.0) is LIE
