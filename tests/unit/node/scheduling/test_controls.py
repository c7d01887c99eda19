"""How a model learns where in its sequence a request is, and how sequences are kept that have no state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_desk import Desk

from capamesh.node.repository.rules import (
    NO_AXIS,
    ControlKind,
    ControlTensor,
    Rules,
    SequenceRules,
    StateTensor,
)
from capamesh.node.scheduling import BatchPlan
from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

I32 = Datatype.INT32
Y = Tensor.from_numpy("y", np.zeros((1, 1), np.int32))
CONTROLS = (
    ControlTensor("start", ControlKind.START, I32, -7.0, 7.0),
    ControlTensor("end", ControlKind.END, Datatype.FP32, 0.5, 1.5),
    ControlTensor("ready", ControlKind.READY, Datatype.BOOL),
    ControlTensor("id", ControlKind.ID, Datatype.UINT64),
)


def plan_of(
    *controls: ControlTensor, is_batching: bool = True, states: tuple[StateTensor, ...] = ()
) -> BatchPlan:
    shape = (-1, 1)
    return BatchPlan(
        (
            TensorSpec("x", I32, shape),
            *(TensorSpec(one.input, one.datatype, shape) for one in controls),
            *(TensorSpec(one.input, I32, (-1, 2)) for one in states),
        ),
        (TensorSpec("y", I32, shape), *(TensorSpec(one.output, I32, (-1, 2)) for one in states)),
        is_batching=is_batching,
        batch_rows=4,
        controls=controls,
        states=states,
    )


def x() -> Tensor:
    return Tensor.from_numpy("x", np.zeros((1, 1), np.int32))


def given(plan: BatchPlan, mark: SequenceMark | None) -> dict[str, Any]:
    added = plan.completed((x(),), mark)[1:]
    return {one.name: one.to_numpy().tolist() for one in added}


def test_each_control_says_where_in_its_sequence_a_request_is() -> None:
    plan = plan_of(*CONTROLS)
    assert given(plan, SequenceMark(9, is_start=True, is_end=False)) == {
        "start": [[7]],
        "end": [[0.5]],
        "ready": [[True]],
        "id": [[9]],
    }
    assert given(plan, SequenceMark(2**64 - 1, is_start=False, is_end=True)) == {
        "start": [[-7]],
        "end": [[1.5]],
        "ready": [[True]],
        "id": [[2**64 - 1]],
    }


def test_controls_are_no_inputs_of_callers() -> None:
    plan = plan_of(*CONTROLS)
    assert [spec.name for spec in plan.public_inputs] == ["x"]
    start = Tensor.from_numpy("start", np.ones((1, 1), np.int32))
    with pytest.raises(InvalidRequest, match="input 'start' tells the model where in its sequence"):
        plan.completed((x(), start), SequenceMark(1))


@pytest.mark.parametrize(
    ("datatype", "key", "expected"),
    [
        (Datatype.INT32, 2**31 - 1, 2**31 - 1),
        (Datatype.UINT32, 2**32 - 1, 2**32 - 1),
        (Datatype.BYTES, "call-7", b"call-7"),
        (Datatype.BYTES, 7, b"7"),
    ],
)
def test_id_is_given_in_the_model_s_own_type(
    datatype: Datatype, key: int | str, expected: object
) -> None:
    plan = plan_of(ControlTensor("id", ControlKind.ID, datatype))
    assert given(plan, SequenceMark(key)) == {"id": [[expected]]}


@pytest.mark.parametrize(
    ("datatype", "key", "reason"),
    [
        (Datatype.UINT64, "call-7", "sequence_id is 'call-7': this model takes UINT64, a number"),
        (Datatype.INT32, 2**31, "sequence_id is 2147483648: this model takes INT32, a number"),
    ],
)
def test_id_that_the_model_cannot_take(datatype: Datatype, key: int | str, reason: str) -> None:
    plan = plan_of(ControlTensor("id", ControlKind.ID, datatype))
    with pytest.raises(InvalidRequest) as caught:
        plan.completed((x(),), SequenceMark(key))
    assert caught.value.message.startswith(reason)


class ControlDesk(Desk):
    """An engine of a model whose requests belong to sequences."""

    def __init__(self, plan: BatchPlan, rules: SequenceRules) -> None:
        super().__init__(plan, rules=Rules(sequence=rules), profile=None)

    def ask(self, key: int, *outputs: Tensor, start: bool = False, end: bool = False) -> Any:
        """Run a request that is answered with `outputs`; return the state that it was given."""
        mark = SequenceMark(key, start, end)
        request = self.submit(inputs=self.batcher.plan.completed((x(),), mark), sequence=mark)
        state = [one.to_numpy().tolist() for one in request.inputs if one.name == "s"]
        self.finish(self.taken(), results=[list(outputs or (Y,))])
        return state


def test_sequence_without_a_state_starts_with_its_mark_and_ends_with_it_or_silence() -> None:
    desk = ControlDesk(plan_of(CONTROLS[0]), SequenceRules(controls=CONTROLS[:1], idle_s=5.0))
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
