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
