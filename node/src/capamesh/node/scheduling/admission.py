"""Decides whether a model has room for one more request, and which lesser ones have to leave for it; reports the load. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.node.scheduling.concurrency_limit import ConcurrencyLimit
    from capamesh.node.scheduling.in_flight import RequestsInFlight
    from capamesh.node.scheduling.latency import LatencyByLoad
    from capamesh.node.scheduling.pending_request import PendingRequest
    from capamesh.node.scheduling.queue_policies import QueuePolicies
    from capamesh.node.scheduling.slots import Slots

BULK_SHARE: Final = 0.5
"""The part of the limits that bulk work may hold: online work always finds the rest (guess: enough to keep the device
busy; a router sheds all bulk work from a third of its fleet's slots)."""


class Admission:
    """The limits of one model: on requests in flight, on rows, on bulk work, and on what waits."""

    __slots__ = ("_limit", "_policies", "_requests", "_slots", "max_in_flight", "max_queue")

    def __init__(
        self,
        requests: RequestsInFlight,
        slots: Slots,
        limit: ConcurrencyLimit,
        policies: QueuePolicies | None,
        *,
        max_in_flight: int,
        max_queue: int | None,
    ) -> None:
        """`max_queue` is how many may wait; None: any number within `max_in_flight`, which counts all."""
        self._requests = requests
        self._slots = slots
        self._limit = limit
        self._policies = policies
        self.max_in_flight = max_in_flight
        self.max_queue = max_queue

    def make_room(self, request: PendingRequest) -> Sequence[PendingRequest]:
        """Return which lesser requests that wait have to leave for `request`; raise `Overloaded` where none can."""
        requests = self._requests
        if (  # there is room beyond doubt, as nearly always
            self._policies is None
            and self.max_queue is None
            and not request.is_bulk
            and len(requests.live) < self.max_in_flight
            and requests.rows + request.rows <= self._limit.rows
        ):
            return ()
        queue = requests.queue
        if self._policies is not None:
            self._policies.check_room(request, queue, len(queue), self._slots.retry_s())
        refusal = self._refusal(request, 0, 0)
        if refusal is None:
            return ()
        count = rows = 0

        def is_enough(lesser: PendingRequest) -> bool:
            nonlocal count, rows
            count += 1
            rows += lesser.rows
            return self._refusal(request, count, rows) is None

        leaving = queue.lesser_than(request, is_enough)
        if not leaving:
            raise Overloaded(refusal, retry_after_s=self._slots.retry_s())
        return leaving

    def load_report(
        self,
        *,
        run_s: float,
        latency: LatencyByLoad,
        online_queue_s: float,
        free_bytes: int,
        device_in_flight: int,
    ) -> LoadReport:
        """Return the load as it is now; all but the limits and what is in flight is known to the caller."""
        requests = self._requests
        in_flight = len(requests.live)
        limit_rows = self._limit.rows
        # the answer to a lone request: nothing to estimate
        if not in_flight and not requests.running and not requests.background:
            return LoadReport(
                0,
                0,
                min(self.max_in_flight, limit_rows),
                0,
                int(run_s * 1e6),
                free_bytes,
                int(latency.estimate_s(1) * 1e6),
                device_in_flight,
                0,
                int(online_queue_s * 1e6),
                limit_rows,
            )
        rows_each = requests.rows / in_flight if in_flight else 1.0
        queued = requests.queued
        limit = min(self.max_in_flight, max(1, int(limit_rows / max(rows_each, 1.0))))
        if self.max_queue is not None:  # a run that is not full does not make the queue longer
            starting = self._slots.starting_rows()
            limit = min(limit, max(1, in_flight + self.max_queue + starting - queued))
        return LoadReport(
            in_flight,
            queued,
            limit,
            int(self._slots.wait_s() * 1e6),
            int(run_s * 1e6),
            free_bytes,
            int(latency.estimate_s(in_flight + 1) * 1e6),
            device_in_flight,
            requests.bulk_rows,
            int(online_queue_s * 1e6),
            limit_rows,
        )

    def _refusal(self, request: PendingRequest, freed: int, freed_rows: int) -> str | None:
        """Return why there is no room, were so many that wait gone; None where there is. They are bulk if `request` is."""
        requests = self._requests
        in_flight = len(requests.live) - freed
        most = self.max_queue
        if most is not None and requests.queued - freed >= most + self._slots.starting_rows():
            return f"{most} requests wait at this model, as many as its max_queue allows; try another node"
        if in_flight >= self.max_in_flight:
            return f"{in_flight} requests are in flight at this model, the most that may be; try another node"
        limit = self._limit.rows
        in_flight_rows = requests.rows - freed_rows
        # one larger than the limit counts as half of it: else it would never get in beside others
        if in_flight_rows + min(request.rows, max(1, limit // 2)) > limit:
            return (
                f"{in_flight_rows} rows are in flight at this model; {request.rows} more are over its present limit"
                f" of {limit}; try another node"
            )
        if request.is_bulk and (
            requests.bulk - freed >= BULK_SHARE * self.max_in_flight
            or requests.bulk_rows - freed_rows + min(request.rows, max(1, limit // 4))
            > BULK_SHARE * limit
        ):
            return (
                f"{requests.bulk} bulk requests of {requests.bulk_rows} rows are in flight at this model, whose limit is"
                f" {limit} rows; the other half of it is for online requests; try another node"
            )
        return None
