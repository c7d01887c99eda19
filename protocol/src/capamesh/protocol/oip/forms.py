"""Requests whose JSON was read before, word for word: what was found in it is not found out again. Pure.

A client sends the same JSON before the tensors of all its requests, as long as their shapes are the same. What that
JSON says, and that it is right, depends on its bytes alone; only the tensors' bytes are new. Where the tensors are in the
JSON, too, it is their descriptions that stay the same.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from capamesh.protocol.oip.json_data import read_data
from capamesh.protocol.oip.messages import InferRequest
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.protocol.values import Value

if TYPE_CHECKING:
    from capamesh.protocol.oip.messages import Parameters, RequestedOutput

MAX_FORMS = 256
"""Forms that are remembered (guess: a few clients of each of some models); the oldest makes room."""
MAX_JSON_BYTES = 1024
"""Longer JSON is read each time (guess: some six inputs)."""


MAX_INPUTS = 1024
"""Descriptions of inputs that are remembered (guess: the inputs of some models, their usual batch sizes)."""
MAX_NAME_CHARS = 128
"""The most characters of the name of a tensor that is remembered (guess: most are shorter)."""
_INTEGERS: Final = frozenset({int})


class KnownInputs:
    """Descriptions of inputs in JSON that one server has found right within its limits: the next that is the same is, too.

    That depends on the description alone, but for BYTES, which are not remembered: how many bytes of data of another
    datatype there are follows from the shape.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[str, Datatype, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def read(self, fields: dict[str, object]) -> Tensor | None:
        """Return an input whose data is a list in the JSON; None for one whose shape and datatype are not described as any before.

        InvalidRequest: what `read_data` raises.
        """
        data = fields.get("data")
        if type(data) is not list or "parameters" in fields:
            return None
        shape = fields.get("shape")
        # true and 1.0 equal 1, but are no dimension
        if type(shape) is not list or not _INTEGERS.issuperset(
            map(type, cast("list[object]", shape))
        ):
            return None
        try:
            key = (fields.get("name"), fields.get("datatype"), *cast("list[int]", shape))
            known = self._known.get(key)
        except TypeError:
            return None  # a name that is no text was never found right
        return None if known is None else Tensor(*known, read_data(*known, cast("object", data)))

    def add(self, tensor: Tensor) -> None:
        """Remember the description of an input that was checked: its name, datatype and shape."""
        name, datatype, shape = tensor.name, tensor.datatype, tensor.shape
        if datatype is Datatype.BYTES or len(name) > MAX_NAME_CHARS:
            return
        if len(self._known) >= MAX_INPUTS:
            del self._known[next(iter(self._known))]
        self._known[name, str(datatype), *shape] = (name, datatype, shape)


class _Form(Value):
    """The common part of requests with the same JSON header."""

    __slots__ = (
        "body_bytes",
        "inputs",
        "is_binary_default",
        "is_non_finite_text",
        "outputs",
        "parameters",
    )

    def __init__(
        self,
        inputs: tuple[tuple[str, Datatype, tuple[int, ...], int, int], ...],
        body_bytes: int,
        outputs: tuple[RequestedOutput, ...],
        is_binary_default: bool,
        parameters: Parameters,
        is_non_finite_text: bool,
    ) -> None:
        self.inputs = inputs
        """Name, datatype, shape, and where in the body the data begins and ends."""
        self.body_bytes = body_bytes
        self.outputs = outputs
        self.is_binary_default = is_binary_default
        self.parameters = parameters
        self.is_non_finite_text = is_non_finite_text


class RequestForms:
    """The forms of the requests that one server reads."""

    __slots__ = ("_forms", "inputs")

    def __init__(self) -> None:
        self._forms: dict[bytes, _Form] = {}
        self.inputs = KnownInputs()

    @override
    def __repr__(self) -> str:
        return f"RequestForms({len(self._forms)})"

    def __len__(self) -> int:
        return len(self._forms)

    def read(
        self, model: str, version: str, body: bytes | memoryview, header_length: int | None
    ) -> InferRequest | None:
        """Return what `decode_request` would return, None for a request of a form that is not known."""
        if header_length is None or header_length > MAX_JSON_BYTES:
            return None
        form = self._forms.get(bytes(body[:header_length]))
        if form is None or form.body_bytes != len(body):
            return None
        view = memoryview(body)
        inputs = tuple(
            [
                Tensor(name, datatype, shape, view[begin:end])
                for name, datatype, shape, begin, end in form.inputs
            ]
        )
        return InferRequest(
            model,
            version,
            "",
            inputs,
            form.outputs,
            form.is_binary_default,
            form.parameters,
            form.is_non_finite_text,
        )

    def learn(
        self, body: bytes | memoryview, header_length: int | None, request: InferRequest
    ) -> None:
        """Remember the form of a request that `decode_request` has read from `body`.

        Requests with an id are not remembered, because the id of the next differs; nor those that want classes, which are
        rare; nor those with elements that have to be looked at each time (BYTES, BOOL), nor those with tensors in the JSON.
        """
        if header_length is None or header_length > MAX_JSON_BYTES or request.id or request.classes:
            return
        inputs: list[tuple[str, Datatype, tuple[int, ...], int, int]] = []
        at = header_length
        for tensor in request.inputs:
            if tensor.datatype in {Datatype.BYTES, Datatype.BOOL}:
                return
            begin, at = at, at + tensor.size_bytes
            inputs.append((tensor.name, tensor.datatype, tensor.shape, begin, at))
        if at != len(body):
            return
        forms = self._forms
        if len(forms) >= MAX_FORMS:
            del forms[next(iter(forms))]
        forms[bytes(body[:header_length])] = _Form(
            tuple(inputs),
            at,
            request.outputs,
            request.is_binary_default,
            MappingProxyType(dict(request.parameters)),
            request.is_non_finite_text,
        )
