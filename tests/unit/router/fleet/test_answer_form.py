from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet_fakes import fp32, offer

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.fleet.answer_form import AnswerForm

Y = TensorSpec("y", Datatype.FP32, (-1, 2))
N = TensorSpec("n", Datatype.INT64, (-1,))
TWO = replace(offer(), outputs=(Y, N))
N_OF_1 = Tensor.from_numpy("n", np.array([7], np.int64))


def answer(*outputs: Tensor, version: str = "1") -> InferAnswer:
    return InferAnswer(ModelVersion(version), outputs, 1, 1, LoadReport())


@pytest.mark.parametrize(
    "outputs", [(fp32("y", [1, 2]), N_OF_1), (N_OF_1, fp32("y", [1, 2], [3, 4]))]
)
def test_all_outputs_in_any_order_and_of_any_open_dimension_fit(
    outputs: tuple[Tensor, ...],
) -> None:
    assert AnswerForm(TWO).misfit(answer(*outputs), ()) == ""


def test_answer_that_is_wanted_is_all_that_fits() -> None:
    form = AnswerForm(TWO)
    assert form.misfit(answer(N_OF_1), ("n",)) == ""
    assert form.misfit(answer(N_OF_1), ()) == "it has 1 outputs of 2"
    assert form.misfit(answer(N_OF_1), ("y",)) == "it has no output 'y'"
    assert form.misfit(answer(N_OF_1, N_OF_1), ("y", "n")) == "it has no output 'y'"
    assert form.misfit(answer(fp32("y", [1, 2]), N_OF_1), ("n", "y")) == ""


def test_difference_is_reported_with_both_sides() -> None:
    form = AnswerForm(TWO)
    wrong_shape = answer(fp32("y", [1, 2, 3]), N_OF_1)
    assert form.misfit(wrong_shape, ()) == "output 'y' is FP32[1, 3], not FP32[-1, 2]"
    wrong_type = answer(fp32("y", [1, 2]), fp32("n", [1]))
    assert form.misfit(wrong_type, ()) == "output 'n' is FP32[1, 1], not INT64[-1]"
    assert form.misfit(answer(version="9"), ()) == "it is of version '9'"


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
    form = AnswerForm(replace(offer(), outputs=(TensorSpec("y", Datatype.FP32, declared),)))
    output = Tensor.from_numpy("y", np.zeros(given, np.float32))
    assert (form.misfit(answer(output), ()) == "") is fits


def test_outputs_that_an_offer_lacks() -> None:
    form = AnswerForm(TWO)
    assert (form.lacks(("n", "y")), form.lacks(("y", "z")), form.lacks(("",))) == ("", "z", "''")
    assert form.names() == "'y', 'n'"


@pytest.mark.parametrize(
    ("output", "misfit"),
    [
        (Tensor("y", Datatype.BYTES, (3, 2), b""), ""),
        (Tensor("y", Datatype.BYTES, (3, 1), b""), ""),  # there were no more classes
        (
            Tensor("y", Datatype.BYTES, (2,), b""),
            "output 'y' is BYTES[2], not BYTES[-1, 2]",
        ),
        (Tensor("y", Datatype.BYTES, (), b""), "output 'y' is BYTES[], not BYTES[-1, 2]"),
        (fp32("y", [1, 2]), ""),  # of a node that knows no classification
        (
            Tensor("y", Datatype.BYTES, (3, 3), b""),
            "output 'y' is BYTES[3, 3], not BYTES[-1, 2]",
        ),
        (
            Tensor("y", Datatype.BYTES, (1, 1, 1), b""),
            "output 'y' is BYTES[1, 1, 1], not BYTES[-1, 1]",
        ),
        (N_OF_1, "it has no output 'y'"),
    ],
)
def test_output_may_come_as_so_many_classes_as_were_wanted(output: Tensor, misfit: str) -> None:
    form = AnswerForm(TWO)
    assert form.misfit(answer(output), ("y",), (2,)) == misfit
    if output.datatype is Datatype.BYTES:  # which is right only where classes are wanted
        assert form.misfit(answer(output), ("y",)) != ""
        assert form.misfit(answer(output), ("y",), (0,)) != ""


@pytest.mark.parametrize(
    ("output", "misfit"),
    [
        (Tensor("y", Datatype.BYTES, (2,), b""), ""),
        (
            Tensor("y", Datatype.BYTES, (1, 2), b""),
            "output 'y' is BYTES[1, 2], not BYTES[2]",
        ),
    ],
)
def test_classes_of_an_output_without_rows_are_one_list(output: Tensor, misfit: str) -> None:
    form = AnswerForm(replace(offer(), outputs=(TensorSpec("y", Datatype.FP32, (1, 5)),)))
    assert form.misfit(answer(output), ("y",), (2,)) == misfit


def test_outputs_of_a_models_task_may_be_wanted_and_are_of_its_form() -> None:
    form = AnswerForm(replace(TWO, task=Task.TEXT_EMBEDDING))
    counts = Tensor.from_numpy("tokens", np.array([3], np.int32))
    assert form.lacks(("embedding", "tokens", "y")) == ""
    assert form.misfit(answer(counts, fp32("embedding", [1, 2, 3])), ("embedding", "tokens")) == ""
    assert form.misfit(answer(fp32("tokens", [1])), ("tokens",)) == (
        "output 'tokens' is FP32[1, 1], not INT32[-1]"
    )
    assert (
        form.misfit(answer(fp32("y", [1, 2]), N_OF_1), ()) == ""
    )  # none is named: the model's own
    assert AnswerForm(TWO).lacks(("embedding",)) == "embedding"
