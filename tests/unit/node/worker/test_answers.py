"""Answers on the wire: what is alike is encoded once; and the classes of an answer's scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.node.worker.answers import MAX_HEAD_BYTES, MAX_HEADS, AnswerEncoder
from capamesh.node.worker.classification import Classification
from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferAnswer, InferCall, LoadReport, decode_answer
from capamesh.protocol.tensors import (
    MAX_CLASSES,
    Datatype,
    Limits,
    Tensor,
    TensorSpec,
    split_elements,
)
from capamesh.protocol.tensors.classification import MAX_SCORES

HOSTED: Any = SimpleNamespace(version=ModelVersion("3"))


class Encoding:
    """An encoder whose model has one request more in flight each time it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.encoder = AnswerEncoder(Limits(max_texts=2), self.load_of)

    def load_of(self, _: object) -> LoadReport:
        self.asked += 1
        return LoadReport(in_flight=self.asked)

    def answer(
        self, request: PendingRequest, *outputs: Tensor, hosted: Any = HOSTED
    ) -> tuple[bytes, InferAnswer]:
        meta, body = self.encoder.encode(hosted, request, outputs)
        return meta, decode_answer(meta, memoryview(b"".join(body)), Limits())


def batch_of(*arrived_s: float) -> list[PendingRequest]:
    """Return requests that ran together from second 10 on, for a quarter of a second."""
    plan: Any = None
    requests = [PendingRequest((), (), lambda *_: None, arrived_s=each) for each in arrived_s]
    batch = Batch(requests, len(requests), 10.0, plan)
    for request in requests:
        request.batch, request.started_s, request.run_s = batch, 10.0, 0.25
    return requests


def numbers(*values: float, dtype: type = np.float32) -> Tensor:
    return Tensor.from_numpy("y", np.array(values, dtype))


def texts(*values: str) -> Tensor:
    return Tensor.from_numpy("t", np.array(values, object))


def test_answers_of_one_run_share_what_is_alike_and_tell_what_is_their_own() -> None:
    encoding = Encoding()
    first, second, later, longer = batch_of(9.0, 9.0, 9.5, 9.5)
    meta, answer = encoding.answer(first, numbers(1, 2))
    same, other = encoding.answer(second, numbers(3, 4))
    assert same == meta
    load = LoadReport(in_flight=1)
    assert answer == InferAnswer(ModelVersion("3"), answer.outputs, 1_000_000, 250_000, load)
    assert other == answer.replace(outputs=other.outputs)
    assert other.outputs[0].to_numpy().tolist() == [3, 4]
    assert encoding.answer(later, numbers(2))[1].queue_us == 500_000
    assert encoding.answer(longer, numbers(3, 4, 5))[1].outputs[0].shape == (3,)
    assert encoding.asked == 1


def test_texts_are_described_and_checked_each_time() -> None:
    encoding = Encoding()
    first, second, third = batch_of(9.0, 9.0, 9.0)
    encoding.answer(first, texts("a", "bc"))
    (answer,) = encoding.answer(second, texts("def", "g"))[1].outputs
    assert answer.to_numpy().tolist() == [b"def", b"g"]
    with pytest.raises(TooLarge, match="3 BYTES elements"):
        encoding.answer(third, texts("a", "b", "c"))


def test_beginnings_of_metadata_are_so_many_and_none_is_long() -> None:
    encoding, fresh = Encoding(), Encoding()
    (request,) = batch_of(9.0)
    for rows in range(MAX_HEADS + 1):
        encoding.answer(request, numbers(*[0.0] * rows))
    assert repr(encoding.encoder) == f"AnswerEncoder({MAX_HEADS} beginnings)"
    fresh.answer(request, numbers(1).replace(name="y" * MAX_HEAD_BYTES))
    assert repr(fresh.encoder) == "AnswerEncoder(0 beginnings)"


def test_beginning_of_metadata_tells_a_version_a_name_a_shape_and_a_datatype_from_others() -> None:
    encoding = Encoding()
    (request,) = batch_of(9.0)
    one = numbers(1, 2)
    changed = [one.replace(name="z"), one.replace(shape=(1, 2)), numbers(1, 2, dtype=np.int32)]
    for version in ("3", "4"):
        hosted: Any = SimpleNamespace(version=ModelVersion(version))
        for output in (one, *changed):
            answer = encoding.answer(request, output, hosted=hosted)[1]
            (seen,) = answer.outputs
            described = (output.name, output.shape, output.datatype)
            assert (seen.name, seen.shape, seen.datatype) == described
            assert answer.version == version


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


def classes_of(result: Any) -> list[bytes]:
    return [text for tensor in result for text in split_elements(tensor.data, tensor.shape[-1])]


def test_outputs_are_classified_by_their_names_in_whatever_order_they_come() -> None:
    wanted = classification(y=1, z=0)
    assert wanted.of([Z, Y])[0] is Z
    found = classification(z=2, y=1).of([Y, Z])
    assert classes_of(found) == [b"2.000000:1:dog", b"9:1", b"8:2"]
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
