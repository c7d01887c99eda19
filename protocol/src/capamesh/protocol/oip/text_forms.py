"""Requests whose JSON differs from one read before in nothing but the numbers of its one input. Pure.

What stands before and after the numbers is looked up byte for byte, and the numbers alone are read. That is right because of
what `learn` has made sure of: the text has no backslash and no other `"data"`, so that what is between is a list of numbers at
the one place where the input has its data, whatever the numbers are.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip.json_data import read_elements
from capamesh.protocol.oip.json_text import DECODER
from capamesh.protocol.oip.messages import InferRequest
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.protocol.values import Value

if TYPE_CHECKING:
    from capamesh.protocol.oip.messages import Parameters, RequestedOutput

MAX_TEXT_FORMS: Final = 256
"""Forms that are remembered (guess: a few clients of each of some models); the oldest makes room."""
MAX_AROUND_BYTES: Final = 1024
"""A text with more around its numbers is read whole each time (guess: some parameters)."""
MAX_BODY_BYTES: Final = 8192
"""A longer text is read whole each time: most of it is numbers, which take as long either way (guess)."""
_KEY: Final = b'"data":'
_NUMBERS: Final = frozenset({int, float})


class _TextForm(Value):
    """The common part of requests with the same text around their numbers."""

    __slots__ = (
        "count",
        "datatype",
        "is_binary_default",
        "is_non_finite_text",
        "name",
        "outputs",
        "parameters",
        "shape",
    )

    def __init__(
        self,
        name: str,
        datatype: Datatype,
        shape: tuple[int, ...],
        count: int,
        outputs: tuple[RequestedOutput, ...],
        is_binary_default: bool,
        parameters: Parameters,
        is_non_finite_text: bool,
    ) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.count = count
        """The numbers that the shape has."""
        self.outputs = outputs
        self.is_binary_default = is_binary_default
        self.parameters = parameters
        self.is_non_finite_text = is_non_finite_text


class TextForms:
    """The forms of the requests in JSON alone that one server reads."""

    __slots__ = ("_forms",)

    def __init__(self) -> None:
        self._forms: dict[bytes, _TextForm] = {}

    @override
    def __repr__(self) -> str:
        return f"TextForms({len(self._forms)})"

    def __len__(self) -> int:
        return len(self._forms)

    def read(
        self, model: str, version: str, body: bytes | memoryview, most_bytes: int
    ) -> InferRequest | None:
        """Return what `decode_request` would return; None: that is to read it, for nothing is known of its form or it is wrong.

        `most_bytes` is the limit on JSON.
        """
        if not self._forms or len(body) > min(MAX_BODY_BYTES, most_bytes):
            return None
        text = bytes(body)
        begin, end = _numbers_at(text)
        if end == 0:
            return None
        form = self._forms.get(_around(text, begin, end))
        if form is None:
            return None
        numbers = _numbers_of(text[begin:end])
        if numbers is None or len(numbers) != form.count:
            return None
        try:
            data = read_elements(form.name, form.datatype, numbers)
        except InvalidRequest:
            return None
        return InferRequest(
            model,
            version,
            "",
            (Tensor(form.name, form.datatype, form.shape, data),),
            form.outputs,
            form.is_binary_default,
            form.parameters,
            form.is_non_finite_text,
        )

    def learn(self, body: bytes | memoryview, request: InferRequest) -> None:
        """Remember the form of a request that `decode_request` has read from a body that is JSON alone.

        Requests with an id are not remembered, because the id of the next differs; nor those that want classes, which are
        rare; nor those of several inputs, or of datatypes that are no numbers in JSON.
        """
        if request.id or request.classes or len(request.inputs) != 1 or len(body) > MAX_BODY_BYTES:
            return
        tensor = request.inputs[0]
        if tensor.datatype is Datatype.BYTES or tensor.datatype is Datatype.BOOL:
            return
        text = bytes(body)
        begin, end = _numbers_at(text)
        around = _around(text, begin, end)
        if (
            end == 0
            or len(around) > MAX_AROUND_BYTES
            or b"\\" in around
            or around.count(b'"data"') != 1
        ):
            return
        numbers = _numbers_of(text[begin:end])
        count = math.prod(tensor.shape)
        if numbers is None or len(numbers) != count:
            return
        forms = self._forms
        if len(forms) >= MAX_TEXT_FORMS:
            del forms[next(iter(forms))]
        forms[around] = _TextForm(
            tensor.name,
            tensor.datatype,
            tensor.shape,
            count,
            request.outputs,
            request.is_binary_default,
            MappingProxyType(dict(request.parameters)),
            request.is_non_finite_text,
        )


def _numbers_at(text: bytes) -> tuple[int, int]:
    """Return where the innermost first list of `"data"` begins and ends, brackets included; an end of 0: there is none."""
    begin = text.find(_KEY)
    if begin < 0:
        return 0, 0
    begin += len(_KEY)
    if text[begin : begin + 1] == b" ":  # as Python's own encoder writes it
        begin += 1
    if text[begin : begin + 1] != b"[":
        return 0, 0
    while text[begin + 1 : begin + 2] == b"[":
        begin += 1
    return begin, text.find(b"]", begin) + 1


def _around(text: bytes, begin: int, end: int) -> bytes:
    """Return what stands around the numbers, and where they are: JSON has no byte of zero."""
    return text[:begin] + b"\0" + text[end:]


def _numbers_of(text: bytes) -> list[object] | None:
    """Return the numbers of a list in JSON; None: it is none, or has something else in it."""
    try:
        value, end = DECODER.raw_decode(text.decode("ascii"))
    except (ValueError, InvalidRequest):
        return None
    if end != len(text) or type(value) is not list:
        return None
    numbers = cast("list[object]", value)
    return numbers if _NUMBERS.issuperset(map(type, numbers)) else None
