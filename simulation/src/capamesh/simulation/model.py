"""One model of a node in virtual time: the production engine, run as a worker runs it. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from capamesh.node.repository.rules import BatchingRules, Rules
from capamesh.node.scheduling import Batch, BatchPlan, DynamicBatcher, PendingRequest, Result
from capamesh.node.scheduling.dynamic_batcher import AHEAD_S
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.node.scheduling.service_profile import ServiceProfile
from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import Cancelled, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.model_digest import ALGORITHM
from capamesh.protocol.tensors import Datatype, TensorSpec

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from capamesh.simulation.events import Events
    from capamesh.simulation.scenario import ModelSpec

FREE_BYTES = 2**30
SHORT_S = 0.000_3
"""The same as `node.scheduling.runner.SHORT_S`, which a test compares: shorter runs have no thread, so that nothing is made
ready ahead."""
NOT_WANTED = Cancelled("not wanted any more")

_SPEC = (TensorSpec("x", Datatype.UINT8, (-1, -1)),)
_OUT = (TensorSpec("y", Datatype.UINT8, (-1, -1)),)
"""An answer has as many rows of as many bytes as its request."""
_ALL = -2
"""Rows of a run that are all of its batch's."""


def ill() -> RunFailed:
    """Return the error of a run that fails because the scenario has it so."""
    return RunFailed("the run failed, as the scenario has it")


class Device(Protocol):
    """The node that a model runs at, as the model asks it."""

    rng: random.Random
    slowness: float
    """A run takes so many times what the model's profile says."""
    error_share: float
    """The share of the requests that run and then fail."""
    is_frozen: bool
    is_draining: bool

    def run_s(self, expected_s: float) -> float:
        """Return how long a run takes now that should take `expected_s` on this device."""
        ...

    def device_in_flight(self) -> int:
        """Return how many requests are in flight, of all models."""
        ...

    def later(self, do: Callable[..., None], *args: object) -> None:
        """Do something when the process goes on that is frozen now."""
        ...

    def check_drained(self) -> None:
        """Look whether what has just ended was the last request of a node that drains."""
        ...


class SimModel:
    """One model of one node: its batcher and what runs. `node.scheduling.runner.ModelRunner` in virtual time."""

    def __init__(self, spec: ModelSpec, node: Device, events: Events) -> None:
        self.spec = spec
        self._node = node
        self._events = events
        profile = spec.profile
        self._expected_s: dict[int, float] = {}
        self._ahead: Batch | None = None
        self._due_s = math.inf
        self.batcher = self._new_engine()
        self._is_ahead_wanted = SHORT_S < profile.seconds_at(max(spec.batch_rows, 1)) <= AHEAD_S
        self._reported_of: Batch | None = None
        self._load = LoadReport()

    @override
    def __repr__(self) -> str:
        return f"SimModel({self.spec.name!r}, {self.batcher!r})"

    @property
    def is_busy(self) -> bool:
        """Return whether some request is in flight here."""
        return not self.batcher.is_idle

    def restart(self) -> None:
        """Forget everything: the process is another."""
        self.batcher = self._new_engine()
        self._ahead = None
        self._due_s = math.inf
        self._reported_of = None

    def submit(self, work: PendingRequest) -> None:
        """Accept or refuse `work`, as `DynamicBatcher.submit` does, and run what can be run."""
        self.batcher.submit(work, work.arrived_s)
        self.pump()

    def pump(self) -> None:
        """Start what can be started now."""
        batcher, now_s = self.batcher, self._events.now_s
        while (batch := batcher.take(now_s)) is not None:
            self._begin(batch, now_s)
        if self._is_ahead_wanted and self._ahead is None:
            self._ahead = batcher.take(now_s, is_ahead=True)
        due_s = batcher.next_event_s()
        if due_s < self._due_s:
            self._due_s = due_s
            self._events.at(due_s, self._due, batcher)

    def load_after(self, batch: Batch | None) -> LoadReport:
        """Return the load as it is now: one report for all that ran together."""
        if batch is None or batch is not self._reported_of:
            self._reported_of = batch
            self._load = self.load()
        return self._load

    def load(self) -> LoadReport:
        """Return the load as it is now."""
        return self.batcher.load_report(
            free_bytes=FREE_BYTES, device_in_flight=self._node.device_in_flight()
        )

    def offer(self) -> ModelOffer:
        """Return what an advert says of it."""
        rows = max(self.spec.batch_rows, 1)
        row_s = self.batcher.time.expected_s(rows) / rows
        return ModelOffer(
            ModelName(self.spec.name),
            ModelVersion(self.spec.version),
            f"{ALGORITHM}:{'0' * 64}",
            ModelState.READY,
            "",
            _SPEC,
            _OUT,
            best_rows=rows,
            row_us=max(1, int(row_s * 1e6)),
        )

    # what happens

    def _begin(self, batch: Batch, now_s: float) -> None:
        run_s = self._node.run_s(self._base_s(batch.rows))
        self._events.at(now_s + run_s, self._ended, self.batcher, batch, run_s, _ALL)

    def _ended(self, batcher: DynamicBatcher, batch: Batch, run_s: float, rows: int) -> None:
        node = self._node
        if batcher is not self.batcher:
            return  # of a process that is no more
        if node.is_frozen:
            node.later(self._ended, batcher, batch, run_s, rows)
            return
        now_s = self._events.now_s
        run_s = max(run_s, now_s - batch.started_s)  # longer where the process stood still
        results: list[Result] = [()] * len(batch.requests)
        if node.error_share:
            results = [ill() if node.rng.random() < node.error_share else () for _ in results]
        batcher.finished(
            batch,
            results,
            now_s,
            run_s=run_s,
            is_whole=not any(results),
            ran_rows=None if rows == _ALL else rows,
        )
        self._run_ahead(now_s)
        self.pump()
        if node.is_draining:
            node.check_drained()

    def _run_ahead(self, now_s: float) -> None:
        """Begin what was made ready; whoever has left meanwhile is left out."""
        batch, self._ahead = self._ahead, None
        if batch is None:
            return
        batch.started_s = now_s
        batch.has_begun = True
        rows = sum(work.rows for work in batch.requests if work.state is not RequestState.ENDED)
        if rows == batch.rows:
            self._begin(batch, now_s)
        elif rows:
            run_s = self._node.run_s(self._base_s(rows))
            self._events.at(now_s + run_s, self._ended, self.batcher, batch, run_s, rows)
        else:
            self.batcher.finished(
                batch,
                [NOT_WANTED] * len(batch.requests),
                now_s,
                run_s=0.0,
                is_whole=False,
                ran_rows=-1,
            )

    def _due(self, batcher: DynamicBatcher) -> None:
        if batcher is not self.batcher:
            return
        if self._node.is_frozen:
            self._node.later(self._due, batcher)
            return
        self._due_s = math.inf
        batcher.expire(self._events.now_s)
        self.pump()

    def _base_s(self, rows: int) -> float:
        expected_s = self._expected_s.get(rows)
        if expected_s is None:
            expected_s = self.spec.profile.seconds_at(max(rows, 1)) * self._node.slowness
            self._expected_s[rows] = expected_s
        return expected_s

    def _new_engine(self) -> DynamicBatcher:
        spec, slowness = self.spec, self._node.slowness
        plan = BatchPlan(_SPEC, _OUT, is_batching=bool(spec.batch_rows), batch_rows=spec.batch_rows)
        rules = Rules(
            batching=BatchingRules(max_delay_us=spec.max_delay_us), instances=spec.instances
        )
        points = tuple(
            point._replace(seconds=point.seconds * slowness) for point in spec.profile.points
        )
        measured = ServiceProfile(points)
        return DynamicBatcher(plan, rules, measured, max_in_flight=spec.max_in_flight)
