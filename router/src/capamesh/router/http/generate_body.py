"""The bodies of Triton's generate extension: plain JSON values for a model's tensors, both ways. Pure.

A request has a value for each input, beside `id` and `parameters`; an answer has one for each output. A tensor of one
element is the element, any other a flat list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import InferRequest, parse_object
from capamesh.protocol.oip.encoding import trusted
from capamesh.protocol.oip.json_data import read_data, write_in_steps
from capamesh.protocol.oip.json_text import quoted
from capamesh.protocol.tensors import Limits, Tensor, TensorSpec, checked
from capamesh.protocol.values import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.oip.messages import Parameters
    from capamesh.protocol.steps import Steps

MOST_BYTES: Final = 2**20
"""The largest body of a request (guess: texts and settings; large tensors go to `/infer`, which reads them in slices)."""


class GenerateBody(Value):
    """The body of a request before its model's inputs are known."""

    __slots__ = ("id", "parameters", "values")

    def __init__(self, id: str, parameters: Parameters, values: dict[str, object]) -> None:  # noqa: A002 - the protocol's own word
        self.id = id
        self.parameters = parameters
        self.values = values
        """The values by the names of what they are for, as JSON has them."""


def parse_generate(body: bytes) -> GenerateBody:
    """Return what a body of `MOST_BYTES` at most holds. Raises `InvalidRequest`: it is no JSON object, or has another id or parameters."""
    found = parse_object(body)
    asked_id, parameters = found.pop("id", ""), found.pop("parameters", {})
    if not isinstance(asked_id, str | int) or isinstance(asked_id, bool):
        raise InvalidRequest(f'"id" is {str(asked_id)[:80]!r}; a text or a number is expected')
    if not isinstance(parameters, dict) or not all(
        isinstance(value, str | int | float | bool)
        for value in cast("dict[str, object]", parameters).values()
    ):
        raise InvalidRequest('"parameters" is an object of texts, numbers and true or false')
    return GenerateBody(str(asked_id), cast("Parameters", parameters), found)


def read_generate(
    given: GenerateBody,
    model: ModelName,
    version: ModelVersion,
    inputs: Sequence[TensorSpec],
    limits: Limits,
) -> InferRequest:
    """Return the request that a body holds for a model with such inputs.

    Raises:
        InvalidRequest: it names what the model does not take, or has a value that does not fit.
    """
    by_name = {spec.name: spec for spec in inputs}
    tensors: list[Tensor] = []
    for name, value in given.values.items():
        spec = by_name.get(name)
        if spec is None:
            raise InvalidRequest(
                f"{name[:80]!r} is no input of model {model!r}; its inputs are {', '.join(by_name)[:200]}, and beside them"
                ' there may be "id" and "parameters"'
            )
        tensors.append(checked(_tensor(spec, value), limits))
    return InferRequest(model, version, given.id, tuple(tensors), parameters=given.parameters)


def _tensor(spec: TensorSpec, value: object) -> Tensor:
    """Return a tensor of the input's rank, where the value has no more dimensions; leading ones are 1."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        items = cast("list[object]", inner)
        shape.append(len(items))
        inner = items[0] if items else None
    whole = [1] * (len(spec.shape) - len(shape)) + shape
    data = read_data(spec.name, spec.datatype, tuple(whole), value if shape else [value])
    return Tensor(spec.name, spec.datatype, tuple(whole), data)


def write_generate_in_steps(
    asked: InferRequest, answer: InferAnswer, model: ModelName, limits: Limits
) -> Steps[bytes]:
    """Return an answer, or a part of one, as a JSON object in one line.

    Raises:
        TooLarge: it would be longer than JSON answers may be.
        NotInJson: it has a text that is not UTF-8.
        ProtocolViolation: an output is not what its shape says.
    """
    said = [f'"model_name":{quoted(model)}', f'"model_version":{quoted(answer.version)}']
    if asked.id:
        said.append(f'"id":{quoted(asked.id)}')
    pieces = [f"{{{','.join(said)}".encode()]
    room_bytes = limits.max_json_answer_bytes
    for output in answer.outputs:
        yield from trusted(output, limits)
        written = yield from write_in_steps(output, room_bytes, is_non_finite_text=True)
        text = b"".join(written)
        room_bytes -= len(text)
        if all(dim == 1 for dim in output.shape):
            text = text[1:-1]
        pieces += (f",{quoted(output.name)}:".encode(), text)
    pieces.append(b"}")
    return b"".join(pieces)


def write_error(error: CapameshError) -> bytes:
    """Return an error that ends an answer in parts, as a JSON object in one line."""
    return (
        f'{{"error":{quoted(error.message)},"code":{quoted(error.code)},"parts":{error.parts}}}'
    ).encode()
