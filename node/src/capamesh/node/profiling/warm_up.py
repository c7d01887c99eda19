"""Runs a model with what its manifest gives before it takes requests. Reads files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capamesh.node.profiling.synthetic_inputs import synthetic_inputs
from capamesh.node.repository.array_files import read_npy
from capamesh.node.repository.folder_files import MAX_WARM_UP_BYTES
from capamesh.node.repository.rules import WarmUp
from capamesh.protocol.errors import CapameshError, ModelInvalid
from capamesh.protocol.tensors import Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.api import LoadedModel


def warm_up(source: ModelSource, loaded: LoadedModel, rules: Sequence[WarmUp]) -> None:
    """Run `loaded` as the manifest says; raise `ModelInvalid` where that fails and must not."""
    for number, one in enumerate(rules, 1):
        try:
            inputs = _inputs(source, loaded.inputs, one)
            loaded.validate(inputs)
            for _ in range(one.count):
                loaded.run(inputs)
        except CapameshError as error:
            if one.must_run:
                raise ModelInvalid(f"warm-up {number} does not run: {error.message}") from error


def _inputs(
    source: ModelSource, specs: Sequence[TensorSpec], warm_up: WarmUp
) -> tuple[Tensor, ...]:
    shapes, files = dict(warm_up.shapes), dict(warm_up.files)
    unknown = (shapes.keys() | files.keys()) - {spec.name for spec in specs}
    if unknown:
        raise ModelInvalid(f"the model has no input {sorted(unknown)}")
    given = {
        spec.name: _given(source, spec, files[spec.name]) for spec in specs if spec.name in files
    }
    generated = synthetic_inputs(
        [
            TensorSpec(spec.name, spec.datatype, shapes.get(spec.name, spec.shape))
            for spec in specs
            if spec.name not in given
        ],
        rows=1,
    )
    return (*given.values(), *generated)


def _given(source: ModelSource, spec: TensorSpec, name: str) -> Tensor:
    path = next((file.path for file in source.warm_up_files if file.name == name), None)
    if path is None:
        raise ModelInvalid(f"{name!r} is not in the model's folder")
    try:
        return Tensor.from_numpy(spec.name, read_npy(path, MAX_WARM_UP_BYTES), spec.datatype)
    except (OSError, ValueError) as exc:
        raise ModelInvalid(f"{name!r} cannot be read: {exc}") from exc
