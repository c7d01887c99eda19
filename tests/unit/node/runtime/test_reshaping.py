"""A model whose callers see other shapes than it has itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from typing_extensions import override
from worker_fakes import FakeModel

from capamesh.node.repository.declared import DeclaredIo, Reshape
from capamesh.node.runtime.reshaping import reshaped
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, RunFailed
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

F32 = Datatype.FP32


class Model(FakeModel):
    """Gives back its input as its output, in `out` where that is another shape."""

    def __init__(
        self, inner: tuple[int, ...], gives: tuple[int, ...], out: tuple[int, ...] = ()
    ) -> None:
        super().__init__(
            (TensorSpec("x", F32, inner), TensorSpec("k", F32, (1,))),
            (TensorSpec("y", F32, gives),),
        )
        self.seen: list[tuple[int, ...]] = []
        self.out = out

    @override
    def run(self, inputs: Sequence[Tensor], *_: object) -> list[Tensor]:
        self.seen.append(inputs[0].shape)
        return [Tensor("y", F32, self.out or inputs[0].shape, inputs[0].data)]


def inputs(*shape: int) -> list[Tensor]:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return [Tensor.from_numpy("x", x), Tensor.from_numpy("k", np.zeros(1, np.float32))]


def test_inputs_go_in_and_outputs_come_out_in_the_declared_shapes_without_a_copy() -> None:
    model = Model((1, 2, 3), (1, 2, 3))
    declared = DeclaredIo(
        reshaped_inputs=(Reshape("x", (6,), (1, 2, 3)),),
        reshaped_outputs=(Reshape("y", (2, 3), (1, 2, 3)),),
    )
    shaped = reshaped(model, declared)
    assert [spec.shape for spec in shaped.inputs] == [(6,), (1,)]
    assert [spec.shape for spec in shaped.outputs] == [(2, 3)]
    given = inputs(6)
    shaped.validate(given)
    (y,) = shaped.run(given)
    assert model.seen == [(1, 2, 3)]
    assert y.shape == (2, 3)
    assert y.data is given[0].data
    with pytest.raises(InvalidRequest):
        shaped.validate(inputs(1, 2, 3))
    shaped.close()
    assert model.is_closed


def test_open_sizes_stand_for_each_other_in_their_order() -> None:
    model = Model((-1, -1, 2, 2), (-1, -1, 4))
    pairs = (Reshape("x", (-1, -1, 4), (-1, -1, 2, 2)),)
    declared = DeclaredIo(has_batch_axis=True, reshaped_inputs=pairs)
    shaped = reshaped(model, declared)
    shaped.run(inputs(3, 5, 4))
    assert model.seen == [(3, 5, 2, 2)]


ANOTHER_OUTPUT = DeclaredIo(reshaped_outputs=(Reshape("y", (6,), (1, 2, 4)),))
BATCHED = DeclaredIo(has_batch_axis=True, reshaped_inputs=(Reshape("x", (-1, 6), (-1, 2, 3)),))


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (DeclaredIo(reshaped_inputs=(Reshape("x", (6,), (3, 2)),)), "input 'x' is reshaped"),
        (ANOTHER_OUTPUT, "output 'y' is reshaped to [1, 2, 4]; the model has [1, 2, 3]"),
        (BATCHED, "input 'x' is reshaped to [-1, 2, 3], the batch axis first; the model has"),
    ],
)
def test_reshape_that_the_model_has_not_is_refused(declared: DeclaredIo, reason: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        reshaped(Model((1, 2, 3), (1, 2, 3)), declared)
    assert caught.value.message.startswith(reason)


def test_output_of_another_shape_than_declared_fails_the_run() -> None:
    declared = DeclaredIo(reshaped_outputs=(Reshape("y", (6,), (1, 2, 3)),))
    shaped = reshaped(Model((1, 2, 3), (-1, -1, -1), out=(2, 1, 3)), declared)
    with pytest.raises(RunFailed, match=r"output 'y' has shape \[2, 1, 3\]"):
        shaped.run(inputs(1, 2, 3))
