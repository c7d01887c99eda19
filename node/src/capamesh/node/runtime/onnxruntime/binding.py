"""ONNX Runtime's Python binding, which has no types: the only module that imports it for a node that serves. Loads a library."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

import onnxruntime  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  # has no types
from onnxruntime.capi.onnxruntime_pybind11_state import (  # type: ignore[import-untyped]  # likewise
    InvalidArgument,  # pyright: ignore[reportUnknownVariableType]  # likewise
)

from capamesh.node.runtime.signature import cut

Untyped: TypeAlias = Any
"""An object of ONNX Runtime, which has no types."""

ort: Final = cast("Untyped", onnxruntime)
INVALID_ARGUMENT: Final = cast("type[Exception]", InvalidArgument)
LOG_FATAL: Final = 4
"""The level of ONNX Runtime's log: errors reach us as exceptions, and a caller must not fill the node's log."""


def one_line(error: Exception) -> str:
    """Return what an error of ONNX Runtime says, in one line of bounded length."""
    return cut(" ".join(str(error).removeprefix("[ONNXRuntimeError] : ").split()))
