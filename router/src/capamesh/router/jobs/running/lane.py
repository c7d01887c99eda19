"""The calls of one model at one router: how many are in flight, who waits for room, and what is expected of each. Pure.

A call waits here for its turn and not at the nodes: what is at the nodes is as much as keeps them busy. So a call is late when it
queued at its node for longer than it took besides, by what the node tells: then there is a run's worth of calls too many.

When a worker ends, all calls that were with it are lost, and one of them may have ended it. The one that was there first was
being run, as far as can be told; the others are bystanders, and are sent again as they are. Rows that are suspected run alone at a
node that is kept free of other calls meanwhile, so that no bystander is blamed and none is lost.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.running.pace import CALLS_A_NODE, Outcome, Pace

if TYPE_CHECKING:
    from capamesh.router.jobs.running.nodes import Started
    from capamesh.router.jobs.values import JobId

MOST_CALLS: Final = 1024
"""The most calls in flight of one model at one router (guess: far more than keep a fleet busy)."""
LEAST_ALLOWED_S: Final = 5.0
"""The shortest time that a call is given (guess: a node that restarts, or a device that others use, is no wedge)."""
MOST_ALLOWED_S: Final = 300.0
"""The longest."""
TIMES_EXPECTED: Final = 2.0
"""A call is given so many times what it should take behind the others that a node has."""
SMOOTHING: Final = 0.1
"""The part that a new measurement has in an average (guess: some ten calls)."""


class Ticket:
    """One call of a lane: it waits for room, is in flight, and ends."""

    __slots__ = ("_grant", "_lane", "is_bystander", "is_trial", "job", "rows", "sent_s", "started")

    def __init__(
        self, lane: Lane, job: JobId, rows: int, grant: Callable[[], None], *, is_trial: bool
    ) -> None:
        self._lane = lane
        self._grant = grant
        self.job = job
        self.rows = rows
        self.is_trial = is_trial
        """True if it may go where others must not, for it is what a node is kept free for."""
        self.sent_s = math.inf
        """The time when it got its room; infinity: it waits."""
        self.started: Started | None = None
        """The call; None: it was not sent yet."""
        self.is_bystander = False
        """True if another call was run at the process that has ended."""

    def go(self, now_s: float) -> None:
        """Let the call be sent."""
        self.sent_s = now_s
        self._grant()

    def sent(self, started: Started) -> None:
        """Take in that the call was sent."""
        self.started = started
        self._lane.unsent.discard(self)

    def leave(self) -> None:
        """Give up the place, whether it waits or is in flight; a second time does nothing."""
        self._lane.left(self)


class Lane:
    """The calls of one model. Every `now_s` is on a clock that never goes back."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = pace or Pace(MOST_CALLS)
        self._waiting: deque[Ticket] = deque()
        self._in_flight: dict[Ticket, None] = {}
        self.unsent: set[Ticket] = set()
        """The calls in flight that were not sent yet, of which the nodes do not know."""
        self._of_job: dict[JobId, int] = {}
        self.reserved = ""
        """The node that is kept free for trials; "": none is."""
        self.is_only_node = False
        """True if there is no other node than the reserved one."""
        self.row_s = 0.0
        """Seconds that a row of a call runs, as nodes tell of late; 0: unknown."""
        self._took_s = 0.0
        self._besides_s = math.inf
        """The time that a call takes besides its run and its queue, as it was at the least."""

    @property
    def in_flight(self) -> int:
        """The calls at the nodes."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """The calls that wait for room."""
        return len(self._waiting)

    def ask(
        self,
        job: JobId,
        rows: int,
        grant: Callable[[], None],
        *,
        is_again: bool = False,
        is_trial: bool = False,
    ) -> Ticket:
        """Wait for room for a call of a job; `grant` is called in `pump` once there is. One that `is_again` goes before others."""
        ticket = Ticket(self, job, rows, grant, is_trial=is_trial)
        (self._waiting.appendleft if is_again or is_trial else self._waiting.append)(ticket)
        return ticket

    def pump(
        self, room: Callable[[int], float], most_of: Callable[[JobId], int | None], now_s: float
    ) -> None:
        """Let calls go for which there is room: by the pace, by `room` for calls of so many rows, by `most_of` each job."""
        passed: list[Ticket] = []
        while self._waiting:
            ticket = self._waiting.popleft()
            if not self._may_go(ticket, most_of):
                passed.append(ticket)
                continue
            is_room = room(ticket.rows) > len(self.unsent)
            if not is_room or self.pace.room(self.in_flight, now_s) < 1:
                passed.append(ticket)
                break
            self._in_flight[ticket] = None
            self.unsent.add(ticket)
            self._of_job[ticket.job] = self._of_job.get(ticket.job, 0) + 1
            ticket.go(now_s)
        self._waiting.extendleft(reversed(passed))

    def _may_go(self, ticket: Ticket, most_of: Callable[[JobId], int | None]) -> bool:
        if self.reserved and self.is_only_node and not ticket.is_trial:
            return False
        most = most_of(ticket.job)
        return most is None or self._of_job.get(ticket.job, 0) < most

    def left(self, ticket: Ticket) -> None:
        """Take in that a call has ended or is not to be sent."""
        if ticket in self._in_flight:
            del self._in_flight[ticket]
            self.unsent.discard(ticket)
            left = self._of_job.get(ticket.job, 0) - 1
            if left > 0:
                self._of_job[ticket.job] = left
            else:
                self._of_job.pop(ticket.job, None)
        elif ticket in self._waiting:
            self._waiting.remove(ticket)

    # what calls take

    def allowed_s(self, rows: int, row_s: float, failures: int) -> float:
        """Return how long a call of so many rows is given, which has failed so often."""
        expected_s = max(CALLS_A_NODE * rows * row_s, self._took_s)
        given_s = max(LEAST_ALLOWED_S, TIMES_EXPECTED * expected_s) * 2.0 ** min(failures, 6)
        return min(MOST_ALLOWED_S, given_s)

    def answered(
        self, rows: int, took_s: float, queue_s: float, run_s: float, now_s: float
    ) -> None:
        """Take in the answer to a call of so many rows, and what its node says of its queue and its run."""
        row_s = run_s / max(1, rows)
        self.row_s += SMOOTHING * (row_s - self.row_s) if self.row_s else row_s
        besides_s = max(0.0, took_s - queue_s - run_s)
        # it rises slowly, for a link may get longer, but not as fast as a queue of our own would let it
        self._besides_s = min(besides_s, self._besides_s * 1.001 + 1e-6)
        self._took_s += SMOOTHING * (took_s - self._took_s) if self._took_s else took_s
        expected_s = min(run_s, took_s) + self._besides_s
        self.pace.record(Outcome.ANSWERED, took_s, expected_s, now_s)

    def refused(self, now_s: float) -> None:
        """Take in that nodes had no room for a call."""
        self.pace.record(Outcome.OVERLOADED, 0.0, 0.0, now_s)

    # workers that end

    def is_suspect(self, ticket: Ticket) -> bool:
        """Return whether a call whose worker ended was the one that it ran; to be asked before the ticket leaves."""
        if ticket.is_bystander:
            ticket.is_bystander = False
            return False
        place = _place_of(ticket)
        there = [
            each for each in self._in_flight if each is not ticket and _place_of(each) == place
        ]
        is_first = all(ticket.sent_s <= each.sent_s for each in there)
        if is_first:
            for each in there:
                each.is_bystander = True
        return is_first

    def at(self, node: str) -> int:
        """Return the calls in flight at a node, those of trials left out."""
        return sum(
            1
            for each in self._in_flight
            if not each.is_trial and each.started is not None and each.started.node == node
        )

    def in_flight_at(self) -> Counter[str]:
        """Return the calls in flight at each node that was asked."""
        return Counter(
            each.started.node
            for each in self._in_flight
            if each.started is not None and each.started.node
        )

    def nodes_of(self, job: JobId) -> frozenset[str]:
        """Return the nodes that run calls of a job now."""
        return frozenset(
            each.started.node
            for each in self._in_flight
            if each.job == job and each.started is not None and each.started.node
        )


def _place_of(ticket: Ticket) -> str:
    return "" if ticket.started is None else ticket.started.place
