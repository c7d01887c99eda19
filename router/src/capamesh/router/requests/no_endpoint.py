"""Tells a caller whose request nobody can take whether to come again, and when. Pure.

Waiting brings back a node whose link is down, but none that is too dear, elsewhere, or held by the operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from capamesh.protocol.errors import NoEndpoint, Unsatisfiable
from capamesh.router.resilience.health import CircuitState

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.rules.constraints import Constraints

MAX_REASONS = 3
"""The most reasons why nobody fits that are told, those that most nodes have (guess: as much as one reads)."""


def with_hint(
    error: NoEndpoint,
    model: ModelName,
    replicas: Sequence[Replica],
    constraints: Constraints,
    *,
    redial_s: Callable[[Endpoint], float],
    now_s: float,
) -> NoEndpoint:
    """Return `error` with when to come again, or a `Unsatisfiable` where that alone does not help.

    `replicas` are all that have the model, `constraints` the request's and the rules'; `redial_s` tells when a
    endpoint is dialled next.
    """
    reasons = [_lasting(replica, constraints, now_s) for replica in replicas]
    if reasons and all(reasons):
        return Unsatisfiable(
            f"model {model!r} is hosted, but none of its nodes may have this request ({_most(reasons)}); to wait does"
            " not help: ask for something else, or have the operator change it"
        )
    waits_s = [
        redial_s(replica.endpoint)
        for replica, reason in zip(replicas, reasons, strict=True)
        if not reason and replica.endpoint.link is None
    ]
    return NoEndpoint(error.message, min(waits_s, default=0.0))


def _lasting(replica: Replica, constraints: Constraints, now_s: float) -> str:
    """Return what keeps the replica out however long one waits; empty: nothing."""
    for health in (replica.health, replica.endpoint.health):
        if health.state(now_s) is CircuitState.FORCED_OPEN:
            return "the operator holds it open"
    return constraints.refusal(replica.advert, replica.endpoint.address)


def _most(reasons: Iterable[str]) -> str:
    counts = Counter(reasons)
    most = counts.most_common(MAX_REASONS)
    return "; ".join(f"{count} of {counts.total()}: {reason}" for reason, count in most)
