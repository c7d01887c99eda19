"""Callers that ask again and again through a router's controller for one node's model: production controller and engine in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from gates import Gate
from replicas import replica

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import BatchPlan, DynamicBatcher, PendingRequest
from capamesh.node.scheduling.pending_request import Batch, Result
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError, Overloaded
from capamesh.protocol.links.calls import DEFAULT_PRIORITY
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.admission.controller import Permit

F32 = Datatype.FP32
WAY_S = 0.0005
"""From the router to the node, and back."""


@dataclass(frozen=True)
class Callers:
    """So many callers that ask alike; each asks again at once when it was answered."""

    count: int
    tenant: str = ""
    priority: int = DEFAULT_PRIORITY
    pause_s: float | None = 0.02
    """Before who was refused comes again; None: as long as it was told."""
    rest_s: float = 0.0
    """Between an answer and the next request."""


@dataclass
class Tally:
    """What became of the requests of one `Callers`."""

    outcomes: Counter[str] = field(default_factory=Counter)
    hints_s: list[float] = field(default_factory=list)

    @property
    def refused(self) -> float:
        """The part that was refused."""
        return self.outcomes["refused"] / max(1, self.outcomes.total())


class Loop:
    """A router, a node and its callers."""

    def __init__(
        self,
        *callers: Callers,
        weights: dict[str, float] | None = None,
        run_s: float = 0.0025,
        batch_rows: int = 1,
        max_queue: int | None = 16,
        from_s: float = 1.0,
        seed: int = 1,
    ) -> None:
        """A run of a full batch takes `run_s`. Nothing is counted before `from_s`."""
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.from_s = from_s
        plan = BatchPlan(
            (TensorSpec("x", F32, (-1, 1)),),
            (TensorSpec("y", F32, (-1, 1)),),
            is_batching=batch_rows > 1,
            batch_rows=batch_rows,
        )
        self.profile = ServiceProfile((ProfilePoint(batch_rows, run_s),))
        self.batcher = DynamicBatcher(
            plan, Rules(), self.profile, max_in_flight=512, max_queue=max_queue
        )
        self.replica = replica("a")
        self.controller = Gate(self.replica, seed=seed, weights=weights)
        self.tallies = {each: Tally() for each in callers}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for each in callers:
            for _ in range(each.count):
                self._after(self.rng.random() * 0.1, lambda it=each: self._ask(it))

    def run(self, until_s: float) -> Loop:
        """Let time pass."""
        while self._events and self.now_s < until_s:
            self.now_s, _, what = heapq.heappop(self._events)
            what()
        return self

    def tally(self, callers: Callers) -> Tally:
        """Return what became of their requests."""
        return self.tallies[callers]

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), what))

    def _count(self, callers: Callers, outcome: str) -> None:
        if self.now_s >= self.from_s:
            self.tallies[callers].outcomes[outcome] += 1

    def _ask(self, callers: Callers) -> None:
        try:
            permit = self.controller.admit(callers.tenant, callers.priority, 0, self.now_s, 30.0)
        except Overloaded as error:
            self._refused(callers, error)
            return
        self.replica.rif += 1
        self._after(WAY_S, lambda: self._arrive(callers, permit))

    def _refused(self, callers: Callers, error: Overloaded) -> None:
        self._count(callers, "refused")
        if self.now_s >= self.from_s:
            self.tallies[callers].hints_s.append(error.retry_after_s)
        pause_s = error.retry_after_s if callers.pause_s is None else callers.pause_s
        self._after(pause_s * self.rng.uniform(0.8, 1.2), lambda: self._ask(callers))

    def _arrive(self, callers: Callers, permit: Permit) -> None:
        x = Tensor("x", F32, (1, 1), bytes(4))
        request = PendingRequest(
            (x,),
            (),
            lambda _, result: self._done(callers, permit, result),
            arrived_s=self.now_s,
            deadline_s=self.now_s + 30,
            priority=callers.priority,
        )
        try:
            self.batcher.submit(request, self.now_s)
        except CapameshError as error:
            self._done(callers, permit, error)
        self._pump()

    def _done(self, callers: Callers, permit: Permit, result: Result) -> None:
        load = self.batcher.load_report(free_bytes=0, device_in_flight=0)
        self._after(WAY_S, lambda: self._ended(callers, permit, result, load))

    def _ended(self, callers: Callers, permit: Permit, result: Result, load: object) -> None:
        is_urgent = callers.priority < DEFAULT_PRIORITY
        self.replica.rif -= 1
        is_served = not isinstance(result, Overloaded)
        permit.release(self.now_s, is_served=is_served)
        self.replica.reported(load, self.now_s)  # type: ignore[arg-type]
        if isinstance(result, Overloaded):
            self.controller.refused(
                self.replica, result.retry_after_s, self.now_s, is_urgent=is_urgent
            )
            self._count(callers, "refused by the node")
            self._refused(callers, result)
            return
        assert not isinstance(result, CapameshError)
        self.replica.answered_s = self.now_s
        self._count(callers, "answered")
        self._after(callers.rest_s + 0.0005, lambda: self._ask(callers))

    def _pump(self) -> None:
        batch = self.batcher.take(self.now_s)
        if batch is not None:
            run_s = self.profile.seconds_at(batch.rows) * self.rng.uniform(0.8, 1.2)
            self._after(run_s, lambda: self._end(batch, run_s))

    def _end(self, batch: Batch, run_s: float) -> None:
        y = Tensor("y", F32, (1, 1), bytes(4))
        self.batcher.finished(batch, [[y]] * len(batch.requests), self.now_s, run_s=run_s)
        self._pump()
