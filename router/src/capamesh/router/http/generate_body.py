"""The bodies of Triton's generate extension: plain JSON values for a model's tensors, both ways. Pure.

A request has a value for each input, beside `id` and `parameters`; an answer has one for each output. A tensor of one
element is the element, any other a flat list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import InferRequest, parse_object
from capamesh.protocol.oip.json_data import read_data, write_data
from capamesh.protocol.oip.json_text import quoted
from capamesh.protocol.tensors import Limits, Tensor, TensorSpec, checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.oip.messages import Parameters

MOST_BYTES: Final = 2**20
"""The largest body of a request (guess: texts and settings; large tensors go to `/infer`, which reads them in slices)."""


def read_generate(
    body: bytes,
    model: ModelName,
    version: ModelVersion,
    inputs: Sequence[TensorSpec],
    limits: Limits,
) -> InferRequest:
    """Return the request that a body of `MOST_BYTES` at most holds for a model with such inputs.

    Raises:
        InvalidRequest: the body is no JSON object, names what the model does not take, or has a value that does not fit.
    """
    found = parse_object(body)
    asked_id, parameters = found.pop("id", ""), found.pop("parameters", {})
    if not isinstance(asked_id, str | int) or isinstance(asked_id, bool):
        raise InvalidRequest(f'"id" is {str(asked_id)[:80]!r}; a text or a number is expected')
    if not isinstance(parameters, dict) or not all(
        isinstance(value, str | int | float | bool)
        for value in cast("dict[str, object]", parameters).values()
    ):
        raise InvalidRequest('"parameters" is an object of texts, numbers and true or false')
    by_name = {spec.name: spec for spec in inputs}
    tensors: list[Tensor] = []
    for name, value in found.items():
        spec = by_name.get(name)
        if spec is None:
            raise InvalidRequest(
                f"{name[:80]!r} is no input of model {model!r}; its inputs are {', '.join(by_name)[:200]}, and beside them"
                ' there may be "id" and "parameters"'
            )
        tensors.append(checked(_tensor(spec, value), limits))
    return InferRequest(
        model,
        version,
        str(asked_id),
        tuple(tensors),
        parameters=cast("Parameters", parameters),
    )


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


def write_generate(
    asked: InferRequest, answer: InferAnswer, model: ModelName, limits: Limits
) -> bytes:
    """Return an answer, or a part of one, as a JSON object in one line.

    Raises:
        TooLarge: it would be longer than JSON answers may be.
    """
    said = [f'"model_name":{quoted(model)}', f'"model_version":{quoted(answer.version)}']
    if asked.id:
        said.append(f'"id":{quoted(asked.id)}')
    room_bytes = limits.max_json_answer_bytes
    for output in answer.outputs:
        text = write_data(checked(output, limits), room_bytes, is_non_finite_text=True)
        room_bytes -= len(text)
        if all(dim == 1 for dim in output.shape):
            text = text[1:-1]
        said.append(f"{quoted(output.name)}:{text}")
    return f"{{{','.join(said)}}}".encode()


def write_error(error: CapameshError) -> bytes:
    """Return an error that ends an answer in parts, as a JSON object in one line."""
    return (
        f'{{"error":{quoted(error.message)},"code":{quoted(error.code)},"parts":{error.parts}}}'
    ).encode()
