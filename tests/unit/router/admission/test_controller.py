from __future__ import annotations

import math

import pytest
from gates import Gate
from replicas import lose, replica

from capamesh.protocol.errors import Overloaded, TooManyRequests
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.controller import Refusal
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
    is_bulk: bool = False,
    now_s: float = 0.0,
    remaining_s: float = math.inf,
) -> Overloaded | None:
    """Ask for a permit, which is never given back; return the refusal."""
    try:
        controller.admit(tenant, priority, is_bulk, now_s, remaining_s)
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
    bulk = refusal(controller, is_bulk=True)
    assert bulk is not None
    assert bulk.retry_after_s == pytest.approx((1 - (0.5 / 300) ** 0.2) * 9 / 100)
    last = [refusal(controller) for _ in range(4000)][-1]
    assert last is not None
    assert last.retry_after_s == 30.0


def test_hammering_caller_puts_off_itself_and_not_the_others() -> None:
    controller = gate_of(
        replica("a", load=load(9, limit=9, queue_ms=90))
    )  # 100 slots a second get free
    for _ in range(5000):
        refusal(controller, "hammers", is_bulk=True)
    hints: list[float] = []
    for tenant in ("hammers", "calm"):
        error = refusal(controller, tenant, is_bulk=True)
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


@pytest.mark.parametrize(("is_bulk", "priority"), [(True, 128), (False, 200), (False, 128)])
def test_idle_fleet_refuses_nobody_for_replicas_that_cannot_be_reached(
    is_bulk: bool, priority: int
) -> None:
    replicas = [replica(str(index), load=load(0, limit=100)) for index in range(20)]
    lose(*replicas[:19])
    controller = gate_of(*replicas)
    controller.admit("", 1, False, 0.0).release(0.0)
    for _ in range(100):
        controller.admit("", priority, is_bulk, 0.0).release(0.0)
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


def test_bulk_gives_way_long_before_online_requests_do() -> None:
    controller = gate_of(replica("a", load=load(4)))
    assert refusal(controller, is_bulk=True) is not None
    assert counted(controller) == {"shed": 1}
    assert refusal(controller) is None


def test_urgent_request_keeps_a_reserve_from_those_that_follow() -> None:
    controller = gate_of(replica("a", load=load(95, limit=100)))
    controller.admit("", 128, False, 0.0).release(0.0)
    controller.admit("", 1, False, 0.0).release(0.0)
    assert refusal(controller) is not None
    assert refusal(controller, now_s=10.0) is None


def test_permit_is_given_back_once() -> None:
    controller = gate_of(replica("a", load=load(0)))
    permit, other = controller.admit("a", 1, False, 0.0), controller.admit("b", 128, False, 0.0)
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
