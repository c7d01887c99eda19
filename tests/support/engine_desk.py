"""A model's engine with a clock, and the answers that came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from capamesh.node.repository.rules import BatchingRules, Rules
from capamesh.node.scheduling import (
    Batch,
    BatchPlan,
    DynamicBatcher,
    PendingRequest,
    Result,
)
from capamesh.node.scheduling.concurrency_limit import MAX_QUEUE_S, ConcurrencyLimit
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

F32 = Datatype.FP32
PROFILE = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(4, 0.016), ProfilePoint(8, 0.024)))


class Desk:
    def __init__(
        self,
        plan: BatchPlan | None = None,
        *,
        batch_rows: int = 8,
        is_batching: bool = True,
        max_delay_us: int = 0,
        profile: ServiceProfile | None = PROFILE,
        limit_rows: int = 0,
        rules: Rules | None = None,
        **engine: Any,
    ) -> None:
        """`limit_rows`: what the limit has come to; 0: where it starts. `engine`: as the engine takes it."""
        plan = plan or BatchPlan(
            (TensorSpec("x", F32, (-1, -1)),),
            (TensorSpec("y", F32, (-1, -1)), TensorSpec("z", F32, (-1,))),
            is_batching=is_batching,
            batch_rows=batch_rows,
        )
        rules = rules or Rules(batching=BatchingRules(max_delay_us=max_delay_us))
        self.batcher = DynamicBatcher(plan, rules, profile, **{"max_in_flight": 1_000, **engine})
        if limit_rows:
            limit = ConcurrencyLimit(full_rows=0, row_s=MAX_QUEUE_S / limit_rows)
            self.batcher.limit = limit
            self.batcher._admission._limit = self.batcher._shedding._limit = limit
        self.now_s = 0.0
        self.answers: list[tuple[PendingRequest, Result]] = []

    def answered(self, request: PendingRequest, result: Result) -> None:
        self.answers.append((request, result))

    def request(
        self,
        rows: int = 1,
        *,
        width: int = 1,
        inputs: Sequence[Tensor] = (),
        outputs: tuple[str, ...] = (),
        left_s: float | None = None,
        **asked: Any,
    ) -> PendingRequest:
        """Return a request of `inputs`, or of rows of zeros."""
        x = Tensor.from_numpy("x", np.zeros((rows, width), np.float32))
        return PendingRequest(
            tuple(inputs) or (x,),
            outputs,
            self.answered,
            arrived_s=self.now_s,
            deadline_s=None if left_s is None else self.now_s + left_s,
            **asked,
        )

    def submit(self, rows: int = 1, **asked: Any) -> PendingRequest:
        request = self.request(rows, **asked)
        self.batcher.submit(request, self.now_s)
        return request

    def take(self) -> list[PendingRequest]:
        batch = self.batcher.take(self.now_s)
        return [] if batch is None else batch.requests

    def taken(self) -> Batch:
        batch = self.batcher.take(self.now_s)
        assert batch is not None
        return batch

    def finish(self, batch: Batch, run_s: float = 0.010, results: Sequence[Result] = ()) -> None:
        self.now_s += run_s
        self.batcher.finished(
            batch,
            results or [[y(request.rows)] for request in batch.requests],
            self.now_s,
            run_s=run_s,
        )

    def load(self) -> LoadReport:
        return self.batcher.load_report(free_bytes=7, device_in_flight=9)

    def outcomes(self) -> list[str]:
        return [
            result.code if isinstance(result, CapameshError) else "ok" for _, result in self.answers
        ]


def y(rows: int) -> Tensor:
    return Tensor.from_numpy("y", np.zeros((rows, 1), np.float32))
