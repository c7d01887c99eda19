"""Answers requests before they have run: those too late, hopeless, or too slow on this device. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, cast

from capamesh.node.scheduling.concurrency_limit import MAX_QUEUE_S
from capamesh.node.scheduling.pending_request import PendingRequest, RequestState
from capamesh.node.scheduling.slots import SHED_MARGIN_RUNS
from capamesh.protocol.errors import DeadlineExceeded, Overloaded

if TYPE_CHECKING:
    from capamesh.node.scheduling.concurrency_limit import ConcurrencyLimit
    from capamesh.node.scheduling.in_flight import RequestsInFlight
    from capamesh.node.scheduling.queue_policies import QueuePolicies
    from capamesh.node.scheduling.sequences import Sequences
    from capamesh.node.scheduling.slots import Slots

LONGEST_WAIT: Final = 1.1
"""The multiple of a queue's time from which what was let in is told to go elsewhere: the device has become so slow that it would
wait for so long (guess: speeds are known to a tenth)."""
SHED_EVERY_S: Final = 0.05
"""Seconds between two looks for that while more is in flight than may be (guess: a look sorts the queue, up to 0.3 ms)."""
EXPIRE_EVERY_S: Final = 0.001
"""Deadlines are looked at no more often than this, however many pass in a row: a look goes through all that is in
flight (guess: a twentieth of what a caller would notice)."""


class Shedding:
    """Ends requests of one model whose run would help nobody."""

    __slots__ = (
        "_limit",
        "_policies",
        "_requests",
        "_sequences",
        "_slots",
        "expired_s",
        "slow_due_s",
    )

    def __init__(
        self,
        requests: RequestsInFlight,
        slots: Slots,
        limit: ConcurrencyLimit,
        policies: QueuePolicies | None,
        sequences: Sequences | None,
    ) -> None:
        self._requests = requests
        self._slots = slots
        self._limit = limit
        self._policies = policies
        self._sequences = sequences
        self.expired_s = -math.inf
        """The time when deadlines were looked at last."""
        self.slow_due_s = -math.inf
        """The time when what is over the limit is looked at again."""

    def expire(self, now_s: float) -> None:
        """Answer every work whose deadline has passed, running or not; forget silent sequences."""
        if self._sequences is not None:
            self._sequences.tidy(now_s)
        if now_s < self._requests.soonest_s:
            return
        self.expired_s = now_s
        self._requests.soonest_s = math.inf
        if self._policies is not None:
            self._end_waits(now_s)
        for request in list(self._requests.live):
            deadline_s = request.deadline_s
            if deadline_s is None or request.state is RequestState.ENDED:
                continue
            if deadline_s > now_s:
                self._requests.soonest_s = min(self._requests.soonest_s, deadline_s)
                continue
            is_running = request.batch is not None and request.batch.has_begun
            where = "while it ran" if is_running else "before it ran"
            self._requests.refuse(
                request, DeadlineExceeded(f"the deadline passed {where}"), "expired", now_s
            )

    def shed_hopeless(self, now_s: float, slots: int, rows: int, *, is_stream: bool) -> None:
        """Refuse those of several queued requests that can no longer meet their deadline: their runs cost others theirs.

        The last that waits is never refused: running it corrects a prediction that is wrong. Where all that waits can
        start now, only what would surely be late is refused.
        """
        is_crowded = self._requests.queue.rows > rows * max(1, slots - len(self._requests.running))
        run_s = (self._slots.time_of_streams if is_stream else self._slots.time).predicted_s(1)
        least_s = now_s + (SHED_MARGIN_RUNS if is_crowded else 1.0) * run_s
        if self._requests.soonest_s >= least_s:
            return
        late = [
            request
            for request in self._requests.queue
            if request.deadline_s is not None and request.deadline_s < least_s
        ]
        late.sort(key=_order)
        for request in late:
            if len(self._requests.queue) < 2:
                return
            if (
                request.state is RequestState.QUEUED
            ):  # who is told of the others may have withdrawn it
                left_s = cast(float, request.deadline_s) - now_s
                self._requests.refuse(
                    request,
                    DeadlineExceeded(
                        f"{left_s * 1e3:.1f} ms are left, too few where {len(self._requests.queue)} wait and a run takes"
                        f" {run_s * 1e3:.1f} ms"
                    ),
                    "late",
                    now_s,
                )

    def shed_slow(self, now_s: float) -> None:
        """Answer what would wait too long, now that the device is slower than when it was let in."""
        self.slow_due_s = now_s + SHED_EVERY_S
        limit, row_s = self._limit.rows, self._limit.row_s
        if not row_s:
            return
        longest_s = LONGEST_WAIT * max(MAX_QUEUE_S, limit * row_s)
        most_rows = max(1, limit // 2)  # as `Admission` counts them
        _, full = self._slots.count_and_rows(is_stream=self._slots.is_streaming())
        ahead = 0.5 * sum(
            batch.rows for batch in self._requests.running
        )  # half through, on average
        leaving: list[tuple[PendingRequest, float]] = []
        for request in self._requests.queue.in_order():
            rows = min(request.rows, most_rows)
            batches = math.ceil((ahead + rows) / full)  # all of one are answered together
            wait_s = now_s - request.arrived_s + batches * full * row_s
            is_bound = request.sequence is not None or request.steps  # its state is here alone
            if wait_s > longest_s and not is_bound:
                leaving.append((request, wait_s))
            else:
                ahead += rows
        for request, wait_s in reversed(leaving):
            if request.state is RequestState.QUEUED:
                text = (
                    f"it would have waited {wait_s:.1f} s: this device runs at {self._limit.speed:.0%} of the speed that"
                    " it had when the model was loaded; try another node"
                )
                self._requests.refuse(
                    request, Overloaded(text, retry_after_s=self._slots.retry_s()), "slow", now_s
                )

    def _end_waits(self, now_s: float) -> None:
        """Refuse or put back what has waited as long as the model's rules allow."""
        late: set[PendingRequest] = set()
        for request in list(self._requests.live):
            is_running = request.batch is not None and request.batch.has_begun
            if is_running or request.state is RequestState.ENDED:
                continue
            if request.start_by_s > now_s:
                self._requests.soonest_s = min(self._requests.soonest_s, request.start_by_s)
            elif request.is_delayable:
                request.start_by_s = math.inf
                if request.state is RequestState.QUEUED:
                    late.add(request)
            else:
                waited_ms = (request.start_by_s - request.arrived_s) * 1e3
                reason = (
                    f"it has waited {waited_ms:g} ms, as long as this model's configuration allows"
                )
                self._requests.refuse(request, DeadlineExceeded(reason), "expired", now_s)
        still = {request for request in late if request.state is RequestState.QUEUED}
        if still:
            self._requests.queue.delay(still)


def _order(request: PendingRequest) -> int:
    return request.order
