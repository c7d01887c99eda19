"""Turns `--input NAME=VALUE` into tensors, with dtype and shape from the model. Reads the files named with '@'."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, cast

import typer

from capamesh.cli.array_files import ARRAY_SUFFIXES, tensor_from_file
from capamesh.client import ModelMetadata, Tensor, TensorSpec
from capamesh.client.arrays import tensor_from_lists
from capamesh.protocol.errors import InvalidRequest


def parse_inputs(
    texts: Sequence[str], metadata: ModelMetadata, *, is_cast: bool = False
) -> dict[str, Tensor]:
    """Return the inputs by name; with `is_cast`, arrays in files are converted to the model's dtypes.

    A usage error: no NAME=, a name twice. `InvalidRequest`: a name that the model has not, a value that its
    input cannot hold, a file that cannot be read.
    """
    specs = {spec.name: spec for spec in metadata.inputs}
    if not texts and specs:
        name = next(iter(specs))
        _refuse(
            f"give the inputs of {metadata.name!r}, {_described(metadata)}: --input {name}=@FILE.npy, or --input '{name}=JSON'"
        )
    tensors: dict[str, Tensor] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            _refuse(f"{text[:80]!r} is not NAME=VALUE, for example 'X=[[1,2,3]]' or X=@rows.npy")
        if name in tensors:
            _refuse(f"input {name!r} is given twice")
        spec = specs.get(name)
        if spec is None:
            raise InvalidRequest(
                f"model {metadata.name!r} has no input {name!r}; its inputs: {_described(metadata) or 'none'}"
            )
        tensors[name] = _tensor(spec, value, is_cast=is_cast)
    missing = [name for name in specs if name not in tensors]
    if missing:
        _refuse(f"model {metadata.name!r} needs these inputs too: {', '.join(missing)}")
    return tensors


def _described(metadata: ModelMetadata) -> str:
    return ", ".join(
        f"{spec.name} {spec.datatype.value}{list(spec.shape)}" for spec in metadata.inputs
    )


def _tensor(spec: TensorSpec, value: str, *, is_cast: bool) -> Tensor:
    if not value.startswith("@"):
        return tensor_from_lists(spec, _json(value, f"the value of {spec.name!r}"))
    path = Path(value[1:])
    try:
        if path.suffix in ARRAY_SUFFIXES:
            return tensor_from_file(spec, path, is_cast=is_cast)
        content: object = _json(path.read_text(encoding="utf-8"), str(path))
        if _is_request(content):
            raise InvalidRequest(
                f"{path} is a whole inference request, not the value of the input {spec.name!r}: give that input's "
                f"data alone, or post the file as it is: curl ROUTER/v2/models/MODEL/infer -d @{path}"
            )
        return tensor_from_lists(spec, content)
    except OSError as exc:
        raise InvalidRequest(f"cannot read {path} for input {spec.name!r}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"{path} is neither JSON nor named .npy or .npz: {exc.reason}"
        ) from exc


def _is_request(value: object) -> bool:
    return isinstance(value, dict) and "inputs" in cast("dict[str, object]", value)


def _json(text: str, what: str) -> object:
    try:
        return cast("object", json.loads(text, parse_constant=_no_constant))
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(
            f"{what} is not JSON: {exc}; text needs its quotes: 'NAME=\"text\"', a file an '@': NAME=@FILE"
        ) from exc


def _no_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not JSON, use a .npy file")


def _refuse(message: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint="--input")
