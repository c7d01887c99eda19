"""The panic of a model: how many of its replicas are ejected, looked at only while somebody is not well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from replicas import fleet, lose
from typing_extensions import override

from capamesh.router.balancing.panic import PANIC_EVERY_S, Panic
from capamesh.router.balancing.unhealthy import UnhealthySet
from capamesh.router.fleet.replica import Replica


class Unread(tuple[Replica, ...]):
    """Replicas that nobody may look at."""

    __slots__ = ()

    @override
    def __iter__(self) -> Iterator[Replica]:
        raise AssertionError("the replicas are looked at")


def test_replicas_are_not_looked_at_while_all_are_well() -> None:
    panic = Panic(UnhealthySet())
    assert not panic.is_on(Unread(), 0.0)
    assert not panic.would_be_on(Unread(), 0.0)


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


def test_replica_that_is_merely_inhibited_is_not_counted_as_ejected() -> None:
    replicas = fleet("abc")
    panic = ejecting(replicas, "a")
    for one in replicas[1:]:
        one.health.failed(10.0, is_hard=True)
    assert not panic.is_on(replicas, 10.0)


@pytest.mark.parametrize(
    ("at_s", "is_counted_again"),
    [
        (10.0, False),
        (10.0 + PANIC_EVERY_S / 2, False),
        (10.0 + PANIC_EVERY_S + 1e-9, True),
        (9.9, True),  # a clock that was set back
    ],
)
def test_ejected_are_counted_again_after_a_moment_only(at_s: float, is_counted_again: bool) -> None:
    replicas = fleet("ab")
    panic = ejecting(replicas, "a")
    assert not panic.is_on(replicas, 10.0)
    replicas[1].health.eject(10.0)
    assert panic.would_be_on(replicas, at_s) is is_counted_again
    assert panic.would_be_on(replicas, at_s) is is_counted_again  # a look changes nothing
    assert panic.is_on(replicas, at_s) is is_counted_again
