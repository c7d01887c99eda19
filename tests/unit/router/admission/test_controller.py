from __future__ import annotations

import math

from gates import Gate
from replicas import replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport


def load(in_flight: int, *, limit: int = 10, queue_ms: int = 0) -> LoadReport:
    """A replica that needs 10 ms for a request."""
    return LoadReport(in_flight, limit=limit, queue_us=queue_ms * 1000, run_us=10_000)


def refusal(
    controller: Gate, tenant: str = "", now_s: float = 0.0, remaining_s: float = math.inf
) -> Overloaded | None:
    """Ask for a permit, which is never given back; return the refusal."""
    try:
        controller.admit(tenant, 128, 0, now_s, remaining_s)
    except Overloaded as error:
        return error
    return None


def counted(controller: Gate) -> dict[str, int]:
    return {str(kind): count for kind, count in controller.refusals.items() if count}


def test_request_that_would_wait_past_its_deadline_is_refused_and_one_with_time_is_not() -> None:
    controller = Gate(replica("a", load=load(5, limit=100, queue_ms=50)))
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


def test_liar_about_its_limit_does_not_open_the_gate() -> None:
    def flooded(liars_limit: int) -> Gate:
        honest = [replica(str(index), rif=9, load=load(9, queue_ms=80)) for index in range(9)]
        liar = replica("liar", load=LoadReport(0, limit=liars_limit, run_us=1))
        controller = Gate(*honest, liar)
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
    controller = Gate(*slow, liar)
    errors = [refusal(controller, now_s=number * 1e-4, remaining_s=0.2) for number in range(300)]
    assert None not in errors
    assert counted(controller) == {"late": 300}
    assert errors[0] is not None
    assert errors[0].retry_after_s > 0.5
    liar.answered_s = (
        0.04  # an honest fast one: `ReportedLoadCheck` has held it to what was measured
    )
    assert refusal(controller, now_s=0.1, remaining_s=0.2) is None


def test_permit_is_given_back_once() -> None:
    controller = Gate(replica("a", load=load(0)))
    permit, other = controller.admit("a", 1, 0, 0.0), controller.admit("b", 128, 0, 0.0)
    assert (controller.under_way, controller.urgent_under_way) == (2, 1)
    for _ in range(2):
        permit.release(1.0)
    assert (controller.under_way, controller.urgent_under_way) == (1, 0)
    assert [controller.fair.in_flight(tenant) for tenant in "ab"] == [0, 1]
    other.release(1.0, is_served=False)
    assert controller.fair.is_wanted
