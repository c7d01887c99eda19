from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet_fakes import fp32, offer

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.fleet.answer_form import AnswerForm

Y = TensorSpec("y", Datatype.FP32, (-1, 2))
N = TensorSpec("n", Datatype.INT64, (-1,))


def misfit(outputs: tuple[TensorSpec, ...], *given: Tensor) -> str:
    answer = InferAnswer(ModelVersion("1"), given, 1, 1, LoadReport())
    return AnswerForm(replace(offer(), outputs=outputs)).misfit(answer, ())


def test_all_outputs_in_any_order_and_of_any_open_dimension_fit() -> None:
    n_of_1 = Tensor.from_numpy("n", np.array([7], np.int64))
    assert misfit((Y, N), fp32("y", [1, 2]), n_of_1) == ""
    assert misfit((Y, N), n_of_1, fp32("y", [1, 2], [3, 4])) == ""


@pytest.mark.parametrize(
    ("declared", "given", "fits"),
    [
        ((), (3, 4), True),  # nothing is declared
        ((1, 2), (5, 2), True),  # exported with a batch of one
        ((1, 2), (5, 3), False),
        ((2, 1), (2, 5), False),
        ((4, 2), (5, 2), False),
        ((-1, -1), (0, 9), True),
        ((-1, 2), (2,), False),
    ],
)
def test_shapes(declared: tuple[int, ...], given: tuple[int, ...], fits: bool) -> None:
    output = Tensor.from_numpy("y", np.zeros(given, np.float32))
    assert (misfit((TensorSpec("y", Datatype.FP32, declared),), output) == "") is fits
