"""One replica after the other. Pure, seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.policies.policy import IsEligible, PolicyBase
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica


class RoundRobin(PolicyBase):
    """The next eligible replica in the fleet's order.

    When replicas come or go, the turn stays with the replica that had it, or goes to the first after it that is still
    there. The first turn is drawn, so that several routers do not walk in step.
    """

    name: ClassVar[str] = "round-robin"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._start = rng.random()
        self._replicas: Sequence[Replica] | None = None
        self._next = 0

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        del request, now_s
        if not replicas:
            return None
        if replicas is not self._replicas:
            self._next = self._moved(replicas)
            self._replicas = replicas
        count = len(replicas)
        for at in chain(range(self._next, count), range(min(self._next, count))):
            if is_eligible(replicas[at]):
                self._next = at + 1
                return replicas[at]
        return None

    def _moved(self, replicas: Sequence[Replica]) -> int:
        """Return whose turn it is among `replicas`, which are others than those before."""
        former = self._replicas
        if former is None:
            return int(self._start * len(replicas))
        places = {replica: at for at, replica in enumerate(replicas)}
        for step in range(len(former)):
            at = places.get(former[(self._next + step) % len(former)])
            if at is not None:
                return at
        return 0
