"""The default policy: Prequal's asynchronous probing, and of those who answered the soonest done. Pure, seeded.

After "Load is not what you should balance: introducing Prequal" (Wydrowski et al., NSDI 2024): each request sent
sets off a few probes of replicas drawn at random; what they and the answers tell is pooled, and the next requests
choose among the pool. A fleet too small for the pool's arithmetic (up to `SMALL_FLEET` replicas) has no pool: the
latest report of every replica is looked at.

The choice differs from the paper's. Its hot-cold rule supposes that a report goes stale as
other clients send. Here a replica's own requests are counted exactly (`Entry.rif`) and each answer brings a fresh
report, so that the time until a request would be done there can be estimated: its run, plus the wait that was
told, corrected by what was sent and answered since (`done_s`). So no entry is used up, and none removed but by
age and overflow.

Measured by simulation (hot-cold: the paper's rule and pool, which are not kept here), p99 in geometric means over three seeds: queues of one or two slots or batches of eight,
speeds of 1:2:4, half of the replicas slowed down threefold a fifth of the time, and in a local or a wide network.
- 3, 5 and 8 replicas at 50, 70 and 90 % load, also equal and undisturbed ones: 0.69 times the best of round robin,
  random, two choices, least requests of all and peak EWMA with one router, 0.63 with three; at worst 1.02 and
  1.04 (equal replicas, where round robin is the best). Hot-cold (two seeds): 0.98 and 0.93, at worst
  1.7 and 2.1.
- 100 replicas of one slot: at 70 and 90 % load 36 and 55 ms with one router, 47 and 71 ms with five; hot-cold 49,
  82, 63 and 102 ms; the best of the others (peak EWMA of two) 138, 227, 298 and 539 ms. The least gain is with
  batches, one router and 90 % load: 161 ms, hot-cold 390 ms, peak EWMA 285 ms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.policies.drawing import draw_some
from capamesh.router.policies.policy import IsEligible, MayBeProbed
from capamesh.router.policies.prequal.pool import Entry, ProbePool, pool_size
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    import random

    from capamesh.router.fleet.replica import Replica

PROBE_TRIES = 3
"""Replicas that are drawn for the one probe of a request (guess); while most are fresh there is nothing to ask. The paper sends three probes and finds its performance flat down to one (section
5). Here, where each answer tells the load too, one does no worse (measured: simulation, p99 at 100 nodes and 90 % load
70 ms, with three 77; at 3, 5 and 8 nodes and 70 % load 142, 86 and 59 ms, with three 185, 87 and 58), and two are saved
on both sides."""
SMALL_FLEET = 24
"""A fleet of at most this many replicas is looked at whole. For such a fleet the paper's reuse budget is undefined for its own pool of 16, three probes and one
removal a request; and looking at all of them costs little more than at 16."""
WAIT_WEIGHT = 2.0
"""A second of waiting counts as so many of running (measured: simulation). With 1 each request goes where it is
done soonest, and so much queues at the fast replicas that the mean suffers: 36 ms against 26 ms at 90 % load."""
ALIKE = 1.1
"""Replicas of a small fleet within this factor of the best count as equal and are taken in turn: the one that was not
sent to for longest is the nearest to being idle (measured: simulation; without, equal replicas did up to 9 % worse than round robin)."""
UNKNOWN_S = 1.0
"""The assumed cost of one request in flight at a replica that never reported its load (Linkerd's default round trip time).
With none in flight such a replica costs nothing but the way to it, so it is tried by one request at a time."""
DOUBT_AFTER_S = 1.0
DOUBT_S = 10.0
"""A replica that has not run anything for `DOUBT_AFTER_S` may not be as slow any more as it was: what it told decays
with this time constant (Finagle's decay of a latency that is not observed). Else a first run that took long would
be held against it for ever."""
SEEN_S = 1.0
"""An answer that this router had there so lately says more than what is told (guess: the age of a report)."""
FALLBACK_DRAWS = 4
"""Replicas compared while the pool has no choice (guess: Prequal's synchronous mode asks 3 to 5)."""
FRESH_S = 0.005
"""A replica whose load was reported within this time is not asked again (guess: less than a queue takes to turn)."""
MIN_PROBE_S = 0.05
PROBE_TRIPS = 4.0
"""A probe is under way for at most so many round trips, or `MIN_PROBE_S`; then another may follow (guess)."""
LOOKED_AT = 64
"""Replicas that are walked through where drawing met mostly such as are not eligible (guess)."""


def done_s(entries: Sequence[Entry], size_bytes: int, now_s: float) -> list[float]:
    """Return in how long, weighted, a request of `size_bytes` would be done at each replica.

    The run, the network, and `WAIT_WEIGHT` times the wait: what the replica told, and for each request that came or
    went since its share of a run. Never negative, never infinite.
    """
    times_s: list[float] = []
    for entry in entries:
        network = entry.network
        network_s = network.transfer_s(size_bytes) if network.bytes_per_s else network.rtt_s
        wait_s = entry.wait_s + entry.replica.rif * entry.share_s
        if wait_s > 0:
            at_replica_s = entry.run_s + WAIT_WEIGHT * wait_s
        else:
            at_replica_s = _without_wait_s(entry, network_s, now_s)
        times_s.append(at_replica_s + network_s)
    return times_s


def _without_wait_s(entry: Entry, network_s: float, now_s: float) -> float:
    """Return how long a run takes at a replica where none has to wait, as far as that replica ever told anything.

    If it is idle, what it told may be an old story: the node's figure follows ten runs, and there may be none;
    what this router has just seen is newer.
    """
    replica = entry.replica
    rif = replica.rif + entry.others
    if entry.reported_rif < 0:
        return rif * UNKNOWN_S
    run_s = entry.run_s
    if rif > 0:
        return run_s
    still_s = now_s - entry.ran_s - DOUBT_AFTER_S
    if still_s > 0:
        run_s *= math.exp(-still_s / DOUBT_S)
    if now_s - replica.peak_seen_s < SEEN_S:
        seen_s = replica.peak_cost_s - network_s
        if seen_s < run_s:
            return seen_s if seen_s > 0 else 0.0
    return run_s


def _is_due(entry: Entry, now_s: float) -> bool:
    """Return whether to probe a replica: its load was not reported just now, and no probe is under way to it."""
    if now_s - entry.reported_s < FRESH_S:
        return False
    asked_s = entry.asked_s
    if asked_s <= entry.reported_s:
        return True
    patience_s = max(MIN_PROBE_S, PROBE_TRIPS * entry.network.rtt_s)
    return now_s - asked_s >= patience_s


class Prequal:
    """Sends to whom a report of the last second says that it will be done soonest, and keeps such reports coming."""

    name: ClassVar[str] = "prequal"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._draw = rng.random
        self.pool = ProbePool()
        self._replicas: Sequence[Replica] = ()
        self._entries: list[Entry] = []
        """The entries of the replicas, in the order of the replicas."""
        self._is_small = True

    @override
    def __repr__(self) -> str:
        return f"Prequal({self.pool!r} for {len(self._replicas)} hosts)"

    def __copy__(self) -> Prequal:
        """Return a policy that picks by the same entries, and keeps a pool of its own of them."""
        return self._copy(self._rng)

    def _copy(self, rng: random.Random) -> Prequal:
        policy = Prequal(rng)
        policy.pool = copy.copy(self.pool)
        policy._replicas = self._replicas
        policy._entries = self._entries
        policy._is_small = self._is_small
        return policy

    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        """Return the replica that would be done soonest; of those of a small fleet that are alike, the one sent to longest ago."""
        if replicas is not self._replicas:
            self._fit(replicas)
        if not self._is_small:
            return self._of_pool(is_eligible, request.size_bytes, now_s)
        entries = self._entries
        costs_s = done_s(entries, request.size_bytes, now_s)
        for _ in entries:
            limit_s = min(costs_s) * ALIKE
            best = -1
            longest_s = math.inf
            for at, cost_s in enumerate(costs_s):
                if cost_s <= limit_s and entries[at].sent_s < longest_s:
                    best, longest_s = at, entries[at].sent_s
            replica = entries[best].replica
            if is_eligible(replica):
                return replica
            costs_s[best] = math.inf
        return None

    def preview(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
        rng: random.Random,
    ) -> Replica | None:
        """Let a copy pick, with another random source."""
        return self._copy(rng).pick(replicas, is_eligible, request, now_s)

    def _of_pool(self, is_eligible: IsEligible, size_bytes: int, now_s: float) -> Replica | None:
        """Choose in a fleet of which not all replicas are looked at."""
        entries = self.pool.fresh(now_s)
        ranks = done_s(entries, size_bytes, now_s)
        best: Replica | None = None
        for _ in entries:
            at = ranks.index(min(ranks))
            ranks[at] = math.inf  # it is asked once
            if is_eligible(entries[at].replica):
                best = entries[at].replica
                break
        for entry, rank in zip(entries, ranks, strict=True):
            if rank < math.inf and is_eligible(entry.replica):
                return best  # there was a choice
        return self._of_some(best, is_eligible, size_bytes, now_s)

    def reported(self, replica: Replica, now_s: float) -> None:
        """Add the replica's new load to the pool. `replica.rif` has already fallen by the request that was answered."""
        self.pool.add(replica, now_s)

    def sent(self, replica: Replica, now_s: float) -> None:
        """Note when a request was sent to the replica."""
        entry = self.pool.known.get(replica) or self.pool.entry(replica)
        entry.sent_s = now_s

    def probes(
        self, replicas: Sequence[Replica], may_be_probed: MayBeProbed, now_s: float
    ) -> Sequence[Replica]:
        """Return one replica, drawn uniformly from those that may be probed and are due, or none.

        Where there is but one replica, a probe would tell nothing that its answers do not tell.
        """
        if replicas is not self._replicas:
            self._fit(replicas)
        draw, entries = self._draw, self._entries
        count = len(entries)
        tries = PROBE_TRIES if count > 1 else 0
        refused = 0
        for _ in range(tries):
            entry = entries[int(draw() * count)]
            if not _is_due(entry, now_s):
                continue
            if may_be_probed(entry.replica, now_s):
                entry.asked_s = now_s
                return (entry.replica,)
            refused += 1
        if refused * 2 > tries:
            start = int(draw() * count)
            for step in range(min(count, LOOKED_AT)):
                entry = entries[(start + step) % count]
                if _is_due(entry, now_s) and may_be_probed(entry.replica, now_s):
                    entry.asked_s = now_s
                    return (entry.replica,)
        return ()

    # inside

    def _fit(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas
        count = len(replicas)
        self._is_small = count <= SMALL_FLEET
        self._entries = self.pool.fit(replicas, size=pool_size(count))

    def _of_some(
        self, only: Replica | None, is_eligible: IsEligible, size_bytes: int, now_s: float
    ) -> Replica | None:
        """Choose while the pool has no choice: among a few replicas drawn, and the one that is pooled."""
        drawn = draw_some(self._replicas, is_eligible, self._draw, FALLBACK_DRAWS)
        if only is not None:
            drawn.append(only)
        if not drawn:
            return None
        costs_s = done_s([self.pool.entry(replica) for replica in drawn], size_bytes, now_s)
        return drawn[costs_s.index(min(costs_s))]
