"""Prequal's pool of load reports: which are kept for how long, and how often each is used. Pure, seeded.

From "Load is not what you should balance: introducing Prequal" (Wydrowski et al., NSDI 2024), section 4: the
replies to probes, and here also the reports that come with answers, serve later requests. An entry leaves the
pool when it is too old, when the pool is full and it is the oldest, when it has been used up, and so that the
pool does not degrade towards what nobody wants, entries are removed at a steady rate, the oldest and the worst
in turn.

What a host told last is remembered beside the pool for as long as it is hosted: the distribution of requests in
flight is over all hosts, not over the pool's.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from capamesh.router.balancing.hosts import Host

MAX_AGE_S = 1.0
"""An older report says nothing (paper, section 4)."""
MAX_POOL = 16
"""The paper's pool (section 4): more did not help."""
MIN_POOL = 2
"""With one entry there is no choice (paper, section 4)."""
PROBES_A_REQUEST = 3.0
"""The paper's `r_probe` (section 4); performance is flat down to 1 (section 5)."""
MAX_REMOVALS_A_REQUEST = 1.0
"""The paper's `r_remove` (section 4)."""
REMOVED_PART = 0.5
"""`r_remove` is at most this part of the probes that bring a host which is not pooled (ours: it keeps the reuse
budget's denominator positive, whatever the fleet's size)."""
REUSE_SLACK = 1.0
"""The paper's delta (section 4)."""
HOT_QUANTILE = 2**-0.25
"""The paper's `Q_RIF`, about 0.84 (section 4); 0.6 to 0.9 is good."""
MAX_PARALLEL = 256
"""Who claims to run more at the same time is believed so many (guess: twice a large batch)."""
UNBOUNDED = math.inf
"""A reuse budget: an entry is used until it is too old or pushed out."""


def pool_size(host_count: int) -> int:
    """Return how many entries a fleet's pool has: half of the hosts, so that a probe may bring another (ours)."""
    return min(MAX_POOL, max(MIN_POOL, host_count // 2))


def removals_a_request(
    size: int, host_count: int, probes_a_request: float = PROBES_A_REQUEST
) -> float:
    """Return how many entries are removed for each request: the paper's, or fewer in a small fleet (ours).

    `host_count` is at least 1.
    """
    outside = max(0.0, 1 - size / host_count)
    return min(MAX_REMOVALS_A_REQUEST, REMOVED_PART * outside * probes_a_request)


def reuse_budget(
    size: int,
    host_count: int,
    probes_a_request: float,
    removals: float,
    slack: float = REUSE_SLACK,
) -> float:
    """Return how often an entry may be used: the paper's `b_reuse` (section 4), `UNBOUNDED` where that is undefined.

    A probe brings a host that is not pooled with probability 1 - m/n only, so the pool gains
    (1 - m/n) x r_probe - r_remove entries a request. Where that is not positive, a budget cannot make uses and
    gains meet: then only age, overflow and removal bound an entry's life. `host_count` is at least 1.
    """
    gained = (1 - size / host_count) * probes_a_request - removals
    return max(1.0, (1 + slack) / gained) if gained > 0 else UNBOUNDED


class RifDistribution:
    """Requests in flight by hosts' latest reports, sorted: a report costs two binary searches. Pure."""

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
        """A host that told `old` tells `new`; -1 as `old`: it told nothing before, as `new`: it is gone."""
        if old == new:
            return
        known = self._sorted
        if old >= 0:
            del known[bisect_left(known, old)]
        if new >= 0:
            insort(known, new)


class Entry:
    """What one host told last, and what this router did there since."""

    __slots__ = (
        "asked_s",
        "host",
        "latency_s",
        "others",
        "parallel",
        "ran_s",
        "run_s",
        "sent_s",
        "share_s",
        "told_rif",
        "told_s",
        "uses_left",
        "wait_s",
    )

    def __init__(self, host: Host) -> None:
        self.host = host
        self.told_s = -math.inf
        """When it was told; minus infinity: never."""
        self.told_rif = -1
        """Requests in flight as told, of all routers; -1: never told."""
        self.others = 0
        """Those of other routers: what was told, less this router's own at that time."""
        self.latency_s = 0.0
        """As told, at that load, network excluded; 0: unknown."""
        self.parallel = 1
        """The most requests that were seen to run at the same time."""
        self.run_s = 0.0
        """How long a run takes, as told, or else the latency; 0: unknown."""
        self.ran_s = -math.inf
        """When that was told to have changed, as it does with each run."""
        self.share_s = 0.0
        """By how much one more in flight makes the next one wait: a run's part of one that runs beside others."""
        self.wait_s = 0.0
        """How long a new request would wait if none of this router's own were in flight; below 0: there is room.

        It is what was told, for as many as were in flight then, less the shares of this router's own.
        """
        self.uses_left = 0.0
        self.sent_s = -math.inf
        """When this router last sent a request there."""
        self.asked_s = -math.inf
        """When this router last asked for its load."""

    def __repr__(self) -> str:
        return f"Entry({self.host!r}, rif {self.rif}, {self.latency_s * 1e3:.1f} ms, told {self.told_s:.3f})"

    @property
    def rif(self) -> int:
        """Requests in flight there now: others' as last told, and this router's own, which it counts itself.

        This is the paper's compensation (one more for each use of the entry), which also ends with the
        request; with one router it is exact.
        """
        return self.host.rif + self.others


class ProbePool:
    """The reports that one model's requests are routed by. `known` outlives the pool's entries."""

    __slots__ = (
        "_chance",
        "_is_oldest_next",
        "_pooled",
        "distribution",
        "known",
        "removals",
        "reuses",
        "size",
    )

    def __init__(self, chance: random.Random, hot_quantile: float = HOT_QUANTILE) -> None:
        self._chance = chance
        self.distribution = RifDistribution(hot_quantile)
        self.known: dict[Host, Entry] = {}
        """What each host told last, whether it is in the pool or not."""
        self._pooled: dict[Host, Entry] = {}
        """The oldest first: dictionaries keep the order."""
        self.size = MAX_POOL
        self.removals = 0.0
        self.reuses = UNBOUNDED
        self._is_oldest_next = True

    def __repr__(self) -> str:
        return f"ProbePool({len(self._pooled)} of {self.size}, {self.distribution!r})"

    def __len__(self) -> int:
        return len(self._pooled)

    def __contains__(self, host: object) -> bool:
        return host in self._pooled

    @property
    def pooled(self) -> Mapping[Host, Entry]:
        """The entries of the pool by host, the oldest first."""
        return self._pooled

    def entry(self, host: Host) -> Entry:
        """Return what is known of a host; nothing, so far, of a new one."""
        entry = self.known.get(host)
        if entry is None:
            entry = self.known[host] = Entry(host)
        return entry

    def fit(self, hosts: Iterable[Host], *, size: int, removals: float, reuses: float) -> None:
        """Take over a changed fleet, and the bounds that suit it; forget who is not in it any more."""
        current = set(hosts)
        for host in [host for host in self.known if host.is_gone or host not in current]:
            self.forget(host)
        self.size, self.removals, self.reuses = size, removals, reuses
        while len(self._pooled) > size:
            self._drop_oldest()

    def forget(self, host: Host) -> None:
        """Remove all that is known of a host."""
        entry = self.known.pop(host, None)
        if entry is not None:
            self._pooled.pop(host, None)
            self.distribution.replace(entry.told_rif, -1)

    def add(self, host: Host, now_s: float) -> None:
        """Take in what `host` has just told (`host.load`); it replaces what the host told before.

        To be called after `host.rif` has fallen by the answered request: the node's count is without it.
        """
        if host.is_gone:
            self.forget(host)
            return
        entry = self.known.get(host)
        if entry is None:
            entry = self.known[host] = Entry(host)
        load = host.load
        told = load.in_flight
        now_running = told - load.queued
        if told != entry.told_rif:
            self.distribution.replace(entry.told_rif, told)
            entry.told_rif = told
        own = host.rif
        others = entry.others = told - own if told > own else 0
        if now_running > entry.parallel:
            entry.parallel = min(MAX_PARALLEL, now_running)
        entry.latency_s = host.service_s()
        run_s = load.run_us / 1e6 or entry.latency_s
        if run_s != entry.run_s:
            entry.run_s = run_s
            entry.ran_s = now_s
        entry.share_s = run_s / entry.parallel
        entry.wait_s = load.queue_us / 1e6 + (others - told) * entry.share_s
        entry.told_s = now_s
        reuses = self.reuses
        entry.uses_left = reuses if reuses == UNBOUNDED else self._rounded(reuses)
        pooled = self._pooled
        if pooled.pop(host, None) is None and len(pooled) >= self.size:
            self._drop_oldest()
        pooled[host] = entry

    def fresh(self, now_s: float) -> list[Entry]:
        """Remove what is too old and who is gone; return the rest, the oldest first.

        A clock that goes back makes nothing older.
        """
        pooled = self._pooled
        limit_s = now_s - MAX_AGE_S
        fresh = [e for e in pooled.values() if e.told_s >= limit_s and not e.host.is_gone]
        if len(fresh) < len(pooled):
            for host in [host for host in pooled if host.is_gone]:
                self.forget(host)
            self._pooled = {entry.host: entry for entry in fresh}
        return fresh

    def used(self, host: Host) -> None:
        """A request was sent to `host`: its entry is used, and the pool is kept from degrading."""
        pooled = self._pooled
        entry = pooled.get(host)
        if entry is not None:
            entry.uses_left -= 1
            if entry.uses_left <= 0:
                del pooled[host]
        if self.removals:
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
            for host, entry in pooled.items():
                rif = host.rif + entry.others
                if rif > worst_rif:
                    worst, worst_rif = entry, rif
                elif worst is None and rif <= theta and entry.latency_s > slowest_s:
                    slowest, slowest_s = entry, entry.latency_s
            out = worst or slowest
            if out is not None:
                del pooled[out.host]
        self._is_oldest_next = not self._is_oldest_next

    def _drop_oldest(self) -> None:
        del self._pooled[next(iter(self._pooled))]

    def _rounded(self, number: float) -> int:
        """Return a whole number whose mean is `number`."""
        whole = int(number)
        part = number - whole
        return whole + 1 if part and self._chance.random() < part else whole
