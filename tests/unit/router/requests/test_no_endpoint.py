"""What a caller is told when nobody can be asked: to come again or not, and when."""

from __future__ import annotations

from replicas import lose, replica

from capamesh.protocol.errors import NoEndpoint
from capamesh.protocol.ids import ModelName
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.requests.no_endpoint import with_hint
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
