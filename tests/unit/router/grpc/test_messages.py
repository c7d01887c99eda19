"""Requests read by hand and by protobuf agree, whatever the bytes; typed contents and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.internal.wire_format import WIRETYPE_START_GROUP
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import CapameshError, InvalidRequest, TooLarge
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.oip import InferRequest, RequestedOutput
from capamesh.protocol.steps import run_through
from capamesh.protocol.tensors import Datatype, Limits, Tensor
from capamesh.router.grpc.infer_answer import KnownAnswers
from capamesh.router.grpc.infer_request import KnownRequests, decode_in_steps, parsed, raw_apart
from capamesh.router.grpc.messages import CLASSES

LIMITS = Limits()
Request = CLASSES["ModelInferRequest"]
Parameter = CLASSES["InferParameter"]


def message(*raw: bytes, **fields: Any) -> Any:
    described = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    return Request(**{"model_name": "m", "inputs": [described], **fields}, raw_input_contents=raw)


def read(encoded: bytes) -> InferRequest:
    rest, raw = raw_apart(memoryview(encoded), LIMITS)
    return run_through(decode_in_steps(parsed(rest), raw, LIMITS))


def check_message(encoded: bytes) -> bool:
    """Read a message by hand and by protobuf, and see that both are the same; return whether it is one."""
    try:
        expected = Request.FromString(encoded)
    except DecodeError:
        expected = None
    try:
        rest, raw = raw_apart(memoryview(encoded), LIMITS)
        found = parsed(rest)
    except InvalidRequest:
        # groups, which no writer of this message makes, are refused
        assert expected is None or any(
            each.wire_type == WIRETYPE_START_GROUP for each in UnknownFieldSet(expected)
        ), f"protobuf alone reads {encoded.hex()}"
        return False
    except TooLarge:
        return False
    assert expected is not None, f"protobuf does not read {encoded.hex()}"
    assert not found.raw_input_contents
    tensors = list(expected.raw_input_contents)
    expected.ClearField("raw_input_contents")
    assert (found, [bytes(each) for each in raw]) == (expected, tensors)
    return True


messages = st.builds(
    Request,
    model_name=st.text(max_size=5),
    model_version=st.text(max_size=3),
    id=st.text(max_size=3),
    inputs=st.lists(
        st.builds(
            CLASSES["InferInputTensor"],
            name=st.text(max_size=3),
            datatype=st.sampled_from(["FP32", "BYTES", "no"]),
            shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        ),
        max_size=3,
    ),
    raw_input_contents=st.lists(st.binary(max_size=200), max_size=3),
).map(lambda built: built.SerializeToString())


@pytest.mark.full
@given(
    st.lists(
        st.one_of(
            messages,
            st.binary(max_size=12),
            st.just(b"\x3a\x80\x80\x00"),  # a length of more bytes than it needs
            st.just(b"\x3a\x03abc\x0a\x01m"),  # a raw tensor before the model's name
            st.just(b"\x38\x01\x3d1234\x3912345678"),  # the raw tensors' number, but no length
            st.just(b"\xba\x00\x01a"),  # a tag of more bytes than it needs
        ),
        max_size=4,
    ).map(b"".join)
)
@settings(max_examples=500, deadline=None)
@example(b"\x3a")
@example(b"\x3b\x3c")
def test_reading_by_hand_is_what_protobuf_reads(encoded: bytes) -> None:
    check_message(encoded)


def learnt(encoded: bytes, asked: InferRequest) -> KnownRequests:
    """Return what is known once a request has been read."""
    known, whole = KnownRequests(), memoryview(encoded)
    rest, raw = raw_apart(whole, LIMITS)
    assert known.read(rest, raw) is None
    known.learn(whole, rest, raw, asked)
    return known


def test_form_that_is_known_is_read_as_if_it_was_not() -> None:
    first = message(b"12345678", outputs=[{"name": "y"}]).SerializeToString()
    known = learnt(first, read(first))
    second = message(b"abcdefgh", outputs=[{"name": "y"}]).SerializeToString()
    rest, raw = raw_apart(memoryview(second), LIMITS)
    assert known.read(rest, raw) == read(second)
    # another size, or number, is not of that form
    assert known.read(rest, [raw[0][:4]]) is None
    assert known.read(rest, [*raw, *raw]) is None


@pytest.mark.parametrize("behind", [b"\x1a\x00", b"\x08\x00"])
def test_tensor_that_is_not_the_end_is_found_each_time(behind: bytes) -> None:
    encoded = message(b"12345678").SerializeToString()
    known = learnt(encoded + behind, read(encoded))
    assert known.read_whole(memoryview(encoded + behind)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "7"},
        {"inputs": [{"name": "x", "datatype": "BOOL", "shape": [8]}]},
        {"inputs": [{"name": "x" * 1024, "datatype": "FP32", "shape": [2]}]},
    ],
)
def test_forms_that_differ_each_time_are_not_kept(fields: dict[str, Any]) -> None:
    encoded = message(b"\0" * 8, **fields).SerializeToString()
    assert len(learnt(encoded, read(encoded))) == 0


@pytest.mark.parametrize(
    ("datatype", "contents", "raw"),
    [
        ("BOOL", {"bool_contents": [True, False]}, b"\1\0"),
        ("INT8", {"int_contents": [-1, 2]}, b"\xff\2"),
        ("INT16", {"int_contents": [-1, 2]}, b"\xff\xff\2\0"),
        ("INT32", {"int_contents": [-1, 2]}, np.array([-1, 2], "<i4").tobytes()),
        ("INT64", {"int64_contents": [-1, 2**62]}, np.array([-1, 2**62], "<i8").tobytes()),
        ("UINT8", {"uint_contents": [255, 2]}, b"\xff\2"),
        ("UINT16", {"uint_contents": [65535, 2]}, b"\xff\xff\2\0"),
        ("UINT32", {"uint_contents": [2**32 - 1, 2]}, b"\xff\xff\xff\xff\2\0\0\0"),
        ("UINT64", {"uint64_contents": [2**64 - 1, 2]}, b"\xff" * 8 + b"\2" + b"\0" * 7),
        ("FP32", {"fp32_contents": [1.5, -2]}, np.array([1.5, -2], "<f4").tobytes()),
        ("FP64", {"fp64_contents": [1.5, -2]}, np.array([1.5, -2], "<f8").tobytes()),
        ("BYTES", {"bytes_contents": [b"a", b"bc"]}, b"\1\0\0\0a\2\0\0\0bc"),
    ],
)
def test_typed_contents_become_the_raw_bytes(
    datatype: str, contents: dict[str, list[Any]], raw: bytes
) -> None:
    described = {"name": "x", "datatype": datatype, "shape": [2]}
    asked = read(message(inputs=[described | {"contents": contents}]).SerializeToString())
    assert asked.inputs == (Tensor("x", Datatype(datatype), (2,), raw),)
    assert read(message(raw, inputs=[described]).SerializeToString()).inputs[0].data == raw


def test_parameters_and_classes_are_those_of_http() -> None:
    parameters = {
        "timeout": Parameter(int64_param=5),
        "sequence_id": Parameter(string_param="s"),
        "sequence_start": Parameter(bool_param=True),
        "share": Parameter(double_param=0.5),
        "priority": Parameter(uint64_param=2),
    }
    output = {"name": "y", "parameters": {"classification": Parameter(int64_param=3)}}
    outputs = [CLASSES["InferRequestedOutputTensor"](**output)]
    encoded = message(b"12345678", parameters=parameters, outputs=outputs).SerializeToString()
    asked = read(encoded)
    assert asked.parameters == dict(zip(parameters, (5, "s", True, 0.5, 2), strict=True))
    assert ([each.name for each in asked.outputs], asked.classes) == (["y"], (3,))


X = {"name": "x", "datatype": "FP32", "shape": [1, 2]}


EIGHT = b"12345678"
SHARED = CLASSES["InferInputTensor"](**X, parameters={"shared_memory_region": Parameter()})


@pytest.mark.parametrize(
    ("raw", "fields", "text"),
    [
        ([b"1234567"], {}, "needs 8 bytes, got 7"),
        ([b"1", b"2"], {}, "2 raw_input_contents for 1 inputs"),
        ([], {"inputs": [X | {"contents": {"fp32_contents": [1]}}]}, "needs 8 bytes, got 4"),
        ([EIGHT], {"inputs": [X | {"contents": {"fp32_contents": [1]}}]}, "send one of them"),
        (
            [],
            {"inputs": [X | {"contents": {"fp64_contents": [1, 2]}}]},
            "FP32 goes in fp32_contents, not in fp64_contents",
        ),
        (
            [],
            {"inputs": [X | {"datatype": "INT8", "contents": {"int_contents": [1, 200]}}]},
            "does not fit INT8",
        ),
        ([], {"inputs": [X | {"datatype": "FP16"}]}, "FP16 has no typed contents"),
        ([EIGHT], {"inputs": [X | {"datatype": "x"}]}, "must be one of"),
        ([EIGHT, EIGHT], {"inputs": [X, X]}, "repeats the name"),
        ([EIGHT], {"parameters": {"k": Parameter()}}, "'k' has no value"),
        ([b""], {"inputs": [SHARED]}, "shared memory"),
    ],
)
def test_malformed_request_is_refused_with_its_reason(
    raw: list[bytes], fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text):
        read(message(*raw, **fields).SerializeToString())


@pytest.mark.parametrize("encoded", [b"\x0a\xff", b"\x0b\x0c"])
def test_bytes_that_are_no_message_are_refused(encoded: bytes) -> None:
    with pytest.raises(InvalidRequest, match="no ModelInferRequest"):
        read(encoded)


@pytest.mark.parametrize(
    "encoded",
    [
        message(inputs=[X | {"contents": {"fp32_contents": [1.0] * (2**18 + 1)}}]),
        message(*[b""] * 50),
    ],
)
def test_too_much_beside_the_raw_tensors_is_refused_before_it_is_read(encoded: Any) -> None:
    with pytest.raises(TooLarge, match="which is the limit"):
        raw_apart(memoryview(encoded.SerializeToString()), Limits(max_tensors=16))


@given(messages)
@settings(max_examples=300, deadline=None)
def test_any_message_is_a_request_or_one_of_the_network_s_errors(encoded: bytes) -> None:
    try:
        asked = read(encoded)
    except CapameshError:
        return
    assert asked.model == Request.FromString(encoded).model_name


ALL = InferRequest("m", "", "", (), is_binary_default=True)
Y = Tensor("y", Datatype.FP32, (1, 2), b"12345678")
Z = Tensor("zähler", Datatype.INT64, (), bytearray(b"87654321"))
EMPTY = Tensor("e", Datatype.FP32, (0, 300), b"")


def answer_of(*outputs: Tensor, described: bytes = b"as the node said") -> InferAnswer:
    return InferAnswer(ModelVersion("1"), outputs, 3, 4, LoadReport(), described)


def answered(pieces: list[bytes | memoryview]) -> Any:
    return CLASSES["ModelInferResponse"].FromString(b"".join(pieces))


def test_answer_has_all_outputs_and_their_bytes() -> None:
    found = answered(KnownAnswers().written(ALL.replace(id="7"), answer_of(Y, Z, EMPTY), "m"))
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
    assert answered(known.written(asked, second, "m")) == answered(
        KnownAnswers().written(asked, second, "m")
    )
    assert len(known) == 1


def test_each_answer_of_a_stream_says_whether_it_is_the_last() -> None:
    known = KnownAnswers()
    assert not answered(known.written(ALL, answer_of(Y), "m")).parameters
    for is_final in (True, False):
        found = answered(known.written(ALL, answer_of(Y), "m", is_final=is_final))
        (entry,) = found.parameters.items()
        assert (entry[0], entry[1].bool_param) == ("triton_final_response", is_final)
