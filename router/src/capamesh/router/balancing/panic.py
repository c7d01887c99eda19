"""The panic of one served model: so many replicas are ejected that it says more of the fleet than of a replica. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.outliers import is_panic

if TYPE_CHECKING:
    from capamesh.router.balancing.unhealthy import UnhealthySet
    from capamesh.router.fleet.replica import Replica

PANIC_EVERY_S = 0.1
"""The ejected are counted this often, and only while somebody is not well (guess)."""


class Panic:
    """The panic of a model: the times at which ejections must be ignored."""

    __slots__ = ("_is_on", "_looked_s", "_unhealthy")

    def __init__(self, unhealthy: UnhealthySet) -> None:
        self._unhealthy = unhealthy
        self._is_on = False
        self._looked_s = -math.inf

    def is_on(self, replicas: tuple[Replica, ...], now_s: float) -> bool:
        """Return whether so many of the reachable are ejected that ejections must be ignored."""
        if not self._unhealthy.noted:
            return False
        if not 0.0 <= now_s - self._looked_s < PANIC_EVERY_S:
            self._looked_s = now_s
            self._is_on = _are_mostly_ejected(replicas, now_s)
        return self._is_on

    def would_be_on(self, replicas: tuple[Replica, ...], now_s: float) -> bool:
        """Return what `is_on` would return now, and keep nothing of it."""
        if not self._unhealthy.noted:
            return False
        if 0.0 <= now_s - self._looked_s < PANIC_EVERY_S:
            return self._is_on
        return _are_mostly_ejected(replicas, now_s)


def _are_mostly_ejected(replicas: tuple[Replica, ...], now_s: float) -> bool:
    usable = [replica for replica in replicas if replica.endpoint.is_usable]
    well = sum(not _is_ejected(replica, now_s) for replica in usable)
    return is_panic(well, len(usable))


def _is_ejected(replica: Replica, now_s: float) -> bool:
    if replica.health.is_full and replica.endpoint.health.is_full:
        return False
    ejected = CircuitState.EJECTED
    return replica.health.state(now_s) is ejected or replica.endpoint.health.state(now_s) is ejected
