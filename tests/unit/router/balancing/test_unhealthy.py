"""Who is not well: when it is probed, what is reported of it, and the panic of a model most of whose replicas are out."""

from __future__ import annotations

import pytest
from replicas import fleet, lose, replica

from capamesh.router.balancing.panic import Panic
from capamesh.router.balancing.unhealthy import Ejected, Inhibited, Returned, UnhealthySet
from capamesh.router.fleet.replica import Replica


def test_replica_in_trouble_twice_is_probed_once() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.endpoint.health.failed(10.0, is_hard=True)
    one.health.failed(10.0, is_hard=True)
    unhealthy.note(one, 10.0)
    assert unhealthy.reprobes(10.05) == [one]


def test_events_are_reported_once_in_their_order() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.endpoint.health.failed(10.0, is_hard=True, cause="link_lost: reset")
    unhealthy.note(one, 10.0)
    unhealthy.note(one, 10.1)
    one.health.eject(10.2, "90% failed")
    unhealthy.note(one, 10.2)
    assert unhealthy.settle(10.3) == [
        Inhibited(one.endpoint.peer, "a:7000", "", "", "link_lost: reset"),
        Ejected(one.endpoint.peer, "a:7000", "m", "1", "90% failed"),
    ]
    assert unhealthy.settle(10.4) == []
    one.endpoint.health.probed(10.5)
    assert unhealthy.settle(10.5) == [
        Returned(one.endpoint.peer, "a:7000", "", "", "link_lost: reset")
    ]
    assert unhealthy.noted
    assert unhealthy.settle(41.0) == [Returned(one.endpoint.peer, "a:7000", "m", "1", "90% failed")]
    unhealthy.settle(60.0)
    assert not unhealthy.noted
    assert repr(unhealthy) == "UnhealthySet(0)"


def ejecting(
    replicas: tuple[Replica, ...], out: str, *, of_node: bool = False, invites: str = ""
) -> Panic:
    """Return the panic of replicas of which those named by letters were ejected at 10 s."""
    unhealthy = UnhealthySet()
    for one in replicas:
        if one.endpoint.peer in out:
            (one.endpoint.health if of_node else one.health).eject(10.0)
            unhealthy.note(one, 10.0)
    by_peer = dict(zip("abcd", invites, strict=False))
    return Panic(unhealthy, lambda peer: by_peer.get(peer, ""))


@pytest.mark.parametrize("of_node", [False, True])
@pytest.mark.parametrize(
    ("out", "lost", "is_on"),
    [("a", "", False), ("ab", "", False), ("abc", "", True), ("ab", "d", True), ("abd", "d", True)],
)
def test_panic_is_on_once_more_than_half_of_the_reachable_are_ejected(
    out: str, lost: str, is_on: bool, of_node: bool
) -> None:
    replicas = fleet("abcd")
    panic = ejecting(replicas, out, of_node=of_node)
    lose(*[one for one in replicas if one.endpoint.peer in lost])
    assert panic.would_be_on(replicas, 10.0) is is_on
    assert panic.is_on(replicas, 10.0) is is_on
    assert panic.would_be_on(replicas, 10.0) is is_on


@pytest.mark.parametrize(
    ("out", "invites", "is_on"),
    [
        ("bcd", "xyyy", False),  # all of one invite, however many they are
        ("bcd", "xxxx", True),
        ("bcd", "xyzy", True),  # most invites
        ("abc", "xxxy", False),
        ("abc", "xxyy", False),  # of the second invite half is well
    ],
)
def test_panic_is_on_only_if_most_invites_are_out_too(out: str, invites: str, is_on: bool) -> None:
    replicas = fleet("abcd")
    assert ejecting(replicas, out, invites=invites).is_on(replicas, 10.0) is is_on
