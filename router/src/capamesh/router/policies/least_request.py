"""Least requests in flight: of all in a small fleet, of a few drawn ones in a large one. Pure, seeded.

Envoy's least request balancer with equal weights: it draws `CHOICES` replicas and takes the least busy. Where the
fleet is small, looking at every replica costs no more than drawing, and never misses an idle one (Envoy's
`full_scan`). Replicas that are equally busy are then taken in turn: the look begins after the replica that was picked
last, so that an idle fleet is served round robin rather than by its order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.policies.drawing import draw_some
from capamesh.router.policies.policy import IsEligible, PolicyBase
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica

CHOICES = 2
"""Envoy's default `choice_count`."""
SMALL_FLEET = 16
"""Up to so many hosts all are looked at: as many as a Prequal pick compares (its pool's capacity, section 4 of
the paper), so that the two cost alike. Guess: with more, the minimum over all is what several routers herd onto,
since none counts the requests of the others."""


class LeastRequest(PolicyBase):
    """The replica with the fewest of this router's requests in flight."""

    name: ClassVar[str] = "least-request"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._start = rng.random()
        """The place at which the next look at all replicas begins: a fraction of the fleet until the first pick."""
        self._next = -1

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        del request, now_s
        if len(replicas) <= SMALL_FLEET:
            return self._of_all(replicas, is_eligible)
        drawn = draw_some(replicas, is_eligible, self._draw, CHOICES)
        return min(drawn, key=_rif, default=None)

    def _of_all(self, replicas: Sequence[Replica], is_eligible: IsEligible) -> Replica | None:
        count = len(replicas)
        start = self._next if self._next >= 0 else int(self._start * count)
        best: Replica | None = None
        for step in range(start, start + count):
            replica = replicas[step % count]
            if (best is None or replica.rif < best.rif) and is_eligible(replica):
                best = replica
                self._next = step % count + 1
        return best


def _rif(replica: Replica) -> int:
    return replica.rif
