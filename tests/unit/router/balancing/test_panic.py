"""The panic of a model: how many of its replicas are ejected, looked at only while somebody is not well."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from capamesh.router.balancing.panic import Panic
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
