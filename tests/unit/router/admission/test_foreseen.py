"""What a request would be told at the controller, asked without being one."""

from __future__ import annotations

import random

import pytest
from replicas import replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.controller import AdmissionController


def busy(in_flight: int) -> AdmissionController:
    """Return the controller of one replica with 10 slots, at which two tenants have requests."""
    load = LoadReport(in_flight, limit=10, queue_us=10_000 * (in_flight - 1), run_us=10_000)
    replicas = (replica("a", load=load),)
    controller = AdmissionController("m", lambda: replicas, random.Random(3))
    for tenant in ("hog", "hog", "hog", "other"):
        controller.entered(tenant, 0.0)
    return controller


def reported(
    controller: AdmissionController, tenant: str, priority: int, is_bulk: bool, remaining_s: float
) -> str:
    try:
        controller.admit(tenant, priority, is_bulk, 0.0, remaining_s)
    except Overloaded as error:
        return error.message
    return ""


@pytest.mark.parametrize("in_flight", [0, 4, 8, 9, 10])
@pytest.mark.parametrize("tenant", ["hog", "other", "new"])
@pytest.mark.parametrize("priority", [1, 128, 200])
@pytest.mark.parametrize("remaining_s", [0.05, 30.0])
def test_what_is_foreseen_is_what_a_request_is_reported(
    in_flight: int, tenant: str, priority: int, remaining_s: float
) -> None:
    controller = busy(in_flight)
    for is_bulk in (False, True):
        foreseen = controller.foreseen(tenant, priority, is_bulk, 0.0, remaining_s)
        said = reported(controller, tenant, priority, is_bulk, remaining_s)
        assert (foreseen.message if foreseen is not None else "") == said


def test_to_foresee_costs_the_requests_that_follow_nothing() -> None:
    asked, left_alone = busy(10), busy(10)
    for _ in range(20):
        for tenant, priority in (("hog", 1), ("other", 128), ("new", 200)):
            asked.foreseen(tenant, priority, True, 0.0, 30.0)
            asked.foreseen(tenant, priority, False, 0.0, 0.05)
    assert set(asked.refusals.values()) == {0}
    assert len(asked.fair) == 2
    for _ in range(50):
        for tenant, priority in (("hog", 128), ("other", 200), ("new", 128)):
            assert reported(asked, tenant, priority, False, 30.0) == reported(
                left_alone, tenant, priority, False, 30.0
            )
