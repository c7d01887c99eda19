"""Turns an HTTP body into a request or an answer; what is binary in it stays where it lies. Pure."""

from __future__ import annotations

import math
from typing import cast

from capamesh.protocol.errors import InvalidRequest, ProtocolViolation, TooLarge
from capamesh.protocol.oip.fields import (
    read_binary_size,
    read_datatype,
    read_id,
    read_json_data,
    read_name,
    read_parameters,
    read_shape,
    read_text,
    refuse_repeated,
)
from capamesh.protocol.oip.forms import KnownInputs
from capamesh.protocol.oip.json_steps import AT_ONCE_BYTES, parse_in_steps
from capamesh.protocol.oip.json_text import parse_object, shown
from capamesh.protocol.oip.messages import (
    CLASSIFICATION,
    HEADER_LENGTH_NAME,
    NO_PARAMETERS,
    InferRequest,
    InferResponse,
    RequestedOutput,
)
from capamesh.protocol.steps import Steps, run_through
from capamesh.protocol.tensors import (
    DEFAULT_LIMITS,
    MAX_CLASSES,
    Datatype,
    Limits,
    Tensor,
    check_texts,
    checked,
)
from capamesh.protocol.tensors.byte_elements import STEP_ELEMENTS, walk_in_steps

_TENSORS_A_STEP = 256
"""Tensors that are looked at in a step (measured: 4 µs each)."""

_MAX_LENGTH_DIGITS = 18
"""Digits of a header length: every one fits 63 bits; no body is that long."""

NON_FINITE_NAME = "non_finite_output"
"""The parameter that says how an answer in JSON gives NaN and infinities."""

_UNSUPPORTED_OUTPUT_PARAMETERS = {
    "shared_memory_region": "the network's peers share no memory, ask for binary data",
}


def parse_header_length(text: str | None) -> int | None:
    """Return the value of the HTTP header `Inference-Header-Content-Length`, None when absent.

    InvalidRequest: not decimal digits.
    """
    if text is None:
        return None
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_LENGTH_DIGITS):
        raise InvalidRequest(
            f"{HEADER_LENGTH_NAME} must be the JSON's length in bytes, in digits, got {shown(text)}"
        )
    return int(digits)


def decode_request(
    model: str,
    version: str,
    body: bytes | bytearray | memoryview,
    header_length: int | None,
    limits: Limits = DEFAULT_LIMITS,
) -> InferRequest:
    """Return what `decode_request_in_steps` does, at once."""
    return run_through(decode_request_in_steps(model, version, body, header_length, limits))


def decode_request_in_steps(
    model: str,
    version: str,
    body: bytes | bytearray | memoryview,
    header_length: int | None,
    limits: Limits = DEFAULT_LIMITS,
    known: KnownInputs | None = None,
) -> Steps[InferRequest]:
    """Return the request for `model` that `body` holds; binary inputs are views of `body`.

    `header_length` is the bytes of JSON at the body's start, None when all of it is JSON. Inputs'
    own parameters other than `binary_data_size` are dropped; unknown keys are ignored,
    and null stands for an optional key that is absent. Descriptions that are `known` have been found right within
    these very `limits`; others are added.
    InvalidRequest: anything malformed, with the tensor and the value; TooLarge: over `limits`.
    """
    view, header_bytes = _opened(body, header_length, limits, limits.max_json_bytes)
    if header_bytes <= AT_ONCE_BYTES:
        request = parse_object(view[:header_bytes])
    else:
        request = yield from parse_in_steps(view[:header_bytes], limits.max_tensors)
    inputs = yield from _tensors(request, "inputs", view, header_bytes, limits, known)
    parameters = read_parameters(request) if "parameters" in request else NO_PARAMETERS
    is_binary_default = is_non_finite_text = False
    if "binary_data_output" in parameters or NON_FINITE_NAME in parameters:
        rest = dict(parameters)
        wanted = rest.pop("binary_data_output", False)
        if type(wanted) is not bool:
            raise InvalidRequest(
                f"parameter binary_data_output must be true or false, got {shown(wanted)}"
            )
        non_finite = rest.pop(NON_FINITE_NAME, "error")
        if non_finite not in {"error", "text"}:
            raise InvalidRequest(
                f"parameter {NON_FINITE_NAME} must be 'error' or 'text', got {shown(non_finite)}"
            )
        parameters, is_binary_default = rest, wanted
        is_non_finite_text = non_finite == "text"
    outputs, classes = requested_outputs(request, limits) if "outputs" in request else ((), ())
    return InferRequest(
        model,
        version,
        read_id(request) if "id" in request else "",
        inputs,
        outputs,
        is_binary_default,
        parameters,
        is_non_finite_text,
        classes,
    )


def decode_response(
    body: bytes | bytearray | memoryview,
    header_length: int | None,
    limits: Limits = DEFAULT_LIMITS,
) -> InferResponse:
    """Return the answer that `body` holds; binary outputs are views of `body`.

    ProtocolViolation: anything malformed, which is the answering peer's fault; TooLarge: over
    `limits`.
    """
    try:
        view, header_bytes = _opened(body, header_length, limits, limits.max_json_answer_bytes)
        response = parse_object(view[:header_bytes])
        return InferResponse(
            read_text(response, "model_name"),
            read_text(response, "model_version"),
            read_text(response, "id"),
            run_through(_tensors(response, "outputs", view, header_bytes, limits)),
            read_parameters(response),
        )
    except InvalidRequest as exc:
        raise ProtocolViolation(f"malformed answer: {exc.message}") from exc


def _opened(
    body: bytes | bytearray | memoryview,
    header_length: int | None,
    limits: Limits,
    most_json_bytes: int,
) -> tuple[memoryview, int]:
    """Return the body's bytes as a view and how many of them are JSON."""
    view = memoryview(body)
    body_bytes = len(view)
    if body_bytes > limits.max_message_bytes:
        raise TooLarge(f"the body has {body_bytes} bytes; the limit is {limits.max_message_bytes}")
    header_bytes = body_bytes if header_length is None else header_length
    if not 0 <= header_bytes <= body_bytes:
        raise InvalidRequest(
            f"{HEADER_LENGTH_NAME} is {header_bytes}; it must be from 0 to the body's {body_bytes} "
            "bytes"
        )
    if not header_bytes:
        raise InvalidRequest(
            f"no JSON in a body of {body_bytes} bytes (JSON length {header_bytes}); raw tensors need "
            "a JSON header that describes them"
        )
    if header_bytes > most_json_bytes:
        raise _too_much_json(header_bytes, most_json_bytes)
    return view, header_bytes


def json_refusal(json_bytes: int, limits: Limits) -> TooLarge | None:
    """Return why a request with so much JSON is not read; None: it is."""
    most_bytes = limits.max_json_bytes
    return None if json_bytes <= most_bytes else _too_much_json(json_bytes, most_bytes)


def _too_much_json(json_bytes: int, most_bytes: int) -> TooLarge:
    return TooLarge(
        f"the JSON has {json_bytes} bytes; the limit is {most_bytes}; send tensors as binary data after a short JSON"
        f" ({HEADER_LENGTH_NAME} says where it ends)"
    )


def _tensors(
    message: dict[str, object],
    key: str,
    view: memoryview,
    header_bytes: int,
    limits: Limits,
    known: KnownInputs | None = None,
) -> Steps[tuple[Tensor, ...]]:
    """Return the tensors under `key`: binary ones as the slices after the JSON, in order."""
    items = message.get(key)
    if type(items) is not list:
        raise InvalidRequest(f"{key!r} must be a list of tensors, got {shown(items)}")
    listed = cast("list[object]", items)
    if len(listed) > limits.max_tensors:
        raise TooLarge(f"{len(listed)} {key}; the limit is {limits.max_tensors}")
    tensors: list[Tensor] = []
    offset = header_bytes
    body_bytes = len(view)
    texts = 0
    is_walked = False
    for index, item in enumerate(listed):
        if index % _TENSORS_A_STEP == _TENSORS_A_STEP - 1:
            yield
        if type(item) is not dict:
            raise InvalidRequest(f"{key}[{index}] must be an object, got {shown(item)}")
        fields = cast("dict[str, object]", item)
        tensor = known.read(fields) if known is not None else None
        if tensor is not None:
            tensors.append(tensor)
            continue
        name = read_name(f"{key}[{index}]", fields, limits)
        datatype = read_datatype(name, fields)
        shape = read_shape(name, fields, limits)
        if datatype is Datatype.BYTES:
            texts += math.prod(shape)
            check_texts(name, texts, limits)
        size_bytes = read_binary_size(name, fields)
        data: bytes | memoryview
        if size_bytes is None:
            data = yield from read_json_data(name, datatype, shape, fields)
        else:
            end = offset + size_bytes
            if end > body_bytes:
                raise InvalidRequest(
                    f"tensor {name!r} has binary_data_size {shown(size_bytes)}, but only "
                    f"{body_bytes - offset} of the {body_bytes - header_bytes} bytes after the JSON "
                    "are left for it"
                )
            data = view[offset:end]
            offset = end
        if datatype is Datatype.BYTES and texts > STEP_ELEMENTS:
            yield from walk_in_steps(name, data, math.prod(shape), size_bytes=len(data))
            is_walked = True
        tensor = checked(Tensor(name, datatype, shape, data), limits, is_walked=is_walked)
        if known is not None:
            known.add(tensor)
        tensors.append(tensor)
    if offset != body_bytes:
        raise InvalidRequest(
            f"{body_bytes - header_bytes} bytes follow the JSON, but the binary_data_size of all {key} "
            f"sum to {offset - header_bytes}"
        )
    if len(tensors) > 1:
        refuse_repeated(key, [tensor.name for tensor in tensors])
    return tuple(tensors)


def requested_outputs(
    request: dict[str, object], limits: Limits
) -> tuple[tuple[RequestedOutput, ...], tuple[int, ...]]:
    """Return the outputs that a request names, and how many classes of each it wants; no numbers where it wants none."""
    items = request.get("outputs")
    if items is None:
        return (), ()
    if type(items) is not list:
        raise InvalidRequest(f"'outputs' must be a list, got {shown(items)}")
    listed = cast("list[object]", items)
    if len(listed) > limits.max_tensors:
        raise TooLarge(f"{len(listed)} outputs; the limit is {limits.max_tensors}")
    outputs: list[RequestedOutput] = []
    classes: dict[int, int] = {}
    for index, item in enumerate(listed):
        if type(item) is not dict:
            raise InvalidRequest(f"outputs[{index}] must be an object, got {shown(item)}")
        fields = cast("dict[str, object]", item)
        name = read_name(f"outputs[{index}]", fields, limits)
        outputs.append(RequestedOutput(name, _wants_binary(name, fields)))
        given = fields.get("parameters")
        if type(given) is dict and CLASSIFICATION in given:
            classes[index] = _class_count(name, cast("dict[str, object]", given)[CLASSIFICATION])
    refuse_repeated("outputs", [output.name for output in outputs])
    if not any(classes.values()):
        return tuple(outputs), ()
    return tuple(outputs), tuple(classes.get(index, 0) for index in range(len(outputs)))


def _class_count(name: str, count: object) -> int:
    if type(count) is not int or not 0 <= count <= MAX_CLASSES:
        raise InvalidRequest(
            f"output {shown(name)}: classification must be a whole number from 0 to {MAX_CLASSES}, got {shown(count)}"
        )
    return count


def _wants_binary(name: str, fields: dict[str, object]) -> bool | None:
    given = fields.get("parameters")
    if given is None:
        return None
    if type(given) is not dict:
        raise InvalidRequest(
            f"output {shown(name)}: parameters must be an object, got {shown(given)}"
        )
    parameters = cast("dict[str, object]", given)
    for unsupported, instead in _UNSUPPORTED_OUTPUT_PARAMETERS.items():
        if unsupported in parameters:
            raise InvalidRequest(
                f"output {shown(name)}: the parameter {unsupported} is not supported; {instead}"
            )
    wanted = parameters.get("binary_data")
    if wanted is not None and type(wanted) is not bool:
        raise InvalidRequest(
            f"output {shown(name)}: binary_data must be true or false, got {shown(wanted)}"
        )
    return wanted
