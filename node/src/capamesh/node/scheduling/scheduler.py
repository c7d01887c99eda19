"""The scheduler as the runner of a model asks it: it decides when requests run, and which run together. Pure.

`DynamicBatcher` is the scheduler of models that answer a request in one run. A scheduler of models that answer in steps
takes the same request into one batch after the other, sends what it has by `PendingRequest.part`, and ends it last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mypy_extensions import mypyc_attr

from capamesh.node.scheduling.pending_request import Batch, PendingRequest, Result
from capamesh.node.scheduling.run_health import RunHealth
from capamesh.node.scheduling.stats import Meter
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import LoadReport


@mypyc_attr(native_class=False)
class Scheduler(Protocol):
    """The requests of one model version on one device, from arrival to answer. Called in one thread.

    Every request that `submit` accepts ends once: its `done` is called, or it was cancelled. What is called back may
    call any method here.
    """

    __slots__ = ()

    meter: Meter
    """Counts what came of the requests."""
    health: RunHealth
    """The record of whether runs succeed."""

    @property
    def in_flight(self) -> int:
        """The number of requests that are accepted and have not ended."""
        ...

    @property
    def queued(self) -> int:
        """The number of those in flight that are in no run."""
        ...

    @property
    def slots(self) -> int:
        """The number of batches that may run at the same time."""
        ...

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is in flight and nothing runs."""
        ...

    def submit(self, request: PendingRequest, now_s: float) -> None:
        """Accept a request whose inputs the model has validated.

        Raises:
            CapameshError: the request is refused, and is not in flight; its class says why.
        """
        ...

    def take(self, now_s: float, *, is_ahead: bool = False) -> Batch | None:
        """Return the next batch to run; None while all slots are busy or nothing is due.

        With `is_ahead` a batch may be returned though all slots are busy; it begins when the first of them is free.
        """
        ...

    def take_background(self, now_s: float) -> Batch | None:
        """Return the next batch to run behind all others, in a thread that gives way to theirs; None: there is none now."""
        return None

    def background_stalled(self, now_s: float) -> None:
        """Take in that what runs behind all others has held up the event loop."""
        del now_s  # most have nothing that runs so

    def predicted_s(self, batch: Batch) -> float:
        """Return how long the run of a batch is expected to take now."""
        ...

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
        """Take in what came of a batch that was taken: one result for each of its requests, in order.

        Args:
            batch: The batch whose run has ended.
            results: The outputs or the error of each request; None for one that has not ended and is to run again.
            now_s: The time now.
            run_s: How long the run took.
            is_whole: Whether it ran as one batch to its end, so that `run_s` says something about the model.
            ran_rows: How many rows ran where that is not all of them; -1 where nothing ran.
        """
        ...

    def fail(self, batch: Batch, error: CapameshError, now_s: float) -> None:
        """Answer every request of a batch that runs with `error`; `finished` reports the run when it ends."""
        ...

    def cancel(self, request: PendingRequest, now_s: float) -> None:
        """End a request that nobody waits for any more, without an answer; after its end this does nothing."""
        ...

    def resume(self, request: PendingRequest) -> None:
        """Go on with a request that was held since its reader took no more parts; one that was not goes on anyway."""
        ...

    def expire(self, now_s: float) -> None:
        """Answer the requests whose deadline has passed, whether they run or not."""
        ...

    def next_event_s(self) -> float:
        """Return when `expire` or `take` may have something to do that they have not now, if nothing else happens.

        Infinity if never. It may be early, never late, and it is only true until the next call of another method.
        """
        ...

    def load_report(self, *, free_bytes: int, device_in_flight: int) -> LoadReport:
        """Return the load as it is now; `free_bytes` and `device_in_flight` are the device's, for the report."""
        ...

    @property
    def is_report_current(self) -> bool:
        """Return whether `load_report` counts nothing that was cancelled."""
        return True

    def stop_batching(self) -> None:
        """Run every request alone from the next batch on: the model turned out not to allow batches."""
        ...
