"""Sequences: states that are kept between requests, and how a model learns where in its sequence one is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_desk import Desk
from worker_fakes import SHORT

from capamesh.node.repository.rules import (
    NO_AXIS,
    ControlKind,
    ControlTensor,
    Rules,
    SequenceRules,
    StateTensor,
)
from capamesh.node.scheduling import Batch, BatchPlan, PendingRequest
from capamesh.node.scheduling.sequences import KEPT_BYTES, Sequences
from capamesh.node.scheduling.service_profile import ServiceProfile
from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed, SequenceUnknown
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

I32, I64 = Datatype.INT32, Datatype.INT64
HISTORY = (StateTensor("s", "s_next", 0, (1, 0)),)


class SequenceDesk(Desk):
    """An engine whose model adds what it is given to a history: one more column a request."""

    def __init__(
        self,
        *,
        idle_s: float = 60.0,
        max_bytes: int = 2**20,
        profile: ServiceProfile | None = None,
    ) -> None:
        plan = BatchPlan(
            (TensorSpec("x", I64, (-1, 1)), TensorSpec("s", I64, (-1, -1))),
            (TensorSpec("y", I64, (-1, 1)), TensorSpec("s_next", I64, (-1, -1))),
            is_batching=True,
            batch_rows=8,
            states=HISTORY,
        )
        rules = Rules(sequence=SequenceRules(HISTORY, idle_s, max_bytes), instances=2)
        super().__init__(plan, rules=rules, profile=profile)
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
        y = Tensor.from_numpy("y", seen.sum(1, keepdims=True))
        outputs = [y, Tensor.from_numpy("s_next", seen)]
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
        (y,) = answer
        assert y.name == "y"
        return int(y.to_numpy()[0, 0])


def test_sequence_goes_on_from_its_own_state_and_ends_with_its_end_mark() -> None:
    desk = SequenceDesk()
    assert (desk.ask("a", 1, start=True), desk.ask("b", 10, start=True)) == (1, 10)
    assert (desk.ask("a", 2), desk.ask("b", 20)) == (3, 30)
    assert (len(desk.sequences), desk.sequences.size_bytes) == (2, 2 * KEPT_BYTES + 4 * 8)
    assert desk.ask("a", 3, end=True) == 6
    assert (len(desk.sequences), desk.sequences.size_bytes) == (1, KEPT_BYTES + 2 * 8)
    with pytest.raises(SequenceUnknown, match="'a' has not started here"):
        desk.step("a", 4)
    inputs = desk.step("c", start=True).inputs
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
    batch = desk.taken() if way in {"fails", "expires running"} else None
    if way.startswith("expires"):
        desk.now_s = 1.0
        desk.batcher.expire(desk.now_s)
    if batch is not None:
        (desk.fail if way == "fails" else desk.run)(batch)
    if way == "is cancelled":
        desk.batcher.cancel(request, desk.now_s)
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
    y, good = (Tensor(name, I64, (1, 1), bytes(8)) for name in ("y", "s_next"))
    for batch, given in zip([desk.taken(), desk.taken()], (state, good), strict=True):
        desk.batcher.finished(batch, [[y, given]], 0.0, run_s=0.001)
    answers = dict(desk.answers)
    assert isinstance(answers[odd], RunFailed)
    assert answers[fine] == [y]
    assert desk.ask("a", 2) == 3


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
        assert desk.answers[-1][1][0].to_numpy().tolist() == [[2]]
    assert (desk.batcher.is_idle, desk.sequences.working) == (True, 0)


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


# what a model is told of its sequence


CONTROLS = (
    ControlTensor("start", ControlKind.START, I32, -7.0, 7.0),
    ControlTensor("end", ControlKind.END, Datatype.FP32, 0.5, 1.5),
    ControlTensor("ready", ControlKind.READY, Datatype.BOOL),
    ControlTensor("id", ControlKind.ID, Datatype.UINT64),
)
X, Y = (Tensor.from_numpy(name, np.zeros((1, 1), np.int32)) for name in "xy")


def controlled(*controls: ControlTensor) -> BatchPlan:
    inputs = [TensorSpec(one.input, one.datatype, (-1, 1)) for one in controls]
    return BatchPlan(
        (TensorSpec("x", I32, (-1, 1)), *inputs),
        (TensorSpec("y", I32, (-1, 1)),),
        is_batching=True,
        batch_rows=4,
        controls=controls,
    )


def given(plan: BatchPlan, mark: SequenceMark) -> dict[str, Any]:
    return {one.name: one.to_numpy().tolist() for one in plan.completed((X,), mark)[1:]}


@pytest.mark.parametrize(
    ("mark", "start", "end"),
    [
        (SequenceMark(9, is_start=True, is_end=False), 7, 0.5),
        (SequenceMark(2**64 - 1, is_start=False, is_end=True), -7, 1.5),
    ],
)
def test_each_control_says_where_a_request_is(mark: SequenceMark, start: int, end: float) -> None:
    told = {"start": [[start]], "end": [[end]], "ready": [[True]], "id": [[mark.id]]}
    assert given(controlled(*CONTROLS), mark) == told


def test_controls_are_no_inputs_of_callers() -> None:
    plan = controlled(*CONTROLS)
    assert [spec.name for spec in plan.public_inputs] == ["x"]
    with pytest.raises(InvalidRequest, match="input 'start' tells the model where in its sequence"):
        plan.completed((X, X.replace(name="start")), SequenceMark(1))


@pytest.mark.parametrize(
    ("datatype", "key", "expected"),
    [
        (Datatype.INT32, 2**31 - 1, 2**31 - 1),
        (Datatype.UINT32, 2**32 - 1, 2**32 - 1),
        (Datatype.BYTES, "call-7", b"call-7"),
        (Datatype.BYTES, 7, b"7"),
        (Datatype.UINT64, "call-7", "is 'call-7': this model takes UINT64, a number"),
        (Datatype.INT32, 2**31, "is 2147483648: this model takes INT32, a number"),
    ],
)
def test_id_is_of_the_model_s_type(
    datatype: Datatype, key: int | str, expected: int | bytes | str
) -> None:
    plan = controlled(ControlTensor("id", ControlKind.ID, datatype))
    if isinstance(expected, str):
        with pytest.raises(InvalidRequest, match=f"^sequence_id {expected}"):
            given(plan, SequenceMark(key))
    else:
        assert given(plan, SequenceMark(key)) == {"id": [[expected]]}


class ControlDesk(Desk):
    """An engine of a model whose requests belong to sequences."""

    def __init__(self, plan: BatchPlan, rules: SequenceRules) -> None:
        super().__init__(plan, rules=Rules(sequence=rules), profile=None)

    def ask(self, key: int, *outputs: Tensor, start: bool = False, end: bool = False) -> Any:
        """Run a request that is answered with `outputs`; return the state that it was given."""
        mark = SequenceMark(key, start, end)
        request = self.submit(inputs=self.batcher.plan.completed((X,), mark), sequence=mark)
        state = [one.to_numpy().tolist() for one in request.inputs if one.name == "s"]
        self.finish(self.taken(), results=[list(outputs or (Y,))])
        return state


def test_sequence_without_a_state_starts_with_its_mark_and_ends_with_it_or_silence() -> None:
    rules = SequenceRules(controls=CONTROLS[:1], idle_s=5.0)
    desk = ControlDesk(controlled(CONTROLS[0]), rules)
    for _ in range(2):
        with pytest.raises(CapameshError, match="sequence 1 has not started here"):
            desk.ask(1)
        desk.ask(1, start=True)
        desk.ask(1)
        desk.ask(1, end=True)
    desk.ask(2, start=True)
    desk.now_s += 4.9
    desk.ask(2)
    desk.now_s += 5.0
    with pytest.raises(CapameshError, match="silent for more than 5 s"):
        desk.ask(2)
    assert desk.outcomes() == ["ok"] * 8


def test_state_of_a_model_that_takes_one_sequence_at_a_time_has_no_axis_of_sequences() -> None:
    state = StateTensor("s", "s_next", NO_AXIS, (2,))
    plan = BatchPlan(
        (TensorSpec("x", I32, (-1,)), TensorSpec("s", I32, (2,))),
        (TensorSpec("y", I32, (-1,)), TensorSpec("s_next", I32, (2,))),
        states=(state,),
    )
    desk = ControlDesk(plan, SequenceRules(states=(state,)))
    following = Tensor.from_numpy("s_next", np.array([5, 6], np.int32))
    desk.ask(1, Y, following, start=True)
    assert desk.ask(1, Y, following) == [[5, 6]]
