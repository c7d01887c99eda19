"""Urgent requests beside usual ones that fill the node: through the production controller and engine, in virtual time."""

from __future__ import annotations

import math

import pytest
from closed_loop import Callers, Loop
from gates import Gate
from replicas import replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport

URGENT = Callers(14, priority=1)


@pytest.mark.seeds
@pytest.mark.parametrize("usual", [14, 60, 400])
@pytest.mark.parametrize(
    ("batch_rows", "run_s"),
    [pytest.param(1, 0.0025, id="a row at a time"), pytest.param(8, 0.02, id="batches of eight")],
)
def test_urgent_requests_are_not_refused_because_usual_ones_fill_the_places(
    usual: int, batch_rows: int, run_s: float
) -> None:
    others = Callers(usual)
    loop = Loop(URGENT, others, max_queue=16, run_s=run_s, batch_rows=batch_rows).run(5)
    urgent = loop.tally(URGENT)
    assert urgent.refused <= 0.01
    assert (
        urgent.outcomes["answered"] >= 0.8 * 4 * batch_rows / run_s
    )  # 14 are not two full batches


@pytest.mark.parametrize("priority", [100, 127])
def test_any_priority_before_the_usual_one_is_urgent(priority: int) -> None:
    urgent = Callers(8, priority=priority, rest_s=0.05)
    loop = Loop(urgent, Callers(60)).run(5)
    assert loop.tally(urgent).refused <= 0.01


def test_usual_requests_have_what_urgent_ones_leave() -> None:
    urgent, usual = Callers(4, priority=1, rest_s=0.1), Callers(60)
    loop = Loop(urgent, usual).run(5)
    answered = [loop.tally(each).outcomes["answered"] for each in (urgent, usual)]
    assert loop.tally(urgent).refused <= 0.01
    assert 100 <= answered[0] <= 170
    assert sum(answered) >= 0.97 * 4 * 400


def test_tenants_usual_requests_do_not_use_up_its_share_of_urgent_ones() -> None:
    urgent = Callers(3, "a", priority=1, rest_s=0.02)
    usual, other = Callers(40, "a"), Callers(40, "b")
    loop = Loop(urgent, usual, other).run(6)
    assert loop.tally(urgent).refused <= 0.01
    both = sum(loop.tally(each).outcomes["answered"] for each in (urgent, usual))
    assert both == pytest.approx(loop.tally(other).outcomes["answered"], rel=0.1)


def gate_at(in_flight: int, *, queue_ms: int = 90) -> Gate:
    load = LoadReport(in_flight, limit=10, queue_us=queue_ms * 1000, run_us=10_000)
    replicas = (replica("a", load=load),)
    return Gate(*replicas)


def admitted(
    controller: Gate,
    count: int,
    *,
    priority: int = 1,
    now_s: float = 0.0,
    remaining_s: float = math.inf,
) -> int:
    done = 0
    for _ in range(count):
        try:
            controller.admit("", priority, 0, now_s, remaining_s)
        except Overloaded:
            continue
        done += 1
    return done


def test_urgent_requests_are_let_in_to_full_nodes_up_to_their_places() -> None:
    controller = gate_at(10)
    assert admitted(controller, 5, priority=128) == 0
    assert admitted(controller, 20) == 11  # and a little more, for what may just have become free
    controller.leave("", 0.0, is_urgent=True)
    assert controller.urgent_under_way == 10


def test_urgent_request_has_no_wait_but_for_those_before_it() -> None:
    assert admitted(gate_at(10), 1, priority=128, remaining_s=0.15) == 0
    assert admitted(gate_at(10), 1, remaining_s=0.15) == 1


def test_node_that_refuses_an_urgent_request_has_no_place_for_such_for_as_long_as_it_said() -> None:
    controller = gate_at(10)
    (one,) = controller.replicas
    controller.refused(one, 0.2, 0.0)
    assert admitted(controller, 3) == 3
    controller.refused(one, 0.2, 0.1, is_urgent=True)
    assert (
        admitted(controller, 3, now_s=0.15) == 1
    )  # one may be tried, for what has just become free
    assert admitted(controller, 3, now_s=0.25) == 1
    assert admitted(controller, 3, now_s=0.35) == 3


def test_urgent_requests_that_have_ended_are_no_part_of_a_share_any_more() -> None:
    controller = gate_at(0)
    ended = [controller.enter("a", 0.0, is_urgent=True) for _ in range(40)]
    for permit in ended:
        permit.release(1.0)
    kept = [controller.enter("b", 1.0, is_urgent=True) for _ in range(3)]
    assert controller.urgent_under_way == len(kept)
    assert controller.controller._urgent.in_flight("a") == 0
    assert controller.controller._urgent.in_flight("b") == len(kept)
