"""Takes a request or refuses it, before a node is chosen: overload is an early refusal, never a queue. Pure.

Four things are asked, and each refusal is an `Overloaded` that says when to come again:

    late    it would wait at the nodes for so long that its deadline passes
    share   its tenant has its share of the slots already, and others want theirs: `TooManyRequests`
    shed    its class gives way at this level
    full    all slots are taken

As long as there is room enough for all, nothing is limited.

A call of a job is judged by the room for jobs alone (`bulk`).

An urgent request is judged as if there were none but urgent ones: nodes give it the place of one that is less so. Its
tenant's share is one of the urgent requests.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from capamesh.protocol.errors import Overloaded, TooManyRequests
from capamesh.protocol.links.calls import DEFAULT_PRIORITY
from capamesh.protocol.values import Value
from capamesh.router.admission.bulk import BulkAdmission
from capamesh.router.admission.fair_share import FairShare, Standing
from capamesh.router.admission.saturation import Saturation, UnreadSaturation
from capamesh.router.admission.shedding import (
    FULL,
    ONLINE,
    OVERSHOOT,
    URGENT,
    Rank,
    Shedding,
    rank_of,
)

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica

CONTESTED = 0.9
"""The level from which tenants are held to their shares; the rest is for those that have less (guess)."""
LATE_MARGIN = 1.75
"""An answer is taken to need so many times what the nodes told. Measured with tests/unit/router/admission/
test_goodput.py: with three routers, each of which hears of a third of the answers, and 0.1 s allowed where a run
takes 0.01 s, goodput at twice the load is 0.81 of the capacity with 1.25, 0.90 with 1.5, 0.95 with 1.75."""
SHORTEST_S = 1e-6
"""Less time left is none."""
MIN_RETRY_S = 0.01
MAX_RETRY_S = 30.0
"""A hint is within these (guess)."""
UNKNOWN_RETRY_S = 1.0
"""Seconds after which to come again where no node has told how fast it is (guess)."""
RETURN_S = 0.1
"""Seconds within which a caller that comes again is not counted as many that wait (guess: callers that go by no hint pause for
less)."""
SURE_RETRY_S = 1.0
"""A hint up to this is given whoever comes again when: HTTP knows whole seconds only."""
LEAST_WANT_S = 0.05
MOST_WANT_S = 1.0
"""The bounds of the time for which a tenant is taken to want more after a refusal: as long as half of the slots take to get
free, within these (guess: a few pauses of callers that come again and again; longer than a second nobody's slots are kept)."""


class Refusal(StrEnum):
    """The reasons why a request was refused, for metrics."""

    LATE = "late"
    SHARE = "share"
    SHED = "shed"
    FULL = "full"


class Decision(Value):
    """The finding of `AdmissionController.decide` on one request, before anything of it is booked."""

    __slots__ = ("due_s", "error", "kind", "lag")

    def __init__(
        self,
        error: Overloaded | None = None,
        kind: Refusal | None = None,
        due_s: float = math.nan,
        lag: float = math.nan,
    ) -> None:
        self.error = error
        """The error with which the request is refused; None: it is let in."""
        self.kind = kind
        """The reason why it is refused."""
        self.due_s = due_s
        """The time when it is to come again, for which a slot is to be booked; NaN: nobody knows how fast slots get free."""
        self.lag = lag
        """The lag that a tenant may count as (`FairShare.lag`); NaN: that was not asked."""


ADMITTED = Decision()


class Permit:
    """The leave of one request to be under way, with its rows if it is a call of a job. `release` it when that has ended."""

    __slots__ = ("_bulk_rows", "_controller", "_is_urgent", "_tenant")

    def __init__(
        self, controller: AdmissionController, tenant: str, is_urgent: bool, bulk_rows: int
    ) -> None:
        self._controller: AdmissionController | None = controller
        """The controller to give it back to; None: it was released."""
        self._tenant = tenant
        self._is_urgent = is_urgent
        self._bulk_rows = bulk_rows

    def release(self, now_s: float, *, is_served: bool = True) -> None:
        """Give the slot back; not `is_served` if nodes had no room for the request. Counts once."""
        controller, self._controller = self._controller, None
        if controller is not None and self._bulk_rows:
            controller.bulk.leave(self._bulk_rows)
        elif controller is not None:
            controller.leave(self._tenant, now_s, is_urgent=self._is_urgent, is_served=is_served)


class AdmissionController:
    """The controller of one model at one router: it decides on a request, and books what it has decided.

    `decide` changes nothing that another request could notice. `admit` decides and books.
    """

    def __init__(
        self,
        model: str,
        rng: random.Random,
        *,
        weights: Mapping[str, float] | None = None,
        is_limited: bool = True,
    ) -> None:
        """Take the model's name, for messages. Not `is_limited`: all are let in, however full the nodes are."""
        self._model = model
        self._draw = rng.random
        self.saturation = Saturation() if is_limited else UnreadSaturation()
        self.fair = FairShare(weights)
        self._urgent = FairShare(weights)
        """The shares of the urgent requests alone."""
        self.bulk = BulkAdmission(model, self.saturation)
        """Lets calls of jobs in."""
        self.shedding = Shedding()
        self.under_way = 0
        """Requests of this router that were admitted and have not ended, without those of jobs."""
        self.urgent_under_way = 0
        """The number of those under way that are urgent."""
        self.refusals = dict.fromkeys(Refusal, 0)

    @override
    def __repr__(self) -> str:
        return (
            f"AdmissionController({self._model!r}, {self.under_way} under way, {self.saturation!r})"
        )

    def admit(
        self,
        replicas: Sequence[Replica],
        tenant: str,
        priority: int,
        bulk_rows: int,
        now_s: float,
        remaining_s: float = math.inf,
    ) -> Permit:
        """Let a request in that may go to a node, or raise `Overloaded` with `retry_after_s` in seconds.

        `replicas` may be asked to run it, in the same object while they are the same; `bulk_rows` are the rows of a call of
        a job, 0 if it is none; `remaining_s` is the time until its deadline.
        """
        if bulk_rows:
            self.bulk.admit(replicas, bulk_rows, now_s)
            return Permit(self, tenant, False, bulk_rows)
        rank = ONLINE if priority == DEFAULT_PRIORITY else rank_of(priority)
        decision = self.decide(replicas, tenant, priority, rank, now_s, remaining_s, self._draw)
        is_urgent = rank is URGENT
        if is_urgent:
            self.shedding.urgent_came(now_s)
        if decision is not ADMITTED:
            self._book(decision, tenant, rank, now_s)
        return self.enter(tenant, now_s, is_urgent=is_urgent)

    def bulk_room(self, replicas: Sequence[Replica], now_s: float) -> int:
        """Return the rows of jobs that may be sent now; see `BulkAdmission.room`."""
        return self.bulk.room(replicas, now_s)

    def decide(
        self,
        replicas: Sequence[Replica],
        tenant: str,
        priority: int,
        rank: Rank,
        now_s: float,
        remaining_s: float,
        draw: Callable[[], float],
    ) -> Decision:
        """Return whether a request would be let in now; nothing is counted, booked or spent for it.

        `rank` is the class of its priority; `draw` returns a random number from 0 to 1 where chance decides.
        What the replicas told is read if that is due, and holds for whoever asks next.
        """
        nodes = self.saturation
        nodes.look(replicas, now_s)
        if not nodes.is_known:
            return ADMITTED  # nobody can be asked, which is not overload, or nobody was yet
        level, slots, fair = nodes.level, nodes.slots, self.fair
        wait_s, run_s = nodes.wait_s, nodes.run_s
        under_way = self.under_way
        others = max(0.0, nodes.in_flight - under_way)
        if rank is Rank.URGENT and nodes.urgent_slots:
            fair, under_way, others = self._urgent, self.urgent_under_way, 0.0
            slots = nodes.urgent_slots
            level = min(level, under_way / slots)
            wait_s = min(wait_s, under_way / nodes.rate) if nodes.rate else wait_s
        pressure = level
        room = slots
        # what no idle node answers in time may be tried while nobody has to wait for it
        if wait_s > 0 and (run_s * LATE_MARGIN <= remaining_s or wait_s >= run_s):
            lateness = (wait_s + run_s) * LATE_MARGIN / max(remaining_s, SHORTEST_S)
            if lateness > pressure:  # deadlines leave less room than slots do
                pressure = lateness
                room = (under_way + others) / lateness
        admitted = ADMITTED
        kind: Refusal | None = None
        missing = 1.0
        if fair.is_wanted:
            lag = fair.lag(tenant, room, now_s)
            admitted = Decision(lag=lag)
            if fair.is_ahead(tenant, lag, room * (1.0 - pressure), now_s):
                kind = Refusal.SHARE
        if kind is None and pressure >= CONTESTED:
            standing = fair.standing(tenant, max(under_way, CONTESTED * room - others), now_s)
            if standing is Standing.OVER:
                kind = Refusal.SHARE
            elif (
                standing is Standing.WITHIN and rank <= Rank.ONLINE and pressure < FULL + OVERSHOOT
            ):
                return admitted
            elif pressure > level and pressure >= FULL:
                kind = Refusal.LATE
                missing = nodes.rate * (nodes.wait_s + nodes.run_s - remaining_s / LATE_MARGIN)
        elif rank is Rank.ONLINE and kind is None:
            return admitted  # there is room, also beside the reserve for urgent ones
        if kind is None and self.shedding.is_shed(rank, priority, level, now_s, draw):
            kind = Refusal.FULL if level >= FULL else Refusal.SHED
            missing = (level - self.shedding.limit(rank, priority, now_s)) * slots
        if kind is None:
            return admitted
        due_s = self._due_s((kind, rank), tenant, missing, now_s)
        retry_s = (
            UNKNOWN_RETRY_S
            if math.isnan(due_s)
            else min(MAX_RETRY_S, max(MIN_RETRY_S, due_s - now_s))
        )
        error = (TooManyRequests if kind is Refusal.SHARE else Overloaded)(
            f"model {self._model!r} is overloaded: {self._why(kind, tenant, rank, remaining_s)};"
            f" try again in {retry_s:.2f} s",
            retry_s,
        )
        return Decision(error, kind, due_s, admitted.lag)

    def _book(self, decision: Decision, tenant: str, rank: Rank, now_s: float) -> None:
        """Book what was decided on a request, and raise its refusal if it is one."""
        is_urgent = rank is Rank.URGENT
        if not math.isnan(decision.lag):
            fair = self._urgent if is_urgent and self.saturation.urgent_slots else self.fair
            fair.take_lag(decision.lag, now_s)
        if decision.error is None or decision.kind is None:
            return
        self.refusals[decision.kind] += 1
        notes = self._want(tenant, now_s, is_urgent=is_urgent)
        if not math.isnan(decision.due_s):
            bookings = notes.setdefault((decision.kind, rank), _Bookings())
            bookings.book(decision.due_s, now_s)
        raise decision.error

    def enter(self, tenant: str, now_s: float, *, is_urgent: bool = False) -> Permit:
        """Let a request in unasked; `admit` is for those that are asked for."""
        self.under_way += 1
        self.saturation.extra += 1
        self.fair.enter(tenant, now_s)
        if is_urgent:
            self.urgent_under_way += 1
            self._urgent.enter(tenant, now_s)
        return Permit(self, tenant, is_urgent, 0)

    def leave(
        self, tenant: str, now_s: float, *, is_urgent: bool = False, is_served: bool = True
    ) -> None:
        """Take back a permit, which calls this once; not `is_served` if nodes had no room for the request."""
        self.under_way -= 1
        self.saturation.extra -= 1
        self.fair.leave(tenant, now_s, is_served=is_served)
        if is_urgent:
            self.urgent_under_way -= 1
            self._urgent.leave(tenant, now_s, is_served=is_served)
        if not is_served:
            self._want(tenant, now_s, is_urgent=is_urgent)

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """Take other weights of tenants, as at the start."""
        self.fair.reweigh(weights)
        self._urgent.reweigh(weights)

    def refused(
        self, replica: Replica, retry_after_s: float, now_s: float, *, is_urgent: bool = False
    ) -> None:
        """A node refused one for lack of room: it is fuller than it had told."""
        self.saturation.refused(replica, retry_after_s, now_s, is_urgent=is_urgent)

    @property
    def is_contested(self) -> bool:
        """Return whether there is next to no room left: who is refused by one node would be refused by most."""
        return self.saturation.level >= CONTESTED

    def _want(self, tenant: str, now_s: float, *, is_urgent: bool) -> dict[Hashable, Any]:
        """Let others not get ahead, for a moment, of a tenant that was refused; return the notes on it."""
        nodes = self.saturation
        want_s = LEAST_WANT_S
        if nodes.rate > 0:
            want_s = min(MOST_WANT_S, max(LEAST_WANT_S, 0.5 * nodes.slots / nodes.rate))
        if is_urgent:
            self._urgent.refused(tenant, now_s, want_s)
        return self.fair.refused(tenant, now_s, want_s)

    def _why(self, kind: Refusal, tenant: str, rank: Rank, remaining_s: float) -> str:
        nodes = self.saturation
        match kind:
            case Refusal.LATE:
                return (
                    f"it would wait {nodes.wait_s:.3f} s and run {nodes.run_s:.3f} s,"
                    f" of its time {max(0.0, remaining_s):.3f} s are left"
                )
            case Refusal.SHARE:
                fair = self._urgent if rank is Rank.URGENT else self.fair
                return (
                    f"{fair.in_flight(tenant)} requests of {fair.describe(tenant)} are under way,"
                    " which is their share while others wait"
                )
            case Refusal.SHED | Refusal.FULL:
                return (
                    f"the nodes that can be reached are {nodes.level:.0%} full,"
                    f" too much for {rank.name.lower()} requests"
                )

    def _due_s(
        self, ledger: tuple[Refusal, Rank], tenant: str, slots: float, now_s: float
    ) -> float:
        """Return when to come again, at which time so many slots are free; NaN: unknown.

        A slot is to be booked for each that is refused, so that they do not all return at once. Each tenant has its
        own book: one that asks again and again, whatever it is told, puts off itself alone.
        """
        rate = self.saturation.rate
        if rate <= 0:
            return math.nan
        notes, part = self.fair.notes(tenant, now_s)
        bookings: _Bookings = notes.get(ledger) or _NOTHING_BOOKED
        each_s = 1 / (rate * part)
        first_s = now_s + max(1.0, slots) / rate
        # those that went by their hints would have come again at the times that were booked; those that came again
        # sooner hold many bookings each, and no more wait than were here within a moment
        longest_s = max(SURE_RETRY_S, bookings.count(now_s) * each_s)
        last_s = min(bookings.booked_s, now_s + min(MAX_RETRY_S, longest_s))
        return max(first_s, last_s + each_s)


class _Bookings:
    """The bookings of the refused of one tenant, for one reason."""

    __slots__ = ("_recent", "_recent_s", "booked_s")

    def __init__(self) -> None:
        self.booked_s = 0.0
        """The time when the last of them is to come again."""
        self._recent = 0.0
        self._recent_s = -math.inf

    def count(self, now_s: float) -> float:
        """Return how many were refused within about `RETURN_S`, with one that is refused now."""
        passed_s = max(0.0, now_s - self._recent_s)
        return 1.0 + self._recent * math.exp(-passed_s / RETURN_S)

    def book(self, due_s: float, now_s: float) -> None:
        """Count one that is refused now and was told to come again at a time."""
        self._recent = self.count(now_s)
        self._recent_s = now_s
        self.booked_s = due_s


_NOTHING_BOOKED = _Bookings()
