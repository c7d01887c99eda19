from __future__ import annotations

import math

import pytest
from gates import Gate
from replicas import lose, replica

from capamesh.protocol.errors import Overloaded, TooManyRequests
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.controller import Refusal, _Bookings
from capamesh.router.fleet.replica import Replica


def load(in_flight: int, *, limit: int = 10, queue_ms: int = 0) -> LoadReport:
    """A replica that needs 10 ms for a request."""
    return LoadReport(in_flight, limit=limit, queue_us=queue_ms * 1000, run_us=10_000)


def gate_of(*replicas: Replica, weights: dict[str, float] | None = None) -> Gate:
    return Gate(*replicas, weights=weights)


def refusal(
    controller: Gate,
    tenant: str = "",
    priority: int = 128,
    bulk_rows: int = 0,
    now_s: float = 0.0,
    remaining_s: float = math.inf,
) -> Overloaded | None:
    """Ask for a permit, which is never given back; return the refusal."""
    try:
        controller.admit(tenant, priority, bulk_rows, now_s, remaining_s)
    except Overloaded as error:
        return error
    return None


def counted(controller: Gate) -> dict[str, int]:
    return {str(kind): count for kind, count in controller.refusals.items() if count}


def test_online_requests_are_admitted_until_the_last_slot_is_taken() -> None:
    controller = gate_of(
        replica("a", load=load(8, queue_ms=75)), replica("b", load=load(8, queue_ms=75))
    )
    assert [refusal(controller) is None for _ in range(6)] == [True] * 4 + [False] * 2
    assert controller.under_way == 4
    assert counted(controller) == {"full": 2}
    controller.leave("", 0.0)
    assert refusal(controller) is None


def test_refusal_says_how_full_it_is_and_when_to_come_again() -> None:
    controller = gate_of(replica("a", load=load(10, queue_ms=90)))
    error = refusal(controller)
    assert error is not None
    assert error.message == (
        "model 'm' is overloaded: the nodes that can be reached are 100% full, too much for online requests;"
        " try again in 0.01 s"
    )
    assert error.retry_after_s == pytest.approx(0.1 / 11, abs=1e-3)


def test_each_that_is_refused_is_reported_of_another_slot() -> None:
    controller = gate_of(
        replica("a", load=load(9, limit=9, queue_ms=90))
    )  # 100 slots a second get free
    hints = [error.retry_after_s for _ in range(5) if (error := refusal(controller)) is not None]
    assert hints == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    later = refusal(controller, now_s=0.01)
    assert later is not None
    assert later.retry_after_s == pytest.approx(0.05)
    low = refusal(controller, priority=255)
    assert low is not None
    assert low.retry_after_s == pytest.approx((1 - (0.5 / 300) ** 0.2) * 9 / 100)
    last = [refusal(controller) for _ in range(4000)][-1]
    assert last is not None
    assert last.retry_after_s == 30.0


def test_hammering_caller_puts_off_itself_and_not_the_others() -> None:
    controller = gate_of(
        replica("a", load=load(9, limit=9, queue_ms=90))
    )  # 100 slots a second get free
    for _ in range(5000):
        refusal(controller, "hammers", 255)
    hints: list[float] = []
    for tenant in ("hammers", "calm"):
        error = refusal(controller, tenant, 255)
        assert error is not None
        hints.append(error.retry_after_s)
    assert hints == [30.0, pytest.approx((1 - (0.5 / 300) ** 0.2) * 9 / 100)]


def test_tenants_bookings_are_as_far_apart_as_its_part_of_what_gets_free() -> None:
    controller = gate_of(replica("a", load=load(7, limit=9, queue_ms=70)), weights={"big": 3.0})
    for tenant in ("big", "small"):
        assert refusal(controller, tenant, priority=1) is None
    hints: dict[str, list[float]] = {"big": [], "small": []}
    for _ in range(3):
        for tenant, reported in hints.items():
            error = refusal(controller, tenant)
            assert error is not None
            reported.append(error.retry_after_s)
    rate = controller.saturation.rate
    assert hints["big"][2] - hints["big"][1] == pytest.approx(1 / (0.75 * rate))
    assert hints["small"][2] - hints["small"][1] == pytest.approx(1 / (0.25 * rate))


def test_refusal_without_a_known_rate_says_a_second() -> None:
    error = refusal(gate_of(replica("a", load=LoadReport(4, limit=4))))
    assert error is not None
    assert error.retry_after_s == 1.0


def test_request_that_would_wait_past_its_deadline_is_refused_and_one_with_time_is_not() -> None:
    controller = gate_of(replica("a", load=load(5, limit=100, queue_ms=50)))
    assert refusal(controller, remaining_s=0.06 * 1.75 + 0.001) is None
    error = refusal(controller, remaining_s=0.06)
    assert error is not None
    assert error.message == (
        "model 'm' is overloaded: it would wait 0.060 s and run 0.010 s, of its time 0.060 s are left;"
        " try again in 0.04 s"
    )
    assert counted(controller) == {"late": 1}
    for remaining_s in (0.0, -1.0, 0.011):
        assert refusal(controller, remaining_s=remaining_s) is not None
    assert refusal(controller, remaining_s=0.5) is None


def test_request_that_no_idle_node_could_do_in_time_is_not_called_overload() -> None:
    assert refusal(gate_of(replica("a", load=load(0))), remaining_s=0.001) is None
    assert (
        refusal(gate_of(replica("a", load=load(1, limit=100, queue_ms=5))), remaining_s=0.001)
        is None
    )


def test_absence_of_nodes_to_ask_is_not_called_overload() -> None:
    lost = replica("a", load=load(10))
    lose(lost)
    for controller in (gate_of(), gate_of(lost), gate_of(replica("b"))):
        assert refusal(controller) is None


def test_tenant_over_its_share_is_refused_before_all_is_full() -> None:
    controller = gate_of(replica("a", load=load(0, limit=100)))
    assert refusal(controller, "quiet") is None
    admitted = sum(refusal(controller, "flood") is None for _ in range(200))
    assert admitted == 89
    assert counted(controller) == {"share": 111}
    for _ in range(15):  # up to its part and a little over what is free
        assert refusal(controller, "quiet") is None
    assert controller.under_way == 105
    assert refusal(controller, "quiet") is not None
    assert type(refusal(controller, "quiet")) is Overloaded  # all is full, which is not its fault
    error = refusal(controller, "flood", now_s=0.01)
    assert type(error) is TooManyRequests
    assert error.retry_after_s > 0
    assert "89 requests of tenant 'flood' are under way" in error.message


def test_one_tenant_alone_has_all_slots() -> None:
    controller = gate_of(replica("a", load=load(0, limit=100)))
    assert sum(refusal(controller, "only") is None for _ in range(200)) == 100
    assert counted(controller) == {"full": 100}


def test_tenants_share_what_other_routers_leave() -> None:
    controller = gate_of(replica("a", load=load(80, limit=100, queue_ms=100)))
    for tenant in ("a", "b"):
        assert refusal(controller, tenant) is None
    assert sum(refusal(controller, "a") is None for _ in range(50)) == 8
    assert counted(controller) == {"share": 42}
    assert refusal(controller, "b") is None


@pytest.mark.parametrize(("bulk_rows", "priority"), [(1, 128), (0, 200), (0, 128)])
def test_idle_fleet_refuses_nobody_for_replicas_that_cannot_be_reached(
    bulk_rows: int, priority: int
) -> None:
    replicas = [replica(str(index), load=load(0, limit=100)) for index in range(20)]
    lose(*replicas[:19])
    controller = gate_of(*replicas)
    controller.admit("", 1, 0, 0.0).release(0.0)
    for _ in range(100):
        controller.admit("", priority, bulk_rows, 0.0).release(0.0)
    assert counted(controller) == {}


def test_liar_about_its_limit_does_not_open_the_gate() -> None:
    def flooded(liars_limit: int) -> Gate:
        honest = [replica(str(index), rif=9, load=load(9, queue_ms=80)) for index in range(9)]
        liar = replica("liar", load=LoadReport(0, limit=liars_limit, run_us=1))
        controller = gate_of(*honest, liar)
        assert refusal(controller, "quiet") is None
        for number in range(5000):
            refusal(controller, "flood", now_s=number * 1e-4)
        return controller

    honest, lied_to = flooded(10), flooded(10**9)
    assert honest.fair.in_flight("flood") < 180
    assert lied_to.fair.in_flight("flood") < 300
    assert lied_to.saturation.slots == 9 * 10 + 40


def test_liar_about_its_latency_ends_no_refusal_of_what_would_be_late() -> None:
    slow = [
        replica(str(index), rif=9, load=LoadReport(9, limit=10, queue_us=800_000, run_us=100_000))
        for index in range(9)
    ]
    liar = replica("liar", load=LoadReport(0, limit=10**9, run_us=1, latency_us=1))
    controller = gate_of(*slow, liar)
    errors = [refusal(controller, now_s=number * 1e-4, remaining_s=0.2) for number in range(300)]
    assert None not in errors
    assert counted(controller) == {"late": 300}
    assert errors[0] is not None
    assert errors[0].retry_after_s > 0.5
    liar.answered_s = (
        0.04  # an honest fast one: `ReportedLoadCheck` has held it to what was measured
    )
    assert refusal(controller, now_s=0.1, remaining_s=0.2) is None


def test_nodes_refusal_closes_the_gate_for_as_long_as_it_said() -> None:
    one = replica("a", load=load(2))
    controller = gate_of(one)
    assert refusal(controller) is None
    controller.refused(one, 0.2, 0.01)
    assert refusal(controller, now_s=0.03) is not None
    assert refusal(controller, now_s=0.22) is None


def test_lowest_priority_gives_way_long_before_online_requests_do() -> None:
    controller = gate_of(replica("a", load=load(4)))
    assert refusal(controller, priority=255) is not None
    assert counted(controller) == {"shed": 1}
    assert refusal(controller) is None


def test_urgent_request_keeps_a_reserve_from_those_that_follow() -> None:
    controller = gate_of(replica("a", load=load(95, limit=100)))
    controller.admit("", 128, 0, 0.0).release(0.0)
    controller.admit("", 1, 0, 0.0).release(0.0)
    assert refusal(controller) is not None
    assert refusal(controller, now_s=10.0) is None


def test_permit_is_given_back_once() -> None:
    controller = gate_of(replica("a", load=load(0)))
    permit, other = controller.admit("a", 1, 0, 0.0), controller.admit("b", 128, 0, 0.0)
    assert (controller.under_way, controller.urgent_under_way) == (2, 1)
    for _ in range(2):
        permit.release(1.0)
    assert (controller.under_way, controller.urgent_under_way) == (1, 0)
    assert [controller.fair.in_flight(tenant) for tenant in "ab"] == [0, 1]
    other.release(1.0, is_served=False)
    assert controller.fair.is_wanted


def test_all_counters_return_to_zero() -> None:
    controller = gate_of(replica("a", load=load(0)))
    for tenant in "abcab":
        assert refusal(controller, tenant) is None
    for tenant in "bbaac":
        controller.leave(tenant, 1.0)
    assert (controller.under_way, controller.saturation.extra) == (0, 0)
    assert [controller.fair.in_flight(tenant) for tenant in "abc"] == [0, 0, 0]
    assert set(controller.refusals) == set(Refusal)


def short(in_flight: int, *, run_us: int, queue_us: int) -> Gate:
    """A controller of one replica with room; the times are exact in binary, so that bounds can be met exactly."""
    told = LoadReport(
        in_flight, limit=100, queue_us=queue_us, run_us=run_us, latency_us=queue_us + run_us
    )
    return gate_of(replica("a", load=told))


@pytest.mark.parametrize(
    ("queue_us", "remaining_s", "is_late"),
    [
        (15_625, 0.03125 * 1.75, True),  # an idle node could just do it
        (15_625, 0.03125 * 1.75 - 1e-9, False),  # none could, and few wait: tried
        (31_250, 0.03, True),  # none could, and the wait is as long as the run
        (31_250, 0.0625 * 1.75, True),  # the time that it needs is just what it has
        (31_250, 0.0625 * 1.75 + 1e-9, False),
        (0, 0.03125 * 1.75, False),
    ],
)
def test_deadline_is_judged_up_to_the_very_bounds(
    queue_us: int, remaining_s: float, is_late: bool
) -> None:
    controller = short(1, run_us=31_250, queue_us=queue_us)
    assert (refusal(controller, remaining_s=remaining_s) is not None) is is_late
    assert counted(controller) == ({"late": 1} if is_late else {})


def test_request_for_which_nobody_waits_holds_no_tenant_to_its_share() -> None:
    controller = gate_of(replica("a", load=load(0, limit=100)))
    for tenant in "aab":
        controller.enter(tenant, 0.0)
    assert refusal(controller, "a", now_s=0.1, remaining_s=0.0175 / 0.95) is None


@pytest.mark.parametrize(("in_flight", "is_contested"), [(8, False), (9, True), (10, True)])
def test_nodes_are_contested_from_nine_tenths_on(in_flight: int, is_contested: bool) -> None:
    controller = gate_of(replica("a", load=load(in_flight)))
    controller.saturation.look(controller.replicas, 0.0)
    assert controller.is_contested is is_contested


@pytest.mark.parametrize(
    ("latency_s", "want_s"),
    [(4.0, 1.0), (0.5, 0.25), (0.125, 0.0625), (0.02, 0.05), (0.0, 0.05)],
)
def test_refused_tenant_is_taken_to_want_more_while_half_of_the_slots_get_free(
    latency_s: float, want_s: float
) -> None:
    told = LoadReport(1, limit=1, latency_us=round(latency_s * 1e6))
    controller = gate_of(replica("a", load=told))
    assert refusal(controller, "usual") is not None
    for _ in range(2):
        controller.enter("urgent", 0.0, is_urgent=True)
    assert refusal(controller, "urgent", priority=1) is not None
    fair, urgent = controller.fair, controller.controller._urgent
    assert fair._wanting["usual"].wants_s == pytest.approx(want_s)
    assert fair._wanting["urgent"].wants_s == pytest.approx(want_s)
    assert urgent._wanting["urgent"].wants_s == pytest.approx(want_s)
    assert "usual" not in urgent._wanting


def test_hint_of_a_slow_node_is_the_time_until_its_next_slot() -> None:
    slow = gate_of(replica("a", load=LoadReport(1, limit=1, latency_us=4_000_000), load_s=5.0))
    error = refusal(slow, now_s=5.0)
    assert error is not None
    assert error.retry_after_s == pytest.approx(4.0)


@pytest.mark.parametrize(("priority", "under_way"), [(1, 89), (128, 90)])
def test_refusal_for_a_share_tells_of_the_next_slot_and_of_what_is_compared(
    priority: int, under_way: int
) -> None:
    told = LoadReport(0, limit=100, latency_us=10_000_000)  # 10 slots a second get free
    controller = gate_of(replica("a", load=told, load_s=1.0))
    controller.saturation.look(controller.replicas, 1.0)
    for tenant in ["flood"] * 89 + ["quiet"] * 2:
        controller.enter(tenant, 1.0, is_urgent=True)
    controller.enter("flood", 1.0)
    error = refusal(controller, "flood", priority, now_s=1.0)
    assert type(error) is TooManyRequests
    assert f"{under_way} requests of tenant 'flood' are under way" in error.message
    assert error.retry_after_s == pytest.approx(0.1)


def test_deadline_that_has_passed_leaves_no_time_in_the_message() -> None:
    error = refusal(short(5, run_us=10_000, queue_us=50_000), remaining_s=-1.0)
    assert error is not None
    assert "of its time 0.000 s are left" in error.message


def test_tenant_that_is_ahead_waits_though_there_is_room() -> None:
    controller = gate_of(replica("a", load=load(0, limit=10)))
    controller.saturation.look(controller.replicas, 0.0)
    for tenant in ("want", "lead", "lead", "lead", "lead"):
        controller.enter(tenant, 0.0)
    controller.fair.refused("want", 0.0, 1.0)
    # five are free, for which it may lead by two and a quarter
    assert type(refusal(controller, "lead")) is TooManyRequests
    assert refusal(controller, "want") is None
    # it is behind by two now, and four are free
    assert refusal(controller, "lead") is None


def test_request_let_in_ends_what_others_wanted_some_time_ago_in_its_own_shares_only() -> None:
    controller = gate_of(replica("a", load=load(0)))
    urgent = controller.controller._urgent
    controller.fair.refused("b", 0.0, 1.0)
    urgent.refused("b", 0.0, 1.0)
    assert refusal(controller, "a", now_s=0.9) is None
    assert controller.fair.is_wanted
    assert refusal(controller, "a", now_s=1.0) is None
    assert not controller.fair.is_wanted
    assert urgent.is_wanted
    assert refusal(controller, "a", priority=1, now_s=1.1) is None
    assert not urgent.is_wanted


@pytest.mark.parametrize("is_urgent", [False, True])
def test_tenant_wants_more_only_after_a_request_that_nodes_had_no_room_for(
    is_urgent: bool,
) -> None:
    controller = gate_of(replica("a", load=load(0)))
    urgent = controller.controller._urgent
    controller.enter("a", 0.0, is_urgent=is_urgent).release(0.0)
    assert not controller.fair.is_wanted
    assert not urgent.is_wanted
    controller.enter("a", 0.0, is_urgent=is_urgent).release(0.0, is_served=False)
    assert controller.fair.is_wanted
    assert urgent.is_wanted is is_urgent
    assert controller.fair._idle["a"].passed == 1.0
    assert not is_urgent or urgent._idle["a"].passed == 1.0


def test_bookings_count_those_of_about_a_tenth_of_a_second() -> None:
    bookings = _Bookings()
    assert bookings.count(0.0) == 1.0
    bookings.book(7.0, 5.0)
    assert bookings.booked_s == 7.0
    assert bookings.count(5.0) == 2.0
    assert bookings.count(5.1) == pytest.approx(1 + math.exp(-1))
    assert bookings.count(4.0) == 2.0  # a clock that was set back
    bookings.book(8.0, 5.0)
    assert bookings.count(5.0) == 3.0


@pytest.mark.parametrize(
    ("by_others", "quiet"),
    [pytest.param(0, 40, id="all are ours"), pytest.param(90, 10, id="most are other routers'")],
)
def test_tenant_may_have_its_part_of_nine_tenths_of_the_slots_though_fewer_are_taken(
    by_others: int, quiet: int
) -> None:
    # nine small ones are full and a large one is not: the level is 0.96, and 114 of 130 slots are taken
    small = [replica(str(n), rif=10 if not by_others else 0, load=load(10)) for n in range(9)]
    controller = gate_of(*small, replica("large", rif=24, load=load(24, limit=40)))
    for tenant in ["quiet"] * quiet + ["flood"] * (114 - by_others - quiet):
        controller.enter(tenant, 0.0)
    assert sum(refusal(controller, "flood") is None for _ in range(9)) == 3
    assert counted(controller) == {"share": 6}


def test_tenant_over_its_share_of_the_slots_that_deadlines_leave_is_told_so() -> None:
    controller = gate_of(replica("a", load=load(100, limit=1000, queue_ms=50)))
    for tenant in ["flood"] * 30 + ["quiet"] * 10:
        controller.enter(tenant, 0.0)
    controller.saturation.look(controller.replicas, 0.0)
    remaining_s = 0.06 * 1.75 / 2  # half of what it takes
    assert type(refusal(controller, "flood", remaining_s=remaining_s)) is TooManyRequests
    assert type(refusal(controller, "quiet", remaining_s=remaining_s)) is Overloaded
    assert counted(controller) == {"share": 1, "late": 1}


def test_lead_of_a_tenant_is_bounded_by_the_slots_that_deadlines_leave() -> None:
    controller = gate_of(replica("a", load=load(80, limit=1000, queue_ms=50)))
    for tenant in ["lead"] * 40 + ["want"] * 10:
        controller.enter(tenant, 0.0)
    for _ in range(30):
        controller.leave("lead", 0.0)
    controller.saturation.look(controller.replicas, 0.0)
    controller.fair.refused("want", 0.0, 1.0)
    # half of 160 slots are free, for which it may lead by 21, and it leads by 30
    assert type(refusal(controller, "lead", remaining_s=0.06 * 1.75 * 2)) is TooManyRequests
    assert refusal(controller, "want", remaining_s=0.06 * 1.75 * 2) is None


@pytest.mark.parametrize("priority", [1, 128])
def test_other_weights_hold_for_what_is_under_way_already(priority: int) -> None:
    controller = gate_of(replica("a", load=load(0, limit=100)), weights={"a": 1.0})
    controller.saturation.look(controller.replicas, 0.0)
    for tenant in ["a", "b"] * 45:
        controller.enter(tenant, 0.0, is_urgent=priority == 1)
    assert type(refusal(controller, "a", priority)) is TooManyRequests
    controller.reweigh({"a": 3.0})
    assert refusal(controller, "a", priority) is None
    assert type(refusal(controller, "b", priority)) is TooManyRequests
