from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capamesh.protocol.errors import InvalidRequest, ProtocolViolation, TooLarge
from capamesh.protocol.oip import (
    InferRequest,
    InferResponse,
    Parameters,
    RequestedOutput,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from capamesh.protocol.plain_text import plain
from capamesh.protocol.tensors import Datatype, Limits, Tensor, join_elements

_LIMITS = Limits(max_message_bytes=4096, max_json_bytes=2048, max_tensors=4, max_dims=4)

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).map(plain)
_shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
_parameters: st.SearchStrategy[Parameters] = st.dictionaries(
    _names.filter(lambda name: name != "binary_data_output"),
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    max_size=3,
)


@st.composite
def _tensors(draw: st.DrawFn, name: str) -> Tensor:
    datatype = draw(st.sampled_from(Datatype))
    shape = draw(_shapes)
    count = math.prod(shape)
    elements = draw(st.lists(_elements(datatype), min_size=count, max_size=count))
    if datatype is Datatype.BYTES:
        return Tensor(name, datatype, shape, join_elements(elements))
    return Tensor(name, datatype, shape, b"".join(elements))


def _elements(datatype: Datatype) -> st.SearchStrategy[bytes]:
    """Return single elements that JSON can hold, as raw bytes: finite floats, UTF-8 strings."""
    if datatype is Datatype.BYTES:
        return _names.map(str.encode)
    if datatype is Datatype.BOOL:
        return st.sampled_from([b"\0", b"\1"])
    size = datatype.itemsize_bytes or 0
    raw = st.binary(min_size=size, max_size=size)
    exponent_mask = {
        Datatype.FP16: 0x7C00,
        Datatype.BF16: 0x7F80,
        Datatype.FP32: 0x7F800000,
        Datatype.FP64: 0x7FF0000000000000,
    }.get(datatype)
    if exponent_mask is None:
        return raw
    return raw.filter(lambda bits: int.from_bytes(bits, "little") & exponent_mask != exponent_mask)


@st.composite
def _lists_of_tensors(draw: st.DrawFn) -> tuple[Tensor, ...]:
    names = draw(st.lists(_names, unique=True, max_size=3))
    return tuple(draw(_tensors(name)) for name in names)


@given(
    _lists_of_tensors(),
    st.lists(
        st.builds(RequestedOutput, _names, st.none() | st.booleans()),
        max_size=3,
        unique_by=lambda output: output.name,
    ),
    _parameters,
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
def test_request_round_trips(
    inputs: tuple[Tensor, ...],
    outputs: list[RequestedOutput],
    parameters: Parameters,
    is_binary: bool,
    request_id: str,
) -> None:
    buffers, header_length = encode_request(
        inputs, outputs=outputs, is_binary=is_binary, id=request_id, parameters=parameters
    )
    assert (header_length is None) == (not is_binary or not inputs)
    back = decode_request("m", "1", b"".join(buffers), header_length)
    assert back == InferRequest("m", "1", request_id, inputs, tuple(outputs), is_binary, parameters)


@given(_lists_of_tensors(), _parameters, st.lists(st.booleans(), min_size=3, max_size=3))
def test_answer_round_trips_whatever_form_each_output_has(
    outputs: tuple[Tensor, ...], parameters: Parameters, forms: list[bool]
) -> None:
    wanted = tuple(
        RequestedOutput(tensor.name, is_binary)
        for tensor, is_binary in zip(outputs, forms, strict=False)
    )
    response = InferResponse("m", "1", "r", outputs, parameters)
    buffers, header_length = encode_response(response, InferRequest("m", "", "r", (), wanted))
    assert decode_response(b"".join(buffers), header_length) == response


@given(_lists_of_tensors().filter(bool), st.booleans())
def test_body_cut_anywhere_is_refused(inputs: tuple[Tensor, ...], is_binary: bool) -> None:
    buffers, header_length = encode_request(inputs, is_binary=is_binary)
    body = b"".join(buffers)
    for end in range(len(body)):
        with pytest.raises(InvalidRequest):
            decode_request("m", "", body[:end], header_length)
        with pytest.raises(ProtocolViolation):
            decode_response(body[:end], header_length)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 3)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(Datatype),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
_junk_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | _values,
        "datatype": st.sampled_from(Datatype) | _values,
        "shape": _shapes | _values,
        "data": st.lists(st.integers(-1, 2) | st.floats(-1, 1) | st.text(max_size=2), max_size=4)
        | _values,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-1, 8) | _values, "k": _values}
        )
        | _values,
    },
)
_junk_messages = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=3) | _values,
        "inputs": st.lists(_junk_tensors, max_size=3) | _values,
        "outputs": st.lists(_junk_tensors, max_size=3) | _values,
        "parameters": st.dictionaries(st.text(max_size=3), _values, max_size=2) | _values,
    },
)


@given(_junk_messages | _values, st.binary(max_size=16))
@example({"inputs": [{"name": "x", "datatype": "INT8", "shape": [0, 2**62], "data": []}]}, b"")
@example({"inputs": [{"name": "x", "datatype": "FP64", "shape": [], "data": 10**400}]}, b"")
def test_junk_messages_are_requests_that_can_be_read_or_are_refused(
    message: object, binary: bytes
) -> None:
    header = json.dumps(message).encode()
    _expect_documented(header + binary, len(header))
    _expect_documented(header[: len(binary)] + binary, len(binary))


def _expect_documented(body: bytes, header_length: int | None) -> None:
    with suppress(ProtocolViolation, TooLarge):
        decode_response(body, header_length, _LIMITS)
    with suppress(InvalidRequest, TooLarge):
        request = decode_request("m", "", body, header_length, _LIMITS)
        for tensor in request.inputs:
            assert tensor.to_numpy().shape == tensor.shape
            tensor.name.encode()
        answer = InferResponse("m", "", "", request.inputs, request.parameters)
        encode_response(answer, request)
