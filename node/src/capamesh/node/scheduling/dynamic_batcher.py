"""One model's requests from arrival to answer: accepted or refused, queued, run together, answered once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from typing_extensions import override

from capamesh.node.repository.rules import QueueRules, Rules
from capamesh.node.scheduling.bounds import RunBounds
from capamesh.node.scheduling.latency import LatencyByLoad
from capamesh.node.scheduling.limit import MAX_QUEUE_S, ConcurrencyLimit
from capamesh.node.scheduling.pending_request import Batch, PendingRequest, RequestState, Result
from capamesh.node.scheduling.plan import BatchPlan
from capamesh.node.scheduling.queue import RequestQueue
from capamesh.node.scheduling.queue_policies import QueuePolicies
from capamesh.node.scheduling.run_health import RunHealth
from capamesh.node.scheduling.scheduler import Scheduler
from capamesh.node.scheduling.sequences import Sequences
from capamesh.node.scheduling.service_profile import ServiceProfile
from capamesh.node.scheduling.service_time import ServiceTime
from capamesh.node.scheduling.single_thread_instances import Streams
from capamesh.node.scheduling.stats import Meter
from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    DeadlineExceeded,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.tensors import Tensor

SHED_MARGIN_RUNS = 2.0
"""Where more waits than fits into the next batch, what has less time left than so many runs of a row is late: its own,
and as much again for the rows beside it, the scatter and the way back. Served by deadline, all of a queue that is too
long are just at this edge (measured: at twice the load 0.80 of what nodes can do is answered in time without such a
rule, 0.88 with one run, 0.98 with two: the simulator's overload-2x)."""
BULK_SHARE = 0.5
"""The part of the limits that bulk work may hold: online work always finds the rest (guess: enough to keep the device
busy; a router sheds all bulk work from a third of its fleet's slots)."""
LONGEST_WAIT = 1.1
"""What was let in is told to go elsewhere where the device has become so slow that it would wait for so many times
what a queue may take (guess: speeds are known to a tenth)."""
SHED_EVERY_S = 0.05
"""How often that is looked for while more is in flight than may be (guess: a look sorts the queue, up to 0.3 ms)."""
EXPIRE_EVERY_S = 0.001
"""Deadlines are looked at no more often than this, however many pass in a row: a look goes through all that is in
flight (guess: a twentieth of what a caller would notice)."""
AHEAD_S = 0.1
"""A full batch no longer than this may be taken ahead: the device goes from one run to the next without the event loop
between them (measured: 3 % of a convolution network's throughput). What waits so cannot be overtaken by what is more
urgent, so it must be short (guess)."""
MIN_RETRY_S = 0.001
"""A refused caller is never told to come back at once (guess)."""
_NO_RESULT = RunFailed("the run ended without a result")


class DynamicBatcher(Scheduler):
    """The scheduler of a model that answers each request in one run: it runs together what waits together.

    Its methods are called in one thread. Whoever runs a batch in another sets `has_begun` and `started_s` there, and
    looks at the state of its requests; that needs no lock while the interpreter has one.
    """

    def __init__(
        self,
        plan: BatchPlan,
        rules: Rules,
        profile: ServiceProfile | None,
        *,
        max_in_flight: int,
        max_queue: int | None = None,
        streams: Streams | None = None,
        bounds: RunBounds | None = None,
        doubt: str = "",
    ) -> None:
        """`max_queue` is how many may wait for an instance, instead of `max_in_flight`, which counts all; None: any.

        `bounds` refuses what cannot be run here; None: nothing is known of what a run takes. `doubt` is why no run has
        succeeded when the model was loaded.
        """
        self.plan = plan
        self.bounds = bounds
        self._usual_rows = bounds.usual_rows if bounds is not None else math.inf
        self.meter = Meter()
        self.health = RunHealth(doubt)
        self.time = ServiceTime(profile)
        self.sequences = Sequences(rules.sequence, plan) if plan.is_sequential else None
        self._time_of_streams = ServiceTime(streams.profile if streams else None)
        self._latest_time = self.time
        self._streams = streams
        self._has_profile = profile is not None
        self._instances = max(1, rules.instances)
        self._max_queue = max_queue
        self._max_delay_s = rules.batching.max_delay_us / 1e6 if plan.is_batching else 0.0
        rows = plan.batch_rows
        row_s = profile.seconds_at(rows) / rows / self._instances if profile else 0.0
        full_rows = max(self._instances * rows, streams.count * streams.rows if streams else 0)
        self._max_in_flight = max_in_flight if max_queue is None else max_queue + full_rows
        self.limit = ConcurrencyLimit(
            full_rows=full_rows,
            row_s=streams.row_s if streams else row_s,
        )
        self.latency = LatencyByLoad()
        self._queue = RequestQueue()
        self._policies = QueuePolicies(rules.queue) if rules.queue != QueueRules() else None
        self._live: dict[PendingRequest, None] = {}
        """In the order in which they came, so that what ends together is told in this order."""
        self._running: set[Batch] = set()
        self._rows = 0
        """Of all that is live."""
        self._bulk = 0
        self._bulk_rows = 0
        """What of it is bulk work."""
        self._recent_peak = 0
        """How many were live of late: at the last batch taken, or half of what it was there before."""
        self._soonest_s = math.inf
        """No live deadline is earlier."""
        self._shed_s = -math.inf
        """When what is over the limit is looked at again."""
        self._expired_s = -math.inf
        """When deadlines were looked at last."""

    @override
    def __repr__(self) -> str:
        return f"DynamicBatcher({len(self._queue)} queued, {len(self._running)} batches running)"

    # what the owner asks

    @property
    @override
    def in_flight(self) -> int:
        """How many requests are accepted and not answered."""
        return len(self._live)

    @property
    @override
    def queued(self) -> int:
        """How many requests in flight do not run."""
        return len(self._live) - sum(batch.wanted for batch in self._running if batch.has_begun)

    @property
    @override
    def slots(self) -> int:
        """How many batches may run at the same time."""
        return self._streams.count if self._streams is not None else self._instances

    @override
    def predicted_s(self, batch: Batch) -> float:
        """Return how long the run of a batch is expected to take now."""
        return (self._time_of_streams if batch.is_stream else self.time).predicted_s(batch.rows)

    @override
    def next_event_s(self) -> float:
        """Return when `expire` or `take` may have something to do that they have not now, if nothing else happens.

        Infinity if never. It may be early, never late, and it is only true until the next call of another method.
        """
        if not self._live:
            return math.inf
        expire_s = max(self._soonest_s, self._expired_s + EXPIRE_EVERY_S)
        if not self._max_delay_s or not self._queue:
            return expire_s
        is_stream = self._is_streaming()
        if not self._room(*self._slots_and_rows(is_stream=is_stream), is_stream=is_stream):
            return expire_s
        return min(expire_s, self._ripe_s())

    @property
    @override
    def is_idle(self) -> bool:
        """Whether nothing is in flight and nothing runs."""
        return not self._live and not self._running

    @override
    def load_report(self, *, free_bytes: int, device_in_flight: int) -> LoadReport:
        """Return the load as it is now."""
        in_flight = len(self._live)
        run_s = self._latest_time.run_s
        if not in_flight and not self._running:  # the answer to a lone request: nothing to estimate
            return LoadReport(
                0,
                0,
                min(self._max_in_flight, self.limit.rows),
                0,
                int(run_s * 1e6),
                free_bytes,
                int(self.latency.estimate_s(1) * 1e6),
                device_in_flight,
            )
        rows_each = self._rows / in_flight if in_flight else 1.0
        queued = self.queued
        limit = min(self._max_in_flight, max(1, int(self.limit.rows / max(rows_each, 1.0))))
        if self._max_queue is not None:  # a run that is not full does not make the queue longer
            limit = min(limit, max(1, in_flight + self._max_queue + self._starting_rows() - queued))
        return LoadReport(
            in_flight,
            queued,
            limit,
            int(self._wait_s() * 1e6),
            int(run_s * 1e6),
            free_bytes,
            int(self.latency.estimate_s(in_flight + 1) * 1e6),
            device_in_flight,
        )

    # what the owner tells

    @override
    def submit(self, request: PendingRequest, now_s: float) -> None:
        """Accept `request`, whose inputs the model has validated, or refuse it.

        Over the limit it takes the places of lesser works that wait, if there are enough: these are answered
        `Overloaded`. Raises `Overloaded`: over the limit; `DeadlineExceeded`: its deadline has passed; `InvalidRequest`,
        `TooLarge`: as `BatchPlan.prepare`, `RunBounds.admit`, `Sequences.accept`.
        """
        try:
            deadline_s = request.deadline_s
            if deadline_s is not None and deadline_s <= now_s:
                raise DeadlineExceeded("the deadline had passed when the request arrived")
            self.plan.prepare(request)
            if self._policies is not None:
                self._policies.enter(request)
            if request.rows > self._usual_rows and self.bounds is not None:
                self.bounds.admit(request, now_s, self.time.slowdown)
            self._admit(request, now_s)
            is_turn = self.sequences is None or self.sequences.accept(request, now_s)
        except CapameshError as error:
            self._release(request)
            self.meter.answered(error.code)
            raise
        self._live[request] = None
        self._rows += request.rows
        if request.is_bulk:
            self._bulk += 1
            self._bulk_rows += request.rows
        request.in_flight = len(self._live)
        if deadline_s is not None and deadline_s < self._soonest_s:
            self._soonest_s = deadline_s
        self._soonest_s = min(self._soonest_s, request.start_by_s)
        if is_turn:
            self._put(request)

    @override
    def take(self, now_s: float, *, is_ahead: bool = False) -> Batch | None:
        """Return the next batch to run; None when all slots are busy or nothing is due.

        With `is_ahead` a batch is returned only if it is full and short: it is to follow at once when the first of the
        busy slots is free. Expired requests are answered first; so are those that would expire during the run, unless
        only one waits.
        """
        self.expire(now_s)
        if not self._queue or (is_ahead and self._full_batch_s() > AHEAD_S):
            return None
        is_stream = self._streams is not None and self._is_streaming()
        slots, most_rows = self._slots_and_rows(is_stream=is_stream)
        room = self._room(slots, most_rows, is_stream=is_stream, is_ahead=is_ahead)
        if not room:
            return None
        if len(self._queue) > 1:
            self._shed_hopeless(now_s, slots, most_rows, is_stream=is_stream)
            if not self._queue:
                return None  # who was told that it is late has withdrawn the rest
        if self._max_delay_s and self._queue.rows < self.plan.batch_rows and now_s < self._ripe_s():
            return None
        requests = self._queue.take(room)
        rows = 0
        batch = Batch(requests, 0, now_s, self.plan, is_stream=is_stream)
        for request in requests:
            request.state = RequestState.RUNNING
            request.started_s = now_s
            request.batch = batch
            rows += request.rows
        batch.rows = rows
        batch.has_begun = not is_ahead
        self._running.add(batch)
        self._recent_peak = max(len(self._live), self._recent_peak // 2)
        return batch

    @override
    def finished(
        self,
        batch: Batch,
        results: Sequence[Result | None],
        now_s: float,
        *,
        run_s: float,
        is_whole: bool = True,
        ran_rows: int | None = None,
    ) -> None:
        """Answer the requests of a batch by its results; none of them is run again. See `Scheduler.finished`."""
        self._running.discard(batch)
        meter = self.meter
        rows = batch.rows if ran_rows is None else ran_rows
        if rows >= 0:
            meter.ran(rows, run_s)
        if is_whole and rows > 0:  # what has no data says nothing of what a row takes
            self._latest_time = self._time_of_streams if batch.is_stream else self.time
            slowdown = self._latest_time.ran(rows, run_s)
            self.limit.ran(slowdown, run_s, now_s)
            if not self._has_profile:
                self.limit.learnt(self.time.expected_s(1) / self._instances)
        answers: list[tuple[PendingRequest, Result]] = []
        for request, result in zip(batch.requests, results, strict=True):
            outcome = _NO_RESULT if result is None else result
            if self.sequences is not None:
                if not isinstance(outcome, CapameshError):
                    outcome = self.sequences.ran(request, outcome)
                self._next_of_sequence(request, now_s)
            if request.state is RequestState.ENDED:
                continue
            request.started_s = batch.started_s
            meter.queue_s.add(batch.started_s - request.arrived_s)
            if isinstance(outcome, CapameshError):
                meter.answered(outcome.code)
                if isinstance(outcome, RunFailed):
                    self.health.failed(request.inputs, outcome.message)
            else:
                meter.answered("ok")
                if self.health.is_doubted:
                    self.health.succeeded()
                self.latency.answered(request.in_flight, now_s - request.arrived_s)
                if request.outputs:
                    outcome = _chosen(outcome, request.outputs)
            request.run_s = run_s
            self._forget(request)
            answers.append((request, outcome))
        batch.wanted = 0
        fault: Exception | None = None
        for request, outcome in answers:  # all are counted before the first is told of the load
            try:
                request.done(request, outcome)
            except Exception as exc:  # noqa: BLE001 - a caller's bug must not cost the others their answers
                fault = fault or exc
        for request in batch.requests:  # whoever keeps a work or the batch keeps no data
            request.batch = None
            request.inputs = ()
            if request.held_bytes:
                self._release(request)
        if self._rows > self.limit.rows and now_s >= self._shed_s:
            self._shed(now_s)
        if fault is not None:
            raise fault

    @override
    def cancel(self, request: PendingRequest, now_s: float) -> None:
        """Nobody waits for `request` any more: it is never answered, and not run if it has not started."""
        if request.state is RequestState.ENDED:
            request.done = _unheard  # its batch may be answering its members just now
        if request.state in {RequestState.ENDED, RequestState.NEW}:
            return
        self.meter.answered(Cancelled.code)
        self._give_up(request, "cancelled", now_s)

    @override
    def expire(self, now_s: float) -> None:
        """Answer every work whose deadline has passed, running or not; forget silent sequences."""
        if self.sequences is not None:
            self.sequences.tidy(now_s)
        if now_s < self._soonest_s:
            return
        self._expired_s = now_s
        self._soonest_s = math.inf
        if self._policies is not None:
            self._end_waits(now_s)
        for request in list(self._live):
            deadline_s = request.deadline_s
            if deadline_s is None or request.state is RequestState.ENDED:
                continue
            if deadline_s > now_s:
                self._soonest_s = min(self._soonest_s, deadline_s)
                continue
            is_running = request.batch is not None and request.batch.has_begun
            where = "while it ran" if is_running else "before it ran"
            self._refuse(
                request, DeadlineExceeded(f"the deadline passed {where}"), "expired", now_s
            )

    @override
    def fail(self, batch: Batch, error: CapameshError, now_s: float) -> None:
        """Answer every member of a batch that runs with `error`; the run itself is reported when it ends."""
        for request in batch.requests:
            if request.state is RequestState.RUNNING:
                self._refuse(request, error, "", now_s)

    @override
    def stop_batching(self) -> None:
        """Run every request alone from the next batch on: the model turned out not to allow batches."""
        self.plan = self.plan.unbatched()

    # inside

    def _full_batch_s(self) -> float:
        """Return how long a full batch would take now where many wait."""
        if self._streams is not None:
            return self._time_of_streams.predicted_s(self._stream_rows)
        return self.time.predicted_s(self.plan.batch_rows)

    @property
    def _stream_rows(self) -> int:
        return self._streams.rows if self._streams is not None and self.plan.is_batching else 1

    def _is_streaming(self) -> bool:
        """Whether the next batch is one of several runs beside one another.

        Those that run decide. When none does, it is what waits, and what was in flight of late: of many callers
        that ask again once answered the first is back before the others are.
        """
        streams = self._streams
        if streams is None:
            return False
        for batch in self._running:
            return batch.is_stream
        return max(len(self._queue), self._recent_peak) >= streams.count

    def _slots_and_rows(self, *, is_stream: bool) -> tuple[int, int]:
        if self._streams is None or not is_stream:
            return self._instances, self.plan.batch_rows
        return self._streams.count, self._stream_rows

    def _room(self, slots: int, rows: int, *, is_stream: bool, is_ahead: bool = False) -> int:
        """Return how many rows the next batch may have, by `_slots_and_rows`; 0: none may be taken."""
        waiting = self._queue.rows
        free = slots - len(self._running)
        if is_ahead:
            # behind a run of all threads those of one each come next, if so much waits
            may_follow = self._streams is None or is_stream
            return rows if free == 0 and waiting >= rows and may_follow else 0
        if free <= 0:
            return 0
        # an equal share for each, and room for what has no rows
        return min(rows, max(1, -(-waiting // free))) if is_stream else rows

    def _shed_hopeless(self, now_s: float, slots: int, rows: int, *, is_stream: bool) -> None:
        """Refuse those of several queued requests that can no longer meet their deadline: their runs cost others theirs.

        The last that waits is never refused: running it corrects a prediction that is wrong. Where all that waits can
        start now, only what would surely be late is refused.
        """
        is_crowded = self._queue.rows > rows * max(1, slots - len(self._running))
        run_s = (self._time_of_streams if is_stream else self.time).predicted_s(1)
        least_s = now_s + (SHED_MARGIN_RUNS if is_crowded else 1.0) * run_s
        if self._soonest_s >= least_s:
            return
        late = [
            request
            for request in self._queue
            if request.deadline_s is not None and request.deadline_s < least_s
        ]
        late.sort(key=_order)
        for request in late:
            if len(self._queue) < 2:
                return
            if (
                request.state is RequestState.QUEUED
            ):  # who is told of the others may have withdrawn it
                left_s = cast(float, request.deadline_s) - now_s
                self._refuse(
                    request,
                    DeadlineExceeded(
                        f"{left_s * 1e3:.1f} ms are left, too few where {len(self._queue)} wait and a run takes"
                        f" {run_s * 1e3:.1f} ms"
                    ),
                    "late",
                    now_s,
                )

    def _put(self, request: PendingRequest) -> None:
        if self.sequences is not None and self.sequences.fill(request):
            self.plan.prepare(request)  # a state that grows: only those as long may share its batch
        self._queue.put(request)

    def _ripe_s(self) -> float:
        """When what is queued goes as it is: after the longest wait for company, and in time for all deadlines."""
        if not self._queue:
            return math.inf
        run_s = self.time.predicted_s(min(self._queue.rows, self.plan.batch_rows))
        return min(
            min(
                request.arrived_s + self._max_delay_s,
                math.inf
                if request.deadline_s is None
                else request.deadline_s - SHED_MARGIN_RUNS * run_s,
            )
            for request in self._queue
        )

    def _end_waits(self, now_s: float) -> None:
        """Refuse or put back what has waited as long as the model's rules allow."""
        late: set[PendingRequest] = set()
        for request in list(self._live):
            is_running = request.batch is not None and request.batch.has_begun
            if is_running or request.state is RequestState.ENDED:
                continue
            if request.start_by_s > now_s:
                self._soonest_s = min(self._soonest_s, request.start_by_s)
            elif request.is_delayable:
                request.start_by_s = math.inf
                if request.state is RequestState.QUEUED:
                    late.add(request)
            else:
                waited_ms = (request.start_by_s - request.arrived_s) * 1e3
                reason = (
                    f"it has waited {waited_ms:g} ms, as long as this model's configuration allows"
                )
                self._refuse(request, DeadlineExceeded(reason), "expired", now_s)
        still = {request for request in late if request.state is RequestState.QUEUED}
        if still:
            self._queue.delay(still)

    def _admit(self, request: PendingRequest, now_s: float) -> None:
        """Return if there is room, which lesser works that wait may have to make. Raises `Overloaded`."""
        if not self._live:
            return
        if self._policies is not None:
            self._policies.check_room(request, self._queue, len(self._queue), self._retry_s())
        refusal = self._refusal(request, 0, 0)
        if refusal is None:
            return
        count = rows = 0

        def is_enough(lesser: PendingRequest) -> bool:
            nonlocal count, rows
            count += 1
            rows += lesser.rows
            return self._refusal(request, count, rows) is None

        leaving = self._queue.lesser_than(request, is_enough)
        if not leaving:
            raise Overloaded(refusal, retry_after_s=self._retry_s())
        for lesser in leaving:
            if (
                lesser.state is not RequestState.ENDED
            ):  # who is told of the others may have withdrawn it
                text = "more urgent requests have taken the place that this one had in the queue; try another node"
                self._refuse(
                    lesser, Overloaded(text, retry_after_s=self._retry_s()), "displaced", now_s
                )

    def _refusal(self, request: PendingRequest, freed: int, freed_rows: int) -> str | None:
        """Return why there is no room, were so many that wait gone; None where there is. They are bulk if `request` is."""
        in_flight = len(self._live) - freed
        most = self._max_queue
        if most is not None and self.queued - freed >= most + self._starting_rows():
            return f"{most} requests wait at this model, as many as its max_queue allows; try another node"
        if in_flight >= self._max_in_flight:
            return f"{in_flight} requests are in flight at this model, the most that may be; try another node"
        limit = self.limit.rows
        in_flight_rows = self._rows - freed_rows
        # one larger than the limit counts as half of it: else it would never get in beside others
        if in_flight_rows + min(request.rows, max(1, limit // 2)) > limit:
            return (
                f"{in_flight_rows} rows are in flight at this model; {request.rows} more are over its present limit"
                f" of {limit}; try another node"
            )
        if request.is_bulk and (
            self._bulk - freed >= BULK_SHARE * self._max_in_flight
            or self._bulk_rows - freed_rows + min(request.rows, max(1, limit // 4))
            > BULK_SHARE * limit
        ):
            return (
                f"{self._bulk} bulk requests of {self._bulk_rows} rows are in flight at this model, whose limit is"
                f" {limit} rows; the other half of it is for online requests; try another node"
            )
        return None

    def _starting_rows(self) -> int:
        """Return how many that are not running yet do not wait either."""
        slots, rows = self._slots_and_rows(is_stream=self._streams is not None)
        return max(0, slots - len(self._running)) * rows

    def _shed(self, now_s: float) -> None:
        """Answer what would wait too long, now that the device is slower than when it was let in."""
        self._shed_s = now_s + SHED_EVERY_S
        limit, row_s = self.limit.rows, self.limit.row_s
        if not row_s:
            return
        longest_s = LONGEST_WAIT * max(MAX_QUEUE_S, limit * row_s)
        most_rows = max(1, limit // 2)  # as `_refusal` counts them
        _, full = self._slots_and_rows(is_stream=self._is_streaming())
        ahead = 0.5 * sum(batch.rows for batch in self._running)  # half through, on average
        leaving: list[tuple[PendingRequest, float]] = []
        for request in self._queue.in_order():
            rows = min(request.rows, most_rows)
            batches = math.ceil((ahead + rows) / full)  # all of one are answered together
            wait_s = now_s - request.arrived_s + batches * full * row_s
            if wait_s > longest_s and request.sequence is None:  # its state is here alone
                leaving.append((request, wait_s))
            else:
                ahead += rows
        for request, wait_s in reversed(leaving):
            if request.state is RequestState.QUEUED:
                text = (
                    f"it would have waited {wait_s:.1f} s: this device runs at {self.limit.speed:.0%} of the speed that"
                    " it had when the model was loaded; try another node"
                )
                self._refuse(
                    request, Overloaded(text, retry_after_s=self._retry_s()), "slow", now_s
                )

    def _wait_s(self) -> float:
        """Return how long one that comes now would wait for its turn, as estimated."""
        rows = self._queue.rows
        is_stream = self._is_streaming()
        slots = self.slots if is_stream else self._instances
        is_busy = len(self._running) >= slots
        if not is_busy and rows == 0:
            return 0.0
        time = self._time_of_streams if is_stream else self.time
        if self.plan.is_batching:
            full = self._stream_rows if is_stream else self.plan.batch_rows
            batches = -(-rows // full)
            each_s = time.predicted_s(min(rows, full))
        else:
            batches = len(self._queue)
            each_s = time.predicted_s(-(-rows // batches) if batches else 1)
        # those that run are half through, on average
        return (batches * each_s + (0.5 * each_s if is_busy else 0)) / slots

    def _retry_s(self) -> float:
        """Return when one that is refused now may be accepted: half a run ends the next, on average."""
        return max(self._wait_s(), 0.5 * self.time.predicted_s(1), MIN_RETRY_S)

    def _refuse(
        self, request: PendingRequest, error: CapameshError, reason: str, now_s: float
    ) -> None:
        self._give_up(request, reason, now_s)
        self.meter.answered(error.code)
        request.done(request, error)

    def _give_up(self, request: PendingRequest, reason: str, now_s: float) -> None:
        """End `request` before its result is there; `reason` is counted unless it runs."""
        state, batch = request.state, request.batch
        self._forget(request)
        if state is RequestState.RUNNING:
            if batch is not None:
                if not batch.has_begun:
                    self.meter.drop(reason)
                    self._next_of_sequence(request, now_s)
                batch.wanted -= 1
                if batch.wanted == 0 and batch.stop is not None:
                    batch.stop()
            return
        self.meter.drop(reason)
        if state is RequestState.QUEUED:
            self._queue.drop(request)
        self._release(request)  # of one that runs, only once its run has ended
        request.inputs = ()  # its entry in the queue may stay a while; its data need not
        self._next_of_sequence(request, now_s)

    def _release(self, request: PendingRequest) -> None:
        if request.held_bytes and self.bounds is not None:
            self.bounds.release(request)

    def _next_of_sequence(self, request: PendingRequest, now_s: float) -> None:
        if self.sequences is not None:
            following = self.sequences.ended(request, now_s)
            if following is not None:
                self._put(following)

    def _forget(self, request: PendingRequest) -> None:
        del self._live[request]
        self._rows -= request.rows
        if request.is_bulk:
            self._bulk -= 1
            self._bulk_rows -= request.rows
        request.state = RequestState.ENDED


def _order(request: PendingRequest) -> int:
    return request.order


def _unheard(request: PendingRequest, result: Result) -> None:
    """Stand for a caller who has left."""


def _chosen(outputs: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    if len(outputs) == len(names) and all(
        output.name == name for output, name in zip(outputs, names, strict=True)
    ):
        return list(outputs)
    by_name = {output.name: output for output in outputs}
    return [by_name[name] for name in names]
