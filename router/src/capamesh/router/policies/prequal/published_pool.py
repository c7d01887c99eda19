"""Prequal's pool as published: its entries are also used up, and removed at a steady rate. Pure, seeded.

From "Load is not what you should balance: introducing Prequal" (Wydrowski et al., NSDI 2024), section 4: so that
the pool does not degrade towards what nobody wants, each entry is used a bounded number of times, and the oldest
and the worst are removed in turn. What is hot, and so among the worst, is a quantile of requests in flight over
all replicas, not over the pool's.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from capamesh.router.policies.prequal.pool import PROBES_A_REQUEST, Entry, ProbePool

if TYPE_CHECKING:
    import random

    from capamesh.router.fleet.replica import Replica

MAX_REMOVALS_A_REQUEST = 1.0
"""The paper's `r_remove` (section 4)."""
REMOVED_PART = 0.5
"""`r_remove` is at most this part of the probes that bring a replica which is not pooled (ours: it keeps the reuse
budget's denominator positive, whatever the fleet's size)."""
REUSE_SLACK = 1.0
"""The paper's delta (section 4)."""
HOT_QUANTILE = 2**-0.25
"""The paper's `Q_RIF`, about 0.84 (section 4); 0.6 to 0.9 is good."""
UNBOUNDED = math.inf
"""A reuse budget: an entry is used until it is too old or pushed out."""


def removals_a_request(
    size: int, replica_count: int, probes_a_request: float = PROBES_A_REQUEST
) -> float:
    """Return how many entries are removed for each request: the paper's, or fewer in a small fleet (ours).

    `replica_count` is at least 1.
    """
    outside = max(0.0, 1 - size / replica_count)
    return min(MAX_REMOVALS_A_REQUEST, REMOVED_PART * outside * probes_a_request)


def reuse_budget(
    size: int,
    replica_count: int,
    probes_a_request: float,
    removals: float,
    slack: float = REUSE_SLACK,
) -> float:
    """Return how often an entry may be used: the paper's `b_reuse` (section 4), `UNBOUNDED` where that is undefined.

    A probe brings a replica that is not pooled with probability 1 - m/n only, so the pool gains
    (1 - m/n) x r_probe - r_remove entries a request. Where that is not positive, a budget cannot make uses and
    gains meet: then only age, overflow and removal bound an entry's life. `replica_count` is at least 1.
    """
    gained = (1 - size / replica_count) * probes_a_request - removals
    return max(1.0, (1 + slack) / gained) if gained > 0 else UNBOUNDED


class RifDistribution:
    """Requests in flight by replicas' latest reports, sorted: a report costs two binary searches. Pure."""

    __slots__ = ("_sorted", "hot_quantile")

    def __init__(self, hot_quantile: float = HOT_QUANTILE) -> None:
        self.hot_quantile = hot_quantile
        self._sorted: list[int] = []

    def __repr__(self) -> str:
        return f"RifDistribution({len(self._sorted)} hosts, hot above {self.theta})"

    @property
    def theta(self) -> float:
        """More in flight than this is hot; -1 for quantile 0: all are. 0 when nothing was told."""
        known = self._sorted
        if not known:
            return 0
        rank = math.ceil(self.hot_quantile * len(known))
        return known[rank - 1] if rank else -1

    def replace(self, old: int, new: int) -> None:
        """A replica that told `old` tells `new`; -1 as `old`: it told nothing before, as `new`: it is gone."""
        if old == new:
            return
        known = self._sorted
        if old >= 0:
            del known[bisect_left(known, old)]
        if new >= 0:
            insort(known, new)


class PublishedPool(ProbePool):
    """The pool of the paper: `used` is to be called for each request that is sent."""

    __slots__ = ("_is_oldest_next", "_rng", "distribution", "removals", "reuses")

    def __init__(self, rng: random.Random, hot_quantile: float = HOT_QUANTILE) -> None:
        super().__init__()
        self._rng = rng
        self._is_oldest_next = True
        self.distribution = RifDistribution(hot_quantile)
        self.removals = 0.0
        """Entries removed for each request."""
        self.reuses = UNBOUNDED
        """How often an entry is used."""

    def __repr__(self) -> str:
        return f"PublishedPool({len(self)} of {self.size}, {self.distribution!r})"

    def forget(self, replica: Replica) -> None:
        """Part of `ProbePool`."""
        entry = self.known.get(replica)
        if entry is not None:
            self.distribution.replace(entry.reported_rif, -1)
        super().forget(replica)

    def add(self, replica: Replica, now_s: float) -> None:
        """Part of `ProbePool`."""
        if replica.is_gone:
            self.forget(replica)
            return
        entry = self.entry(replica)
        reported_before = entry.reported_rif
        super().add(replica, now_s)
        self.distribution.replace(reported_before, entry.reported_rif)
        reuses = self.reuses
        entry.uses_left = reuses if reuses == UNBOUNDED else self._rounded(reuses)

    def used(self, replica: Replica) -> None:
        """A request was sent to `replica`: its entry is used, and the pool is kept from degrading."""
        pooled = self._pooled
        entry = pooled.get(replica)
        if entry is not None:
            entry.uses_left -= 1
            if entry.uses_left <= 0:
                del pooled[replica]
        for _ in range(self._rounded(self.removals)):
            self._remove()

    def _remove(self) -> None:
        """Remove the oldest entry, or the next time the worst: the busiest hot one, else the slowest cold one."""
        pooled = self._pooled
        if not pooled:
            return
        if self._is_oldest_next:
            self._drop_oldest()
        else:
            theta = self.distribution.theta
            worst: Entry | None = None
            worst_rif = theta  # a hot one is above
            slowest: Entry | None = None
            slowest_s = -math.inf
            for entry in pooled.values():
                rif, latency_s = entry.rif, entry.latency_s
                if rif > worst_rif:
                    worst, worst_rif = entry, rif
                elif worst is None and rif <= theta and latency_s > slowest_s:
                    slowest, slowest_s = entry, latency_s
            out = worst or slowest
            if out is not None:
                del pooled[out.replica]
        self._is_oldest_next = not self._is_oldest_next

    def _rounded(self, number: float) -> int:
        """Return a whole number whose mean is `number`."""
        whole = int(number)
        part = number - whole
        return whole + 1 if part and self._rng.random() < part else whole
