"""What a request may take of a device's memory and time, and requests that are not run because such ones ended their worker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_desk import Desk

from capamesh.node.contract.verdict import Verdict
from capamesh.node.devices.request_digest import request_digest
from capamesh.node.repository.rules import StateTensor
from capamesh.node.scheduling import (
    BatchPlan,
    MemoryBudget,
    PendingRequest,
    RunBounds,
    Suspicion,
)
from capamesh.node.scheduling.run_need import RunNeed, RunSample, elements_of, fitted
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.suspicion import TRIAL_S
from capamesh.protocol.errors import InvalidRequest, Overloaded, SizeRefused, TooLarge
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

F32 = Datatype.FP32
ROWS = BatchPlan((TensorSpec("x", F32, (-1, 2)),), (), is_batching=True, batch_rows=8)
TEXTS = BatchPlan((TensorSpec("x", F32, (-1, -1)),), (), is_batching=True, batch_rows=8)
NEED = RunNeed(elements=2, linear_bytes=500.0)
"""1,500 bytes a row."""
PROFILE = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.080)))
"""10 ms a row."""
STATEFUL = BatchPlan(
    (TensorSpec("x", F32, (-1, 2)), TensorSpec("h", F32, (-1, 2))),
    (TensorSpec("y", F32, (-1, 2)), TensorSpec("h2", F32, (-1, 2))),
    is_batching=True,
    states=(StateTensor("h", "h2"),),
)


def zeros(*shape: int) -> tuple[Tensor, ...]:
    return (Tensor.from_numpy("x", np.zeros(shape, np.float32)),)


def pending(*inputs: Tensor) -> PendingRequest:
    return PendingRequest(inputs, (), lambda *_: None, arrived_s=0.0)


class Bench(Desk):
    """One model's engine, and a budget that others may share."""

    def __init__(
        self,
        plan: BatchPlan = ROWS,
        need: RunNeed | None = NEED,
        *,
        limit_bytes: int = 1_000_000,
        budget: MemoryBudget | None = None,
        profile: ServiceProfile | None = PROFILE,
        **bounds: Any,
    ) -> None:
        self.budget = budget or MemoryBudget(limit_bytes)
        self.bounds = RunBounds(plan, need, profile, self.budget, **bounds)
        super().__init__(plan, profile=profile, bounds=self.bounds)

    def ask(self, *shape: int, **asked: Any) -> PendingRequest:
        return self.submit(inputs=zeros(*shape), **asked)

    def refusal(self, *shape: int, **asked: Any) -> str:
        """Return why such a request is refused, after the name of the error."""
        before = self.batcher.in_flight
        with pytest.raises((TooLarge, InvalidRequest, Overloaded)) as caught:
            self.ask(*shape, **asked)
        assert self.batcher.in_flight == before
        return f"{type(caught.value).__name__}: {caught.value}"


# memory


def test_rows_that_can_never_fit_are_refused_with_what_would() -> None:
    bench = Bench()
    assert bench.refusal(1_000, 2) == (
        "TooLarge: a request of 1000 rows takes about 1508000 bytes of memory here (1500 bytes a row, by what was"
        " measured); runs have 1000000 bytes on this node: give at most 663 such rows at once"
    )
    bench.ask(663, 2)
    loaded = Bench()
    loaded.budget.models_bytes = 500_000  # which is not there for runs
    assert "runs have 500000 bytes on this node" in loaded.refusal(400, 2)
    unknown = Bench(need=None, profile=None, limit_bytes=100_000)
    assert unknown.refusal(10_000, 2).endswith(": give at most 3125 such rows at once")
    unknown.ask(3_125, 2)


def test_longer_rows_count_by_the_square_where_that_was_measured() -> None:
    bench = Bench(TEXTS, RunNeed(64, 10.0, 1.0), limit_bytes=1_000_000)
    bench.ask(8, 64)
    assert bench.refusal(8, 640).startswith("TooLarge")
    small = Bench(TEXTS, RunNeed(64, 10.0, 1.0), limit_bytes=100_000)
    says = "a request of 1 rows of 1000 elements takes about 1519000 bytes of memory here (1515000"
    assert small.refusal(1, 1_000).startswith(f"TooLarge: {says} bytes a row")


def test_request_of_no_more_rows_than_were_measured_is_not_looked_at() -> None:
    bench = Bench(limit_bytes=1)  # in which nothing fits
    bench.ask(8, 2)
    assert bench.refusal(9, 2).startswith("TooLarge")
    parts = Bench(limit_bytes=8 * 1500 + 9 * 8)
    parts.refusal(9, 2)
    parts.ask(9, 2, is_bulk=True)  # it runs in parts, and is looked at as one of them
    parts.now_s = 10.0
    assert parts.taken().rows == 8


def test_large_requests_share_the_memory_of_the_device_and_give_it_back() -> None:
    budget = MemoryBudget(1_000_000)
    one, other = Bench(budget=budget), Bench(budget=budget)
    one.ask(10, 2)  # 15,080 bytes of a million: under a 64th, and not counted
    assert budget.held_bytes == 0
    request = one.ask(400, 2)
    held = 400 * 1_500 + 400 * 8
    assert budget.held_bytes == held
    says = f"and other large ones hold {held} of 1000000 now; try another node"
    assert other.refusal(400, 2).endswith(says)
    one.batcher.cancel(request, 0.0)  # before its run
    assert budget.held_bytes == 0
    one.finish(one.taken(), results=[[]])
    request = one.ask(400, 2)
    batch = one.taken()
    one.batcher.cancel(request, one.now_s)
    assert budget.held_bytes == held  # its run goes on
    one.finish(batch, results=[[]])
    assert budget.held_bytes == 0
    other.ask(400, 2)
    stateful = Bench(STATEFUL, RunNeed(2, 100_000.0), profile=None)
    refused = pending(*STATEFUL.completed(zeros(1, 2)))
    with pytest.raises(InvalidRequest):  # a model with states takes sequences alone
        stateful.batcher.submit(refused, 0.0)
    assert (refused.held_bytes, stateful.budget.held_bytes) == (0, 0)


# time


def test_rows_that_cannot_be_done_before_the_deadline_are_refused_with_what_can() -> None:
    bench = Bench(limit_bytes=0)
    assert bench.refusal(1_000, 2, left_s=2.0) == (
        "InvalidRequest: a request of 1000 rows takes about 10.0 s here (10 ms a row, by what was measured), and 2.0 s are left"
        " before its deadline: give at most 200 such rows at once"
    )
    bench.ask(200, 2, left_s=2.0)
    Bench(limit_bytes=0).ask(400, 2, left_s=2.0)  # a measurement is believed to the half
    fast = Bench(limit_bytes=0)
    fast.batcher.time.slowdown = 0.5
    fast.ask(800, 2, left_s=2.0)
    slow = Bench(limit_bytes=0)
    slow.batcher.time.slowdown = 10.0  # which may pass
    slow.ask(400, 2, left_s=2.0)
    usual = Bench(TEXTS, RunNeed(2, 1.0), limit_bytes=0)
    usual.ask(8, 2, left_s=0.001)  # late, and not wrong
    assert Bench(TEXTS, RunNeed(2, 1.0)).refusal(9, 2, left_s=0.001).startswith("InvalidRequest")
    longer = Bench(TEXTS, RunNeed(64, 1.0, 0.0, element_s=0.001), limit_bytes=0)
    assert "takes about 10.0 s here" in longer.refusal(1, 64 + 9_990, left_s=4.0)
    longer.ask(1, 64 + 100, left_s=5.0)


def test_no_run_may_be_longer_than_the_watchdog_lets_it_whatever_its_caller_allows() -> None:
    bench = Bench(limit_bytes=0, watchdog_s=3.0)
    says = "and no run may take more than 3 s on this node: give at most 300 such rows at once"
    for left_s in (None, 100.0):
        assert bench.refusal(1_000, 2, left_s=left_s).endswith(says)


TEN_TIMES = RunSample(1, 80, 10_000, 0.8)
SQUARE_4 = RunSample(4, 64, 4 * (6_400 + 2 * 64**2), 0.004)


@pytest.mark.parametrize(
    ("usual", "longer", "least_row_bytes", "need"),
    [
        (RunSample(8, 10, 8_000, 0.1), None, 1, RunNeed(10, 100.0)),
        (RunSample(8, 10, 0, 0.1), None, 40, RunNeed(10, 4.0)),  # what goes in and comes out
        # a little more an element is the rounding of pools; much more is a square, and took no longer
        (RunSample(1, 10, 1_000, 0.1), TEN_TIMES, 1, RunNeed(10, 125.0, 0.0, 0.01)),
        (SQUARE_4, RunSample(1, 512, 51_200 + 2 * 512**2, 0.001), 1, RunNeed(64, 100.0, 2.0, 0.0)),
    ],
)
def test_need_of_a_run_is_fitted_to_what_was_measured(
    usual: RunSample, longer: RunSample | None, least_row_bytes: int, need: RunNeed
) -> None:
    assert fitted(usual, longer, least_row_bytes=least_row_bytes) == pytest.approx(need)


def test_run_takes_memory_by_its_rows_and_their_length_and_more_time_for_longer_ones() -> None:
    need = RunNeed(elements=64, linear_bytes=10.0, square_bytes=0.5, element_s=0.001)
    assert need.bytes_of(1, 64) == need.row_bytes == 1.5 * (640 + 0.5 * 64**2)
    assert need.bytes_of(7, 64) == 7 * need.row_bytes
    assert need.bytes_of(1, 640) == 1.5 * (6_400 + 0.5 * 640**2)
    assert [need.more_s(3, length) for length in (74, 64, 1)] == pytest.approx([0.03, 0, 0])
    texts = Tensor.from_numpy("t", np.array([[b"a" * 1000, b""]], object))
    assert elements_of([texts, *zeros(3, 5)]) == 2 + 15  # a text is one, whatever its length


# what ended a worker


def x(*values: float) -> tuple[Tensor, ...]:
    return (Tensor.from_numpy("x", np.array([values], np.float32)),)


def verdict(**what: object) -> Verdict:
    return Verdict("m", "1", "", "why", **what)


def test_request_that_killed_is_refused_until_its_time_is_over_and_others_are_not() -> None:
    digest = request_digest(x(1, 2))
    suspicion = Suspicion(verdict(refused={digest.hex(): 100.0}, alone_s=60.0), now_s=1_000.0)
    assert suspicion.is_looking
    suspicion.check(x(1, 3), 0, 1_000.0)
    says = "more than once; it is not run again on this node for 60 s"
    with pytest.raises(InvalidRequest, match=f"^this very request ended the process .*{says}$"):
        suspicion.check(x(1, 2), 0, 1_040.0)
    assert suspicion.is_alone(1_059.9)
    assert not suspicion.is_alone(1_060.0)
    suspicion.check(x(1, 2), 0, 1_100.0)
    assert not suspicion.is_looking


def test_size_that_is_refused_is_tried_until_one_ends_well() -> None:
    suspicion = Suspicion(verdict(refused_bytes=12, refused_s=30.0), now_s=0.0)
    assert not suspicion.check(x(1, 2), 8, 0.0)
    with pytest.raises(SizeRefused) as caught:
        suspicion.check(x(1, 2, 3, 4), 16, 10.0)
    assert str(caught.value) == (
        "a request of 16 bytes of inputs; different ones of 12 or less ended this node's worker, and one as large"
        " is tried in 20.0 s: send less at once, or try another node"
    )
    assert caught.value.retry_after_s == 20.0
    assert suspicion.check(x(1, 2, 3, 4), 16, 30.0)
    told: list[int] = []
    for size in (8, 16, 16):
        suspicion.ended(b"", size)
        told.append(suspicion.survived()[1])
    assert told == [0, 16, 0]
    assert not suspicion.check(x(1, 2, 3, 4), 16, 30.0)


def test_suspects_that_end_well_are_reported_once() -> None:
    one, other = request_digest(x(1)), request_digest(x(2))
    told: list[str] = []
    suspicion = Suspicion(
        verdict(suspects=(one.hex(), other.hex())), 0.0, lambda: told.append("news")
    )
    assert repr(suspicion) == "Suspicion(0 refused, 2 suspects)"
    for digest in (one, one, request_digest(x(3))):
        suspicion.ended(digest, 0)
    assert told == ["news"]
    assert suspicion.survived() == ((one.hex(),), 0)
    assert suspicion.survived() == ((), 0)


FOUR = ServiceProfile((ProfilePoint(1, 0.1), ProfilePoint(4, 0.2)))


def refusing(limit_bytes: int = 0) -> tuple[Bench, Suspicion]:
    """Return the engine of a model of open rows of which requests of 16 bytes or more are refused."""
    suspicion = Suspicion(verdict(refused_bytes=16), now_s=0.0)
    need = RunNeed(2, 1.0)
    return Bench(TEXTS, need, limit_bytes=limit_bytes, profile=FOUR, suspicion=suspicion), suspicion


def test_request_is_large_where_a_run_of_it_has_more_or_longer_rows_than_were_measured() -> None:
    model, _ = refusing()
    for shape, size in (((4, 2), 0), ((5, 2), 40), ((1, 3), 12)):
        request = pending(*zeros(*shape))
        TEXTS.prepare(request)
        assert model.bounds.identity(request)[1] == size
    request = model.ask(64, 2, is_bulk=True)  # however many of them a job sends at once
    assert not request.is_alone
    assert model.bounds.identity(request)[1] == 0
    model.batcher.cancel(request, 0.0)
    longer = model.ask(64, 3, is_bulk=True)
    assert longer.is_alone
    assert model.bounds.identity(longer)[1] == 4 * 3 * 4  # of 4 rows, the most of one of its runs


def test_one_request_of_a_refused_size_is_tried_at_a_time_until_it_has_ended() -> None:
    model, suspicion = refusing()
    first = model.ask(5, 2, left_s=99.0)
    assert first.is_alone
    with pytest.raises(SizeRefused, match="one as large is tried now") as caught:
        model.ask(5, 2, left_s=99.0)
    assert caught.value.retry_after_s == TRIAL_S
    model.batcher.cancel(first, 1.0)  # it is withdrawn before its run
    model.ask(5, 2, left_s=99.0)
    batch = model.taken()
    with pytest.raises(SizeRefused, match="one as large is tried now"):
        model.ask(5, 2, left_s=99.0)
    suspicion.ended(b"", 40)
    model.finish(batch, 30.0, [[]])
    assert not model.ask(5, 2, left_s=99.0).is_alone


def test_request_that_is_refused_for_another_reason_is_no_trial() -> None:
    model, _ = refusing(limit_bytes=1_000)
    assert model.refusal(500, 2, left_s=99.0).startswith("TooLarge")
    assert "before its deadline" in model.refusal(9, 2, left_s=0.01)
    model.budget.held_bytes = 990
    assert "other large ones hold" in model.refusal(50, 2, left_s=99.0)
    model.budget.held_bytes = 0
    assert model.ask(50, 2, left_s=99.0).is_alone


def test_suspicion_of_a_model_is_looked_at_whatever_the_size_of_a_request() -> None:
    refused = Suspicion(verdict(refused={request_digest(x(0, 0)).hex(): 9.0}), now_s=0.0)
    assert Bench(profile=FOUR).bounds.usual_rows == 4
    bounds = Bench(profile=FOUR, suspicion=refused).bounds
    assert bounds.usual_rows == -1
    with pytest.raises(InvalidRequest, match="this very request ended the process"):
        bounds.admit(pending(*x(0, 0)), 1.0)
