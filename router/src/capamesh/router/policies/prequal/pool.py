"""Prequal's pool of load reports: what each replica told last, and which of that is fresh enough to choose by. Pure.

From "Load is not what you should balance: introducing Prequal" (Wydrowski et al., NSDI 2024), section 4: the
replies to probes, and here also the reports that come with answers, serve later requests. An entry leaves the
pool when it is too old, and when the pool is full and it is the oldest. The paper's pool also uses entries up and
removes the worst; this one does not need to (ADR 0014).

What a replica told last is remembered beside the pool for as long as it is hosted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica

MAX_AGE_S = 1.0
"""An older report says nothing (paper, section 4)."""
MAX_POOL = 16
"""The paper's pool (section 4): more did not help."""
MIN_POOL = 2
"""The pool is used from this many entries on: with one there is no choice (paper, section 4)."""
MAX_PARALLEL = 256
"""The most runs at the same time that a replica is believed to have (guess: twice a large batch)."""


def pool_size(replica_count: int) -> int:
    """Return how many entries a fleet's pool has: half of the replicas, so that a probe may bring another (ours)."""
    return min(MAX_POOL, max(MIN_POOL, replica_count // 2))


class Entry:
    """The newest load report of one replica, and what this router did there since."""

    __slots__ = (
        "asked_s",
        "network",
        "others",
        "parallel",
        "ran_s",
        "replica",
        "reported_rif",
        "reported_s",
        "run_s",
        "sent_s",
        "share_s",
        "wait_s",
    )

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.network = replica.endpoint.network
        self.reported_s = -math.inf
        """The time of the newest report; minus infinity while there is none."""
        self.reported_rif = -1
        """Requests in flight as told, of all routers; -1: never told."""
        self.others = 0
        """The requests in flight of other routers: the reported number less this router's own at that time."""
        self.parallel = 1
        """The most requests that were seen to run at the same time."""
        self.run_s = 0.0
        """The duration of a run as reported, or else the latency; 0 while unknown."""
        self.ran_s = -math.inf
        """The time at which the reported duration last changed, as it does with each run."""
        self.share_s = 0.0
        """The wait that one more request in flight adds for the next one: a run's share of the device while others run beside it."""
        self.wait_s = 0.0
        """The wait of a new request if none of this router's own were in flight; negative while there is room.

        It is the reported wait, for as many as were in flight then, less the shares of this router's own requests.
        """
        self.sent_s = -math.inf
        """The time at which this router last sent a request there."""
        self.asked_s = -math.inf
        """The time at which this router last asked for its load."""

    @override
    def __repr__(self) -> str:
        return f"Entry({self.replica!r}, rif {self.rif}, {self.latency_s * 1e3:.1f} ms, told {self.reported_s:.3f})"

    @property
    def rif(self) -> int:
        """Requests in flight there now: others' as last told, and this router's own, which it counts itself.

        This is the paper's compensation (one more for each use of the entry), which also ends with the
        request; with one router it is exact.
        """
        return self.replica.rif + self.others

    @property
    def latency_s(self) -> float:
        """Return the latency as reported, at the load of that time, without the network; 0 while unknown."""
        return self.replica.service_s


class ProbePool:
    """The reports that one model's requests are routed by. `known` outlives the pool's entries."""

    __slots__ = ("_oldest_s", "_pooled", "known", "size")

    def __init__(self) -> None:
        self.known: dict[Replica, Entry] = {}
        """The entry of each replica that reported its load, whether it is in the pool or not."""
        self._pooled: dict[Replica, Entry] = {}
        """The entries in the pool, in the order in which they came."""
        self._oldest_s = math.inf
        """No report in the pool is older than this."""
        self.size = MAX_POOL

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._pooled)} of {self.size})"

    def __len__(self) -> int:
        return len(self._pooled)

    def __contains__(self, replica: object) -> bool:
        return replica in self._pooled

    def __copy__(self) -> ProbePool:
        """Return a pool of the same entries, which may forget some and drop others without a trace in this one."""
        pool = ProbePool()
        pool.known = self.known.copy()
        pool._pooled = self._pooled.copy()
        pool._oldest_s = self._oldest_s
        pool.size = self.size
        return pool

    def entry(self, replica: Replica) -> Entry:
        """Return what is known of a replica; nothing, so far, of a new one."""
        entry = self.known.get(replica)
        if entry is None:
            entry = self.known[replica] = Entry(replica)
        return entry

    def fit(self, replicas: Sequence[Replica], *, size: int) -> list[Entry]:
        """Take over a changed fleet, and the size that suits it; forget who is not in it any more.

        Return what is known of each replica, in their order.
        """
        current = set(replicas)
        for replica in [
            replica for replica in self.known if replica.is_gone or replica not in current
        ]:
            self.forget(replica)
        self.size = size
        while len(self._pooled) > size:
            self._drop_oldest()
        return [self.entry(replica) for replica in replicas]

    def forget(self, replica: Replica) -> None:
        """Remove all that is known of a replica."""
        self.known.pop(replica, None)
        self._pooled.pop(replica, None)

    def add(self, replica: Replica, now_s: float) -> None:
        """Take in what `replica` has just told (`replica.load`); it replaces what the replica told before.

        To be called after `replica.rif` has fallen by the answered request: the node's count is without it.
        """
        if replica.is_gone:
            self.forget(replica)
            return
        entry = self.known.get(replica)
        if entry is None:
            entry = self.known[replica] = Entry(replica)
        load = replica.load
        reported = entry.reported_rif = load.in_flight
        own = replica.rif
        others = entry.others = reported - own if reported > own else 0
        now_running = reported - load.queued
        if now_running > entry.parallel:
            entry.parallel = min(MAX_PARALLEL, now_running)
        run_s = load.run_us / 1e6 or replica.service_s
        if run_s != entry.run_s:
            entry.run_s = run_s
            entry.ran_s = now_s
        share_s = entry.share_s = run_s / entry.parallel
        entry.wait_s = load.queue_us / 1e6 + (others - reported) * share_s
        entry.reported_s = now_s
        pooled = self._pooled
        if pooled.pop(replica, None) is None and len(pooled) >= self.size:
            self._drop_oldest()
        pooled[replica] = entry
        if now_s < self._oldest_s:  # noqa: PLR1730 - a hot path: `min` costs four times as much
            self._oldest_s = now_s

    def fresh(self, now_s: float) -> list[Entry]:
        """Remove what is too old; return the rest in the order in which it came.

        A clock that goes back makes nothing older.
        """
        limit_s = now_s - MAX_AGE_S
        if self._oldest_s < limit_s:
            fresh = [entry for entry in self._pooled.values() if entry.reported_s >= limit_s]
            self._pooled = {entry.replica: entry for entry in fresh}
            self._oldest_s = min((entry.reported_s for entry in fresh), default=math.inf)
        return list(self._pooled.values())

    def _drop_oldest(self) -> None:
        del self._pooled[next(iter(self._pooled))]
