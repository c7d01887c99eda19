"""What a caller is told when nobody can be asked: to come again or not, and when."""

from __future__ import annotations

from replicas import host, lose

from capamesh.protocol.errors import NobodyFits, NoCandidate
from capamesh.protocol.ids import ModelName
from capamesh.router.balancing.eligibility import ANYWHERE, Constraints
from capamesh.router.fleet.endpoint import Candidate
from capamesh.router.fleet.replica import Host
from capamesh.router.requests.no_endpoint import with_hint
from capamesh.router.resilience.health import CircuitState

ERROR = NoCandidate("nobody can be reached")


def told(
    *hosts: Host, constraints: Constraints = ANYWHERE, waits_s: dict[Candidate, float] | None = None
) -> NoCandidate:
    waits = waits_s or {}
    return with_hint(
        ERROR,
        ModelName("m"),
        hosts,
        constraints,
        redial_s=lambda candidate: waits.get(candidate, 0.0),
        now_s=10.0,
    )


def test_the_hint_is_the_next_attempt_at_a_link_of_a_node_that_may_have_it() -> None:
    dear, soon, late = (
        host(name, price=price) for name, price in zip("abc", (9, 1, 1), strict=True)
    )
    lose(dear, soon, late)
    waits_s = {dear.candidate: 0.5, soon.candidate: 2.5, late.candidate: 4.0}
    error = told(dear, soon, late, constraints=Constraints(max_price=2.0), waits_s=waits_s)
    assert (type(error), error.message, error.retry_after_s) == (NoCandidate, ERROR.message, 2.5)


def test_without_a_link_to_wait_for_there_is_no_hint_but_that_it_is_unknown() -> None:
    assert told().retry_after_s == 0.0
    leaving = host("a")
    leaving.candidate.is_draining = True
    assert told(leaving, waits_s={leaving.candidate: 3.0}).retry_after_s == 0.0


def test_whom_the_operator_holds_open_no_time_brings_back() -> None:
    held, dear = host("a"), host("b", price=9)
    lose(held, dear)
    held.candidate.health.hold(CircuitState.HELD_OPEN)
    assert type(told(held, dear)) is NoCandidate
    error = told(held, dear, constraints=Constraints(max_price=2.0))
    assert isinstance(error, NobodyFits)
    assert "1 of 2: the operator holds it open; 1 of 2: price 9" in error.message
