"""One model's requests from arrival to answer: accepted or refused, queued, run together, answered once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from capamesh.node.repository.rules import QueueRules, Rules
from capamesh.node.scheduling.admission import Admission
from capamesh.node.scheduling.background import Background
from capamesh.node.scheduling.bulk_parts import BulkParts
from capamesh.node.scheduling.concurrency_limit import ConcurrencyLimit
from capamesh.node.scheduling.in_flight import RequestsInFlight
from capamesh.node.scheduling.latency import LatencyByLoad, QueueDelay
from capamesh.node.scheduling.loops import Loops
from capamesh.node.scheduling.pending_request import (
    ENDED,
    NEW,
    RUNNING,
    Batch,
    PendingRequest,
    Result,
    answer_all,
    unheard,
)
from capamesh.node.scheduling.plan import BatchPlan, chosen
from capamesh.node.scheduling.queue_policies import QueuePolicies
from capamesh.node.scheduling.request_bounds import RunBounds
from capamesh.node.scheduling.run_health import RunHealth
from capamesh.node.scheduling.scheduler import Scheduler
from capamesh.node.scheduling.sequences import Sequences
from capamesh.node.scheduling.service_profile import ServiceProfile
from capamesh.node.scheduling.shedding import EXPIRE_EVERY_S, Shedding
from capamesh.node.scheduling.single_thread_instances import Streams
from capamesh.node.scheduling.slots import Slots
from capamesh.node.scheduling.stats import Meter
from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    DeadlineExceeded,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.links.calls import LoadReport

AHEAD_S: Final = 0.1
"""A full batch no longer than this may be taken ahead: the device goes from one run to the next without the event loop
between them (measured: 3 % of a convolution network's throughput). What waits so cannot be overtaken by what is more
urgent, so it must be short (guess)."""
_NO_RESULT: Final = RunFailed("the run ended without a result")


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
        has_background: bool = False,
    ) -> None:
        """`max_queue` is how many may wait for an instance, instead of `max_in_flight`, which counts all; None: any.

        `has_background` says whether streams can run behind all others (`take_background`): bulk requests always do then.

        `bounds` refuses what cannot be run here; None: nothing is known of what a run takes. `doubt` is why no run has
        succeeded when the model was loaded.
        """
        self.plan = plan
        self.bounds = bounds
        self._usual_rows = bounds.usual_rows if bounds is not None else math.inf
        self.meter = Meter()
        self.health = RunHealth(doubt)
        self.latency = LatencyByLoad()
        self._online_queue = QueueDelay()
        self.sequences = Sequences(rules.sequence, plan) if plan.is_sequential else None
        self.loops = None if rules.loop is None else Loops(rules.loop, plan)
        self._policies = QueuePolicies(rules.queue) if rules.queue != QueueRules() else None
        self._has_profile = profile is not None
        self._instances = max(1, rules.instances)
        self._max_delay_s = rules.batching.max_delay_us / 1e6 if plan.is_batching else 0.0
        rows = plan.batch_rows
        row_s = profile.seconds_at(rows) / rows / self._instances if profile else 0.0
        full_rows = max(self._instances * rows, streams.count * streams.rows if streams else 0)
        self.limit = ConcurrencyLimit(
            full_rows=full_rows,
            row_s=streams.row_s if streams else row_s,
        )
        self._requests = requests = RequestsInFlight(
            plan, self.meter, sequences=self.sequences, bounds=bounds
        )
        self._slots = Slots(
            requests,
            profile,
            streams,
            instances=self._instances,
            max_delay_s=self._max_delay_s,
        )
        self._background = Background(requests, self._slots, is_there=has_background)
        self.time = self._latest_time = self._slots.time
        self._has_streams = streams is not None
        self._admission = Admission(
            requests,
            self._slots,
            self.limit,
            self._policies,
            max_in_flight=max_in_flight if max_queue is None else max_queue + full_rows,
            max_queue=max_queue,
        )
        self._shedding = Shedding(requests, self._slots, self.limit, self._policies, self.sequences)

    @override
    def __repr__(self) -> str:
        requests = self._requests
        return (
            f"DynamicBatcher({len(requests.queue)} queued, {len(requests.running)} batches running)"
        )

    # what the owner asks

    @property
    @override
    def in_flight(self) -> int:
        return len(self._requests.live)

    @property
    @override
    def queued(self) -> int:
        return self._requests.queued

    @property
    @override
    def slots(self) -> int:
        return self._slots.most

    @override
    def predicted_s(self, batch: Batch) -> float:
        return (self._slots.time_of_streams if batch.is_stream else self.time).predicted_s(
            batch.rows
        )

    @override
    def next_event_s(self) -> float:
        """Return when `expire` or `take` may have something to do that they have not now, if nothing else happens.

        Infinity if never. It may be early, never late, and it is only true until the next call of another method.
        """
        if not self._requests.live:
            return math.inf
        expire_s = max(self._requests.soonest_s, self._shedding.expired_s + EXPIRE_EVERY_S)
        if not self._max_delay_s or not self._requests.queue:
            return expire_s
        slots = self._slots
        is_stream = slots.is_streaming()
        if not slots.room(*slots.count_and_rows(is_stream=is_stream), is_stream=is_stream):
            return expire_s
        return min(expire_s, slots.ripe_s())

    @property
    @override
    def is_idle(self) -> bool:
        return self._requests.is_idle

    @override
    def load_report(self, *, free_bytes: int, device_in_flight: int) -> LoadReport:
        return self._admission.load_report(
            run_s=self._latest_time.run_s,
            latency=self.latency,
            online_queue_s=self._online_queue.seconds(),
            free_bytes=free_bytes,
            device_in_flight=device_in_flight,
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
            if not request.is_bulk:
                self._slots.online_s = now_s
            elif request.is_alone:
                request.key = object()
            elif self.loops is None and self.plan.is_divisible(request):
                request.parts = BulkParts(request.inputs)
            if self.loops is not None:
                request.urgency_s = 0.0
            if self._policies is not None:
                self._policies.enter(request)
            if request.rows > self._usual_rows and self.bounds is not None:
                self.bounds.admit(request, now_s, self.time.slowdown)
            if self._requests.live:
                for lesser in self._admission.make_room(request):
                    self._displace(lesser, now_s)
            is_turn = self.sequences is None or self.sequences.accept(request, now_s)
        except CapameshError as error:
            self._requests.release(request)
            self.meter.answered(error.code)
            raise
        self._requests.add(request, is_turn=is_turn)

    @override
    def take(self, now_s: float, *, is_ahead: bool = False) -> Batch | None:
        """Return the next batch to run; None when all slots are busy or nothing is due.

        With `is_ahead` a batch is returned only if it is full and short: it is to follow at once when the first of the
        busy slots is free. Expired requests are answered first; so are those that would expire during the run, unless
        only one waits.
        """
        self._online_queue.seen_s = now_s
        if now_s >= self._requests.soonest_s or self.sequences is not None:
            self._shedding.expire(now_s)
        slots, queue = self._slots, self._requests.queue
        self._background.look(now_s)
        if (
            not queue
            or (slots.has_background and not queue.online)
            or (is_ahead and slots.full_batch_s() > AHEAD_S)
        ):
            return None
        is_stream = self._has_streams and slots.is_streaming()
        count, most_rows = slots.count_and_rows(is_stream=is_stream)
        room = slots.room(count, most_rows, is_stream=is_stream, is_ahead=is_ahead)
        if not room:
            return None
        if len(queue) > 1:
            self._shedding.shed_hopeless(now_s, count, most_rows, is_stream=is_stream)
            if not queue:
                return None  # who was told that it is late has withdrawn the rest
        if self._max_delay_s and queue.rows < self.plan.batch_rows and now_s < slots.ripe_s():
            return None
        bound = slots.bulk_bound(room, now_s, is_stream=is_stream) if queue.bulk_rows else None
        if is_ahead and bound is not None and not slots.has_background and bound(0) < most_rows:
            return None  # nobody's request could pass it
        requests = queue.take(room, bound)
        batch = Batch(requests, 0, now_s, self.plan, is_stream=is_stream)
        self._requests.begin(batch, now_s)
        batch.has_begun = not is_ahead
        self._requests.running.add(batch)
        slots.took()
        return batch

    @override
    def take_background(self, now_s: float) -> Batch | None:
        return self._background.take(self.plan, now_s)

    @override
    def background_stalled(self, now_s: float) -> None:
        self._background.stalled(now_s)

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
        """Answer the requests of a batch by its results; those of a loop may go on. See `Scheduler.finished`."""
        requests, meter = self._requests, self.meter
        requests.ran(batch)
        rows = batch.rows if ran_rows is None else ran_rows
        if rows >= 0:
            meter.ran(rows, run_s)
        # what has no data says nothing of what a row takes, and nothing does that gave way meanwhile
        if is_whole and rows > 0 and not batch.is_background:
            self._timed(batch, rows, run_s, now_s)
        answers: list[tuple[PendingRequest, Result]] = []
        good = 0
        self._online_queue.ran(batch, now_s)
        for request, result in zip(batch.requests, results, strict=True):
            outcome = _NO_RESULT if result is None else result
            if self.sequences is not None:
                if not isinstance(outcome, CapameshError):
                    outcome = self.sequences.ran(request, outcome)
                requests.next_of_sequence(request, now_s)
            if request.state is ENDED:
                continue
            request.run_s += run_s
            if not request.steps and (request.parts is None or request.parts.is_first):
                request.started_s = batch.started_s
                meter.queue_s.add(batch.started_s - request.arrived_s)
                if not request.is_bulk and not isinstance(outcome, CapameshError):
                    self.latency.answered(request.in_flight, now_s - request.arrived_s)
            if self.loops is not None or request.parts is not None:
                ended = self._step_ended(request, outcome)
                if ended is None:
                    continue
                outcome = ended
            if isinstance(outcome, CapameshError):
                self._failed(request, outcome)
            else:
                good += 1
                if self.health.is_doubted:
                    self.health.succeeded()
                if request.outputs:
                    outcome = chosen(outcome, request.outputs)
            requests.forget(request)
            answers.append((request, outcome))
        batch.wanted = 0
        if good:
            meter.answered("ok", good)
        fault = answer_all(answers)  # all are counted before the first is told of the load
        if self.loops is not None:
            self.loops.go_on(requests, now_s)
        requests.let_go(batch)
        if requests.rows > self.limit.rows and now_s >= self._shedding.slow_due_s:
            self._shedding.shed_slow(now_s)
        if fault is not None:
            raise fault

    @override
    def cancel(self, request: PendingRequest, now_s: float) -> None:
        """Nobody waits for `request` any more: it is never answered, and not run if it has not started."""
        if request.state is ENDED:
            request.done = unheard  # its batch may be answering its members just now
        if request.state in {ENDED, NEW}:
            return
        self.meter.answered(Cancelled.code)
        self._requests.give_up(request, "cancelled", now_s)

    @override
    def resume(self, request: PendingRequest) -> None:
        self._requests.resume(request)

    @override
    def expire(self, now_s: float) -> None:
        """Answer every work whose deadline has passed, running or not; forget silent sequences."""
        self._online_queue.seen_s = now_s
        self._shedding.expire(now_s)

    @override
    def fail(self, batch: Batch, error: CapameshError, now_s: float) -> None:
        """Answer every member of a batch that runs with `error`; the run itself is reported when it ends."""
        for request in batch.requests:
            if request.state is RUNNING:
                self._requests.refuse(request, error, "", now_s)

    @override
    def stop_batching(self) -> None:
        """Run every request alone from the next batch on: the model turned out not to allow batches."""
        self.plan = self._requests.plan = self.plan.unbatched()

    def _step_ended(self, request: PendingRequest, outcome: Result) -> Result | None:
        """Take in what a step or a part of a request gave; return what ends the request, None if it goes on."""
        if self.loops is not None:
            return self.loops.ran(request, outcome, self.plan)
        rows = request.rows
        ended = outcome if request.parts is None else request.parts.ran(request, outcome)
        if ended is None:
            self._requests.part_ran(request, rows)
        return ended

    def _timed(self, batch: Batch, rows: int, run_s: float, now_s: float) -> None:
        """Learn from a run how fast the device is."""
        self._latest_time = self._slots.time_of_streams if batch.is_stream else self.time
        slowdown = self._latest_time.ran(rows, run_s)
        self.limit.ran(slowdown, run_s, now_s)
        if not self._has_profile:
            self.limit.learnt(self.time.expected_s(1) / self._instances)

    def _failed(self, request: PendingRequest, error: CapameshError) -> None:
        """Count a request whose run has failed."""
        self.meter.answered(error.code)
        if isinstance(error, RunFailed):
            self.health.failed(request.inputs, error.message)

    def _displace(self, lesser: PendingRequest, now_s: float) -> None:
        """Refuse a request that waits, for another that is more urgent."""
        # who is told of the others may have withdrawn it
        if lesser.state is not ENDED:
            text = "more urgent requests have taken the place that this one had in the queue; try another node"
            error = Overloaded(text, retry_after_s=self._slots.retry_s())
            self._requests.refuse(lesser, error, "displaced", now_s)
