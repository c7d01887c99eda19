from __future__ import annotations

from replicas import replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.load_check import ReportedLoadCheck
from capamesh.router.balancing.opinions import Opinions

LIE = LoadReport(in_flight=0, limit=64, latency_us=1, run_us=1)


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
    for one in (gone, here):
        load_check.measured(one, 0.1, 5.0, LoadReport(latency_us=100_000))
    gone.is_gone = True
    load_check.forget_gone()
    assert repr(load_check) == "ReportedLoadCheck(1 hosts measured)"


def test_clock_that_is_set_back_takes_no_opinion_away() -> None:
    opinions = Opinions()
    assert opinions.try_take(10.0)
    assert opinions.try_take(5.0)
    assert repr(opinions) == "Opinions(48.0 left)"
