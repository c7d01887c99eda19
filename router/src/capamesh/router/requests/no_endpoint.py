"""What to tell a caller of whom nobody can take the request: whether to come again, and when. Pure.

Waiting brings back a node whose link is down, but none that is too dear, elsewhere, or held by the operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from capamesh.protocol.errors import NobodyFits, NoCandidate
from capamesh.router.resilience.health import CircuitState

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName
    from capamesh.router.balancing.eligibility import Constraints
    from capamesh.router.fleet.endpoint import Candidate
    from capamesh.router.fleet.replica import Host

MAX_REASONS = 3
"""Of why nobody fits, those that most have (guess: as much as one reads)."""


def with_hint(
    error: NoCandidate,
    model: ModelName,
    hosts: Sequence[Host],
    constraints: Constraints,
    *,
    redial_s: Callable[[Candidate], float],
    now_s: float,
) -> NoCandidate:
    """Return `error` with when to come again, or a `NobodyFits` where that alone does not help.

    `hosts` are all that have the model, `constraints` the request's and the rules'; `redial_s` tells when a
    candidate is dialled next.
    """
    reasons = [_lasting(host, constraints, now_s) for host in hosts]
    if reasons and all(reasons):
        return NobodyFits(
            f"model {model!r} is hosted, but none of its nodes may have this request ({_most(reasons)}); to wait does"
            " not help: ask for something else, or have the operator change it"
        )
    waits_s = [
        redial_s(host.candidate)
        for host, reason in zip(hosts, reasons, strict=True)
        if not reason and host.candidate.link is None
    ]
    return NoCandidate(error.message, min(waits_s, default=0.0))


def _lasting(host: Host, constraints: Constraints, now_s: float) -> str:
    """Return what keeps the host out however long one waits; empty: nothing."""
    for health in (host.health, host.candidate.health):
        if health.state(now_s) is CircuitState.HELD_OPEN:
            return "the operator holds it open"
    return constraints.refusal(host)


def _most(reasons: Iterable[str]) -> str:
    counts = Counter(reasons)
    most = counts.most_common(MAX_REASONS)
    return "; ".join(f"{count} of {counts.total()}: {reason}" for reason, count in most)
