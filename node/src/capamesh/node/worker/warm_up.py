"""Runs a model with what its manifest gives before it takes requests. Reads files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capamesh.node.generated_inputs import generated_inputs
from capamesh.node.store.rules import WarmUp
from capamesh.protocol.errors import CapameshError, ModelInvalid
from capamesh.protocol.tensors import Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.node.backend import LoadedModel
    from capamesh.node.store import ModelSource


def warm_up(source: ModelSource, loaded: LoadedModel, rules: Sequence[WarmUp]) -> None:
    """Run `loaded` as the manifest says; raise `ModelInvalid` where that fails."""
    for number, one in enumerate(rules, 1):
        try:
            inputs = _given(source, loaded, one) if one.file else _shaped(loaded.inputs, one)
            loaded.validate(inputs)
            for _ in range(one.count):
                loaded.run(inputs)
        except CapameshError as error:
            raise ModelInvalid(f"warm-up {number} does not run: {error.message}") from error


def _shaped(specs: Sequence[TensorSpec], warm_up: WarmUp) -> tuple[Tensor, ...]:
    shapes = dict(warm_up.shapes)
    unknown = shapes.keys() - {spec.name for spec in specs}
    if unknown:
        raise ModelInvalid(f"the model has no input {sorted(unknown)}")
    return generated_inputs(
        [TensorSpec(spec.name, spec.datatype, shapes.get(spec.name, spec.shape)) for spec in specs],
        rows=1,
    )


def _given(source: ModelSource, loaded: LoadedModel, warm_up: WarmUp) -> tuple[Tensor, ...]:
    datatypes = {spec.name: spec.datatype for spec in loaded.inputs}
    path = next((file.path for file in source.warm_up_files if file.name == warm_up.file), None)
    if path is None:
        raise ModelInvalid(f"{warm_up.file!r} is not in the model's folder")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(
                Tensor.from_numpy(name, arrays[name], datatypes.get(name)) for name in arrays.files
            )
    except (OSError, ValueError, EOFError, KeyError) as exc:
        raise ModelInvalid(f"{warm_up.file!r} cannot be read: {exc}") from exc
