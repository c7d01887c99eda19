"""A device that becomes ten times slower under callers that never pause: what they wait for. In virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from engine_desk import F32

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import BatchPlan, DynamicBatcher, PendingRequest
from capamesh.node.scheduling.concurrency_limit import MAX_QUEUE_S
from capamesh.node.scheduling.pending_request import Batch, Result
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Tensor, TensorSpec

SLOW_FROM_S, SLOW_TO_S, END_S = 5.0, 30.0, 40.0
PAUSE_S = 0.05
"""Before who was refused comes again."""


class World:
    """An engine, a device and callers that ask for a row each."""

    def __init__(self, *, callers: int, batch_rows: int, run_s: float, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.run_s = run_s
        plan = BatchPlan(
            (TensorSpec("x", F32, (-1, 1)),),
            (TensorSpec("y", F32, (-1, 1)),),
            is_batching=batch_rows > 1,
            batch_rows=batch_rows,
        )
        points = (ProfilePoint(1, run_s / 2), ProfilePoint(batch_rows, run_s))
        profile = ServiceProfile(points if batch_rows > 1 else points[1:])
        self.batcher = DynamicBatcher(plan, Rules(), profile, max_in_flight=512)
        self.profile = profile
        self.answered: list[tuple[float, float]] = []
        """When, and after how long."""
        self.refused_after_s: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.limits: dict[float, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for _ in range(callers):
            self._after(self.rng.random(), self._ask)
        for tenth in range(int(END_S * 10)):
            self._after(tenth / 10, self._note)

    def run(self) -> None:
        while self._events and self.now_s < END_S:
            self.now_s, _, what = heapq.heappop(self._events)
            what()

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), what))

    def _note(self) -> None:
        self.limits[round(self.now_s, 1)] = self.batcher.limit.rows

    def _ask(self) -> None:
        x = Tensor("x", F32, (1, 1), bytes(4))
        request = PendingRequest(
            (x,), (), self._done, arrived_s=self.now_s, deadline_s=self.now_s + 30
        )
        try:
            self.batcher.submit(request, self.now_s)
        except CapameshError as error:
            self._done(request, error)
        self._pump()

    def _done(self, request: PendingRequest, result: Result) -> None:
        waited_s = self.now_s - request.arrived_s
        if isinstance(result, CapameshError):
            self.outcomes[result.code] += 1
            self.refused_after_s.append(waited_s)
            self._after(PAUSE_S * self.rng.uniform(0.5, 1.5), self._ask)
        else:
            self.outcomes["ok"] += 1
            self.answered.append((self.now_s, waited_s))
            self._after(0.001, self._ask)

    def _pump(self) -> None:
        batch = self.batcher.take(self.now_s)
        if batch is not None:
            is_slow = SLOW_FROM_S <= self.now_s < SLOW_TO_S
            run_s = self.profile.seconds_at(batch.rows) * (10 if is_slow else 1)
            run_s *= self.rng.uniform(0.8, 1.3)
            self._after(run_s, lambda: self._end(batch, run_s))

    def _end(self, batch: Batch, run_s: float) -> None:
        y = Tensor("y", F32, (1, 1), bytes(4))
        self.batcher.finished(batch, [[y]] * len(batch.requests), self.now_s, run_s=run_s)
        self._pump()


@pytest.mark.seeds
@pytest.mark.parametrize("callers", [60, 400])
@pytest.mark.parametrize(
    ("batch_rows", "run_s"),
    [
        pytest.param(1, 0.010, id="a row at a time"),
        pytest.param(8, 0.050, id="batches of eight"),
    ],
)
def test_slow_device_keeps_its_queue_short(callers: int, batch_rows: int, run_s: float) -> None:
    world = World(callers=callers, batch_rows=batch_rows, run_s=run_s)
    world.run()
    full = round(MAX_QUEUE_S / run_s * batch_rows)
    slow = round(full / 10)
    assert set(world.outcomes) <= {"ok", "overloaded"}
    assert max(waited_s for _, waited_s in world.answered) <= 3.0
    assert max(world.refused_after_s) <= 3.0
    settled = [limit for at_s, limit in world.limits.items() if 7 <= at_s < SLOW_TO_S]
    assert 0.7 * slow <= min(settled) <= max(settled) <= 1.3 * slow
    before = world.limits[SLOW_FROM_S - 0.1]
    assert before == pytest.approx(full, rel=0.15)
    assert world.limits[SLOW_TO_S + 4.0] >= 0.9 * before
    # it has work all the time, and whoever was there is refused for the slow device alone
    slow_answers = sum(7 <= at_s < SLOW_TO_S for at_s, _ in world.answered)
    assert slow_answers >= 0.85 * (SLOW_TO_S - 7) * batch_rows / (10 * run_s)
