"""Answers as protobuf reads them."""

from __future__ import annotations

from typing import Any

import pytest

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.oip import InferRequest, RequestedOutput
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.grpc.infer_answer import KnownAnswers
from capamesh.router.grpc.messages import CLASSES

ALL = InferRequest("m", "", "", (), is_binary_default=True)
Y = Tensor("y", Datatype.FP32, (1, 2), b"12345678")
Z = Tensor("zähler", Datatype.INT64, (), bytearray(b"87654321"))
EMPTY = Tensor("e", Datatype.FP32, (0, 300), b"")


def answer_of(*outputs: Tensor, described: bytes = b"as the node said") -> InferAnswer:
    return InferAnswer(ModelVersion("1"), outputs, 3, 4, LoadReport(), described)


def read(pieces: list[bytes | memoryview]) -> Any:
    return CLASSES["ModelInferResponse"].FromString(b"".join(pieces))


def test_answer_has_all_outputs_and_their_bytes() -> None:
    found = read(KnownAnswers().written(ALL.replace(id="7"), answer_of(Y, Z, EMPTY), "m"))
    assert found == CLASSES["ModelInferResponse"](
        model_name="m",
        model_version="1",
        id="7",
        outputs=[
            {"name": "y", "datatype": "FP32", "shape": [1, 2]},
            {"name": "zähler", "datatype": "INT64"},
            {"name": "e", "datatype": "FP32", "shape": [0, 300]},
        ],
        raw_output_contents=[b"12345678", b"87654321", b""],
    )


@pytest.mark.parametrize(
    "outputs", [(), (RequestedOutput("zähler"), RequestedOutput("y")), (RequestedOutput("y"),)]
)
def test_answer_that_is_known_is_the_one_that_is_written_anew(
    outputs: tuple[RequestedOutput, ...],
) -> None:
    asked, known = ALL.replace(outputs=outputs), KnownAnswers()
    known.written(asked, answer_of(Y, Z), "m")
    assert len(known) == 1
    second = answer_of(Y.replace(data=b"abcdefgh"), Z)
    assert read(known.written(asked, second, "m")) == read(
        KnownAnswers().written(asked, second, "m")
    )
    assert len(known) == 1


def test_each_answer_of_a_stream_says_whether_it_is_the_last() -> None:
    known = KnownAnswers()
    assert not read(known.written(ALL, answer_of(Y), "m")).parameters
    for is_final in (True, False):
        found = read(known.written(ALL, answer_of(Y), "m", is_final=is_final))
        (entry,) = found.parameters.items()
        assert (entry[0], entry[1].bool_param) == ("triton_final_response", is_final)
