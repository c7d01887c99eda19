"""Runs one model's batches: short ones in the event loop, others in threads. IO: threads, the loop's timers.

Waking a thread and being woken by it costs more than a tiny model's run, and a run in the loop needs no lock
of the interpreter to be handed over. What is long must not hold the loop up: it goes to a thread, where ONNX
Runtime lets the interpreter go.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import override

from capamesh.node.devices.in_flight_journal import InFlightJournal, Phase
from capamesh.node.scheduling import Batch, PendingRequest, Result
from capamesh.node.scheduling.pending_request import RequestState, RunPlan
from capamesh.protocol.errors import Cancelled, CapameshError, RunFailed

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel, StopSwitch
    from capamesh.node.scheduling.bounds import RunBounds
    from capamesh.node.scheduling.scheduler import Scheduler

SHORT_S = 0.000_3
"""A run predicted to be no longer goes into the loop (measured: a thread costs 50 to 100 µs of latency and
more of throughput; twice that is a fair price for what else waits in the loop)."""
TURN_S = 0.001
"""Runs in the loop take no longer than this before others have their turn (guess)."""
STOP_GRACE_S = 2.0
"""A run that was told to stop and goes on for so long is stuck (guess: a kernel of a large model)."""
MIN_WATCH_S = 0.001
"""Between two looks at runs that take too long (guess)."""
BATCH_DOUBTS = 3
"""Batches that failed though each of their requests ran alone: the model does not batch (guess)."""


_NOT_WANTED = Cancelled("not wanted any more")


class _Ended(NamedTuple):
    batch: Batch
    results: Sequence[Result]
    run_s: float
    is_whole: bool
    fault: str
    rows: int
    """Rows that ran; -1: nobody wanted it any more."""
    ended_s: float


class ModelRunner:
    """One loaded model version with its scheduler. Made, used and closed in one event loop.

    The scheduler tells when it has something to do next; this is the only owner of a timer for it.
    """

    def __init__(
        self,
        model: LoadedModel,
        scheduler: Scheduler,
        *,
        bounds: RunBounds | None = None,
        stream: LoadedModel | None = None,
        may_run_here: bool,
        clock: Callable[[], float],
        switch: Callable[[], StopSwitch],
        marks: InFlightJournal,
        number: int,
        watchdog_s: float,
        on_stuck: Callable[[str], None],
    ) -> None:
        """Run what `scheduler` gives, as many batches at the same time as it allows.

        `bounds` tells the requests that may end the process from others; None: nothing is known of them.
        `stream` is the same model on one thread, for the batches that run beside one another. `may_run_here` says
        whether short runs may execute on the event loop: only where the time of a run depends on its rows alone.
        A run that takes longer than `watchdog_s` is stopped; `on_stuck` is called once, with the reason, when one
        goes on all the same, so that only the end of the process ends it.
        """
        self.scheduler = scheduler
        self.model = model
        self._stream = stream or model
        self._may_run_here = may_run_here
        self._bounds = bounds
        self._suspicion = bounds.suspicion if bounds is not None else None
        self._is_suspected = bounds is not None and bounds.suspicion.is_alone(clock())
        self._clock = clock
        self._switch = switch
        self._marks = marks
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[tuple[Batch, StopSwitch] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._ended: deque[_Ended] = deque()
        self._is_waking = False
        self._pump_handle: asyncio.Handle | None = None
        self._watchdog_s = watchdog_s
        self._on_stuck: Callable[[str], None] | None = on_stuck
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = math.inf
        self._handed: dict[Batch, float | None] = {}
        """The batches that threads run or are to run, each with the time at which its run was told to stop."""
        self._doubts = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_used_s = clock()
        self.batch_fault = ""
        """Why batching was given up; empty while it was not."""

    @override
    def __repr__(self) -> str:
        return f"ModelRunner({self.scheduler!r})"

    def submit(self, request: PendingRequest, *, is_pumped: bool = False) -> None:
        """Accept or refuse `request`, as `Scheduler.submit` does; `request.done` is called in the event loop.

        With `is_pumped` the caller calls `pump` once it has submitted all that came together; else that happens
        in the loop's next turn.
        """
        now_s = request.arrived_s
        self.scheduler.submit(request, now_s)
        self.last_used_s = now_s
        self._idle.clear()
        if not is_pumped:
            self._pump_soon()

    def pump(self) -> None:
        """Start what can be started now."""
        if self._pump_handle is not None:
            self._pump_handle.cancel()
        self._pump()

    def cancel(self, request: PendingRequest) -> None:
        """Nobody waits for `request` any more."""
        self.scheduler.cancel(request, self._clock())
        self._check_idle()
        self._pump_soon()  # the next of its sequence, for one

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight and nothing runs."""
        while not self.scheduler.is_idle:  # a waiter may be woken after the next request has come
            await self._idle.wait()

    def close(self) -> None:
        """End the threads once their runs have ended."""
        if self._timer is not None:
            self._timer.cancel()
        for _ in self._threads:
            self._batches.put(None)

    # inside the loop

    def _wake_at(self, due_s: float, now_s: float) -> None:
        """Have `_tick` called at `due_s`, unless it is called earlier and then looks again."""
        if due_s >= self._timer_due_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - now_s), self._tick)

    def _tick(self) -> None:
        """Answer what has expired, stop runs that take too long, start what is due."""
        self._timer, self._timer_due_s = None, math.inf
        if self.scheduler.is_idle:
            return
        now_s = self._clock()
        self.scheduler.expire(now_s)
        self._check_idle()
        self._wake_at(self._stop_overdue(now_s), now_s)
        self.pump()

    def _stop_overdue(self, now_s: float) -> float:
        """Stop the runs that take too long; return when the next will be, or has had its time to stop."""
        limit_s = self._watchdog_s
        next_s = math.inf
        for batch, stopped_s in list(self._handed.items()):
            if not batch.has_begun:
                continue
            if stopped_s is None and now_s - batch.started_s <= limit_s:
                next_s = min(next_s, batch.started_s + limit_s)
            elif stopped_s is None:
                self._handed[batch] = now_s
                next_s = min(next_s, now_s + STOP_GRACE_S)
                error = RunFailed(
                    f"the run took more than the {limit_s:g} s that this node allows one"
                )
                self.scheduler.fail(batch, error, now_s)
                if batch.stop is not None:
                    batch.stop()
            elif now_s - stopped_s <= STOP_GRACE_S:
                next_s = min(next_s, stopped_s + STOP_GRACE_S)
            elif self._on_stuck is not None:
                on_stuck, self._on_stuck = self._on_stuck, None
                self._marks.blame(  # not what runs beside it
                    self._number, Phase.RUNNING, batch.request, batch.large_bytes
                )
                on_stuck(
                    f"a run has taken {now_s - batch.started_s:.1f} s and does not stop; the limit is {limit_s:g} s"
                )
        return max(next_s, now_s + MIN_WATCH_S)

    def _pump_soon(self) -> None:
        if self._pump_handle is None:
            # after this turn's frames: what came together runs together
            self._pump_handle = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_handle = None
        scheduler, clock = self.scheduler, self._clock
        now_s = started_s = clock()
        if self._is_suspected and self._suspicion is not None:
            self._is_suspected = self._suspicion.is_alone(now_s)
        while (batch := scheduler.take(now_s)) is not None:
            if (
                self._may_run_here
                and not self._is_suspected  # in a thread it is marked which request runs
                and not batch.is_stream
                and scheduler.predicted_s(batch) <= SHORT_S
            ):
                ended = self._executed(batch, None)
                now_s = ended.ended_s
                self._finish(ended, now_s)
                if scheduler.is_idle:
                    return
                if now_s - started_s > TURN_S:
                    self._pump_soon()
                    return
            else:
                self._hand_over(batch)
        if self._threads:
            ahead = scheduler.take(now_s, is_ahead=True)
            if ahead is not None:
                self._hand_over(ahead)
        if not scheduler.is_idle:  # what has started now, or starts next, is watched too
            self._wake_at(min(scheduler.next_event_s(), now_s + self._watchdog_s), now_s)

    def _hand_over(self, batch: Batch) -> None:
        while len(self._threads) < self.scheduler.slots:
            thread = threading.Thread(target=self._work, name="run", daemon=True)
            self._threads.append(thread)
            thread.start()
        switch = self._switch()
        batch.stop = switch.stop
        self._handed[batch] = None
        self._batches.put((batch, switch))

    def _finish(self, ended: _Ended, now_s: float) -> None:
        batch = ended.batch
        self._handed.pop(batch, None)
        if ended.fault:
            self._doubts += 1
            if self._doubts >= BATCH_DOUBTS:
                self.batch_fault = ended.fault
                self.scheduler.stop_batching()
        try:
            self.scheduler.finished(
                batch,
                ended.results,
                now_s,
                run_s=ended.run_s,
                is_whole=ended.is_whole,
                ran_rows=ended.rows,
            )
        except Exception as exc:  # noqa: BLE001 - the batches behind it run and are reported all the same
            self._loop.call_exception_handler(
                {"message": "taking a batch's results failed", "exception": exc}
            )
        self._check_idle()

    def _report(self) -> None:
        self._is_waking = False
        while self._ended:
            self._finish(self._ended.popleft(), self._clock())
        self._pump()

    def _check_idle(self) -> None:
        if self.scheduler.is_idle:
            self._idle.set()

    # in a thread, or in the loop

    def _work(self) -> None:
        while (handed := self._batches.get()) is not None:
            self._ended.append(self._executed(*handed))
            if not self._is_waking:
                self._is_waking = True
                try:
                    self._loop.call_soon_threadsafe(self._report)
                except RuntimeError:
                    return  # the event loop is closed: nobody waits any more

    def _executed(self, batch: Batch, switch: StopSwitch | None) -> _Ended:
        began_s = self._clock()
        requests, rows = batch.requests, batch.rows
        if not batch.has_begun:
            batch.started_s = began_s
            batch.has_begun = (
                True  # before the look at who is left: whoever ends one looks at both in turn
            )
            requests = [request for request in requests if request.state is not RequestState.ENDED]
            if len(requests) < len(batch.requests):
                rows = sum(request.rows for request in requests) if requests else -1
        if not requests:
            return _Ended(batch, [_NOT_WANTED] * len(batch.requests), 0.0, False, "", rows, began_s)
        model = self._stream if batch.is_stream else self.model
        if self._is_suspected and len(requests) > 1:
            return self._executed_apart(batch, requests, rows, switch, model)
        slot = self._marks.begin(self._number, Phase.RUNNING)
        fault, is_whole = "", True
        results: Sequence[Result]
        try:
            if switch is not None and len(requests) == 1:
                self._tell(batch, requests[0], slot)
            results = _run(batch.plan, requests, switch, model)
        except BaseException as exc:  # noqa: BLE001 - even a SystemExit must fail requests, not end the thread unseen
            error, is_whole = _as_error(exc), False
            if len(requests) == 1 or batch.wanted == 0:
                results = [error] * len(requests)
            else:  # one of them may be at fault: the others must not suffer for it
                results = [_run_alone(batch.plan, request, switch, model) for request in requests]
                if not any(isinstance(result, CapameshError) for result in results):
                    fault = error.message
        ended_s = self._clock()
        self._marks.end(slot)
        if batch.request and self._suspicion is not None:
            self._suspicion.ended(batch.request)
        results = _of_all(batch, requests, results)
        return _Ended(batch, results, ended_s - began_s, is_whole, fault, rows, ended_s)

    def _executed_apart(
        self,
        batch: Batch,
        requests: list[PendingRequest],
        rows: int,
        switch: StopSwitch | None,
        model: LoadedModel,
    ) -> _Ended:
        """Run each request by itself, so that it is marked which of them ends the process."""
        began_s = self._clock()
        results: list[Result] = []
        for request in requests:
            slot = self._marks.begin(self._number, Phase.RUNNING)
            with contextlib.suppress(
                Exception
            ):  # a request that cannot be told from others is run all the same
                self._tell(batch, request, slot)
            results.append(_run_alone(batch.plan, request, switch, model))
            self._marks.end(slot)
            if self._suspicion is not None:
                self._suspicion.ended(batch.request)
        ended_s = self._clock()
        return _Ended(
            batch, _of_all(batch, requests, results), ended_s - began_s, False, "", rows, ended_s
        )

    def _tell(self, batch: Batch, request: PendingRequest, slot: int) -> None:
        """Mark which request runs alone in `slot`."""
        if self._bounds is not None:
            batch.request, batch.large_bytes = self._bounds.identity(request)
            self._marks.tell(slot, batch.request, batch.large_bytes)


def _run(
    plan: RunPlan,
    requests: Sequence[PendingRequest],
    switch: StopSwitch | None,
    model: LoadedModel,
) -> Sequence[Result]:
    joined = plan.join(requests)
    outputs = model.run(joined, plan.wanted(requests), switch)
    return plan.split(requests, outputs, joined)


def _run_alone(
    plan: RunPlan, request: PendingRequest, switch: StopSwitch | None, model: LoadedModel
) -> Result:
    if request.state is RequestState.ENDED:
        return _NOT_WANTED
    try:
        (outputs,) = _run(plan, [request], switch, model)
    except BaseException as exc:  # noqa: BLE001 - even a SystemExit must fail the request, not end the thread unseen
        return _as_error(exc)
    return outputs


def _of_all(
    batch: Batch, requests: Sequence[PendingRequest], results: Sequence[Result]
) -> Sequence[Result]:
    """Return a result for each of a batch's members, of which `requests` ran."""
    if len(requests) == len(batch.requests):
        return results
    of = dict(zip(requests, results, strict=True))
    return [of.get(request, _NOT_WANTED) for request in batch.requests]


def _as_error(exc: BaseException) -> CapameshError:
    if isinstance(exc, CapameshError):
        return exc
    return RunFailed(f"{type(exc).__name__}: {exc}")
