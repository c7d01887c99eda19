from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.node.worker.answers import MAX_HEAD_BYTES, MAX_HEADS, AnswerEncoder
from capamesh.protocol.errors import TooLarge
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport, decode_answer
from capamesh.protocol.tensors import Limits, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.node.models.registry import HostedModel
    from capamesh.node.scheduling.pending_request import RunPlan

HOSTED = cast("HostedModel", SimpleNamespace(version=ModelVersion("3")))
LIMITS = Limits(max_texts=2)


class Encoding:
    """An encoder whose model has one request more in flight each time it is asked, and batches to answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.encoder = AnswerEncoder(LIMITS, self.load_of)

    def load_of(self, hosted: HostedModel) -> LoadReport:
        assert hosted is HOSTED
        self.asked += 1
        return LoadReport(in_flight=self.asked)

    def answer(self, request: PendingRequest, *outputs: Tensor) -> tuple[bytes, InferAnswer]:
        meta, body = self.encoder.encode(HOSTED, request, outputs)
        return meta, decode_answer(meta, memoryview(b"".join(body)), Limits())


def nobody(request: PendingRequest, result: object) -> None:
    raise AssertionError(f"an encoder answers nobody: {request}, {result}")


def batch_of(*arrived_s: float) -> Sequence[PendingRequest]:
    """Return requests that ran together from second 10 on, for a quarter of a second."""
    requests = [PendingRequest((), (), nobody, arrived_s=each) for each in arrived_s]
    batch = Batch(requests, len(requests), 10.0, cast("RunPlan", None))
    for request in requests:
        request.batch, request.started_s, request.run_s = batch, 10.0, 0.25
    return requests


def numbers(*values: float) -> Tensor:
    return Tensor.from_numpy("y", np.array(values, np.float32))


def texts(*values: str) -> Tensor:
    return Tensor.from_numpy("t", np.array(values, object))


def test_answers_of_one_run_that_look_alike_have_the_same_metadata() -> None:
    encoding = Encoding()
    first, second = batch_of(9.0, 9.0)
    meta, answer = encoding.answer(first, numbers(1, 2))
    same, other = encoding.answer(second, numbers(3, 4))
    assert same == meta
    load = LoadReport(in_flight=1)
    assert answer == InferAnswer(ModelVersion("3"), answer.outputs, 1_000_000, 250_000, load)
    assert other == answer.replace(outputs=other.outputs)
    assert other.outputs[0].to_numpy().tolist() == [3, 4]


def test_each_answer_tells_what_is_its_own() -> None:
    encoding = Encoding()
    first, later, longer = batch_of(9.0, 9.5, 9.5)
    assert encoding.answer(first, numbers(1))[1].queue_us == 1_000_000
    assert encoding.answer(later, numbers(2))[1].queue_us == 500_000
    assert encoding.answer(longer, numbers(3, 4))[1].outputs[0].shape == (2,)
    assert encoding.asked == 1


def test_texts_are_described_and_checked_each_time() -> None:
    encoding = Encoding()
    first, second, third = batch_of(9.0, 9.0, 9.0)
    encoding.answer(first, texts("a", "bc"))
    assert encoding.answer(second, texts("def", "g"))[1].outputs[0].to_numpy().tolist() == [
        b"def",
        b"g",
    ]
    with pytest.raises(TooLarge, match="3 BYTES elements"):
        encoding.answer(third, texts("a", "b", "c"))


def test_beginnings_of_metadata_are_so_many_and_none_is_long() -> None:
    encoding = Encoding()
    (request,) = batch_of(9.0)
    for rows in range(MAX_HEADS + 1):
        encoding.answer(request, numbers(*[0.0] * rows))
    assert repr(encoding.encoder) == f"AnswerEncoder({MAX_HEADS} beginnings)"
    fresh = Encoding()
    fresh.answer(request, numbers(1).replace(name="y" * MAX_HEAD_BYTES))
    assert repr(fresh.encoder) == "AnswerEncoder(0 beginnings)"


def test_beginning_of_metadata_tells_a_version_a_name_a_shape_and_a_datatype_from_others() -> None:
    encoding = Encoding()
    (request,) = batch_of(9.0)
    for output in (
        numbers(1, 2),
        numbers(1, 2).replace(name="z"),
        numbers(1, 2).replace(shape=(1, 2)),
        Tensor.from_numpy("y", np.array([1, 2], np.int32)),
    ):
        meta, body = encoding.encoder.encode(HOSTED, request, [output])
        answer = decode_answer(meta, memoryview(b"".join(body)), Limits())
        (seen,) = answer.outputs
        assert (seen.name, seen.shape, seen.datatype) == (
            output.name,
            output.shape,
            output.datatype,
        )
    other = cast("HostedModel", SimpleNamespace(version=ModelVersion("4")))
    encoder = AnswerEncoder(LIMITS, lambda _: LoadReport())
    for hosted in (HOSTED, other):
        meta, body = encoder.encode(hosted, request, [numbers(1, 2)])
        assert decode_answer(meta, memoryview(b"".join(body)), Limits()).version == hosted.version
