"""A model that runs in a loop: what is fed back, when it ends, whose turn it is, and who waits for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from engine_desk import Desk

from capamesh.node.repository.rules import LoopRules, Rules
from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.protocol.errors import CapameshError, DeadlineExceeded, RunFailed
from capamesh.protocol.tensors import Tensor


class LoopDesk(Desk):
    """A desk of a model that adds one to each element of `x`; `z` of a row is its value less than `until`, or 0."""

    def __init__(
        self, max_steps: int = 5, *, until: float = 100.0, max_bytes: int = 2**20, **options: Any
    ) -> None:
        loop = LoopRules((("x", "y"),), max_steps, "z", max_bytes)
        super().__init__(rules=Rules(loop=loop), **options)
        self.until = until
        self.parts: list[tuple[PendingRequest, list[float]]] = []
        self.holding: set[PendingRequest] = set()
        self.ran: list[list[float]] = []

    def start(self, value: float, *, rows: int = 1, **asked: Any) -> PendingRequest:
        x = Tensor.from_numpy("x", np.full((rows, 1), value, np.float32))
        return self.submit(inputs=[x], on_part=self.part, **asked)

    def part(self, request: PendingRequest, outputs: Sequence[Tensor]) -> None:
        self.parts.append((request, values(outputs[0])))
        if request in self.holding:
            request.is_held = True

    def run(self, batch: Batch | None = None) -> bool:
        """Run the next batch; False: there is none."""
        batch = batch or self.batcher.take(self.now_s)
        if batch is None:
            return False
        joined = batch.plan.join(batch.requests)
        x = joined[0].to_numpy()
        self.ran.append(x[:, 0].tolist())
        y = x + np.float32(1)
        z = (y[:, 0] >= self.until).astype(np.float32)
        outputs = [Tensor.from_numpy("y", y), Tensor.from_numpy("z", z)]
        self.finish(batch, results=batch.plan.split(batch.requests, outputs, joined))
        return True

    def run_all(self) -> None:
        while self.run():
            pass

    def parts_of(self, request: PendingRequest) -> list[float]:
        return [value for of, (value, *_) in self.parts if of is request]

    def last_of(self, request: PendingRequest) -> Any:
        (result,) = [result for of, result in self.answers if of is request]
        return result if isinstance(result, CapameshError) else values(result[0])[0]


def zero() -> Tensor:
    return Tensor.from_numpy("z", np.zeros(1, np.float32))


def values(tensor: Tensor) -> list[float]:
    return [float(value) for value in tensor.to_numpy().reshape(-1)]


def test_stop_output_ends_it_once_all_rows_have_stopped() -> None:
    desk = LoopDesk(100, until=13)
    request = desk.start(10, rows=2)
    request.inputs = (Tensor.from_numpy("x", np.array([[10], [12]], np.float32)),)
    desk.run_all()
    assert desk.parts_of(request) == [11, 12]
    assert desk.last_of(request) == 13


def test_steps_of_several_requests_share_batches_and_new_ones_join() -> None:
    desk = LoopDesk(3)
    first, second = desk.start(0), desk.start(10)
    desk.run()
    third = desk.start(20)
    desk.run_all()
    assert desk.ran == [[0, 10], [1, 11, 20], [2, 12, 21], [22]]
    assert [desk.last_of(one) for one in (first, second, third)] == [3, 13, 23]


def test_reader_that_takes_no_more_stops_its_own_request_alone() -> None:
    desk = LoopDesk(4)
    slow, quick = desk.start(0), desk.start(10)
    desk.holding.add(slow)
    desk.run_all()
    assert (desk.parts_of(slow), desk.last_of(quick)) == ([1], 14)
    requests = desk.batcher._requests
    assert (desk.batcher.in_flight, requests.rows) == (1, 0)  # others have the device
    for _ in range(2):  # it is not held twice
        desk.batcher.resume(slow)
        assert (desk.batcher.queued, requests.rows, len(requests.queue)) == (1, 1, 1)
    desk.holding.clear()
    desk.run_all()
    assert (desk.parts_of(slow), desk.last_of(slow)) == ([1, 2, 3], 4)


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_request_ends_between_two_steps(end: str, is_held: bool) -> None:
    desk = LoopDesk(1000)
    request = desk.start(0, left_s=1.0)
    if is_held:
        desk.holding.add(request)
    desk.run()
    if end == "cancel":
        desk.batcher.cancel(request, desk.now_s)
        assert desk.answers == []
    else:
        desk.now_s += 1
        desk.batcher.expire(desk.now_s)
        assert isinstance(desk.last_of(request), DeadlineExceeded)
    assert not desk.run()
    assert desk.batcher.is_idle
    requests = desk.batcher._requests
    assert (requests.rows, requests.held, request.inputs) == (0, 0, ())


def test_part_without_a_wire_form_ends_it_rather_than_being_left_out() -> None:
    def crash(*_: object) -> None:
        raise ValueError("no form")

    desk = LoopDesk(1000)
    request = desk.start(0)
    request.on_part = crash
    desk.run()
    error = desk.last_of(request)
    assert isinstance(error, RunFailed)
    assert "no form" in error.message
    assert desk.batcher.is_idle


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ([zero()], "no output 'y'"),
        ([Tensor.from_numpy("y", np.ones((1,), np.float32)), zero()], "cannot be the input 'x'"),
        ([Tensor.from_numpy("y", np.ones((2, 1), np.float32)), zero()], "a step of 1 rows gave 2"),
    ],
)
def test_outputs_that_cannot_be_the_next_inputs_end_it(outputs: list[Tensor], reason: str) -> None:
    desk = LoopDesk(1000)
    request = desk.start(0)
    desk.finish(desk.taken(), results=[outputs])
    error = desk.last_of(request)
    assert isinstance(error, RunFailed)
    assert reason in error.message
    assert desk.batcher.is_idle
    assert desk.batcher._requests.rows == 0


def test_answer_of_more_bytes_than_the_rules_allow_fails() -> None:
    desk = LoopDesk(1000, max_bytes=8 * 3)
    request = desk.start(0)
    desk.run_all()
    assert desk.parts_of(request) == [1, 2, 3]
    error = desk.last_of(request)
    assert isinstance(error, RunFailed)
    assert error.message.startswith("the answer has 32 bytes after 4 steps")
