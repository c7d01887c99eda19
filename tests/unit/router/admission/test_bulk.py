"""The room for jobs: rows, by a sum, without chance, and nothing that people get is less for it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from gates import Gate
from replicas import lose, replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.bulk_share import NO_LIMIT_ROWS, bulk_share
from capamesh.router.admission.controller import AdmissionController
from capamesh.router.admission.saturation import LOOK_S, STALE_S
from capamesh.router.balancing import bulk_outcomes
from capamesh.router.fleet.replica import Replica


def load(limit_rows: int, *, bulk: int = 0, in_flight: int = 0, limit: int = 10) -> LoadReport:
    return LoadReport(
        in_flight, limit=limit, run_us=10_000, bulk_in_flight=bulk, limit_rows=limit_rows
    )


def host(peer: str = "a", report: LoadReport | None = None, *, best_rows: int = 1) -> Replica:
    one = replica(peer)
    one.offer = replace(one.offer, best_rows=best_rows)
    if report is not None:
        one.reported(report, 0.0)
    return one


def refusal(gate: Gate, rows: int = 1, now_s: float = 0.0, tenant: str = "") -> Overloaded | None:
    try:
        gate.admit(tenant, 128, rows, now_s)
    except Overloaded as error:
        return error
    return None


@pytest.mark.parametrize(
    ("limit_rows", "best_rows", "rows"),
    [
        (1000, 8, 250),
        (512, 64, 128),  # a node begins with eight batches at least: a quarter is two
        (256, 64, 128),  # twice as slow as its profile: still one that runs and one that waits
        (100, 64, 50),  # it lets bulk work have half of its limit itself
        (4, 0, 2),
        (0, 64, 0),
    ],
)
def test_node_has_a_quarter_of_its_limit_for_jobs_or_two_batches(
    limit_rows: int, best_rows: int, rows: float
) -> None:
    assert bulk_share(limit_rows, best_rows) == rows


def test_rows_are_let_in_without_chance_until_the_room_is_taken_and_the_last_call_may_go_over() -> (
    None
):
    gate = Gate(host("a", load(400)), host("b", load(400)))
    assert gate.bulk_room(0.0) == 200
    permits = [gate.admit("t", 128, 64, 0.0) for _ in range(4)]
    assert gate.bulk_room(0.0) == 0
    error = refusal(gate, 64)
    assert error is not None
    assert error.message == (
        "model 'm' has no room for jobs: 256 rows of jobs of this router are under way, and the nodes that can be reached"
        " have room for 200; try again in 0.02 s"
    )
    permits[0].release(0.0)
    permits[0].release(0.0)
    assert gate.bulk_room(0.0) == 8
    assert refusal(gate, 10_000) is None  # a call of more than there is ever room for runs, too


def test_rows_of_other_routers_leave_less_and_this_router_s_own_count_once() -> None:
    one = host("a")
    gate = Gate(one)
    permit = gate.admit("", 128, 30, 0.0)
    bulk_outcomes.sent(one, 30)
    one.reported(load(400, bulk=70), 0.1)
    assert one.others_bulk_rows == 40
    assert gate.bulk_room(0.1) == 100 - 40 - 30
    permit.release(0.1)
    bulk_outcomes.ended(one, 30)
    assert gate.bulk_room(0.1) == 60
    one.reported(load(400, bulk=0), 0.2)
    assert gate.bulk_room(0.2) == 100


def test_old_report_tells_of_no_rows_of_others_any_more() -> None:
    gate = Gate(host("a", load(400, bulk=100)))
    assert gate.bulk_room(0.0) == 0
    assert gate.bulk_room(STALE_S + 0.1) == 100


def test_node_of_an_earlier_version_has_room_by_its_limit_of_requests() -> None:
    assert Gate(host("a", LoadReport(0, limit=80))).bulk_room(0.0) == 20


def test_first_call_goes_to_a_node_that_was_never_heard_of() -> None:
    gate = Gate(host("a", best_rows=64))
    assert gate.bulk_room(0.0) == 128
    assert refusal(gate, 64) is None
    assert refusal(gate, 64) is None
    assert refusal(gate, 64) is not None
    mixed = Gate(host("a", load(400)), host("b"))
    assert mixed.bulk_room(0.0) == 200  # as the others


def test_nodes_that_are_gone_or_full_have_no_room() -> None:
    a, b, c = host("a", load(400)), host("b", load(400)), host("c", load(400))
    gate = Gate(a, b, c)
    lose(a)
    assert gate.bulk_room(0.0) == 200
    gate.refused(b, 1.0, 0.0)
    assert gate.bulk_room(LOOK_S * 2) == 100
    lose(b, c)
    assert gate.bulk_room(LOOK_S * 8) == 0
    assert refusal(gate, 8, LOOK_S * 8) is None  # that nobody can be reached is not overload


@pytest.mark.parametrize("lie", [2**64 - 1, 10**9])
def test_liar_opens_the_room_by_four_nodes_and_closes_its_own_alone(lie: int) -> None:
    honest = [host(str(at), load(400)) for at in range(3)]
    assert Gate(*honest, host("liar", load(lie))).bulk_room(0.0) == 300 + 400
    assert Gate(*honest, host("liar", load(400, bulk=lie))).bulk_room(0.0) == 300


def test_jobs_take_nothing_of_what_people_are_let_in_by() -> None:
    gate = Gate(host("a", load(40, limit=10)))
    calls = 0
    while refusal(gate, 5, tenant="job") is None:
        calls += 1
    assert calls == 2
    for _ in range(500):
        refusal(gate, 5, tenant="job")
    assert (gate.under_way, gate.saturation.extra) == (0, 0)
    assert gate.fair.in_flight("job") == 0
    assert not gate.fair.is_wanted
    assert set(gate.refusals.values()) == {0}
    assert len(gate.fair) == 0
    people = [gate.admit("people", 128, 0, 0.0) for _ in range(10)]  # every slot, as without jobs
    assert len(people) == 10
    error = refusal(gate, 0, tenant="people")
    assert error is not None
    assert "100% full, too much for online requests" in error.message


def test_call_of_a_job_that_a_node_had_no_room_for_wants_nothing() -> None:
    gate = Gate(host("a", load(400)))
    gate.admit("job", 128, 8, 0.0).release(0.0, is_served=False)
    assert not gate.fair.is_wanted
    assert gate.bulk.rows == 0


def test_router_that_limits_nobody_limits_no_job() -> None:
    controller = AdmissionController("m", random.Random(1), is_limited=False)
    replicas = (host("a", load(0)),)
    assert controller.bulk_room(replicas, 0.0) == NO_LIMIT_ROWS
    for _ in range(100):
        controller.admit(replicas, "", 128, 10**6, 0.0)
