"""The panic of one served model: so many replicas are ejected that it says more of the fleet than of a replica. Pure.

Those of one invite may all be ejected for what they do. So most invites must be out, too, each with most of its replicas.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.outliers import is_panic

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.router.balancing.unhealthy import UnhealthySet
    from capamesh.router.fleet.replica import Replica

PANIC_EVERY_S = 0.1
"""The ejected are counted this often, and only while somebody is not well (guess)."""


class Panic:
    """The panic of a model: the times at which ejections must be ignored."""

    __slots__ = ("_invite_of", "_is_on", "_looked_s", "_unhealthy")

    def __init__(
        self, unhealthy: UnhealthySet, invite_of: Callable[[PeerId], str] = lambda _: ""
    ) -> None:
        """`invite_of` tells by which invite a node was let into the network, "" if that is not known."""
        self._invite_of = invite_of
        self._unhealthy = unhealthy
        self._is_on = False
        self._looked_s = -math.inf

    def is_on(self, replicas: tuple[Replica, ...], now_s: float) -> bool:
        """Return whether so many of the reachable are ejected that ejections must be ignored."""
        if not self._unhealthy.noted:
            return False
        if not 0.0 <= now_s - self._looked_s < PANIC_EVERY_S:
            self._looked_s = now_s
            self._is_on = self._are_mostly_ejected(replicas, now_s)
        return self._is_on

    def would_be_on(self, replicas: tuple[Replica, ...], now_s: float) -> bool:
        """Return what `is_on` would return now, and keep nothing of it."""
        if not self._unhealthy.noted:
            return False
        if 0.0 <= now_s - self._looked_s < PANIC_EVERY_S:
            return self._is_on
        return self._are_mostly_ejected(replicas, now_s)

    def _are_mostly_ejected(self, replicas: tuple[Replica, ...], now_s: float) -> bool:
        well: defaultdict[str, list[bool]] = defaultdict(list)
        for replica in replicas:
            if replica.endpoint.is_usable:
                well[self._invite_of(replica.endpoint.peer)].append(not _is_ejected(replica, now_s))
        if not _is_panic([each for of_invite in well.values() for each in of_invite]):
            return False
        return _is_panic([not _is_panic(of_invite) for of_invite in well.values()])


def _is_panic(well: list[bool]) -> bool:
    return is_panic(sum(well), len(well))


def _is_ejected(replica: Replica, now_s: float) -> bool:
    if replica.health.is_full and replica.endpoint.health.is_full:
        return False
    ejected = CircuitState.EJECTED
    return replica.health.state(now_s) is ejected or replica.endpoint.health.state(now_s) is ejected
