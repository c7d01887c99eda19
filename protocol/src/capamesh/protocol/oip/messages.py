"""An inference request and its answer, as the Open Inference Protocol v2 means them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from capamesh.protocol.values import Value

if TYPE_CHECKING:
    from capamesh.protocol.tensors import Tensor

HEADER_LENGTH_NAME: Final = "Inference-Header-Content-Length"
"""The HTTP header that gives the bytes of JSON before the raw tensors."""

CLASSIFICATION: Final = "classification"
"""The parameter of an output that asks for its largest scores, with the names of their classes."""

Parameters: TypeAlias = Mapping[str, str | int | float | bool]
"""The parameters that a client or model adds to a message; their meaning is its own."""

NO_PARAMETERS: Final[Parameters] = MappingProxyType({})


class RequestedOutput(NamedTuple):
    """An output the client wants; `is_binary` None leaves the form to the request's default."""

    name: str
    is_binary: bool | None = None


class InferRequest(Value):
    """A request of a client to a model.

    `version` is "" for any; no `outputs` means all of them; `is_binary_default` is the request's
    parameter `binary_data_output`, `is_non_finite_text` comes of `non_finite_output`; neither is therefore among
    `parameters`.
    """

    __slots__ = (
        "classes",
        "id",
        "inputs",
        "is_binary_default",
        "is_non_finite_text",
        "model",
        "outputs",
        "parameters",
        "version",
    )

    def __init__(
        self,
        model: str,
        version: str,
        id: str,  # noqa: A002 - the protocol's own name for it
        inputs: tuple[Tensor, ...],
        outputs: tuple[RequestedOutput, ...] = (),
        is_binary_default: bool = False,
        parameters: Parameters = NO_PARAMETERS,
        is_non_finite_text: bool = False,
        classes: tuple[int, ...] = (),
    ) -> None:
        self.model = model
        self.version = version
        self.id = id
        self.inputs = inputs
        self.outputs = outputs
        self.is_binary_default = is_binary_default
        self.parameters = parameters
        self.is_non_finite_text = is_non_finite_text
        """True if NaN and infinities go as the texts "NaN", "Infinity" and "-Infinity" where an answer is JSON."""
        self.classes = classes
        """The number of largest scores wanted as texts of each of `outputs`, 0 for it as it is; empty: no output is classified."""


class InferResponse(Value):
    """An answer of a model; `version` is the one that ran, `id` the request's own."""

    __slots__ = ("id", "model", "outputs", "parameters", "version")

    def __init__(
        self,
        model: str,
        version: str,
        id: str,  # noqa: A002 - the protocol's own name for it
        outputs: tuple[Tensor, ...],
        parameters: Parameters = NO_PARAMETERS,
    ) -> None:
        self.model = model
        self.version = version
        self.id = id
        self.outputs = outputs
        self.parameters = parameters
