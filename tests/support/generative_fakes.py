"""A model that answers in steps, and a scheduler for such models: the smallest that use the interfaces as they are meant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from fleet_fakes import OUT, SPEC

from capamesh.node.runtime.api import GenerativeModel, Step, StopSwitch
from capamesh.node.scheduling import Batch, BatchPlan, PendingRequest, Result, Scheduler
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.node.scheduling.run_health import RunHealth
from capamesh.node.scheduling.stats import Meter
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.tensors import Tensor


class Countdown(GenerativeModel):
    """Counts down from the first number of its input to 1, a number a step: [1, 1] of `y`."""

    inputs = SPEC
    outputs = OUT
    provider = "CPUExecutionProvider"
    precision = "fp32"

    def __init__(self, max_sequences: int = 2) -> None:
        self._most = max_sequences
        self.left: dict[int, int] = {}
        """The state: what each sequence has still to count."""
        self.batches: list[tuple[int, ...]] = []
        """The sequences of every decode step."""
        self.is_failing = False

    @property
    def max_sequences(self) -> int:
        return self._most

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        if problem := SPEC[0].accepts(inputs[0].datatype, inputs[0].shape):
            raise InvalidRequest(problem)

    def prefill(
        self, sequence: int, inputs: Sequence[Tensor], stop: StopSwitch | None = None
    ) -> Step:
        assert sequence not in self.left
        if len(self.left) >= self._most:
            raise Overloaded(f"{self._most} sequences are kept")
        self.left[sequence] = int(inputs[0].to_numpy()[0, 0])
        return self._step(sequence)

    def decode_step(self, batch: Sequence[int], stop: StopSwitch | None = None) -> list[Step]:
        self.batches.append(tuple(batch))
        if self.is_failing:
            raise RunFailed("the step failed")
        return [self._step(sequence) for sequence in batch]

    def free(self, sequence: int) -> None:
        self.left.pop(sequence, None)

    def close(self) -> None:
        self.left.clear()

    def _step(self, sequence: int) -> Step:
        value = self.left[sequence]
        assert value > 0, "a sequence is not stepped after its last step"
        self.left[sequence] = value - 1
        output = Tensor.from_numpy("y", np.array([[value]], np.float32))
        return Step((output,), value == 1)


class StepScheduler(Scheduler):
    """Runs all that is under way in each step; who waits comes in as soon as another has ended."""

    slots = 1

    def __init__(self, plan: BatchPlan, max_sequences: int, max_in_flight: int = 100) -> None:
        self.meter = Meter()
        self.health = RunHealth("")
        self._plan = plan
        self._max_sequences = max_sequences
        self._max_in_flight = max_in_flight
        self._waiting: dict[PendingRequest, None] = {}
        self._active: dict[PendingRequest, None] = {}
        self._running: Batch | None = None

    @property
    def in_flight(self) -> int:
        return len(self._waiting) + len(self._active)

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not self.in_flight and self._running is None

    def submit(self, request: PendingRequest, now_s: float) -> None:
        if request.deadline_s is not None and request.deadline_s <= now_s:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        if self.in_flight >= self._max_in_flight:
            raise Overloaded(f"{self._max_in_flight} requests are in flight")
        request.state = RequestState.QUEUED
        self._waiting[request] = None

    def take(self, now_s: float, *, is_ahead: bool = False) -> Batch | None:
        self.expire(now_s)
        if self._running is not None or is_ahead:
            return None
        while self._waiting and len(self._active) < self._max_sequences:
            request = next(iter(self._waiting))
            del self._waiting[request]
            self._active[request] = None
        if not self._active:
            return None
        self._running = Batch(list(self._active), len(self._active), now_s, self._plan)
        for request in self._active:
            request.state = RequestState.RUNNING
            request.batch = self._running
        return self._running

    def predicted_s(self, batch: Batch) -> float:
        return 0.0

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
        self._running = None
        self.meter.ran(batch.rows, run_s)
        for request, result in zip(batch.requests, results, strict=True):
            if result is not None and request in self._active:
                self._end(request, result)

    def fail(self, batch: Batch, error: CapameshError, now_s: float) -> None:
        for request in batch.requests:
            if request in self._active:
                self._end(request, error)

    def cancel(self, request: PendingRequest, now_s: float) -> None:
        self._forget(request)

    def resume(self, request: PendingRequest) -> None:
        request.is_held = False

    def expire(self, now_s: float) -> None:
        for request in [*self._waiting, *self._active]:
            if request.deadline_s is not None and request.deadline_s <= now_s:
                self._end(request, DeadlineExceeded("the deadline passed"))

    def next_event_s(self) -> float:
        deadlines_s = [
            request.deadline_s
            for request in [*self._waiting, *self._active]
            if request.deadline_s is not None
        ]
        return min(deadlines_s, default=math.inf)

    def load_report(self, *, free_bytes: int, device_in_flight: int) -> LoadReport:
        return LoadReport(
            self.in_flight,
            self.queued,
            self._max_in_flight,
            free_bytes=free_bytes,
            device_in_flight=device_in_flight,
        )

    def stop_batching(self) -> None:
        self._max_sequences = 1

    def _end(self, request: PendingRequest, result: Result) -> None:
        self._forget(request)
        self.meter.answered(result.code if isinstance(result, CapameshError) else "ok")
        request.done(request, result)

    def _forget(self, request: PendingRequest) -> None:
        self._waiting.pop(request, None)
        self._active.pop(request, None)
        request.state = RequestState.ENDED


class StepRunner:
    """Runs the batches of a scheduler on a generative model, one step each; sends parts, frees what has ended."""

    def __init__(self, model: GenerativeModel) -> None:
        self._model = model
        self._numbers: dict[PendingRequest, int] = {}
        self._next = 1

    def run(self, batch: Batch) -> list[Result | None]:
        """Prefill what is new, step what is not; return the results, None for what goes on."""
        steps: dict[PendingRequest, Step | CapameshError] = {}
        begun = [request for request in batch.requests if request in self._numbers]
        for request in batch.requests:
            if request not in self._numbers:
                number, self._next = self._next, self._next + 1
                try:
                    steps[request] = self._model.prefill(number, request.inputs)
                    self._numbers[request] = number
                except CapameshError as error:
                    steps[request] = error
        if begun:
            numbers = [self._numbers[request] for request in begun]
            try:
                steps |= zip(begun, self._model.decode_step(numbers), strict=True)
            except CapameshError as error:
                steps |= dict.fromkeys(begun, error)
        return [self._result(request, steps[request]) for request in batch.requests]

    def free(self) -> None:
        """Free the sequences of requests that have ended."""
        for request in [one for one in self._numbers if one.state is RequestState.ENDED]:
            self._model.free(self._numbers.pop(request))

    def _result(self, request: PendingRequest, step: Step | CapameshError) -> Result | None:
        if isinstance(step, CapameshError):
            return step
        if step.is_last:
            return step.outputs
        request.part(step.outputs)
        return None
