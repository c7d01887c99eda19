"""Estimates how full the nodes of one model are, from what they last told and what was sent since. Pure.

The level is the mean over replicas of how much of each is taken, as llm-d's scheduler has it, but of those replicas
that can be sent to: the others have neither room nor load. Who has been silent for long with requests of ours counts
as full; an answer in parts that has begun is no such request: a reader that stalls makes no node silent. Where nothing is
known there is room: a replica that was never heard of counts 0, one that was not for long what we have there.

A report that may refuse requests is renewed while requests come (`renewals`): they are all that would bring another, and they
are refused. It counts less and less, and after `STALE_S` for nothing: whatever a node once said, its model is asked again.

What nodes tell counts the requests of all routers; this router's own are counted on until they tell again, and those that
left off. No node's word counts for much more than what most of them say: one that lies must not open the controller for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.admission.bulk_share import NO_LIMIT_ROWS, bulk_share
from capamesh.router.resilience.health import MOST_REFUSED_S, REFUSED_S

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica

LOOK_S = 0.025
"""Seconds that the reading of the replicas may be old (guess: a few answers of each replica)."""
MAX_LOOK_S = 0.05
LOOK_S_A_REPLICA = 4e-4
"""Seconds a replica that are added to it: with many the reading is made less often, so that it costs a hundredth of the time
(measured: 4 us a replica)."""
MAX_READ = 128
"""The most replicas that are read at a time; of more, so many in turn stand for all: where each is 0.3 fuller or emptier
than the mean, that is known to 0.03 (guess that this will do)."""
MOST_TIMES = 4.0
"""A replica's limit counts up to so many times the median of all, and a replica that has not answered of late is not taken
for more than so many times as fast (guess: as the simulated fleets' fastest nodes to their slowest)."""
HELD_S = 10.0
"""Seconds after a replica refused a request in which it is not taken to hold more than it did then, or than most replicas do
(guess: tens of round trips; a node's limit may grow meanwhile)."""
STOCK_BATCHES = 8
"""The limit of a replica that was never heard of is taken to be so many of its best batches: the least that nodes begin with."""
STALE_S = 1.0
"""A report of this age says nothing any more (Prequal, section 4), nor does the reply to a probe: it is lost then."""
RENEW_S = 0.1
"""A report of this age is asked for anew if it says that the replica is loaded (guess: a tenth of what it holds for)."""
MOST_RENEWED = 64
"""The most replicas that are asked in one turn, of which there are twenty a second: with 1,000 loaded each is asked before its
report is stale, for who was asked goes behind all others."""
SILENT_S = 2.0
"""Seconds after which a replica counts as full that has told nothing with requests of ours (guess: as long as the longest queue)."""
SILENT_ANSWERS = 4
"""The latencies, as a replica tells them, after which it counts so at the soonest (guess: slow models answer seldom)."""

IsOpen = Callable[["Replica", float], bool]
"""Tells whether any request could be sent to a replica at a time, were there room."""


def is_open(replica: Replica, now_s: float) -> bool:
    """Return whether `replica` can be reached and nothing is wrong with it."""
    endpoint = replica.endpoint
    return endpoint.is_usable and endpoint.health.may_send(now_s) and replica.health.may_send(now_s)


def rows_of(replica: Replica) -> int:
    """Return the rows that a replica says may be in flight there; one of an earlier version tells but a limit of requests."""
    return replica.load.limit_rows or replica.load.limit


class _Memory:
    """The memory of a replica between two readings."""

    __slots__ = (
        "asked_s",
        "full_s",
        "full_until_s",
        "held",
        "load_s",
        "own",
        "urgent_full_until_s",
    )

    def __init__(self) -> None:
        self.asked_s = -math.inf
        """The time when its load was last asked for (`Saturation.renewals`)."""
        self.load_s = -math.inf
        self.own = 0
        """This router's requests there when its newest report was first seen."""
        self.full_s = -math.inf
        self.full_until_s = -math.inf
        """The time until which it is not to be asked again, since it refused a request."""
        self.held = 0
        """The number in flight there when it refused, by its word or by what this router had there."""
        self.urgent_full_until_s = -math.inf
        """The time until which all its places are taken by urgent requests, since it refused even such a one."""


class _Reading:
    """Sums over the replicas, at one time."""

    def __init__(self, now_s: float, replicas: Sequence[Replica]) -> None:
        """Take all replicas that are open. Where there are two, nobody can tell which of them lies: both are believed."""
        reported = [replica for replica in replicas if replica.load.limit]
        limits = sorted([replica.load.limit for replica in reported])
        self.usual_slots = limits[len(limits) // 2] if limits else 0
        rows = sorted([rows_of(replica) for replica in reported])
        self.usual_rows = rows[len(rows) // 2] if rows else 0
        latencies = sorted([latency_s for replica in reported if (latency_s := replica.service_s)])
        self.least_s = latencies[(len(latencies) - 1) // 2] / MOST_TIMES if latencies else 0.0
        self.now_s = now_s
        self.counted = len(replicas)
        self.unheard = 0
        self.refusing = 0
        """The number of replicas that were never heard of but by a refusal."""
        self.reported = 0
        self.levels = 0.0
        self.slots = 0.0
        self.urgent_slots = 0.0
        self.taken = 0.0
        self.bulk_room = 0.0
        self.unheard_bulk_room = 0.0
        self.rate = 0.0
        self.is_unsure = False
        """True if some open replica may answer without a wait, for all that is known."""
        self.soonest_s = math.inf
        self.wait_s = 0.0
        self.run_s = 0.0

    def add(self, replica: Replica, memory: _Memory, *, is_full: bool) -> None:
        """Take in one replica that is open."""
        load, own = replica.load, replica.rif
        limit = min(load.limit, MOST_TIMES * self.usual_slots)
        if self.now_s - memory.full_s < HELD_S:
            limit = min(limit, max(self.usual_slots, memory.held))
        if not limit:
            self.taken += own
            if is_full:
                self.refusing += 1
                self.levels += 1.0
            else:
                self.unheard += 1
            return
        self.reported += 1
        self.slots += limit
        if self.now_s >= memory.urgent_full_until_s:
            self.urgent_slots += limit
        latency_s = replica.service_s
        age_s = self.now_s - replica.load_s
        if age_s > STALE_S:
            silent_s = max(SILENT_S, SILENT_ANSWERS * latency_s)
            is_silent = own > replica.streams and self.now_s - replica.busy_s > silent_s
            if is_full or is_silent:
                self.taken += limit
                self.levels += 1.0
            else:  # idle for all that is known, or it has had no time to answer yet
                self.taken += min(own, limit)
                self.levels += min(1.0, own / limit)
                self.is_unsure = True
            return
        reported_queue_s = queue_s = load.queue_us / 1e6
        run_s = load.run_us / 1e6
        # the time from one answer to the next: all that are there are answered within the last one's latency
        each_s = latency_s / (load.in_flight + 1 if queue_s else limit)
        reported_busy = float(load.in_flight)
        if not own:  # no answer is under way that would tell of less: it is believed less and less
            believed = 1.0 - age_s / STALE_S
            reported_busy *= believed
            queue_s *= believed
        busy = limit if is_full else min(limit, max(own, reported_busy + own - memory.own))
        self.taken += busy
        # a node's limit is what it can run within the longest wait that it accepts, and follows its speed
        self.levels += busy / limit
        if not each_s:
            self.is_unsure = True
            return
        if latency_s < self.least_s and self.now_s - replica.answered_s > SILENT_S:
            # too good, and no answer of late by which `ReportedLoadCheck` could hold it to the truth
            self.rate += latency_s / self.least_s / each_s
            return
        self.rate += 1 / each_s
        alone_s = min(latency_s, max(latency_s - reported_queue_s, run_s))
        wait_s = max(0.0, latency_s - alone_s - (reported_queue_s - queue_s))
        wait_s = max(0.0, wait_s + (busy - reported_busy) * each_s)
        alone_s += replica.endpoint.network.rtt_s
        if alone_s + wait_s < self.soonest_s:
            self.soonest_s, self.wait_s, self.run_s = alone_s + wait_s, wait_s, alone_s

    def add_bulk(self, replica: Replica) -> None:
        """Take in the room for jobs of one replica that is open and not full."""
        best_rows = max(1, replica.offer.best_rows)
        if not replica.load.limit:
            self.unheard_bulk_room += bulk_share(STOCK_BATCHES * best_rows, best_rows)
            return
        rows = min(rows_of(replica), MOST_TIMES * self.usual_rows)
        is_fresh = self.now_s - replica.load_s <= STALE_S
        others = replica.others_bulk_rows if is_fresh else 0
        self.bulk_room += max(0.0, bulk_share(rows, best_rows) - others)


class Saturation:
    """The level of one model; also its slots, how fast they get free, and how long an answer takes at best.

    `look` is called before a request is judged and reads the replicas again only when it is time to. In between
    `extra`, the requests that came less those that ended, moves the figures.
    """

    def __init__(self, is_open: IsOpen = is_open) -> None:
        self._is_open = is_open
        self._replicas: Sequence[Replica] = ()
        self._memory: dict[Replica, _Memory] = {}
        """The memory of each; of those whose load was asked for longest ago first."""
        self._supervisor: list[tuple[Replica, _Memory]] = []
        """The same, those first whose turn to be read is next."""
        self._look_s = -math.inf
        self._next_s = -math.inf
        self._base = 0.0
        self._taken = 0.0
        self._wait_s = 0.0
        self.extra = 0
        """This router's requests since the reading: those that came less those that ended."""
        self.is_known = False
        """True if any open replica has ever told its load or refused; if none has, nothing can be judged."""
        self.slots = 0.0
        """Requests that may be in flight at all open replicas together."""
        self.urgent_slots = 0.0
        """The number of slots for urgent requests: without the replicas that refused such of late."""
        self.bulk_room = 0.0
        """Rows that this router may have under way for jobs: what the open replicas may have less what is there of other routers."""
        self.rate = 0.0
        """Slots that get free in a second while all are taken; 0: unknown."""
        self.run_s = 0.0
        """The time that an answer takes, its queueing excluded, where it would be there first; 0: unknown."""

    @override
    def __repr__(self) -> str:
        return f"Saturation({self.level:.2f}: {self.in_flight:.0f} of {self.slots:.0f} slots)"

    @property
    def level(self) -> float:
        """0 is idle, 1 is full; above 1 only by what came since the reading."""
        slots = self.slots
        return self._base + self.extra / slots if slots else self._base

    @property
    def in_flight(self) -> float:
        """Requests of all routers at the open replicas."""
        return self._taken + self.extra

    @property
    def wait_s(self) -> float:
        """Return how long a request that comes now queues where it would be answered first; 0: not, or unknown."""
        wait_s = self._wait_s + self.extra / self.rate if self.rate else self._wait_s
        return max(0.0, wait_s)

    def look(self, replicas: Sequence[Replica], now_s: float) -> None:
        """Read the replicas if that has become due, or they are others; a clock that was set back makes it due."""
        if replicas is self._replicas:
            if self._look_s <= now_s < self._next_s:
                return
        else:
            known = self._memory
            self._memory = {replica: known.get(replica) or _Memory() for replica in replicas}
            self._supervisor = list(self._memory.items())
            self._replicas = replicas
        self._look_s = now_s
        read = min(len(replicas), MAX_READ)
        self._next_s = now_s + min(MAX_LOOK_S, max(LOOK_S, read * LOOK_S_A_REPLICA))
        self._read(now_s)

    def refused(
        self, replica: Replica, retry_after_s: float, now_s: float, *, is_urgent: bool = False
    ) -> None:
        """`replica` refused a request for lack of room: it is full until the time it named, or until it tells."""
        memory = self._memory.get(replica)
        if memory is not None:
            wait_s = min(retry_after_s, MOST_REFUSED_S) if retry_after_s > 0 else REFUSED_S
            memory.full_s = now_s
            memory.held = max(replica.rif, replica.load.in_flight)
            memory.full_until_s = max(memory.full_until_s, now_s + wait_s)
            if is_urgent:
                memory.urgent_full_until_s = memory.full_until_s

    def renewals(self, now_s: float) -> list[Replica]:
        """Return whom to ask for the load now, since requests are judged by what was told: each once until it tells or is late.

        To be called every 50 ms or so.
        """
        due: list[Replica] = []
        if now_s - self._look_s > STALE_S:
            return due  # no request came, and the next finds nothing that it could be refused for
        is_open = self._is_open
        for replica, memory in self._memory.items():
            has_refused = now_s < memory.full_until_s
            if now_s - replica.load_s <= RENEW_S or replica.is_out:
                continue
            if not (replica.load.in_flight or replica.rif or has_refused):
                continue
            if memory.asked_s > replica.load_s and now_s - memory.asked_s < STALE_S:
                continue
            # whom a failure keeps out is asked for a sign of life by others, and more and more seldom
            if is_open(replica, now_s) or (has_refused and replica.endpoint.is_usable):
                memory.asked_s = now_s
                due.append(replica)
                if len(due) == MOST_RENEWED:
                    break
        for replica in due:
            self._memory[replica] = self._memory.pop(replica)
        return due

    def _read(self, now_s: float) -> None:
        is_open = self._is_open
        opened: list[tuple[Replica, _Memory, bool]] = []
        supervisor = self._supervisor
        if len(supervisor) > MAX_READ:
            supervisor = self._supervisor[:MAX_READ]
            self._supervisor = self._supervisor[MAX_READ:] + supervisor
        for replica, memory in supervisor:
            if replica.is_gone:
                continue
            if replica.load_s != memory.load_s:
                memory.load_s = replica.load_s
                memory.own = replica.rif
            # such a one is not open, but for want of room only
            has_refused = now_s < memory.full_until_s
            if is_open(replica, now_s) or (has_refused and replica.endpoint.is_usable):
                is_full = has_refused and memory.full_s >= memory.load_s
                opened.append((replica, memory, is_full))
        reading = _Reading(now_s, [replica for replica, _, _ in opened])
        for replica, memory, is_full in opened:
            reading.add(replica, memory, is_full=is_full)
            if not is_full:
                reading.add_bulk(replica)
        reported, unheard = reading.reported, reading.unheard
        scale = len(self._supervisor) / len(supervisor) if supervisor else 1.0
        self.extra = 0
        self.is_known = reported > 0 or reading.refusing > 0
        scaled = scale * (1.0 + (unheard / reported if reported else 0.0))
        self.slots = scaled * reading.slots
        self.urgent_slots = scaled * reading.urgent_slots
        self.bulk_room = (
            scaled * reading.bulk_room if reported else scale * reading.unheard_bulk_room
        )
        self.rate = scale * reading.rate
        self._taken = scale * reading.taken
        self._base = reading.levels / reading.counted if reading.counted else 0.0
        if reading.is_unsure or unheard:
            self.run_s = self._wait_s = 0.0
        else:
            self.run_s, self._wait_s = reading.run_s, reading.wait_s


class UnreadSaturation(Saturation):
    """The saturation where nobody asks for it: the replicas are not read, so that nothing is known and nothing is full."""

    def __init__(self) -> None:
        super().__init__()
        self.bulk_room = float(NO_LIMIT_ROWS)

    @override
    def look(self, replicas: Sequence[Replica], now_s: float) -> None:
        del replicas, now_s
