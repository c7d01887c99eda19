"""Prequal as published, in a fleet that is not small: to compare the default policy with. Pure, seeded.

Of the pool, a cold replica (whose requests in flight are not over the 0.84 quantile of all replicas') with the least
latency, else the one with the fewest in flight; entries are used up and removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from capamesh.router.policies.drawing import draw_one
from capamesh.router.policies.prequal.policy import Prequal
from capamesh.router.policies.prequal.pool import PROBES_A_REQUEST, Entry
from capamesh.router.policies.prequal.published_pool import (
    PublishedPool,
    removals_a_request,
    reuse_budget,
)

if TYPE_CHECKING:
    import random

    from capamesh.router.fleet.replica import Replica
    from capamesh.router.policies.policy import IsEligible

HOT = 1e9
"""Ranks every hot replica behind every cold one: no latency is so many seconds."""


class HotCold(Prequal):
    """The paper's rule and the paper's pool."""

    name: ClassVar[str] = "prequal-published"

    def __init__(self, rng: random.Random, *, probes_a_request: float = PROBES_A_REQUEST) -> None:
        self.published = PublishedPool(rng)
        super().__init__(rng, probes_a_request=probes_a_request, pool=self.published)

    def sent(self, replica: Replica, now_s: float) -> None:
        """Part of `Policy`."""
        super().sent(replica, now_s)
        if not self._is_small:
            self.published.used(replica)

    def _fit(self, replicas: Sequence[Replica]) -> None:
        super()._fit(replicas)
        pool, count, probes = self.published, len(replicas), self._probes_a_request
        if count:
            pool.removals = removals_a_request(pool.size, count, probes)
            pool.reuses = reuse_budget(pool.size, count, probes, pool.removals)

    def _ranks(self, entries: Sequence[Entry], size_bytes: int, now_s: float) -> list[float]:
        del now_s
        theta = self.published.distribution.theta
        return [
            entry.latency_s + entry.replica.endpoint.network.transfer_s(size_bytes)
            if entry.rif <= theta
            else HOT + entry.rif
            for entry in entries
        ]

    def _of_some(
        self, only: Replica | None, is_eligible: IsEligible, size_bytes: int, now_s: float
    ) -> Replica | None:
        del only, size_bytes, now_s
        return draw_one(self._replicas, is_eligible, self._draw)
