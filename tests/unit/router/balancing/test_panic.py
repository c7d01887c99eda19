"""The panic of a model: how many of its replicas are ejected, looked at only while somebody is not well."""

from __future__ import annotations

import pytest
from replicas import fleet, lose

from capamesh.router.balancing.panic import Panic
from capamesh.router.balancing.unhealthy import UnhealthySet
from capamesh.router.fleet.replica import Replica


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
