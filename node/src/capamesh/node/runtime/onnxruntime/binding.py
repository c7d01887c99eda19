"""ONNX Runtime's Python binding, which has no types: the only module that imports it for a node that serves. Loads a library."""

from __future__ import annotations

import re
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
_LACKING_LOCALE: Final = re.compile(
    r"Failed to construct locale with name:(?P<name>(?P<language>[a-z]{2,3}_[A-Z]{2})\.UTF-8):",
    re.ASCII,
)
LOG_FATAL: Final = 4
"""The level of ONNX Runtime's log: errors reach us as exceptions, and a caller must not fill the node's log."""


def locale_hint(error: Exception) -> str:
    """Return what to run where a model of texts failed because this machine lacks its locale; empty where that is not why.

    The name is the model's own, so that only what looks like the name of a locale is put into a command.
    """
    lacking = _LACKING_LOCALE.search(str(error))
    if lacking is None:
        return ""
    language, name = lacking["language"], lacking["name"]
    return (
        f"; this machine lacks the locale {name}, by which it changes letters to small ones. On Debian and Ubuntu run: "
        f"sudo apt-get install -y locales && sudo localedef -i {language} -f UTF-8 {name}"
    )


def one_line(error: Exception) -> str:
    """Return what an error of ONNX Runtime says, in one line of bounded length."""
    return cut(" ".join(str(error).removeprefix("[ONNXRuntimeError] : ").split()))


def innermost(error: Exception) -> str:
    """Return what the operator at fault says, without the operators around it."""
    said = str(error).removeprefix("[ONNXRuntimeError] : ").rpartition("Status Message: ")[2]
    return cut(" ".join(said.split()))
