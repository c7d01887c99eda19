"""Requests that are not run because such ones ended their worker."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.node.contract.verdict import Verdict
from capamesh.node.devices.request_digest import request_digest
from capamesh.node.repository.rules import Rules, StateTensor
from capamesh.node.scheduling import (
    BatchPlan,
    DynamicBatcher,
    MemoryBudget,
    PendingRequest,
    RunBounds,
    Suspicion,
)
from capamesh.node.scheduling.run_need import RunNeed
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.suspicion import TRIAL_S
from capamesh.protocol.errors import InvalidRequest, SizeRefused, TooLarge
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

F32 = Datatype.FP32


def x(*values: float) -> tuple[Tensor, ...]:
    return (Tensor.from_numpy("x", np.array([values], np.float32)),)


def verdict(**what: object) -> Verdict:
    return Verdict("m", "1", "", "why", **what)  # type: ignore[arg-type]


def test_request_that_killed_is_refused_until_its_time_is_over_and_others_are_not() -> None:
    digest = request_digest(x(1, 2))
    suspicion = Suspicion(verdict(refused={digest.hex(): 100.0}), now_s=1_000.0)
    assert suspicion.is_looking
    suspicion.check(x(1, 3), 0, 1_000.0)
    with pytest.raises(InvalidRequest) as caught:
        suspicion.check(x(1, 2), 0, 1_040.0)
    assert str(caught.value) == (
        "this very request ended the process that ran it, more than once; it is not run again on this node for 60 s"
    )
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
    suspicion.ended(one, 0)
    suspicion.ended(one, 0)
    suspicion.ended(request_digest(x(3)), 0)
    assert told == ["news"]
    assert suspicion.survived() == ((one.hex(),), 0)
    assert suspicion.survived() == ((), 0)


PLAN = BatchPlan((TensorSpec("x", F32, (-1, -1)),), (), is_batching=True, batch_rows=8)
NEED, PROFILE = RunNeed(2, 1.0), ServiceProfile((ProfilePoint(1, 0.1), ProfilePoint(4, 0.2)))


def identity(*shape: int, need: RunNeed | None = NEED) -> tuple[bytes, int]:
    bounds = RunBounds(PLAN, need, PROFILE, MemoryBudget(0))
    request = PendingRequest(
        (Tensor.from_numpy("x", np.zeros(shape, np.float32)),), (), _nobody, arrived_s=0.0
    )
    PLAN.prepare(request)
    return bounds.identity(request)


def _nobody(request: PendingRequest, result: object) -> None:
    """Nobody waits."""


class Refusing:
    """The engine of a model of open rows of which requests of 16 bytes or more are refused."""

    def __init__(self, *, limit_bytes: int = 0) -> None:
        self.suspicion = Suspicion(verdict(refused_bytes=16), now_s=0.0)
        self.budget = MemoryBudget(limit_bytes)
        bounds = RunBounds(PLAN, NEED, PROFILE, self.budget, suspicion=self.suspicion)
        self.batcher = DynamicBatcher(PLAN, Rules(), PROFILE, max_in_flight=100, bounds=bounds)
        self.bounds = bounds

    def submit(self, *shape: int, is_bulk: bool = False, left_s: float = 99.0) -> PendingRequest:
        tensor = Tensor.from_numpy("x", np.zeros(shape, np.float32))
        request = PendingRequest(
            (tensor,), (), _nobody, arrived_s=0.0, deadline_s=left_s, is_bulk=is_bulk
        )
        self.batcher.submit(request, 0.0)
        return request


def test_request_of_usual_rows_is_not_large_however_many_of_them_a_job_sends_at_once() -> None:
    model = Refusing()
    request = model.submit(64, 2, is_bulk=True)
    assert not request.is_alone
    assert model.bounds.identity(request)[1] == 0
    model.batcher.cancel(request, 0.0)
    longer = model.submit(64, 3, is_bulk=True)
    assert longer.is_alone
    assert model.bounds.identity(longer)[1] == 4 * 3 * 4  # of 4 rows, the most of one of its runs


def test_one_request_of_a_refused_size_is_tried_at_a_time_until_it_has_ended() -> None:
    model = Refusing()
    first = model.submit(5, 2)
    assert first.is_alone
    with pytest.raises(SizeRefused, match="one as large is tried now") as caught:
        model.submit(5, 2)
    assert caught.value.retry_after_s == TRIAL_S
    model.batcher.cancel(first, 1.0)  # it is withdrawn before its run
    model.submit(5, 2)
    batch = model.batcher.take(1.0)
    assert batch is not None
    with pytest.raises(SizeRefused, match="one as large is tried now"):
        model.submit(5, 2)
    model.suspicion.ended(b"", 40)
    model.batcher.finished(batch, [[]], 31.0, run_s=30.0)
    assert not model.submit(5, 2).is_alone


def test_request_that_is_refused_for_another_reason_is_no_trial() -> None:
    model = Refusing(limit_bytes=1_000)
    with pytest.raises(TooLarge):
        model.submit(500, 2)
    with pytest.raises(InvalidRequest, match="before its deadline"):
        model.submit(9, 2, left_s=0.01)
    model.budget.held_bytes = 990
    with pytest.raises(SizeRefused, match="other large ones hold"):
        model.submit(50, 2)
    model.budget.held_bytes = 0
    assert model.submit(50, 2).is_alone


def test_state_that_a_node_keeps_is_no_part_of_a_request() -> None:
    plan = BatchPlan(
        (TensorSpec("x", F32, (-1, 2)), TensorSpec("h", F32, (-1, 2))),
        (),
        is_batching=True,
        states=(StateTensor("h", "h2"),),
    )
    bounds = RunBounds(plan, NEED, PROFILE, MemoryBudget(0))

    def of(state: float) -> bytes:
        h = Tensor.from_numpy("h", np.full((1, 2), state, np.float32))
        return bounds.identity(PendingRequest((*x(1, 2), h), (), _nobody, arrived_s=0.0))[0]

    assert of(1) == of(2) == request_digest(x(1, 2))


def test_suspicion_of_a_model_is_looked_at_whatever_the_size_of_a_request() -> None:
    refused = Suspicion(verdict(refused={request_digest(x(0, 0)).hex(): 9.0}), now_s=0.0)
    plan = BatchPlan((TensorSpec("x", F32, (-1, 2)),), (), is_batching=True, batch_rows=8)
    assert RunBounds(plan, NEED, PROFILE, MemoryBudget(0)).usual_rows == 4
    bounds = RunBounds(plan, NEED, PROFILE, MemoryBudget(0), suspicion=refused)
    assert bounds.usual_rows == -1
    with pytest.raises(InvalidRequest, match="this very request ended the process"):
        bounds.admit(PendingRequest(x(0, 0), (), _nobody, arrived_s=0.0), 1.0)
