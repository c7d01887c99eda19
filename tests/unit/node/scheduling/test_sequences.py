from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_desk import Desk
from worker_fakes import SHORT

from capamesh.node.repository.rules import Rules, SequenceRules, StateTensor
from capamesh.node.scheduling import Batch, BatchPlan, PendingRequest
from capamesh.node.scheduling.sequences import KEPT_BYTES, Sequences
from capamesh.node.scheduling.service_profile import ServiceProfile
from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed, SequenceUnknown
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

I64 = Datatype.INT64


class SequenceDesk(Desk):
    """An engine whose model adds what it is given to a history: one more column a request."""

    def __init__(
        self,
        *,
        idle_s: float = 60.0,
        max_bytes: int = 2**20,
        profile: ServiceProfile | None = None,
    ) -> None:
        states = (StateTensor("s", "s_next", 0, (1, 0)),)
        plan = BatchPlan(
            (TensorSpec("x", I64, (-1, 1)), TensorSpec("s", I64, (-1, -1))),
            (TensorSpec("y", I64, (-1, 1)), TensorSpec("s_next", I64, (-1, -1))),
            is_batching=True,
            batch_rows=8,
            states=states,
        )
        rules = Rules(sequence=SequenceRules(states, idle_s, max_bytes), instances=2)
        super().__init__(plan, rules=rules, profile=profile)
        assert self.batcher.sequences is not None
        self.sequences: Sequences = self.batcher.sequences

    def step(
        self,
        sequence: int | str,
        value: int = 0,
        *,
        start: bool = False,
        end: bool = False,
        **asked: Any,
    ) -> PendingRequest:
        x = Tensor.from_numpy("x", np.array([[value]], np.int64))
        mark = SequenceMark(sequence, start, end)
        return self.submit(inputs=self.batcher.plan.completed((x,)), sequence=mark, **asked)

    def run(self, batch: Batch) -> None:
        joined = batch.plan.join(batch.requests)
        x, history = (one.to_numpy() for one in joined)
        seen = np.concatenate([history, x], 1)
        outputs = [
            Tensor.from_numpy("y", seen.sum(1, keepdims=True)),
            Tensor.from_numpy("s_next", seen),
        ]
        results = batch.plan.split(batch.requests, outputs, joined)
        self.batcher.finished(batch, results, self.now_s, run_s=0.001)

    def fail(self, batch: Batch) -> None:
        self.batcher.finished(batch, [RunFailed("no memory")], self.now_s, run_s=0.001)

    def ask(self, sequence: int | str, value: int, **marks: Any) -> int:
        """Return the sum that the model answers."""
        request = self.step(sequence, value, **marks)
        self.run(self.taken())
        (answer,) = [result for answered, result in self.answers if answered is request]
        assert not isinstance(answer, CapameshError)
        assert [output.name for output in answer] == ["y"]
        return int(answer[0].to_numpy()[0, 0])


def test_sequence_goes_on_from_its_own_state_and_ends_with_its_end_mark() -> None:
    desk = SequenceDesk()
    assert desk.ask("a", 1, start=True) == 1
    assert desk.ask("b", 10, start=True) == 10
    assert desk.ask("a", 2) == 3
    assert desk.ask("b", 20) == 30
    assert (len(desk.sequences), desk.sequences.size_bytes) == (2, 2 * KEPT_BYTES + 4 * 8)
    assert desk.ask("a", 3, end=True) == 6
    assert (len(desk.sequences), desk.sequences.size_bytes) == (1, KEPT_BYTES + 2 * 8)
    with pytest.raises(SequenceUnknown, match="'a' has not started here"):
        desk.step("a", 4)


def test_request_without_a_sequence_is_refused_and_reported_how_to_name_one() -> None:
    desk = SequenceDesk()
    inputs = desk.step("a", start=True).inputs
    with pytest.raises(InvalidRequest, match="sequence_id"):
        desk.submit(inputs=inputs)
    assert desk.batcher.in_flight == 1


# failures


def test_failed_restart_leaves_the_old_state() -> None:
    desk = SequenceDesk()
    desk.ask("a", 1, start=True)
    desk.step("a", 2, start=True)
    desk.fail(desk.taken())
    assert desk.ask("a", 2) == 3


@pytest.mark.parametrize("way", ["fails", "expires queued", "expires running", "is cancelled"])
def test_end_that_was_not_answered_may_be_sent_again(way: str) -> None:
    desk = SequenceDesk()
    desk.ask("a", 1, start=True)
    request = desk.step("a", 2, end=True, left_s=1.0)
    if way == "expires queued":
        desk.now_s = 1.0
        desk.batcher.expire(desk.now_s)
    elif way == "is cancelled":
        desk.batcher.cancel(request, desk.now_s)
    else:
        batch = desk.taken()
        if way == "expires running":
            desk.now_s = 1.0
            desk.batcher.expire(desk.now_s)
            desk.run(batch)
        else:
            desk.fail(batch)
    assert desk.ask("a", 2, end=True) == 3
    assert len(desk.sequences) == 0


@pytest.mark.parametrize(
    "state",
    [
        Tensor("s_next", Datatype.FP32, (1, 1), bytes(4)),
        Tensor("s_next", I64, (2, 1), bytes(16)),
        Tensor("s_next", I64, (1,), bytes(8)),
        Tensor("other", I64, (1, 1), bytes(8)),
    ],
)
def test_output_that_cannot_be_the_next_state_fails_its_request_alone(state: Tensor) -> None:
    desk = SequenceDesk()
    desk.ask("a", 1, start=True)
    odd, fine = desk.step("a", 2), desk.step("b", 2, start=True)
    batches = [desk.taken(), desk.taken()]
    y = Tensor("y", I64, (1, 1), bytes(8))
    good = Tensor("s_next", I64, (1, 1), bytes(8))
    for batch, given in zip(batches, (state, good), strict=True):
        desk.batcher.finished(batch, [[y, given]], 0.0, run_s=0.001)
    answers = dict(desk.answers)
    assert isinstance(answers[odd], RunFailed)
    assert answers[fine] == [y]
    assert desk.ask("a", 2) == 3


# how long states are kept


def test_sequence_that_was_silent_for_its_time_is_forgotten_whoever_else_is_there() -> None:
    desk = SequenceDesk(idle_s=60.0)
    desk.ask("a", 1, start=True)
    desk.now_s = 59.9
    assert desk.ask("a", 2) == 3
    desk.now_s += 60.0
    with pytest.raises(InvalidRequest, match="silent for more than 60 s"):
        desk.step("a", 3)
    assert (desk.sequences.forgotten, desk.sequences.size_bytes) == (1, 0)


def test_longest_silent_gives_way_when_memory_is_short() -> None:
    desk = SequenceDesk(max_bytes=2 * KEPT_BYTES + 3 * 8)
    desk.ask("a", 1, start=True)
    desk.ask("b", 1, start=True)
    desk.ask("a", 1)  # b is silent longer now
    assert desk.sequences.size_bytes == 2 * KEPT_BYTES + 3 * 8
    desk.ask("c", 1, start=True)
    assert desk.sequences.size_bytes <= 2 * KEPT_BYTES + 3 * 8
    assert desk.sequences.forgotten == 1
    with pytest.raises(InvalidRequest):
        desk.step("b", 1)
    assert desk.ask("a", 1) == 3


@pytest.mark.parametrize("is_followed", [False, True])
def test_request_given_up_before_its_batch_began_costs_no_other(is_followed: bool) -> None:
    desk = SequenceDesk(profile=SHORT)
    for name in ("one", "two"):
        desk.step(name, 1, start=True)
        desk.taken()  # both lanes are busy
    requests = [desk.step(at, 1, start=True) for at in range(8)]
    if is_followed:
        desk.step(0, 2)
    ahead = desk.batcher.take(0.0, is_ahead=True)
    assert ahead.requests == requests
    desk.batcher.cancel(requests[0], 0.0)
    ahead.has_begun = True
    desk.run(ahead)
    assert [request for request, _ in desk.answers] == requests[1:]
    for batch in sorted(desk.batcher._requests.running, key=lambda batch: batch.requests[0].order):
        desk.run(batch)
    if is_followed:  # nothing came of the first: the next begins from nothing
        desk.run(desk.taken())
        ((_, answer),) = desk.answers[-1:]
        assert not isinstance(answer, CapameshError)
        assert answer[0].to_numpy().tolist() == [[2]]
    assert desk.batcher.is_idle
    assert desk.sequences.working == 0
