"""Which replicas are taken to serve, so that nobody else is asked to load their model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from replicas import lose, replica

from capamesh.router.balancing.serving import (
    BACK_SOON_S,
    MOST_MISSED,
    PROVEN_S,
    is_any_serving,
)
from capamesh.router.fleet.replica import Replica
from capamesh.router.resilience.health import CircuitState

NOW_S = 100.0
Change = Callable[[Replica], None]


def answered(ago_s: float) -> Change:
    def change(one: Replica) -> None:
        one.answered_s = NOW_S - ago_s

    return change


def missed(amount: int) -> Change:
    def change(one: Replica) -> None:
        one.missed = amount

    return change


def unlinked(ago_s: float, *, is_missed: bool = False) -> Change:
    """Let it lose the link that it had."""

    def change(one: Replica) -> None:
        lose(one)
        one.endpoint.linked_s, one.endpoint.unlinked_s = 1.0, NOW_S - ago_s
        one.endpoint.is_missed = is_missed

    return change


def never_linked(one: Replica) -> None:
    lose(one)


def away(one: Replica) -> None:
    one.set_away(True)


def gone(one: Replica) -> None:
    one.set_gone()


def draining(one: Replica) -> None:
    one.endpoint.is_draining = True


def retired(one: Replica) -> None:
    one.endpoint.is_retired = True


def ejected(one: Replica) -> None:
    one.health.eject(NOW_S)


def ejected_node(one: Replica) -> None:
    one.endpoint.health.eject(NOW_S)


def held_open(one: Replica) -> None:
    one.endpoint.health.hold(CircuitState.FORCED_OPEN)


def inhibited(one: Replica) -> None:
    one.health.failed(NOW_S, is_hard=True)


@pytest.mark.parametrize(
    ("changes", "is_serving"),
    [
        ([], True),
        ([inhibited], True),
        ([missed(MOST_MISSED - 1)], True),
        ([missed(MOST_MISSED)], False),
        ([missed(MOST_MISSED), answered(PROVEN_S - 0.5)], True),
        ([missed(MOST_MISSED), answered(PROVEN_S)], False),
        ([away], False),
        ([away, answered(1.0)], True),
        ([unlinked(BACK_SOON_S - 0.5)], True),
        ([unlinked(BACK_SOON_S)], False),
        ([unlinked(1.0, is_missed=True)], False),
        ([never_linked], True),
        *(
            ([answered(1.0), out], False)
            for out in (gone, draining, retired, ejected, ejected_node, held_open)
        ),
    ],
)
def test_replica_serves_unless_something_tells_that_it_does_not(
    changes: list[Change], is_serving: bool
) -> None:
    one = replica()
    for change in changes:
        change(one)
    assert is_any_serving([one], NOW_S) is is_serving
