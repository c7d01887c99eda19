"""Reads and writes ONNX files as protobuf messages with the `onnx` package, an extra. Runs nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from capamesh.protocol.errors import ConfigError, ModelInvalid

if TYPE_CHECKING:
    import onnx

_Untyped = Any
"""The package, where its own types are incomplete."""

INSTALL: Final = "pip install 'capamesh[optimize]'"
DATA_SUFFIX: Final = ".data"
"""The suffix of the file beside `model.onnx` that takes the weights which do not fit into it (ONNX's own habit)."""
INLINE_BYTES: Final = 1_900_000_000
"""The size above which weights go into a file of their own: protobuf reads 2**31 - 1 bytes, and operators need some too."""
_MIN_EXTERNAL_BYTES: Final = 1024
"""Smaller weights stay in the ONNX file (the `onnx` package's own default)."""


def require_onnx() -> None:
    """Raise ConfigError with the line to run where the `onnx` package is missing."""
    if importlib.util.find_spec("onnx") is None:
        raise ConfigError(f"this needs the onnx package; run: {INSTALL}")


def read_onnx(path: Path, *, with_weights: bool) -> onnx.ModelProto:
    """Return the model at `path`; external data is read only `with_weights`.

    ConfigError: no `onnx` package. ModelInvalid: the file or its external data cannot be read.
    """
    require_onnx()
    import onnx  # noqa: PLC0415 - an extra
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with it
    from onnx.checker import ValidationError  # noqa: PLC0415 - the same

    try:
        load = cast("_Untyped", onnx).load
        return cast("onnx.ModelProto", load(path, load_external_data=with_weights))
    # ValidationError: external data that the package refuses to follow.
    except (DecodeError, ValidationError, OSError, ValueError) as exc:
        raise ModelInvalid(f"{path} cannot be read as an ONNX model: {exc}") from exc


def write_onnx(model: onnx.ModelProto, path: Path, *, is_external: bool) -> None:
    """Write `model` to `path`, its weights into a file beside it where `is_external`; `model` is used up."""
    import onnx  # noqa: PLC0415 - an extra

    save = cast("_Untyped", onnx).save_model
    if is_external:
        save(
            model,
            path,
            save_as_external_data=True,
            location=path.name + DATA_SUFFIX,
            size_threshold=_MIN_EXTERNAL_BYTES,
        )
    else:
        save(model, path)
