"""Runs a batch on a loaded model, and marks beforehand what may end the process. Called in threads, or in the loop.

A batch that fails is run again one request at a time: one of them may be at fault, and the others must not suffer for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from capamesh.node.devices.in_flight_journal import InFlightJournal, Phase
from capamesh.node.scheduling.pending_request import (
    ENDED,
    Batch,
    PendingRequest,
    Result,
    RunPlan,
)
from capamesh.protocol.errors import Cancelled, CapameshError, RunFailed

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel, StopSwitch
    from capamesh.node.scheduling.request_bounds import RunBounds

_RUNNING: Final = Phase.RUNNING
_BULK: Final = Phase.BULK
"""Names of their own, as those of `pending_request` are."""
_NOT_WANTED: Final = Cancelled("not wanted any more")


class Ended(NamedTuple):
    """The outcome of the run of a batch."""

    batch: Batch
    results: Sequence[Result]
    run_s: float
    is_whole: bool
    """True if it ran as one batch to its end."""
    fault: str
    """The reason why it failed as a batch whose requests each ran alone; empty where it did not."""
    rows: int
    """Rows that ran; -1: nobody wanted it any more."""
    ended_s: float


class BatchExecution:
    """The execution of one model version's batches on its device."""

    __slots__ = (
        "_bounds",
        "_clock",
        "_marks",
        "_model",
        "_number",
        "_stream",
        "_suspicion",
        "is_suspected",
    )

    def __init__(
        self,
        model: LoadedModel,
        stream: LoadedModel,
        *,
        bounds: RunBounds | None,
        clock: Callable[[], float],
        marks: InFlightJournal,
        number: int,
    ) -> None:
        """`stream` runs the batches that are streams; for the rest see `ModelRunner`."""
        self._model = model
        self._stream = stream
        self._bounds = bounds
        self._suspicion = bounds.suspicion if bounds is not None else None
        self._clock = clock
        self._marks = marks
        self._number = number
        self.is_suspected = bounds is not None and bounds.suspicion.is_alone(clock())
        """True if each request runs by itself, so that it is marked which of them ends the process."""

    def look_at_suspicion(self, now_s: float) -> None:
        """Learn whether a suspected model may run batches again."""
        if self._suspicion is not None:
            self.is_suspected = self._suspicion.is_alone(now_s)

    def blame(self, batch: Batch) -> None:
        """Mark that a batch, and not what runs beside it, is to blame for the end of the process."""
        phase = _BULK if batch.has_bulk else _RUNNING
        self._marks.blame(self._number, phase, batch.request, batch.large_bytes)

    def run(self, batch: Batch, switch: StopSwitch | None) -> Ended:
        """Run a batch; return what came of it, the results in the order of its requests."""
        began_s = self._clock()
        requests, rows = batch.requests, batch.rows
        if not batch.has_begun:
            batch.started_s = began_s
            batch.has_begun = (
                True  # before the look at who is left: whoever ends one looks at both in turn
            )
            requests = [request for request in requests if request.state is not ENDED]
            if len(requests) < len(batch.requests):
                rows = sum(request.rows for request in requests) if requests else -1
        if not requests:
            return Ended(batch, [_NOT_WANTED] * len(batch.requests), 0.0, False, "", rows, began_s)
        model = self._stream if batch.is_stream else self._model
        if self.is_suspected and len(requests) > 1:
            return self._run_apart(batch, requests, rows, switch, model)
        slot = self._marks.begin(self._number, _BULK if batch.has_bulk else _RUNNING)
        fault, is_whole = "", True
        results: Sequence[Result]
        try:
            if len(requests) == 1 and (switch is not None or requests[0].is_alone):
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
            self._suspicion.ended(batch.request, batch.large_bytes)
        results = _of_all(batch, requests, results)
        return Ended(batch, results, ended_s - began_s, is_whole, fault, rows, ended_s)

    def _run_apart(
        self,
        batch: Batch,
        requests: list[PendingRequest],
        rows: int,
        switch: StopSwitch | None,
        model: LoadedModel,
    ) -> Ended:
        """Run each request by itself, so that it is marked which of them ends the process."""
        began_s = self._clock()
        results: list[Result] = []
        for request in requests:
            slot = self._marks.begin(self._number, _BULK if request.is_bulk else _RUNNING)
            with contextlib.suppress(
                Exception
            ):  # a request that cannot be told from others is run all the same
                self._tell(batch, request, slot)
            results.append(_run_alone(batch.plan, request, switch, model))
            self._marks.end(slot)
            if self._suspicion is not None:
                self._suspicion.ended(batch.request, batch.large_bytes)
        ended_s = self._clock()
        return Ended(
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
    if request.state is ENDED:
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
