"""Reads a `ModelInferRequest`: its raw tensors stay where they lie, and what describes them is remembered. Pure.

The raw tensors are one field, which is taken out of the message by hand; protobuf reads the rest. A client sends the same
rest before the tensors of all its requests, as long as their shapes are the same.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from google.protobuf.message import DecodeError

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.oip.decoding import requested_outputs
from capamesh.protocol.oip.fields import (
    read_datatype,
    read_name,
    read_parameters,
    read_shape,
    refuse_repeated,
)
from capamesh.protocol.oip.messages import InferRequest
from capamesh.protocol.tensors import Datatype, Tensor, check_texts, checked, join_elements
from capamesh.protocol.tensors.byte_elements import STEP_ELEMENTS, walk_in_steps
from capamesh.protocol.values import Value
from capamesh.router.grpc.messages import CLASSES, Message

if TYPE_CHECKING:
    from capamesh.protocol.oip.messages import Parameters, RequestedOutput
    from capamesh.protocol.steps import Steps
    from capamesh.protocol.tensors import Limits

MAX_TYPED_BYTES: Final = 2**20
"""The most bytes of a request beside its raw tensors: descriptions, parameters, typed contents (guess: a quarter of what
JSON may have, for it is read at once)."""
MAX_FORMS: Final = 256
"""Forms that are remembered (guess: a few clients of each of some models); the oldest makes room."""
MAX_FORM_BYTES: Final = 1024
"""A longer description is read each time (guess: some eight inputs)."""
_TENSORS_A_STEP: Final = 256
_RAW_TAG: Final = 0x3A
"""The field `raw_input_contents`, number 7 with a length."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10
_CONTENTS: Final[dict[Datatype, tuple[str, str]]] = {
    Datatype.BOOL: ("bool_contents", "?"),
    Datatype.INT8: ("int_contents", "i1"),
    Datatype.INT16: ("int_contents", "<i2"),
    Datatype.INT32: ("int_contents", "<i4"),
    Datatype.INT64: ("int64_contents", "<i8"),
    Datatype.UINT8: ("uint_contents", "u1"),
    Datatype.UINT16: ("uint_contents", "<u2"),
    Datatype.UINT32: ("uint_contents", "<u4"),
    Datatype.UINT64: ("uint64_contents", "<u8"),
    Datatype.FP32: ("fp32_contents", "<f4"),
    Datatype.FP64: ("fp64_contents", "<f8"),
    Datatype.BYTES: ("bytes_contents", ""),
}
"""The field of typed contents for each datatype, as the protocol has it, and numpy's code for the elements."""


def raw_apart(message: memoryview, limits: Limits) -> tuple[bytes, list[memoryview]]:
    """Return a message without its raw tensors, and these as views of it.

    Raises:
        InvalidRequest: it is not a message of protobuf.
        TooLarge: it has too many fields, or too many bytes beside its raw tensors.
    """
    at, size_bytes = 0, len(message)
    raw: list[memoryview] = []
    rest: list[memoryview] = []
    rest_at = rest_bytes = fields = length = 0
    most_fields = 3 * limits.max_tensors
    try:
        while at < size_bytes:
            begin = at
            tag, at = _varint(message, at)
            kind = tag & 7
            if kind == _LENGTH:
                length, at = _varint(message, at)
                at += length
            elif kind == _VARINT:
                _, at = _varint(message, at)
            elif kind == _FIXED64:
                at += 8
            elif kind == _FIXED32:
                at += 4
            else:
                raise _no_message()
            fields += 1
            if at > size_bytes or fields > most_fields:
                break
            if tag == _RAW_TAG:
                raw.append(message[at - length : at])
                if rest_at < begin:
                    rest.append(message[rest_at:begin])
                rest_at = at
            else:
                rest_bytes += at - begin
                if rest_bytes > MAX_TYPED_BYTES:
                    break
    except IndexError:
        raise _no_message() from None
    if rest_bytes > MAX_TYPED_BYTES:
        raise TooLarge(
            f"the request has over {MAX_TYPED_BYTES} bytes beside its raw_input_contents, which is the limit: send tensors"
            " there, not in contents"
        )
    if fields > most_fields:
        raise TooLarge(f"the request has over {most_fields} fields, which is the limit")
    if at > size_bytes:
        raise _no_message()
    if rest_at < size_bytes:
        rest.append(message[rest_at:])
    return b"".join(rest), raw


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins there, and where it ends. Raises `IndexError` where the message ends before."""
    byte = message[at]
    if byte < 0x80:
        return byte, at + 1
    value = shift = 0
    for place in range(at, at + _MAX_VARINT_BYTES):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise _no_message()


def _no_message() -> InvalidRequest:
    return InvalidRequest(
        "the bytes of the request are no ModelInferRequest: encode it with protobuf"
    )


def parsed(rest: bytes) -> Message:
    """Return the message of protobuf in what is beside the raw tensors. InvalidRequest."""
    try:
        return CLASSES["ModelInferRequest"].FromString(rest)
    except DecodeError:
        raise _no_message() from None


def decode_in_steps(message: Message, raw: list[memoryview], limits: Limits) -> Steps[InferRequest]:
    """Return the request in a message whose raw tensors are apart.

    Raises:
        InvalidRequest: anything malformed, with the tensor and the value.
        TooLarge: over `limits`.
    """
    given = message.inputs
    if max(len(given), len(message.outputs)) > limits.max_tensors:
        raise TooLarge(
            f"{len(given)} inputs and {len(message.outputs)} outputs; the limit of each is {limits.max_tensors}"
        )
    if raw and len(raw) != len(given):
        raise InvalidRequest(
            f"{len(raw)} raw_input_contents for {len(given)} inputs; send one for each, in their order, or contents with all"
        )
    inputs: list[Tensor] = []
    texts = 0
    for index, each in enumerate(given):
        if index % _TENSORS_A_STEP == _TENSORS_A_STEP - 1:
            yield
        name = read_name(f"inputs[{index}]", {"name": each.name}, limits)
        datatype = read_datatype(name, {"datatype": each.datatype})
        shape = read_shape(name, {"shape": list(each.shape)}, limits)
        count = 1
        for size in shape:
            count *= size
        if datatype is Datatype.BYTES:
            texts += count
            check_texts(name, texts, limits)
        _refuse_shared_memory(name, each.parameters)
        if raw and each.HasField("contents"):
            raise InvalidRequest(
                f"tensor {name!r} has contents, and the request has raw_input_contents; send one of them"
            )
        data = raw[index] if raw else _typed(name, datatype, each.contents)
        is_walked = datatype is Datatype.BYTES and texts > STEP_ELEMENTS
        if is_walked:
            yield from walk_in_steps(name, data, count, size_bytes=len(data))
        inputs.append(checked(Tensor(name, datatype, shape, data), limits, is_walked=is_walked))
    if len(inputs) > 1:
        refuse_repeated("inputs", [tensor.name for tensor in inputs])
    parameters = read_parameters({"parameters": plain_parameters(message.parameters)})
    wanted = [
        {"name": each.name, "parameters": plain_parameters(each.parameters)}
        for each in message.outputs
    ]
    outputs, classes = requested_outputs({"outputs": wanted}, limits)
    return InferRequest(
        message.model_name,
        message.model_version,
        message.id,
        tuple(inputs),
        outputs,
        True,
        parameters,
        classes=classes,
    )


def _typed(name: str, datatype: Datatype, contents: Message) -> bytes:
    """Return the raw bytes of a tensor whose elements are fields of the message."""
    if datatype not in _CONTENTS:
        raise InvalidRequest(
            f"tensor {name!r}: {datatype} has no typed contents in the protocol; send raw_input_contents"
        )
    field, code = _CONTENTS[datatype]
    elements = getattr(contents, field)
    others = [found.name for found, _ in contents.ListFields() if found.name != field]
    if others:
        raise InvalidRequest(f"tensor {name!r}: {datatype} goes in {field}, not in {others[0]}")
    if datatype is Datatype.BYTES:
        return join_elements(list(elements))
    try:
        return np.array(elements, dtype=code).tobytes()
    except OverflowError:
        raise InvalidRequest(
            f"tensor {name!r}: an element of {field} does not fit {datatype}"
        ) from None


def _refuse_shared_memory(name: str, parameters: Message) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidRequest(
            f"tensor {name!r} is in shared memory, which the network's peers do not share; send it as raw_input_contents"
        )


def plain_parameters(entries: Message) -> dict[str, object]:
    """Return parameters as plain values."""
    found: dict[str, object] = {}
    for key, value in entries.items():
        kind = value.WhichOneof("choice")
        if kind is None:
            raise InvalidRequest(f"parameter {key[:80]!r} has no value")
        found[key] = getattr(value, kind)
    return found


class _Form(Value):
    """The common part of requests that differ in nothing but their raw tensors' bytes."""

    __slots__ = ("classes", "inputs", "model", "outputs", "parameters", "version")

    def __init__(
        self,
        model: str,
        version: str,
        inputs: tuple[tuple[str, Datatype, tuple[int, ...], int], ...],
        outputs: tuple[RequestedOutput, ...],
        parameters: Parameters,
        classes: tuple[int, ...],
    ) -> None:
        self.model = model
        self.version = version
        self.inputs = inputs
        """The name, datatype, shape and bytes of each."""
        self.outputs = outputs
        self.parameters = parameters
        self.classes = classes


class KnownRequests:
    """The forms of the requests that one server reads."""

    __slots__ = ("_forms", "_wholes")

    def __init__(self) -> None:
        self._forms: dict[bytes, _Form] = {}
        self._wholes: dict[int, tuple[bytes, _Form]] = {}
        """All but the raw tensor at the end of the messages with one that came last, by their size."""

    def __len__(self) -> int:
        return len(self._forms)

    def read_whole(self, message: memoryview) -> InferRequest | None:
        """Return what `decode_in_steps` would return, None for a message that does not begin as the last of its size did.

        Between what is equal and the end lies the one raw tensor.
        """
        known = self._wholes.get(len(message))
        if known is None:
            return None
        beginning, form = known
        size_bytes = len(beginning)
        if bytes(message[:size_bytes]) != beginning:
            return None
        return _filled(form, [message[size_bytes:]])

    def read(self, rest: bytes, raw: list[memoryview]) -> InferRequest | None:
        """Return what `decode_in_steps` would return, None for a request of a form that is not known."""
        form = self._forms.get(rest)
        return None if form is None else _filled(form, raw)

    def learn(
        self, message: memoryview, rest: bytes, raw: list[memoryview], request: InferRequest
    ) -> None:
        """Remember the form of a request that was read from a message.

        Requests with an id are not remembered, because the id of the next differs; nor those with elements that have to
        be looked at each time (BYTES, BOOL), nor those with typed contents.
        """
        if request.id or len(rest) > MAX_FORM_BYTES or len(raw) != len(request.inputs):
            return
        if any(each.datatype in {Datatype.BYTES, Datatype.BOOL} for each in request.inputs):
            return
        form = _Form(
            request.model,
            request.version,
            tuple((t.name, t.datatype, t.shape, t.size_bytes) for t in request.inputs),
            request.outputs,
            MappingProxyType(dict(request.parameters)),
            request.classes,
        )
        forms, wholes = self._forms, self._wholes
        if len(forms) >= MAX_FORMS:
            del forms[next(iter(forms))]
        forms[rest] = form
        if len(raw) == 1 and raw[0]:
            beginning = bytes(message[: len(message) - len(raw[0])])
            # the tensor is the end if all else lies before it: its tag and its length, and what is beside it
            if beginning.startswith(rest) and beginning[len(rest)] == _RAW_TAG:
                if len(wholes) >= MAX_FORMS:
                    del wholes[next(iter(wholes))]
                wholes[len(message)] = beginning, form


def _filled(form: _Form, raw: list[memoryview]) -> InferRequest | None:
    """Return the request of a form with these raw tensors; None: they are not of its sizes."""
    if len(form.inputs) != len(raw):
        return None
    inputs: list[Tensor] = []
    for (name, datatype, shape, size_bytes), data in zip(form.inputs, raw, strict=True):
        if len(data) != size_bytes:
            return None
        inputs.append(Tensor(name, datatype, shape, data))
    return InferRequest(
        form.model,
        form.version,
        "",
        tuple(inputs),
        form.outputs,
        True,
        form.parameters,
        classes=form.classes,
    )
