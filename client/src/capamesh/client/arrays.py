"""Turns the values that a caller holds (arrays, lists of text) into tensors, and tensors into arrays. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from capamesh.client.casting import cast_array
from capamesh.client.dlpack import DlpackArray, from_dlpack, is_dlpack
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip.json_data import read_data
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, fp32_from_bf16

InputValue: TypeAlias = (
    "npt.NDArray[Any] | np.generic | DlpackArray | Tensor | Sequence[Any] | float"
)
"""An input: a numpy array, one of another library (torch, JAX, CuPy) by DLPack, a `Tensor`, a number, or (nested) lists of numbers or of `str` and `bytes`."""

NO_SPECS: Mapping[str, TensorSpec] = {}
"""Nothing is known of a model's inputs."""


def needs_specs(inputs: Mapping[str, InputValue] | InputValue, *, is_cast: bool) -> bool:
    """Return whether the model's metadata must tell a name or a dtype: of one input without its name, of numbers in lists, or to cast."""
    if not isinstance(inputs, Mapping):
        return True
    return is_cast or any(_is_numbers(value) for value in inputs.values())


def named(
    inputs: Mapping[str, InputValue] | InputValue, specs: Mapping[str, TensorSpec]
) -> Mapping[str, InputValue]:
    """Return the inputs by name: one that is given alone is the only one of `specs`. InvalidRequest: there are others."""
    if isinstance(inputs, Mapping):
        return inputs
    if len(specs) != 1:
        raise InvalidRequest(
            f'the model has {len(specs)} inputs; give each by its name: {{"NAME": value}}, of '
            f"{', '.join(specs)[:500]}"
        )
    return {next(iter(specs)): inputs}


def tensors_of(
    inputs: Mapping[str, InputValue],
    specs: Mapping[str, TensorSpec] = NO_SPECS,
    *,
    is_cast: bool = False,
) -> list[Tensor]:
    """Return the inputs as tensors, arrays shared without a copy where they are row-major.

    An array's dtype is taken as it is, so that nothing is rounded unasked, unless `is_cast` asks for that of `specs`, the
    model's inputs; lists of numbers take it always. For BF16, which numpy lacks, give
    `Tensor.from_numpy(name, floats, Datatype.BF16)`, or cast floats.
    InvalidRequest: no inputs, a list that its input cannot hold, a dtype without a datatype, what cannot be cast.
    """
    if not inputs:
        raise InvalidRequest('a request without inputs; give them as {"NAME": array}')
    tensors: list[Tensor] = []
    for name, given in inputs.items():
        value = from_dlpack(name, given) if is_dlpack(given) else given
        if is_cast and isinstance(value, np.ndarray | np.generic) and name in specs:
            tensors.append(_cast(name, value, specs[name]))
        else:
            tensors.append(_tensor_of(name, value, specs))
    return tensors


def tensor_from_lists(spec: TensorSpec, value: object) -> Tensor:
    """Return a number, a text or (nested) lists of them as a tensor of `spec`.

    Its shape is that of the lists; leading dimensions of 1 may be left out. InvalidRequest: `spec` cannot hold it.
    """
    shape = _shape_of(spec.name, value)
    left_out = len(spec.shape) - len(shape)
    if left_out > 0:
        shape = (1,) * left_out + shape
        for _ in range(left_out):
            value = [value]
    reason = spec.accepts(spec.datatype, shape)
    if reason is not None:
        raise InvalidRequest(reason)
    return Tensor(
        spec.name, spec.datatype, shape, read_data(spec.name, spec.datatype, shape, value)
    )


def arrays_of(tensors: Sequence[Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs as arrays by name, each in its own shape: BF16 as float32, BYTES as objects of `bytes`.

    Each is aligned, writable and its caller's own, and lies in the tensor's memory where that is all this already.
    """
    return {tensor.name: _array_of(tensor) for tensor in tensors}


def _is_numbers(value: object) -> bool:
    while isinstance(value, list | tuple) and value:
        value = cast("Sequence[object]", value)[0]
    return isinstance(value, int | float)  # a bool is an int


def _plain_lists(value: object) -> object:
    """Return tuples as lists and numpy's numbers as Python's, as JSON has them."""
    if isinstance(value, list | tuple):
        return [_plain_lists(item) for item in cast("Sequence[object]", value)]
    return cast("object", value.item()) if isinstance(value, np.generic) else value


def _shape_of(name: str, value: object) -> tuple[int, ...]:
    """Return the lengths along the first items; `InvalidRequest`: lists beside each other differ in length."""
    shape: list[int] = []
    level: list[object] = [value]
    while isinstance(level[0], list):
        lists = [cast("list[object]", item) for item in level if isinstance(item, list)]
        length = len(lists[0])
        for index, items in enumerate(lists):
            if len(items) != length:
                raise InvalidRequest(
                    f"the value of {name!r}: rows differ in length: row 1 has {length}, row {index + 1} has "
                    f"{len(items)}"
                )
        shape.append(length)
        level = [item for items in lists for item in items]
        if not level:
            break
    return tuple(shape)


def _cast(name: str, array: npt.NDArray[Any] | np.generic, spec: TensorSpec) -> Tensor:
    made = cast_array(array, spec.datatype, f"input {name!r}")
    return Tensor.from_numpy(name, made, spec.datatype)


def _tensor_of(name: str, value: InputValue, specs: Mapping[str, TensorSpec]) -> Tensor:
    match value:
        case Tensor():
            return value if value.name == name else value.replace(name=name)
        case np.ndarray() | np.generic():
            return Tensor.from_numpy(name, value)
        case list() | tuple() | int() | float() if name in specs and _is_numbers(value):
            return tensor_from_lists(specs[name], _plain_lists(value))
        case list() | tuple() | str() | bytes():
            return Tensor.from_numpy(name, _text_array(name, value), Datatype.BYTES)
        case _:
            raise InvalidRequest(
                f"input {name!r} is {type(value).__name__}; give a numpy array, a Tensor, or a list of numbers or text"
            )


def _text_array(name: str, value: Sequence[Any]) -> npt.NDArray[np.object_]:
    array = np.array(value, dtype=object)
    for element in cast("list[object]", array.reshape(-1).tolist()):
        if not isinstance(element, (str, bytes)):
            raise InvalidRequest(
                f"input {name!r} is a list with {type(element).__name__}; the model has no such input: "
                "give its own, or an array: numpy.array(..., dtype=numpy.float32)"
            )
    return array


def _array_of(tensor: Tensor) -> npt.NDArray[Any]:
    array = tensor.to_numpy()
    if tensor.datatype is Datatype.BF16:
        return fp32_from_bf16(array)
    if tensor.datatype is not Datatype.BYTES and (
        not array.flags.aligned or memoryview(tensor.data).readonly
    ):
        return array.copy()
    array.flags.writeable = True  # nobody else has the memory
    return array
