"""The windows into which a model's continuous input is cut: what a manifest declares, and whether it fits the model. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.tensor_spec import TensorSpec

MAX_WINDOW_BYTES: Final = 2**20
"""The most bytes of a window's new samples (guess: 16 s of FP32 at 16 kHz)."""
MAX_CONTEXT_BYTES: Final = 16 * 1024
"""The most bytes that each window repeats of the one before: each open stream has as much (guess: 64 times what Silero VAD needs)."""
MAX_SAMPLES: Final = MAX_WINDOW_BYTES
MAX_RATE_HZ: Final = 10_000_000
"""The most samples a second (guess: software radios)."""
MAX_CONSTANTS: Final = 64
MAX_CONSTANT: Final = 2**53 - 1
"""Whole numbers up to here are told apart as a double."""
_CODES: Final[Mapping[Datatype, str]] = {
    Datatype.BOOL: "<?",
    Datatype.UINT8: "<B",
    Datatype.UINT16: "<H",
    Datatype.UINT32: "<I",
    Datatype.UINT64: "<Q",
    Datatype.INT8: "<b",
    Datatype.INT16: "<h",
    Datatype.INT32: "<i",
    Datatype.INT64: "<q",
    Datatype.FP16: "<e",
    Datatype.FP32: "<f",
    Datatype.FP64: "<d",
}
_FRACTIONS: Final = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64})


@dataclass(frozen=True, slots=True)
class Windows:
    """The way in which samples of a stream become requests: the last axis of one input has a window of them."""

    input: str
    samples: int
    """The new samples of each window."""
    context: int = 0
    """The samples before them, which are the last of the window before; zeros at the beginning."""
    rate_hz: int = 0
    """The samples of a second; 0: nothing is said."""
    constants: tuple[tuple[str, float], ...] = ()
    """(another input, the value that each window has for it)."""


def windows_problem(windows: Windows, inputs: Sequence[TensorSpec]) -> str:
    """Return why windows do not fit a model with these inputs, for people; "" if they do."""
    specs = {spec.name: spec for spec in inputs}
    spec = specs.pop(windows.input, None)
    if spec is None:
        return f"input {windows.input!r} is not one of the model's: {', '.join(specs) or 'none'}"
    size = spec.datatype.itemsize_bytes
    if size is None:
        return f"input {windows.input!r} is text, which has no samples"
    length = windows.context + windows.samples
    if not spec.shape or spec.shape[-1] not in {-1, length} or not _is_one(spec.shape[:-1]):
        return (
            f"input {windows.input!r} has shape {list(spec.shape)}; its last axis must take {length} samples, and all others"
            " one element"
        )
    if windows.samples * size > MAX_WINDOW_BYTES or windows.context * size > MAX_CONTEXT_BYTES:
        return (
            f"{windows.samples} samples and {windows.context} of context have {windows.samples * size} and"
            f" {windows.context * size} bytes; at most {MAX_WINDOW_BYTES} and {MAX_CONTEXT_BYTES} are allowed"
        )
    return _constants_problem(dict(windows.constants), specs)


def _constants_problem(constants: Mapping[str, float], specs: Mapping[str, TensorSpec]) -> str:
    """Return why these are not the values of all other inputs; "" if they are."""
    for name, value in constants.items():
        if name not in specs:
            return f"the constant {name!r} is not another input of the model: {', '.join(specs) or 'none'}"
        if constant_data(specs[name], value) is None:
            return (
                f"the constant {name!r} is {value!r}; the model takes {specs[name].datatype} of shape"
                f" {list(specs[name].shape)} there, and one element is given"
            )
    missing = sorted(specs.keys() - constants.keys())
    return f"input {missing[0]!r} has no constant" if missing else ""


def constant_data(spec: TensorSpec, value: float) -> bytes | None:
    """Return a number as the one element of an input, in its raw bytes; None: it is none."""
    code = _CODES.get(spec.datatype)
    if code is None or not _is_one(spec.shape) or not math.isfinite(value):
        return None
    try:
        if spec.datatype in _FRACTIONS:
            return struct.pack(code, value)
        return struct.pack(code, int(value)) if value == int(value) else None
    except (struct.error, OverflowError):
        return None


def one_element(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a declared shape with one element along each open axis."""
    return tuple(1 if dim < 0 else dim for dim in shape)


def _is_one(shape: Sequence[int]) -> bool:
    return all(dim in {-1, 1} for dim in shape)
