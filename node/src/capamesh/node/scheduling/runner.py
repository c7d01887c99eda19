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

from capamesh.node.devices.in_flight_journal import InFlightJournal, Phase
from capamesh.node.scheduling import Batch, DynamicBatcher, PendingRequest, Result
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.protocol.errors import Cancelled, CapameshError, RunFailed

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel, StopSwitch

SHORT_S = 0.000_3
"""A run predicted to be no longer goes into the loop (measured: a thread costs 50 to 100 µs of latency and
more of throughput; twice that is a fair price for what else waits in the loop)."""
TURN_S = 0.001
"""Runs in the loop take no longer than this before others have their turn (guess)."""
AHEAD_S = 0.1
"""A full batch no longer than this waits ready made behind the one that runs: the device goes from one to the
next without the loop between them (measured: 3 % of a convolution network's throughput). What waits so cannot be
overtaken by what is more urgent, so it must be short (guess)."""
STOP_GRACE_S = 2.0
"""A run that was told to stop and goes on for so long is stuck (guess: a kernel of a large model)."""
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
    """One loaded model version with its engine. Made, used and closed in one event loop."""

    def __init__(
        self,
        model: LoadedModel,
        batcher: DynamicBatcher,
        *,
        stream: LoadedModel | None = None,
        may_run_here: bool,
        clock: Callable[[], float],
        switch: Callable[[], StopSwitch],
        marks: InFlightJournal,
        number: int,
    ) -> None:
        """Run what `batcher` gives, as many batches at the same time as it allows.

        `stream` is the same model on one thread, for the batches that run beside one another.
        `may_run_here`: a run's time depends on its rows alone.
        """
        self.batcher = batcher
        self.model = model
        self._stream = stream or model
        self._may_run_here = may_run_here
        bounds = batcher.bounds
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
        self._due_timer: asyncio.TimerHandle | None = None
        self._stopped_s: dict[Batch, float] = {}
        self._doubts = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_used_s = clock()
        self.batch_fault = ""
        """Why batching was given up; empty while it was not."""

    def __repr__(self) -> str:
        return f"ModelRunner({self.batcher!r})"

    def submit(self, request: PendingRequest, *, is_pumped: bool = False) -> None:
        """Accept or refuse `request`, as `DynamicBatcher.submit` does; `request.done` is called in the event loop.

        With `is_pumped` the caller calls `pump` once it has submitted all that came together; else that happens
        in the loop's next turn.
        """
        now_s = request.arrived_s
        self.batcher.submit(request, now_s)
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
        self.batcher.cancel(request, self._clock())
        self._check_idle()
        self._pump_soon()  # the next of its sequence, for one

    def tick(self, now_s: float, watchdog_s: float) -> str:
        """Answer what has expired, stop runs that take too long; return why the process is stuck, or ""."""
        batcher = self.batcher
        if batcher.is_idle:
            return ""
        batcher.expire(now_s)
        self._check_idle()
        for batch in batcher.running:
            if not batch.has_begun or now_s - batch.started_s <= watchdog_s:
                continue
            reported_s = self._stopped_s.get(batch)
            if reported_s is None:
                self._stopped_s[batch] = now_s
                batcher.fail(
                    batch,
                    RunFailed(
                        f"the run took more than the {watchdog_s:g} s that this node allows one"
                    ),
                    now_s,
                )
                if batch.stop is not None:
                    batch.stop()
            elif now_s - reported_s > STOP_GRACE_S:
                self._marks.blame(  # not what runs beside it
                    self._number, Phase.RUNNING, batch.request, batch.large_bytes
                )
                return (
                    f"a run has taken {now_s - batch.started_s:.1f} s and does not stop; the limit is"
                    f" {watchdog_s:g} s"
                )
        return ""

    def tick_due_s(self, now_s: float, watchdog_s: float) -> float:
        """Return when `tick` has something to do next, if nothing else happens; infinity if never."""
        if self.batcher.is_idle:
            return math.inf
        due_s = min(self.batcher.soonest_deadline_s, now_s + watchdog_s)  # what waits may start now
        for batch in self.batcher.running:
            if not batch.has_begun:
                continue
            reported_s = self._stopped_s.get(batch)
            limit_s = (
                batch.started_s + watchdog_s if reported_s is None else reported_s + STOP_GRACE_S
            )
            due_s = min(due_s, limit_s)
        return due_s

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight and nothing runs."""
        while not self.batcher.is_idle:  # a waiter may be woken after the next request has come
            await self._idle.wait()

    def close(self) -> None:
        """End the threads once their runs have ended."""
        if self._due_timer is not None:
            self._due_timer.cancel()
        for _ in self._threads:
            self._batches.put(None)

    # inside the loop

    def _pump_soon(self) -> None:
        if self._pump_handle is None:
            # after this turn's frames: what came together runs together
            self._pump_handle = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_handle = None
        batcher, clock = self.batcher, self._clock
        now_s = started_s = clock()
        if self._is_suspected and self._suspicion is not None:
            self._is_suspected = self._suspicion.is_alone(now_s)
        while (batch := batcher.take(now_s)) is not None:
            if (
                self._may_run_here
                and not self._is_suspected  # in a thread it is marked which request runs
                and not batch.is_stream
                and batcher.time.predicted_s(batch.rows) <= SHORT_S
            ):
                ended = self._executed(batch, None)
                now_s = ended.ended_s
                self._finish(ended, now_s)
                if batcher.is_idle:
                    return
                if now_s - started_s > TURN_S:
                    self._pump_soon()
                    return
            else:
                self._hand_over(batch)
        if self._threads and batcher.full_batch_s <= AHEAD_S:
            ahead = batcher.take(now_s, is_ahead=True)
            if ahead is not None:
                self._hand_over(ahead)
        due_s = batcher.due_s
        if due_s < math.inf:
            if self._due_timer is not None:
                self._due_timer.cancel()
            self._due_timer = self._loop.call_later(max(0.0, due_s - now_s), self._pump_soon)

    def _hand_over(self, batch: Batch) -> None:
        while len(self._threads) < self.batcher.slots:
            thread = threading.Thread(target=self._work, name="run", daemon=True)
            self._threads.append(thread)
            thread.start()
        switch = self._switch()
        batch.stop = switch.stop
        self._batches.put((batch, switch))

    def _finish(self, ended: _Ended, now_s: float) -> None:
        batch = ended.batch
        self._stopped_s.pop(batch, None)
        if ended.fault:
            self._doubts += 1
            if self._doubts >= BATCH_DOUBTS:
                self.batch_fault = ended.fault
                self.batcher.plan = self.batcher.plan.unbatched()
        try:
            self.batcher.finished(
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
        if self.batcher.is_idle:
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
            results = self._run(requests, switch, model)
        except BaseException as exc:  # noqa: BLE001 - even a SystemExit must fail requests, not end the thread unseen
            error, is_whole = _as_error(exc), False
            if len(requests) == 1 or batch.wanted == 0:
                results = [error] * len(requests)
            else:  # one of them may be at fault: the others must not suffer for it
                results = [self._run_alone(request, switch, model) for request in requests]
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
            results.append(self._run_alone(request, switch, model))
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
        self, requests: list[PendingRequest], switch: StopSwitch | None, model: LoadedModel
    ) -> Sequence[Result]:
        plan = self.batcher.plan
        joined = plan.join(requests)
        outputs = model.run(joined, plan.wanted(requests), switch)
        return plan.split(requests, outputs, joined)

    def _run_alone(
        self, request: PendingRequest, switch: StopSwitch | None, model: LoadedModel
    ) -> Result:
        if request.state is RequestState.ENDED:
            return _NOT_WANTED
        try:
            (outputs,) = self._run([request], switch, model)
        except BaseException as exc:  # noqa: BLE001 - as above
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
