"""The classification of a request's outputs: what is refused before the run, and what its result becomes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from capamesh.node.worker.classification import Classification
from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import (
    MAX_CLASSES,
    Datatype,
    Tensor,
    TensorSpec,
    split_elements,
)
from capamesh.protocol.tensors.classification import MAX_SCORES

SPECS = (
    TensorSpec("y", Datatype.FP32, (-1, 2)),
    TensorSpec("z", Datatype.UINT8, (4,)),
    TensorSpec("text", Datatype.BYTES, (-1,)),
)
Y = Tensor.from_numpy("y", np.array([[1, 2]], np.float32))
Z = Tensor.from_numpy("z", np.array([7, 9, 8, 0], np.uint8))
LABELS = {"y": ("cat", "dog")}


def classification(*specs: TensorSpec, **classes: int) -> Classification:
    call = InferCall(
        ModelName("m"), ModelVersion(""), (), tuple(classes), classes=tuple(classes.values())
    )
    prepared: Any = SimpleNamespace(
        plan=SimpleNamespace(public_outputs=specs or SPECS), labels=LABELS
    )
    return Classification(call, prepared)


def texts(result: Any) -> list[bytes]:
    return [text for tensor in result for text in split_elements(tensor.data, tensor.shape[-1])]


def test_outputs_are_classified_by_their_names_in_whatever_order_they_come() -> None:
    wanted = classification(y=1, z=0)
    assert wanted.of([Z, Y])[0] is Z
    found = classification(z=2, y=1).of([Y, Z])
    assert texts(found) == [b"2.000000:1:dog", b"9:1", b"8:2"]
    assert [tensor.shape for tensor in found] == [(1, 1), (2,)]


def test_output_without_scores_is_refused_before_the_run() -> None:
    with pytest.raises(InvalidRequest, match="output 'text' is BYTES, which are no scores"):
        classification(y=1, text=1)
    classification(y=1, text=0)


def test_outputs_share_the_bounds_of_a_request() -> None:
    specs = [TensorSpec(name, Datatype.UINT8, (-1, -1)) for name in "abc"]

    def result(columns: int, *classes: int) -> Any:
        wanted = classification(*specs, **dict(zip("abc", classes, strict=True)))
        row = (1, columns)
        return wanted.of([Tensor(name, Datatype.UINT8, row, bytes(columns)) for name in "abc"])

    some, few = MAX_SCORES // 3, MAX_CLASSES // 3
    assert len(result(some, 1, 1, 1)) == len(result(3000, few, few, few)) == 3
    wide, many = result(some + 1, 1, 1, 1), result(3000, few, few, few + 3)
    assert type(wide) is type(many) is TooLarge
    assert wide.message.startswith(f"the outputs to classify have {3 * (some + 1)} scores")
    assert many.message.startswith(f"the answer would have more than {MAX_CLASSES} classes")
