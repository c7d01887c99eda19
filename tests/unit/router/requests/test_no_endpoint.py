"""What a caller is told when nobody can be asked: to come again or not, and when."""

from __future__ import annotations

from replicas import lose, replica

from capamesh.protocol.errors import NoEndpoint, Unsatisfiable
from capamesh.protocol.ids import ModelName
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.requests.no_endpoint import with_hint
from capamesh.router.resilience.health import CircuitState
from capamesh.router.rules.constraints import ANYWHERE, Constraints

ERROR = NoEndpoint("nobody can be reached")


def reported(
    *replicas: Replica,
    constraints: Constraints = ANYWHERE,
    waits_s: dict[Endpoint, float] | None = None,
) -> NoEndpoint:
    waits = waits_s or {}
    return with_hint(
        ERROR,
        ModelName("m"),
        replicas,
        constraints,
        redial_s=lambda endpoint: waits.get(endpoint, 0.0),
        now_s=10.0,
    )


def test_hint_is_the_next_attempt_at_a_link_of_a_node_that_may_have_it() -> None:
    dear, soon, late = (
        replica(name, price=price) for name, price in zip("abc", (9, 1, 1), strict=True)
    )
    lose(dear, soon, late)
    waits_s = {dear.endpoint: 0.5, soon.endpoint: 2.5, late.endpoint: 4.0}
    error = reported(dear, soon, late, constraints=Constraints(max_price=2.0), waits_s=waits_s)
    assert (type(error), error.message, error.retry_after_s) == (NoEndpoint, ERROR.message, 2.5)


def test_hint_without_a_link_to_wait_for_is_that_it_is_unknown() -> None:
    assert reported().retry_after_s == 0.0
    leaving = replica("a")
    leaving.endpoint.is_draining = True
    assert reported(leaving, waits_s={leaving.endpoint: 3.0}).retry_after_s == 0.0


def test_node_that_the_operator_holds_open_comes_back_at_no_time() -> None:
    held, dear = replica("a"), replica("b", price=9)
    lose(held, dear)
    held.endpoint.health.hold(CircuitState.FORCED_OPEN)
    assert type(reported(held, dear)) is NoEndpoint
    error = reported(held, dear, constraints=Constraints(max_price=2.0))
    assert isinstance(error, Unsatisfiable)
    assert "1 of 2: the operator holds it open; 1 of 2: price 9" in error.message
