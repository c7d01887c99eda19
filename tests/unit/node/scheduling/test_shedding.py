"""A device that becomes ten times slower under callers that never pause: what they wait for. In virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
import virtual_time
from engine_desk import F32

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import BatchPlan, DynamicBatcher, PendingRequest
from capamesh.node.scheduling.concurrency_limit import MAX_QUEUE_S
from capamesh.node.scheduling.pending_request import Batch
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Tensor, TensorSpec

SLOW_FROM_S, SLOW_TO_S, END_S = 5.0, 30.0, 40.0
PAUSE_S = 0.05
"""Before who was refused comes again."""


class World:
    """An engine, a device and callers that ask for a row each."""

    def __init__(self, batch_rows: int, run_s: float) -> None:
        self.rng = random.Random(1)
        specs = (TensorSpec("x", F32, (-1, 1)),), (TensorSpec("y", F32, (-1, 1)),)
        plan = BatchPlan(*specs, is_batching=batch_rows > 1, batch_rows=batch_rows)
        points = (ProfilePoint(1, run_s / 2), ProfilePoint(batch_rows, run_s))
        self.profile = ServiceProfile(points if batch_rows > 1 else points[1:])
        self.batcher = DynamicBatcher(plan, Rules(), self.profile, max_in_flight=512)
        self.answered: list[tuple[float, float]] = []
        """When, and after how long."""
        self.refused_after_s: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.limits: dict[float, int] = {}

    async def run(self, callers: int) -> None:
        self.loop = asyncio.get_running_loop()
        tasks = [self.loop.create_task(self._call()) for _ in range(callers)]
        for tenth in range(int(END_S * 10)):
            self.limits[tenth / 10] = self.batcher.limit.rows
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()

    async def _call(self) -> None:
        await asyncio.sleep(self.rng.random())
        while True:
            asked_s, end = self.loop.time(), self.loop.create_future()
            request = PendingRequest(
                (Tensor("x", F32, (1, 1), bytes(4)),),
                (),
                lambda _, result, end=end: end.set_result(result),
                arrived_s=asked_s,
                deadline_s=asked_s + 30,
            )
            try:
                self.batcher.submit(request, asked_s)
            except CapameshError as error:
                end.set_result(error)
            self._pump()
            result = await end
            waited_s = self.loop.time() - asked_s
            if isinstance(result, CapameshError):
                self.outcomes[result.code] += 1
                self.refused_after_s.append(waited_s)
                await asyncio.sleep(PAUSE_S * self.rng.uniform(0.5, 1.5))
            else:
                self.outcomes["ok"] += 1
                self.answered.append((self.loop.time(), waited_s))
                await asyncio.sleep(0.001)

    def _pump(self) -> None:
        now_s = self.loop.time()
        batch = self.batcher.take(now_s)
        if batch is not None:
            run_s = self.profile.seconds_at(batch.rows) * self.rng.uniform(0.8, 1.3)
            run_s *= 10 if SLOW_FROM_S <= now_s < SLOW_TO_S else 1
            self.loop.call_later(run_s, self._end, batch, run_s)

    def _end(self, batch: Batch, run_s: float) -> None:
        y = Tensor("y", F32, (1, 1), bytes(4))
        self.batcher.finished(batch, [[y]] * len(batch.requests), self.loop.time(), run_s=run_s)
        self._pump()


@pytest.mark.seeds
@pytest.mark.parametrize("callers", [60, 400])
@pytest.mark.parametrize(
    ("batch_rows", "run_s"), [(1, 0.010), (8, 0.050)], ids=["a row at a time", "eight"]
)
def test_slow_device_keeps_its_queue_short(callers: int, batch_rows: int, run_s: float) -> None:
    world = World(batch_rows, run_s)
    virtual_time.run(world.run(callers))
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
