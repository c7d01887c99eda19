"""What a request would be told at the controller, asked without being one."""

from __future__ import annotations

import random

import pytest
from gates import Gate
from replicas import replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.shedding import rank_of


def busy(in_flight: int) -> Gate:
    """Return the controller of one replica with 10 slots, at which two tenants have requests."""
    load = LoadReport(in_flight, limit=10, queue_us=10_000 * (in_flight - 1), run_us=10_000)
    replicas = (replica("a", load=load),)
    controller = Gate(*replicas, seed=3)
    for tenant in ("hog", "hog", "hog", "other"):
        controller.enter(tenant, 0.0)
    return controller


def foreseen(
    controller: Gate,
    tenant: str,
    priority: int,
    remaining_s: float,
    draw: float = 0.0,
) -> str:
    rank = rank_of(priority)
    decision = controller.decide(tenant, priority, rank, 0.0, remaining_s, lambda: draw)
    return "" if decision.error is None else decision.error.message


def reported(controller: Gate, tenant: str, priority: int, remaining_s: float) -> str:
    try:
        controller.admit(tenant, priority, 0, 0.0, remaining_s)
    except Overloaded as error:
        return error.message
    return ""


@pytest.mark.parametrize("in_flight", [0, 4, 8, 9, 10])
@pytest.mark.parametrize("tenant", ["hog", "other", "new"])
@pytest.mark.parametrize("priority", [1, 128, 200, 255])
@pytest.mark.parametrize("remaining_s", [0.05, 30.0])
def test_foreseen_verdict_is_what_a_request_gets(
    in_flight: int, tenant: str, priority: int, remaining_s: float
) -> None:
    controller = busy(in_flight)
    for _ in range(2):
        draw = random.Random(3)
        draw.setstate(controller._draw.__self__.getstate())  # type: ignore[attr-defined]
        seen = foreseen(controller, tenant, priority, remaining_s, draw.random())
        assert seen == reported(controller, tenant, priority, remaining_s)


def test_foreseeing_costs_the_requests_that_follow_nothing() -> None:
    asked, left_alone = busy(10), busy(10)
    for _ in range(20):
        for tenant, priority in (("hog", 1), ("other", 128), ("new", 200)):
            foreseen(asked, tenant, priority, 30.0)
            foreseen(asked, tenant, priority, 0.05)
    assert set(asked.refusals.values()) == {0}
    assert len(asked.fair) == 2
    for _ in range(50):
        for tenant, priority in (("hog", 128), ("other", 200), ("new", 128)):
            assert reported(asked, tenant, priority, 30.0) == reported(
                left_alone, tenant, priority, 30.0
            )
