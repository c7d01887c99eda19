"""The requests of one model that are accepted and not answered: what waits, what runs, and how one ends early. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from capamesh.node.scheduling.pending_request import (
    ENDED,
    QUEUED,
    RUNNING,
    WAITING,
    Batch,
    PendingRequest,
)
from capamesh.node.scheduling.queue import RequestQueue

if TYPE_CHECKING:
    from capamesh.node.scheduling.plan import BatchPlan
    from capamesh.node.scheduling.request_bounds import RunBounds
    from capamesh.node.scheduling.sequences import Sequences
    from capamesh.node.scheduling.stats import Meter
    from capamesh.protocol.errors import CapameshError


class RequestsInFlight:
    """All that a batcher has to answer, counted. Its parts share it."""

    __slots__ = (
        "_bounds",
        "_meter",
        "_sequences",
        "background",
        "bulk",
        "bulk_rows",
        "held",
        "live",
        "plan",
        "queue",
        "rows",
        "running",
        "soonest_s",
    )

    def __init__(
        self,
        plan: BatchPlan,
        meter: Meter,
        *,
        sequences: Sequences | None,
        bounds: RunBounds | None,
    ) -> None:
        self.plan = plan
        self._meter = meter
        self._sequences = sequences
        self._bounds = bounds
        self.live: dict[PendingRequest, None] = {}
        """The requests in flight, in the order in which they came, so that what ends together is told in this order."""
        self.queue = RequestQueue()
        """The requests that could run now."""
        self.running: set[Batch] = set()
        """The batches that run in the slots of all requests."""
        self.background: set[Batch] = set()
        """The batches of bulk rows that run behind those, on what they leave of the device."""
        self.held = 0
        """The requests whose readers take no more for now."""
        self.rows = 0
        """The rows of all that is live, but for what is held: readers that stall leave the device to others."""
        self.bulk = 0
        self.bulk_rows = 0
        """The rows of it that are bulk work."""
        self.soonest_s = math.inf
        """No live deadline is earlier."""

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is in flight and nothing runs."""
        return not self.live and not self.running and not self.background

    @property
    def queued(self) -> int:
        """Return the number of requests in flight that could run and do not."""
        count = len(self.live) - self.held
        for batch in self.running:
            if batch.has_begun:
                count -= batch.wanted
        for batch in self.background:
            count -= batch.wanted
        return count

    def begin(self, batch: Batch, now_s: float) -> None:
        """Mark the requests of a batch as those that run, and count its rows."""
        for request in batch.requests:
            request.state = RUNNING
            if not request.steps and (request.parts is None or request.parts.is_first):
                request.started_s = now_s
            request.batch = batch
            batch.rows += request.rows
            if request.is_bulk:
                batch.has_bulk = True

    def ran(self, batch: Batch) -> None:
        """Count a batch no more as one that runs, wherever it did."""
        self.running.discard(batch)
        self.background.discard(batch)

    def let_go(self, batch: Batch) -> None:
        """Take the data from a batch that is over: whoever keeps a work or the batch keeps none."""
        for request in batch.requests:
            request.batch = None
            if request.state is ENDED:
                request.inputs = ()
                if request.held_bytes or request.is_alone:
                    self.release(request)

    def add(self, request: PendingRequest, *, is_turn: bool) -> None:
        """Take in a request; `is_turn`: it may be queued, rather than when its sequence gets there."""
        self.live[request] = None
        self.rows += request.rows
        if request.is_bulk:
            self.bulk += 1
            self.bulk_rows += request.rows
        request.in_flight = len(self.live)
        deadline_s = request.deadline_s
        if deadline_s is not None and deadline_s < self.soonest_s:
            self.soonest_s = deadline_s
        self.soonest_s = min(self.soonest_s, request.start_by_s)
        if self._sequences is None:
            self.queue.put(request)
        elif is_turn:
            self._put(request, self._sequences)

    def refuse(
        self, request: PendingRequest, error: CapameshError, reason: str, now_s: float
    ) -> None:
        """Answer `request` with `error` before its result is there; `reason` is counted unless it runs."""
        self.give_up(request, reason, now_s)
        self._meter.answered(error.code)
        request.done(request, error)

    def give_up(self, request: PendingRequest, reason: str, now_s: float) -> None:
        """End `request` before its result is there; `reason` is counted unless it runs."""
        state, batch = request.state, request.batch
        if state is WAITING and request.is_held:
            self.rows += request.rows  # which were counted out
            self.held -= 1
        self.forget(request)
        if state is RUNNING:
            if batch is not None:
                if not batch.has_begun:
                    self._meter.drop(reason)
                    self.next_of_sequence(request, now_s)
                batch.wanted -= 1
                if batch.wanted == 0 and batch.stop is not None:
                    batch.stop()
            return
        self._meter.drop(reason)
        if state is QUEUED:
            self.queue.drop(request)
        self.release(request)  # of one that runs, only once its run has ended
        request.inputs = ()  # its entry in the queue may stay a while; its data need not
        request.parts = None
        self.next_of_sequence(request, now_s)

    def go_on(self, request: PendingRequest) -> None:
        """Queue the next step of `request`, or hold it until its reader takes more."""
        if request.is_held:
            request.state = WAITING
            self.rows -= request.rows
            self.held += 1
        else:
            self.queue.put(request)

    def part_ran(self, request: PendingRequest, rows: int) -> None:
        """Count the rows of a part of `request` no more, which has run, and queue those that are left."""
        self.rows -= rows
        self.bulk_rows -= rows
        self.queue.put(request)

    def resume(self, request: PendingRequest) -> None:
        """Queue the next step of a request whose reader takes more, if it was held for that."""
        was_held, request.is_held = request.is_held, False
        if was_held and request.state is WAITING:
            self.rows += request.rows
            self.held -= 1
            self.queue.put(request)

    def release(self, request: PendingRequest) -> None:
        """Give back the memory that was kept free for the run of `request`, and its turn to be tried alone."""
        if (request.held_bytes or request.is_alone) and self._bounds is not None:
            self._bounds.release(request)

    def next_of_sequence(self, request: PendingRequest, now_s: float) -> None:
        """Queue the request that waits for `request` to end, if one does."""
        if self._sequences is not None:
            following = self._sequences.ended(request, now_s)
            if following is not None:
                self._put(following, self._sequences)

    def forget(self, request: PendingRequest) -> None:
        """Count `request` no more: it has ended."""
        del self.live[request]
        rows = request.rows + request.later_rows
        self.rows -= rows
        if request.is_bulk:
            self.bulk -= 1
            self.bulk_rows -= rows
        request.state = ENDED

    def _put(self, request: PendingRequest, sequences: Sequences) -> None:
        if sequences.fill(request):
            self.plan.prepare(request)  # a state that grows: only those as long may share its batch
        self.queue.put(request)
