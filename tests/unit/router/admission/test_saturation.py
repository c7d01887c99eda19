from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import lose, replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.saturation import Saturation
from capamesh.router.admission.shedding import shed_probability
from capamesh.router.fleet.replica import Replica


def load(in_flight: int, limit: int = 10, **times_ms: int) -> LoadReport:
    times_us = {f"{name.removesuffix('_ms')}_us": 1000 * each for name, each in times_ms.items()}
    return LoadReport(in_flight, limit=limit, **times_us)


def looked(*replicas: Replica, now_s: float = 0.0) -> Saturation:
    saturation = Saturation()
    saturation.look(replicas, now_s)
    return saturation


def test_limit_counts_up_to_four_times_that_of_most_replicas() -> None:
    def slots(*limits: int) -> float:
        return looked(
            *(replica(str(n), load=load(0, limit)) for n, limit in enumerate(limits))
        ).slots

    assert slots(10, 10, 10**9) == 10 + 10 + 40
    assert slots(10, 20, 30, 10**9) == 10 + 20 + 30 + 120
    assert slots(1, 1000, 1000) == 2001
    assert slots(10**9) == 10**9
    assert slots(10, 10**9) == 10**9 + 10  # nobody can tell who lies


def test_silent_replica_is_full_with_requests_of_ours_and_empty_without() -> None:
    silent, unasked = replica("a", rif=1, load=load(1)), replica("b", load=load(10))
    silent.busy_s = 0.0
    assert looked(silent, unasked, now_s=0.9).level == pytest.approx((0.1 + 0.1) / 2)
    assert looked(silent, unasked, now_s=1.9).level == pytest.approx(0.1 / 2)
    assert looked(silent, unasked, now_s=2.1).level == 0.5
    slow = replica("a", rif=1, load=load(1, latency_ms=3000, run_ms=3000))
    slow.busy_s = 0.0
    assert looked(slow, now_s=11.9).level == pytest.approx(0.1)
    assert looked(slow, now_s=12.1).level == 1.0


def test_own_requests_sent_since_a_report_are_counted_on_and_ended_ones_off() -> None:
    one, saturation = replica("a", rif=2, load=load(5)), Saturation()
    for rif, now_s, in_flight in ((2, 0.0, 5), (4, 0.5, 7), (1, 0.6, 4)):
        one.rif = rif
        saturation.look((one,), now_s)
        assert saturation.in_flight == in_flight
    one.rif = 9
    one.reported(load(6), 0.6)
    saturation.look((one,), 0.7)
    assert saturation.in_flight == 9  # no fewer than there are of our own


_LOADS = st.builds(
    load,
    st.integers(0, 50),
    st.integers(0, 20),
    queue_ms=st.integers(0, 9000),
    latency_ms=st.integers(0, 9000),
    run_ms=st.integers(0, 3000),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_LOADS, st.integers(0, 30), st.booleans(), st.floats(0, 20))), st.data())
def test_reading_is_within_bounds_whatever_nodes_tell(
    reported: list[tuple[LoadReport, int, bool, float]], data: st.DataObject
) -> None:
    replicas = tuple(
        replica(str(index), rif=rif, load=report, load_s=20.0 - age_s)
        for index, (report, rif, _, age_s) in enumerate(reported)
    )
    for one, (_, _, is_lost, _) in zip(replicas, reported, strict=True):
        if is_lost:
            lose(one)
    saturation = looked(*replicas, now_s=20.0)
    assert 0 <= saturation.level <= 1
    assert min(saturation.in_flight, saturation.wait_s, saturation.run_s) >= 0
    if replicas:
        full = data.draw(st.sampled_from(replicas))
        before = saturation.level
        saturation.refused(full, 1.0, 20.0)
        saturation.look(replicas, 20.1)
        if all(age_s <= 1.5 for *_, age_s in reported):  # none became stale meanwhile
            assert saturation.level >= before - 0.06


def test_report_of_load_is_renewed_while_requests_are_judged_by_it() -> None:
    one = replica("a", load=load(4, queue_ms=40, run_ms=10))
    idle, lost = replica("b", load=load(0)), replica("c", load=load(4))
    lose(lost)
    replicas = (one, idle, lost)
    saturation = Saturation()
    assert saturation.renewals(0.0) == []  # no request came
    saturation.look(replicas, 0.0)
    assert saturation.renewals(0.05) == []  # it is new
    saturation.look(replicas, 0.2)
    assert saturation.renewals(0.2) == [one]
    assert saturation.renewals(0.25) == []  # it was asked, and may still tell
    saturation.look(replicas, 1.2)
    assert saturation.renewals(1.2) == [one]  # what was asked first is lost
    one.reported(load(4), 1.21)
    assert saturation.renewals(1.3) == []
    assert saturation.renewals(1.35) == [one]
    one.reported(load(0), 1.4)
    assert saturation.renewals(1.9) == []  # it is idle
    one.rif = 1
    assert saturation.renewals(1.95) == [one]  # of ours, it says nothing yet
    one.reported(load(1), 1.96)
    assert saturation.renewals(2.3) == []  # no request came for a second


def test_many_loaded_replicas_are_asked_some_at_a_time() -> None:
    replicas = tuple(replica(str(index), load=load(5)) for index in range(130))
    saturation = Saturation()
    saturation.look(replicas, 0.2)
    asked = [saturation.renewals(0.2 + 0.05 * turn) for turn in range(4)]
    assert [len(each) for each in asked] == [64, 64, 2, 0]
    assert [one for each in asked for one in each] == list(replicas)


@pytest.mark.parametrize(
    ("level", "priority", "p"),
    [
        (0.0, 255, 0.0),
        (0.1, 255, 0.003),
        (0.2, 255, 0.096),
        (0.3, 255, 0.729),
        (0.32, 255, 1.0),
        (0.5, 192, 0.5536),
        (0.5, 129, 0.0327),
        (-0.1, 255, 0.0),
    ],
)
def test_fuller_and_the_lower_the_more_are_shed(level: float, priority: int, p: float) -> None:
    assert shed_probability(level, priority) == pytest.approx(p, abs=5e-5)


@given(st.floats(0, 2), st.floats(0, 2), st.integers(129, 255), st.integers(129, 255))
def test_probability_is_one_and_rises_with_level_and_priority(
    level: float, other_level: float, priority: int, other: int
) -> None:
    low, high = sorted([level, other_level])
    first, last = sorted([priority, other])
    p = shed_probability(low, first)
    assert 0 <= p <= shed_probability(high, first) <= 1
    assert p <= shed_probability(low, last)
    assert p <= shed_probability(low, 255)
