from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import lose, replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.saturation import Saturation
from capamesh.router.fleet.replica import Replica


def load(
    in_flight: int, limit: int = 10, *, queue_ms: int = 0, latency_ms: int = 0, run_ms: int = 0
) -> LoadReport:
    return LoadReport(
        in_flight,
        limit=limit,
        queue_us=queue_ms * 1000,
        run_us=run_ms * 1000,
        latency_us=latency_ms * 1000,
    )


def looked(*replicas: Replica, now_s: float = 0.0) -> Saturation:
    saturation = Saturation()
    saturation.look(replicas, now_s)
    return saturation


def test_long_queue_alone_fills_no_replica_that_has_slots_left() -> None:
    assert looked(replica("a", load=load(2, queue_ms=60_000))).level == pytest.approx(
        looked(replica("a", load=load(2))).level
    )


def test_level_is_the_mean_of_those_that_can_be_sent_to() -> None:
    a, b = replica("a", load=load(2)), replica("b", load=load(6))
    assert looked(a, b).level == pytest.approx(0.4)
    lose(b)
    saturation = looked(a, b)
    assert saturation.level == pytest.approx(0.2)
    assert (saturation.in_flight, saturation.slots) == (2, 10)


def test_fleet_that_has_just_vanished_is_unknown_and_not_full() -> None:
    replicas = [replica(str(index), rif=5, load=load(5)) for index in range(3)]
    lose(*replicas)
    saturation = looked(*replicas)
    assert (saturation.level, saturation.slots, saturation.is_known) == (0, 0, False)


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


def test_replica_that_refused_is_not_taken_to_hold_more_than_it_did() -> None:
    full, others = (
        replica("a", rif=12, load=load(0, 10**9)),
        [replica(n, load=load(0)) for n in "bcd"],
    )
    replicas = (full, *others)
    saturation = Saturation()
    for now_s, slots in ((0.0, 70), (0.1, 42), (9.9, 42), (10.2, 70)):
        for one in replicas:
            one.reported(one.load, now_s)
        saturation.look(replicas, now_s)
        assert saturation.slots == slots
        if not now_s:
            saturation.refused(full, 0.05, 0.1)
    full.rif = 2
    saturation.refused(full, 0.05, 11.0)
    saturation.look(replicas, 11.0)
    assert saturation.slots == 40  # as many as most, at least
    full.reported(load(30, 10**9), 12.0)
    saturation.refused(full, 0.05, 12.0)
    saturation.look(replicas, 12.0)
    assert saturation.slots == 60  # others have requests there


def test_fleet_that_was_never_heard_of_is_empty_and_unknown() -> None:
    for saturation in (looked(), looked(replica("a"), replica("b", rif=3))):
        assert saturation.level == 0
        assert not saturation.is_known


def test_replica_never_heard_of_counts_as_empty_with_as_many_slots_as_the_others() -> None:
    saturation = looked(replica("a", load=load(10)), replica("b"))
    assert saturation.level == 0.5
    assert saturation.slots == 20
    assert saturation.wait_s == 0


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


def test_first_requests_after_a_rest_do_not_make_a_replica_silent() -> None:
    one = replica("a", rif=8, load=load(5, run_ms=100, queue_ms=900))
    one.busy_s = 60.0
    for now_s in (60.0, 60.1, 61.9):
        saturation = looked(one, now_s=now_s)
        assert (saturation.level, saturation.in_flight, saturation.wait_s) == (0.8, 8, 0)
    assert looked(one, now_s=64.1).level == 1.0
    one.rif = 30
    assert looked(one, now_s=60.1).level == 1.0


def test_answers_in_parts_that_have_begun_make_no_replica_silent() -> None:
    one = replica("a", rif=3, load=load(3))
    one.streams = 3
    saturation = looked(one, now_s=60.0)
    assert (saturation.level, saturation.in_flight) == (0.3, 3)
    one.rif += 1  # and one of which nothing has come
    assert looked(one, now_s=60.0).level == 1.0
    one.busy_s = 59.0
    assert looked(one, now_s=60.0).level == 0.4


def test_refusal_makes_a_replica_full_until_its_time_is_over_or_it_tells() -> None:
    one = replica("a", rif=1, load=load(1))
    replicas = (one,)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    saturation.refused(one, 0.5, 0.01)
    one.health.refused(0.01, 0.5)
    saturation.look(replicas, 0.1)
    assert (saturation.level, saturation.is_known) == (1.0, True)
    one.reported(load(4), 0.2)
    saturation.look(replicas, 0.3)
    assert saturation.level == 0.4
    saturation.refused(one, 0.0, 0.3)
    saturation.look(replicas, 0.34)
    assert saturation.level == 1.0
    saturation.look(replicas, 0.52)
    assert saturation.level == 0.4
    saturation.refused(replica("gone"), 1.0, 0.5)


def test_replica_heard_of_only_by_its_refusal_is_full_unless_its_link_is_lost() -> None:
    one, other = replica("a"), replica("b", load=load(2))
    replicas = (one, other)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    assert saturation.level == pytest.approx(0.1)
    saturation.refused(one, 0.5, 0.0)
    saturation.refused(other, 0.5, 0.0)
    lose(other)
    saturation.look(replicas, 0.1)
    assert (saturation.level, saturation.is_known, saturation.slots) == (1.0, True, 0)
    lose(one)
    saturation.look(replicas, 0.2)
    assert (saturation.level, saturation.is_known) == (0.0, False)


def test_own_requests_sent_since_a_report_are_counted_on_and_ended_ones_off() -> None:
    one = replica("a", rif=2, load=load(5))
    replicas = (one,)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    assert saturation.in_flight == 5
    one.rif = 4
    saturation.look(replicas, 0.5)
    assert saturation.in_flight == 7
    one.rif = 1
    saturation.look(replicas, 0.6)
    assert saturation.in_flight == 4
    one.rif = 9
    one.reported(load(6), 0.6)
    saturation.look(replicas, 0.7)
    assert saturation.in_flight == 9  # no fewer than there are of our own


def test_replicas_are_read_again_only_when_it_is_due_or_they_are_others() -> None:
    reads = 0

    def is_open(_: Replica, __: float) -> bool:
        nonlocal reads
        reads += 1
        return True

    replicas = tuple(replica(str(index), load=load(5)) for index in range(4))
    saturation = Saturation(is_open)
    for now_s in (0.0, 0.01, 0.024, 0.026, 0.03):
        saturation.look(replicas, now_s)
    assert reads == 8
    saturation.look(replicas[:3], 0.03)
    assert reads == 11
    saturation.look(saturation._replicas, 0.0)  # a clock that was set back must not stop it
    assert reads == 14


def test_some_replicas_of_a_large_fleet_are_read_in_turn_and_stand_for_all() -> None:
    read: list[Replica] = []

    def is_open(one: Replica, _: float) -> bool:
        read.append(one)
        return True

    replicas = tuple(replica(str(index), load=load(5)) for index in range(300))
    saturation = Saturation(is_open)
    for now_s in (0.0, 0.06, 0.12):
        read.clear()
        for one in replicas:
            one.reported(one.load, now_s)
        saturation.look(replicas, now_s)
        assert len(read) == 128
        assert saturation.level == pytest.approx(0.5, abs=0.04)
        assert saturation.slots == pytest.approx(3000)
        assert saturation.in_flight == pytest.approx(1500, abs=100)
    assert [replicas.index(one) for one in read] == [*range(256, 300), *range(84)]


def test_level_and_wait_move_between_readings_with_what_comes_and_ends() -> None:
    one = replica("a", load=load(4, queue_ms=40, run_ms=10))
    replicas = (one,)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    assert saturation.rate == pytest.approx(5 / 0.05)
    assert saturation.wait_s == pytest.approx(0.04)
    assert saturation.run_s == pytest.approx(0.01)
    saturation.extra = 3
    assert saturation.level == pytest.approx(0.7)
    assert saturation.wait_s == pytest.approx(0.07)
    saturation.extra = -4
    assert saturation.level == 0
    assert saturation.wait_s == 0
    saturation.look(replicas, 1.0)
    assert saturation.extra == 0


def test_wait_is_that_of_the_replica_which_would_answer_first() -> None:
    near = replica("a", rif=1, load=load(4, queue_ms=40, run_ms=10), rtt_s=0.005)
    far = replica("b", rif=1, load=load(0, latency_ms=20, run_ms=20), rtt_s=0.1)
    assert looked(near, far).wait_s == pytest.approx(0.04)
    assert looked(near, far).run_s == pytest.approx(0.015)
    idle = replica("c", rif=0, load=load(0, latency_ms=20, run_ms=20), rtt_s=0.005)
    assert looked(near, far, idle).wait_s == 0
    assert looked(near, far, idle).run_s == pytest.approx(0.025)


def test_replica_that_left_the_fleet_is_not_counted() -> None:
    a, b = replica("a", load=load(2)), replica("b", load=load(10))
    b.is_gone = True
    assert looked(a, b).level == pytest.approx(0.2)


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
    assert saturation.in_flight >= 0
    assert saturation.wait_s >= 0
    assert saturation.run_s >= 0
    if replicas:
        full = data.draw(st.sampled_from(replicas))
        before = saturation.level
        saturation.refused(full, 1.0, 20.0)
        saturation.look(replicas, 20.1)
        if not any(
            age_s > 1.5 for *_, age_s in reported
        ):  # none became stale meanwhile, none is forgotten
            assert saturation.level >= before - 0.06


def test_reading_is_due_at_the_very_moment_and_not_twice_at_one() -> None:
    reads: list[float] = []

    def is_open(_: Replica, now_s: float) -> bool:
        reads.append(now_s)
        return True

    replicas = (replica("a", load=load(5)),)
    saturation = Saturation(is_open)
    for now_s in (0.0, 0.0, 0.0249, 0.025, 0.025):
        saturation.look(replicas, now_s)
    assert reads == [0.0, 0.025]


@pytest.mark.parametrize(("count", "holds_s"), [(50, 0.025), (100, 0.04), (126, 0.05), (300, 0.05)])
def test_reading_of_many_replicas_holds_longer_up_to_a_bound(count: int, holds_s: float) -> None:
    reads: set[float] = set()

    def is_open(_: Replica, now_s: float) -> bool:
        reads.add(now_s)
        return True

    replicas = tuple(replica(str(index), load=load(5)) for index in range(count))
    saturation = Saturation(is_open)
    for now_s in (0.0, holds_s - 1e-6, holds_s + 1e-6):
        saturation.look(replicas, now_s)
    assert reads == {0.0, holds_s + 1e-6}


def test_rate_and_urgent_slots_of_a_large_fleet_are_those_of_all() -> None:
    replicas = [replica(str(n), load=load(5, latency_ms=100, run_ms=100)) for n in range(256)]
    saturation = looked(*replicas)
    assert saturation.rate == pytest.approx(256 * 10 / 0.1)
    assert saturation.urgent_slots == saturation.slots == 2560


def test_report_holds_for_a_second_and_silence_begins_after_two_to_the_moment() -> None:
    asked, rested = replica("a", rif=1, load=load(5)), replica("b", rif=1, load=load(5))
    asked.busy_s = 0.0
    rested.busy_s = 0.5
    assert looked(asked, now_s=1.0).level == 0.5
    assert looked(asked, now_s=1.25).level == 0.1
    assert looked(asked, now_s=2.0).level == 0.1
    assert looked(asked, now_s=2.25).level == 1.0
    assert looked(rested, now_s=2.5).level == 0.1
    assert looked(rested, now_s=2.75).level == 1.0


def test_refusal_ends_at_the_very_time_and_lasts_two_seconds_at_most() -> None:
    one = replica("a", load=load(1), load_s=1.0)
    replicas = (one,)
    saturation = Saturation()
    saturation.look(replicas, 1.0)
    saturation.refused(one, 1e9, 1.0)  # at the time of its report: it is newer
    saturation.refused(one, 0.5, 1.0)  # a shorter one does not end the longer
    for now_s, level in ((1.25, 1.0), (2.75, 1.0), (3.0, 0.0)):
        saturation.look(replicas, now_s)
        assert saturation.level == level
        one.reported(load(0), 1.0)


def test_replica_is_not_asked_for_urgent_ones_until_the_very_time_that_it_said() -> None:
    one = replica("a", load=load(1))
    replicas = (one,)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    saturation.refused(one, 0.5, 0.0, is_urgent=True)
    for now_s, slots in ((0.25, 0), (0.5, 10)):
        saturation.look(replicas, now_s)
        assert saturation.urgent_slots == slots
        assert saturation.slots == 10


def test_refusal_bounds_what_a_replica_holds_for_ten_seconds_to_the_moment() -> None:
    full, others = replica("a", rif=12, load=load(0, 30)), [replica(n, load=load(0)) for n in "bc"]
    replicas = (full, *others)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    saturation.refused(full, 0.5, 0.0)
    for now_s, slots in ((9.75, 32), (10.0, 50)):
        for one in replicas:
            one.reported(one.load, now_s)
        saturation.look(replicas, now_s)
        assert saturation.slots == slots


def test_requests_sent_since_the_report_make_the_wait_longer() -> None:
    one = replica("a", rif=1, load=load(4, queue_ms=40, run_ms=10))
    replicas = (one,)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    assert saturation.wait_s == pytest.approx(0.04)
    one.rif = 3
    saturation.look(replicas, 0.1)
    assert saturation.wait_s == pytest.approx(0.04 + 2 * 0.01)


def test_replica_that_tells_no_latency_may_answer_without_a_wait() -> None:
    slow, silent = replica("a", load=load(4, queue_ms=40, run_ms=10)), replica("b", load=load(4))
    saturation = looked(slow, silent)
    assert (saturation.wait_s, saturation.run_s) == (0, 0)
    assert saturation.rate == pytest.approx(100)
    assert (saturation.slots, saturation.in_flight) == (20, 8)


def test_wait_is_believed_less_the_older_the_report_of_an_unasked_replica_is() -> None:
    one = replica("a", load=load(4, queue_ms=40, run_ms=10))
    saturation = looked(one, now_s=0.5)
    assert saturation.in_flight == 2
    assert saturation.wait_s == pytest.approx(0.02)
    assert saturation.run_s == pytest.approx(0.01)
    saturation = looked(replica("a", load=load(4, queue_ms=473_000, run_ms=10)), now_s=1.1)
    assert (saturation.level, saturation.wait_s) == (0, 0)  # however long it was to be


def test_requests_that_left_since_the_report_make_the_wait_shorter() -> None:
    one = replica("a", rif=8, load=load(9, queue_ms=450_000, run_ms=50_000))
    replicas = (one,)
    saturation = Saturation()
    saturation.look(replicas, 0.0)
    assert saturation.wait_s == pytest.approx(450)
    one.rif = 1
    saturation.look(replicas, 0.1)
    assert saturation.wait_s == pytest.approx(450 - 7 * 50)
    one.rif = 0
    saturation.look(replicas, 0.2)
    assert saturation.wait_s == pytest.approx(450 * 0.8 - 7.2 * 50)


def test_report_of_load_is_renewed_while_requests_are_judged_by_it() -> None:
    one, idle, lost = (
        replica("a", load=load(4, queue_ms=40, run_ms=10)),
        replica("b", load=load(0)),
        replica("c", load=load(4)),
    )
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


def test_refusal_is_doubted_as_a_report_of_load_is() -> None:
    one = replica("a", load=load(0))
    saturation = Saturation()
    saturation.look((one,), 0.0)
    saturation.refused(one, 2.0, 0.0)
    assert saturation.renewals(0.11) == [one]


def test_many_loaded_replicas_are_asked_some_at_a_time() -> None:
    replicas = tuple(replica(str(index), load=load(5)) for index in range(130))
    saturation = Saturation()
    saturation.look(replicas, 0.2)
    asked = [saturation.renewals(0.2 + 0.05 * turn) for turn in range(4)]
    assert [len(each) for each in asked] == [64, 64, 2, 0]
    assert [one for each in asked for one in each] == list(replicas)


def test_each_of_many_loaded_replicas_that_answer_is_asked_before_its_report_is_stale() -> None:
    replicas = tuple(replica(str(index), load=load(5)) for index in range(300))
    saturation = Saturation()
    for turn in range(1, 61):
        now_s = 0.05 * turn
        saturation.look(replicas, now_s)
        for one in saturation.renewals(now_s):
            one.reported(load(5), now_s)
        assert now_s - min(one.load_s for one in replicas) < 0.5
