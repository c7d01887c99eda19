"""Answers on the wire: metadata that is alike is encoded once, and nothing of another answer is in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.node.worker.answers import MAX_HEAD_BYTES, MAX_HEADS, AnswerEncoder
from capamesh.protocol.errors import TooLarge
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport, decode_answer
from capamesh.protocol.tensors import Limits, Tensor

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
