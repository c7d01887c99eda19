"""Runs one model's batches: short ones in the event loop, others in threads. IO: threads, the loop's timers.

Waking a thread and being woken by it costs more than a tiny model's run, and a run in the loop needs no lock
of the interpreter to be handed over. What is long must not hold the loop up: it goes to a thread, where ONNX
Runtime lets the interpreter go.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from typing_extensions import override

from capamesh.node.devices.idle_thread import ThreadTime, give_way
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.node.scheduling.execution import BatchExecution, Ended
from capamesh.protocol.errors import RunFailed
from capamesh.protocol.threads import SystemThreads, Threads, Worker, WorkQueue

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel, StopSwitch
    from capamesh.node.scheduling.request_bounds import RunBounds
    from capamesh.node.scheduling.scheduler import Scheduler

SHORT_S: Final = 0.000_3
"""A run predicted to be no longer goes into the loop (measured: a thread costs 50 to 100 µs of latency and
more of throughput; twice that is a fair price for what else waits in the loop)."""
TURN_S: Final = 0.001
"""Runs in the loop take no longer than this before others have their turn (guess)."""
STOP_GRACE_S: Final = 2.0
"""A run that was told to stop and goes on for so long is stuck (guess: a kernel of a large model)."""
MIN_WATCH_S: Final = 0.001
"""Seconds between two looks at runs that take too long (guess)."""
BACKGROUND_TIMES: Final = 10.0
"""A run in the background may take so many times as long as any other, while others have the cores (guess); of the time that it has a
core, it may take no longer."""
BEAT_S: Final = 0.02
"""Seconds between two looks at the event loop while something runs in the background (guess)."""
STALL_S: Final = 0.1
"""The event loop that comes so many seconds late was held up by it (guess: a run of people's, and what garbage collection takes)."""
BATCH_DOUBTS: Final = 3
"""Batches that failed though each of their requests ran alone: the model does not batch (guess)."""

_Batches: TypeAlias = "WorkQueue[tuple[Batch, StopSwitch] | None]"


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
        threads: Threads | None = None,
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
        self._execution = BatchExecution(
            model, stream or model, bounds=bounds, clock=clock, marks=marks, number=number
        )
        self._may_run_here = may_run_here
        self._clock = clock
        self._switch = switch
        self._loop = asyncio.get_running_loop()
        self._system = system = threads or SystemThreads()
        self._batches: _Batches = system.queue()
        self._threads: list[Worker] = []
        self._background_batches: _Batches = system.queue()
        self._background_threads: list[Worker] = []
        self._ended: deque[Ended] = deque()
        self._is_waking = False
        self._pump_handle: asyncio.Handle | None = None
        self._watchdog_s = watchdog_s
        self._on_stuck: Callable[[str], None] | None = on_stuck
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = math.inf
        self._handed: dict[Batch, float | None] = {}
        """The batches that threads run or are to run, each with the time at which its run was told to stop."""
        self._background_runs = 0
        """The batches of these that run behind all others."""
        self._times: dict[Batch, ThreadTime] = {}
        """The time of the processor that each of these has had."""
        self._beat_due_s = math.inf
        """The time when the event loop is to come by, while such batches run; infinity: none do."""
        self._doubts = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_used_s = clock()

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

    def resume(self, request: PendingRequest) -> None:
        """Go on with `request`, whose reader takes the next part of its answer."""
        self.scheduler.resume(request)
        self._pump_soon()

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
        for _ in self._background_threads:
            self._background_batches.put(None)

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
            self._check_idle()  # generations end between two ticks
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
            ran_s = self._ran_s(batch, now_s)
            grace_s = STOP_GRACE_S * (BACKGROUND_TIMES if batch.is_background else 1.0)
            if stopped_s is None and ran_s <= limit_s:
                next_s = min(next_s, now_s + limit_s - ran_s)
            elif stopped_s is None:
                self._handed[batch] = now_s
                next_s = min(next_s, now_s + grace_s)
                error = RunFailed(
                    f"the run took more than the {limit_s:g} s that this node allows one"
                )
                self.scheduler.fail(batch, error, now_s)
                if batch.stop is not None:
                    batch.stop()
            elif now_s - stopped_s <= grace_s:
                next_s = min(next_s, stopped_s + grace_s)
            elif self._on_stuck is not None:
                on_stuck, self._on_stuck = self._on_stuck, None
                self._execution.blame(batch)
                on_stuck(
                    f"a run has taken {now_s - batch.started_s:.1f} s and does not stop; the limit is {limit_s:g} s"
                )
        return max(next_s, now_s + MIN_WATCH_S)

    def _ran_s(self, batch: Batch, now_s: float) -> float:
        """Return for how long a batch has run: one in the background only while others left it a core, or a part of the time if longer."""
        passed_s = now_s - batch.started_s
        if not batch.is_background:
            return passed_s
        time = self._times.get(batch)
        return max(passed_s / BACKGROUND_TIMES, 0.0 if time is None else time.seconds())

    def _pump_soon(self) -> None:
        if self._pump_handle is None:
            # after this turn's frames: what came together runs together
            self._pump_handle = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_handle = None
        scheduler, clock = self.scheduler, self._clock
        now_s = started_s = clock()
        execution = self._execution
        if execution.is_suspected:
            execution.look_at_suspicion(now_s)
        while (batch := scheduler.take(now_s)) is not None:
            if (
                self._may_run_here
                and not execution.is_suspected  # in a thread it is marked which request runs
                and not batch.is_stream
                and scheduler.predicted_s(batch) <= SHORT_S
            ):
                ended = execution.run(batch, None)
                now_s = ended.ended_s
                self._finish(ended, now_s)
                if scheduler.is_idle:
                    return
                if now_s - started_s > TURN_S:
                    self._pump_soon()
                    return
            else:
                self._hand_over(batch)
        while (batch := scheduler.take_background(now_s)) is not None:
            self._hand_over(batch)
        if self._threads:
            ahead = scheduler.take(now_s, is_ahead=True)
            if ahead is not None:
                self._hand_over(ahead)
        if not scheduler.is_idle:  # what has started now, or starts next, is watched too
            self._wake_at(min(scheduler.next_event_s(), now_s + self._watchdog_s), now_s)

    def _hand_over(self, batch: Batch) -> None:
        threads, batches = self._threads, self._batches
        if batch.is_background:
            threads, batches = self._background_threads, self._background_batches
            self._background_runs += 1
            self._beat_soon()
        while len(threads) < self.scheduler.slots:
            work = self._work_behind if batch.is_background else self._work
            threads.append(self._system.start(work, "run"))
        switch = self._switch()
        batch.stop = switch.stop
        self._handed[batch] = None
        batches.put((batch, switch))

    def _finish(self, ended: Ended, now_s: float) -> None:
        batch = ended.batch
        self._handed.pop(batch, None)
        if batch.is_background:
            self._background_runs -= 1
            self._times.pop(batch, None)
        if ended.fault:
            self._doubts += 1
            if self._doubts >= BATCH_DOUBTS:
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

    def _beat_soon(self) -> None:
        """Look whether the event loop comes by in time while batches run behind all others.

        Such a thread may be stopped for long while it holds the interpreter's lock: not by this process, whose other threads wait for
        the lock and leave it the core, but by others that want all cores.
        """
        if self._beat_due_s == math.inf:
            self._beat_due_s = self._clock() + BEAT_S
            self._loop.call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        now_s = self._clock()
        late_s, self._beat_due_s = now_s - self._beat_due_s, math.inf
        if late_s > STALL_S:
            self.scheduler.background_stalled(now_s)
        if self._background_runs:
            self._beat_soon()

    def _report(self) -> None:
        self._is_waking = False
        while self._ended:
            self._finish(self._ended.popleft(), self._clock())
        self._pump()

    def _check_idle(self) -> None:
        if self.scheduler.is_idle and not self._idle.is_set():
            self.last_used_s = self._clock()  # an answer may take minutes
            self._idle.set()

    # in a thread

    def _work(self) -> None:
        self._work_on(self._batches)

    def _work_behind(self) -> None:
        give_way()
        self._work_on(self._background_batches)

    def _work_on(self, batches: _Batches) -> None:
        while (handed := batches.get()) is not None:
            if handed[0].is_background:
                self._times[handed[0]] = ThreadTime()
            self._ended.append(self._execution.run(*handed))
            if not self._is_waking:
                self._is_waking = True
                try:
                    self._loop.call_soon_threadsafe(self._report)
                except RuntimeError:
                    return  # the event loop is closed: nobody waits any more
