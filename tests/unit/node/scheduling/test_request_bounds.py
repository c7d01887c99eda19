"""What a request may take of a device's memory and time."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.node.repository.rules import Rules, StateTensor
from capamesh.node.scheduling import (
    BatchPlan,
    DynamicBatcher,
    MemoryBudget,
    PendingRequest,
    Result,
    RunBounds,
)
from capamesh.node.scheduling.run_need import RunNeed
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import InvalidRequest, Overloaded, TooLarge
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

F32 = Datatype.FP32
ROWS = BatchPlan((TensorSpec("x", F32, (-1, 2)),), (), is_batching=True, batch_rows=8)
TEXTS = BatchPlan((TensorSpec("x", F32, (-1, -1)),), (), is_batching=True, batch_rows=8)
NEED = RunNeed(elements=2, linear_bytes=500.0)
"""1,500 bytes a row."""
PROFILE = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.080)))
"""10 ms a row."""


class Bench:
    """One model's engine, and a budget that others may share."""

    def __init__(
        self,
        plan: BatchPlan = ROWS,
        need: RunNeed | None = NEED,
        *,
        limit_bytes: int = 1_000_000,
        budget: MemoryBudget | None = None,
        profile: ServiceProfile | None = PROFILE,
        watchdog_s: float = 60.0,
    ) -> None:
        self.budget = budget or MemoryBudget(limit_bytes)
        self.bounds = RunBounds(plan, need, profile, self.budget, watchdog_s=watchdog_s)
        self.batcher = DynamicBatcher(plan, Rules(), profile, max_in_flight=100, bounds=self.bounds)
        self.results: list[Result] = []

    def submit(self, *shape: int, left_s: float | None = None) -> PendingRequest:
        tensor = Tensor.from_numpy("x", np.zeros(shape, np.float32))
        request = PendingRequest((tensor,), (), self._done, arrived_s=0.0, deadline_s=left_s)
        self.batcher.submit(request, 0.0)
        return request

    def refusal(self, *shape: int, left_s: float | None = None) -> Exception:
        before = self.batcher.in_flight
        with pytest.raises((TooLarge, InvalidRequest, Overloaded)) as caught:
            self.submit(*shape, left_s=left_s)
        assert self.batcher.in_flight == before
        return caught.value

    def _done(self, request: PendingRequest, result: Result) -> None:
        del request
        self.results.append(result)


def test_rows_that_can_never_fit_are_refused_with_what_would() -> None:
    bench = Bench()
    error = bench.refusal(1_000, 2)
    assert isinstance(error, TooLarge)
    assert str(error) == (
        "a request of 1000 rows takes about 1508000 bytes of memory here (1500 bytes a row, by what was"
        " measured); runs have 1000000 bytes on this node: give at most 663 such rows at once"
    )
    bench.submit(663, 2)


def test_single_row_that_is_too_large_is_refused_without_advice_that_does_not_help() -> None:
    bench = Bench(TEXTS, RunNeed(64, 10.0, 1.0), limit_bytes=100_000)
    assert str(bench.refusal(1, 1_000)) == (
        "a request of 1 rows of 1000 elements takes about 1519000 bytes of memory here (1515000 bytes a row, by"
        " what was measured); runs have 100000 bytes on this node: give less at once"
    )


def test_bulk_request_that_runs_in_parts_is_looked_at_as_one_of_them() -> None:
    bench = Bench(limit_bytes=8 * 1500 + 9 * 8)
    bench.refusal(9, 2)
    tensor = Tensor.from_numpy("x", np.zeros((9, 2), np.float32))
    request = PendingRequest((tensor,), (), bench._done, arrived_s=0.0, is_bulk=True)
    bench.batcher.submit(request, 0.0)
    batch = bench.batcher.take(10.0)
    assert batch is not None
    assert batch.rows == 8


def test_large_requests_share_the_memory_of_the_device_and_give_it_back() -> None:
    budget = MemoryBudget(1_000_000)
    one, other = Bench(budget=budget), Bench(budget=budget)
    request = one.submit(400, 2)
    held = 400 * 1_500 + 400 * 8
    assert budget.held_bytes == held
    with pytest.raises(Overloaded) as caught:
        other.submit(400, 2)
    assert str(caught.value) == (
        f"a request of 400 rows takes about {held} bytes of memory, and other large ones hold {held} of 1000000 now;"
        " try another node"
    )
    assert caught.value.retry_after_s == 1.0
    batch = one.batcher.take(0.0)
    assert batch is not None
    one.batcher.cancel(request, 0.0)
    assert budget.held_bytes == held  # its run goes on
    one.batcher.finished(batch, [[]], 1.0, run_s=1.0)
    assert budget.held_bytes == 0
    other.submit(400, 2)


def test_request_refused_for_another_reason_holds_no_memory() -> None:
    plan = BatchPlan(
        (TensorSpec("x", F32, (-1, 2)), TensorSpec("h", F32, (-1, 2))),
        (TensorSpec("y", F32, (-1, 2)), TensorSpec("h2", F32, (-1, 2))),
        is_batching=True,
        states=(StateTensor("h", "h2"),),
    )
    bench = Bench(plan, RunNeed(2, 100_000.0), limit_bytes=1_000_000, profile=None)
    inputs = plan.completed((Tensor.from_numpy("x", np.zeros((1, 2), np.float32)),))
    request = PendingRequest(inputs, (), bench._done, arrived_s=0.0)
    with pytest.raises(InvalidRequest):  # a model with states takes sequences alone
        bench.batcher.submit(request, 0.0)
    assert (request.held_bytes, bench.budget.held_bytes) == (0, 0)


def test_rows_that_cannot_be_done_before_the_deadline_are_refused_with_what_can() -> None:
    bench = Bench(limit_bytes=0)
    error = bench.refusal(1_000, 2, left_s=2.0)
    assert isinstance(error, InvalidRequest)
    assert str(error) == (
        "a request of 1000 rows takes about 10.0 s here (10 ms a row, by what was measured), and 2.0 s are left"
        " before its deadline: give at most 200 such rows at once"
    )
    bench.submit(200, 2, left_s=2.0)
    Bench(limit_bytes=0).submit(400, 2, left_s=2.0)  # a measurement is believed to the half


def test_device_that_became_faster_than_at_load_is_given_more() -> None:
    bench = Bench(limit_bytes=0)
    bench.batcher.time.slowdown = 0.5
    bench.submit(800, 2, left_s=2.0)
    bench = Bench(limit_bytes=0)
    bench.batcher.time.slowdown = 10.0  # which may pass
    bench.submit(400, 2, left_s=2.0)


def test_no_run_may_be_longer_than_the_watchdog_lets_it_whatever_its_caller_allows() -> None:
    bench = Bench(limit_bytes=0, watchdog_s=3.0)
    for left_s in (None, 100.0):
        assert str(bench.refusal(1_000, 2, left_s=left_s)) == (
            "a request of 1000 rows takes about 10.0 s here (10 ms a row, by what was measured), and no run may take"
            " more than 3 s on this node: give at most 300 such rows at once"
        )


def test_longer_rows_are_expected_to_take_the_time_that_was_measured() -> None:
    bench = Bench(TEXTS, RunNeed(64, 1.0, 0.0, element_s=0.001), limit_bytes=0)
    assert "takes about 10.0 s here" in str(bench.refusal(1, 64 + 9_990, left_s=4.0))
    bench.submit(1, 64 + 100, left_s=5.0)


def test_model_that_was_not_measured_has_a_limit_by_its_inputs() -> None:
    bench = Bench(need=None, profile=None, limit_bytes=100_000)
    assert str(bench.refusal(10_000, 2)) == (
        "a request of 10000 rows takes about 320000 bytes of memory here; runs have 100000 bytes on this node:"
        " give at most 3125 such rows at once"
    )
    bench.submit(3_125, 2)


@pytest.mark.parametrize(
    ("plan", "need", "limit_bytes", "expected"),
    [
        (ROWS, NEED, 1_000_000, 666),
        (ROWS, NEED, 100, 1),
        (ROWS, NEED, 0, 0),
        (ROWS, None, 1_000_000, 0),
        (TEXTS, NEED, 1_000_000, 0),
    ],
)
def test_most_rows_are_reported_where_rows_alone_decide(
    plan: BatchPlan, need: RunNeed | None, limit_bytes: int, expected: int
) -> None:
    assert Bench(plan, need, limit_bytes=limit_bytes).bounds.most_rows == expected


@pytest.mark.parametrize(
    ("spec", "is_batching", "usual"),
    [
        ((-1, 2), True, 8),
        ((1, 2), False, 8),
        ((-1, 2), False, -1),
        ((-1, -1), True, -1),
        ((), False, -1),
    ],
)
def test_requests_are_looked_at_where_their_size_is_the_caller_s_to_say(
    spec: tuple[int, ...], is_batching: bool, usual: int
) -> None:
    plan = BatchPlan((TensorSpec("x", F32, spec),), (), is_batching=is_batching)
    bounds = RunBounds(plan, NEED, PROFILE, MemoryBudget(1))
    assert bounds.usual_rows == usual


def test_budget_says_what_is_held() -> None:
    budget = MemoryBudget(100)
    budget.models_bytes, budget.held_bytes = 30, 7
    assert repr(budget) == "MemoryBudget(7 of 70 bytes held)"
    budget.models_bytes = 200
    assert budget.room_bytes == 0
