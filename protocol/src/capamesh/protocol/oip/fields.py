"""The fields of a message's JSON, each read and checked: names, datatypes, shapes, sizes, parameters. Pure.

Raises `InvalidRequest` with the field and the value that does not fit.
"""

from __future__ import annotations

import math
from typing import cast

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip.json_data import read_data
from capamesh.protocol.oip.json_steps import LongData
from capamesh.protocol.oip.json_text import is_unicode, shown
from capamesh.protocol.oip.long_data import read_long_data
from capamesh.protocol.oip.messages import NO_PARAMETERS, Parameters
from capamesh.protocol.steps import Steps
from capamesh.protocol.tensors import MAX_DIM, Datatype, Limits

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
"""The range of a parameter: what msgpack, which carries it on, can hold."""

_HEADERS = "headers"


def refuse_repeated(key: str, names: list[str]) -> None:
    """Raise `InvalidRequest` where a name stands twice in the list under `key`."""
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InvalidRequest(f"{key}[{index}] repeats the name {shown(name)}")
        seen.add(name)


def read_name(place: str, fields: dict[str, object], limits: Limits) -> str:
    """Return the name of the tensor or output at `place`."""
    name = fields.get("name")
    if type(name) is not str or not 0 < len(name) <= limits.max_name_chars or not is_unicode(name):
        raise InvalidRequest(
            f"{place}.name must be text of 1 to {limits.max_name_chars} characters, got {shown(name)}"
        )
    return name


def read_datatype(name: str, fields: dict[str, object]) -> Datatype:
    """Return a tensor's datatype."""
    text = fields.get("datatype")
    datatype = Datatype.of_name(text) if type(text) is str else None
    if datatype is None:
        raise InvalidRequest(
            f"tensor {shown(name)}: datatype must be one of {', '.join(Datatype)}, got {shown(text)}"
        )
    return datatype


def read_shape(name: str, fields: dict[str, object], limits: Limits) -> tuple[int, ...]:
    """Return a tensor's shape."""
    dims = fields.get("shape")
    if type(dims) is not list:
        raise InvalidRequest(
            f"tensor {shown(name)}: shape must be a list of integers, got {shown(dims)}"
        )
    listed = cast("list[object]", dims)
    if len(listed) > limits.max_dims:
        raise InvalidRequest(
            f"tensor {shown(name)} has {len(listed)} dimensions; the limit is {limits.max_dims}"
        )
    for dim in listed:
        if type(dim) is not int or not 0 <= dim <= MAX_DIM:
            raise InvalidRequest(
                f"tensor {shown(name)}: every dimension must be an integer from 0 to {MAX_DIM}, got "
                f"{shown(dim)} in shape {shown(listed)}"
            )
    return tuple(cast("list[int]", listed))


def read_binary_size(name: str, fields: dict[str, object]) -> int | None:
    """Return the tensor's `binary_data_size`, None when its data is in the JSON."""
    given = fields.get("parameters")
    if given is None:
        return None
    if type(given) is not dict:
        raise InvalidRequest(
            f"tensor {shown(name)}: parameters must be an object, got {shown(given)}"
        )
    parameters = cast("dict[str, object]", given)
    if "shared_memory_region" in parameters:
        raise InvalidRequest(
            f"tensor {shown(name)} is in shared memory, which the network's peers do not share; send "
            "it as binary data"
        )
    size_bytes = parameters.get("binary_data_size")
    if size_bytes is None:
        return None
    if type(size_bytes) is not int or size_bytes < 0:
        raise InvalidRequest(
            f"tensor {shown(name)}: binary_data_size must be an integer of 0 or more, got "
            f"{shown(size_bytes)}"
        )
    if "data" in fields:
        raise InvalidRequest(
            f"tensor {shown(name)} has both data and binary_data_size; send one of them"
        )
    return size_bytes


def read_json_data(
    name: str, datatype: Datatype, shape: tuple[int, ...], fields: dict[str, object]
) -> Steps[bytes]:
    """Return the raw bytes of a tensor whose data is in the JSON."""
    if "data" not in fields:
        raise InvalidRequest(
            f"tensor {shown(name)} has neither data nor binary_data_size; send one of them"
        )
    given = fields["data"]
    if type(given) is LongData:
        return (yield from read_long_data(name, datatype, shape, given))
    return read_data(name, datatype, shape, given)


def read_text(message: dict[str, object], key: str) -> str:
    """Return the text under `key`; empty where there is none."""
    value = message.get(key)
    if value is None:
        return ""
    if type(value) is not str or not is_unicode(value):
        raise InvalidRequest(f"{key!r} must be text, got {shown(value)}")
    return value


def read_id(request: dict[str, object]) -> str:
    """Return a request's id; one that is a whole number, as some clients send it, as its digits."""
    given = request.get("id")
    if type(given) is int and _MIN_INTEGER <= given <= _MAX_INTEGER:
        return str(given)
    return read_text(request, "id")


def read_parameters(message: dict[str, object]) -> Parameters:
    """Return a message's own parameters."""
    given = message.get("parameters")
    if given is None:
        return NO_PARAMETERS
    if type(given) is not dict:
        raise InvalidRequest(f"'parameters' must be an object, got {shown(given)}")
    parameters = cast("dict[str, object]", given)
    if type(parameters.get(_HEADERS)) is dict:  # MLServer's clients put those of HTTP there
        del parameters[_HEADERS]
    for key, value in parameters.items():
        if not (_is_parameter(value) and is_unicode(key)):
            raise InvalidRequest(
                f"parameter {shown(key)} must be a string, a finite number of up to 64 bits, true or false, got "
                f"{shown(value)}"
            )
    return cast("Parameters", parameters)


def _is_parameter(value: object) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case str():
            return is_unicode(value)
        case bool():
            return True
        case int():
            return _MIN_INTEGER <= value <= _MAX_INTEGER
        case _:
            return False
