"""One host after the other. Pure, seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from capamesh.router.policies.policy import ByState, IsEligible, RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Host


class RoundRobin(ByState):
    """The next eligible host in the fleet's order.

    When hosts come or go, the turn stays with the host that had it, or goes to the first after it that is still
    there. The first turn is drawn, so that several routers do not walk in step.
    """

    name: ClassVar[str] = "round-robin"

    def __init__(self, chance: random.Random) -> None:
        self._start = chance.random()
        self._hosts: Sequence[Host] | None = None
        self._next = 0

    def pick(
        self,
        hosts: Sequence[Host],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Host | None:
        """Part of `Policy`."""
        del request, now_s
        if not hosts:
            return None
        if hosts is not self._hosts:
            self._next = self._moved(hosts)
            self._hosts = hosts
        count = len(hosts)
        for at in range(self._next, count):
            if is_eligible(hosts[at]):
                self._next = at + 1
                return hosts[at]
        for at in range(min(self._next, count)):
            if is_eligible(hosts[at]):
                self._next = at + 1
                return hosts[at]
        return None

    def _moved(self, hosts: Sequence[Host]) -> int:
        """Return whose turn it is among `hosts`, which are others than those before."""
        former = self._hosts
        if former is None:
            return int(self._start * len(hosts))
        places = {host: at for at, host in enumerate(hosts)}
        for step in range(len(former)):
            at = places.get(former[(self._next + step) % len(former)])
            if at is not None:
                return at
        return 0
