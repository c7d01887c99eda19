"""A loaded model whose callers see other shapes than it has itself: the same bytes, told differently. Pure.

What waits, is batched, measured and advertised is in the callers' shapes; only the run is in the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.signature import Signature
from capamesh.protocol.errors import ModelInvalid, RunFailed
from capamesh.protocol.tensors import Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.node.repository.declared import DeclaredIo, Reshape
    from capamesh.node.runtime.api import LoadedModel, StopSwitch


def reshaped(model: LoadedModel, declared: DeclaredIo) -> LoadedModel:
    """Return `model` in the shapes of its configuration; `model` itself where these are its own.

    ModelInvalid: the model has other shapes than the configuration says that it has.
    """
    if not declared.reshaped_inputs and not declared.reshaped_outputs:
        return model
    return ReshapedModel(model, declared)


class ReshapedModel(LoadedModel):
    """A model behind the `LoadedModel` protocol, in its callers' shapes."""

    def __init__(self, model: LoadedModel, declared: DeclaredIo) -> None:
        """Take `model`, which `close` lets go of. ModelInvalid: see `reshaped`."""
        inputs, outputs = declared.reshaped_inputs, declared.reshaped_outputs
        _check("input", inputs, model.inputs, has_batch_axis=declared.has_batch_axis)
        _check("output", outputs, model.outputs, has_batch_axis=declared.has_batch_axis)
        self._model = model
        self._inputs = {reshape.name: reshape for reshape in inputs}
        self._outputs = {reshape.name: reshape for reshape in outputs}
        self.inputs = _outer(model.inputs, self._inputs)
        self.outputs = _outer(model.outputs, self._outputs)
        self.provider = model.provider
        self.precision = model.precision
        self.is_data_dependent = model.is_data_dependent
        self.is_random = model.is_random
        self.notes = model.notes
        self._signature = Signature(self.inputs, self.outputs, reads_texts=False)

    @override
    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check a request, whose tensors have the callers' shapes; see `LoadedModel.validate`."""
        self._signature.validate(inputs, outputs)

    @override
    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        """Run the model on tensors of the callers' shapes and return such; see `LoadedModel.run`."""
        inner = [_inward(tensor, self._inputs.get(tensor.name)) for tensor in inputs]
        given = self._model.run(inner, outputs, stop)
        return [_outward(tensor, self._outputs.get(tensor.name)) for tensor in given]

    @override
    def give_back(self) -> None:
        """Give pooled memory back; see `LoadedModel.give_back`."""
        self._model.give_back()

    @override
    def close(self) -> None:
        """Let go of the model; see `LoadedModel.close`."""
        self._model.close()


def _check(
    side: str, reshapes: Iterable[Reshape], specs: Iterable[TensorSpec], *, has_batch_axis: bool
) -> None:
    shapes = {spec.name: spec.shape for spec in specs}
    for reshape in reshapes:
        shape = shapes.get(reshape.name)
        if not shape:
            continue  # any shape at all; and what the model lacks, whoever compares names tells
        fits = len(shape) == len(reshape.inner) and all(
            -1 in {mine, own} or mine == own for mine, own in zip(reshape.inner, shape, strict=True)
        )
        if not fits or (has_batch_axis and shape[0] != -1):
            raise ModelInvalid(
                f"{side} {reshape.name!r} is reshaped to {list(reshape.inner)}"
                f"{', the batch axis first' if has_batch_axis else ''}; the model has {list(shape)}"
            )


def _outer(specs: Iterable[TensorSpec], reshapes: dict[str, Reshape]) -> tuple[TensorSpec, ...]:
    return tuple(
        replace(spec, shape=reshapes[spec.name].outer) if spec.name in reshapes else spec
        for spec in specs
    )


def _inward(tensor: Tensor, reshape: Reshape | None) -> Tensor:
    """Return a caller's tensor, which has been validated, as the model takes it."""
    if reshape is None:
        return tensor
    shape = _filled(reshape.inner, _open_sizes(tensor.shape, reshape.outer))
    return Tensor(tensor.name, tensor.datatype, shape, tensor.data)


def _outward(tensor: Tensor, reshape: Reshape | None) -> Tensor:
    """Return a tensor of the model as callers see it. RunFailed: it has not the shape that was declared."""
    if reshape is None:
        return tensor
    inner = reshape.inner
    if len(tensor.shape) != len(inner) or any(
        own >= 0 and own != dim for own, dim in zip(inner, tensor.shape, strict=True)
    ):
        raise RunFailed(
            f"output {tensor.name!r} has shape {list(tensor.shape)}, and its configuration reshapes {list(inner)}"
        )
    shape = _filled(reshape.outer, _open_sizes(tensor.shape, inner))
    return Tensor(tensor.name, tensor.datatype, shape, tensor.data)


def _open_sizes(shape: Sequence[int], declared: Sequence[int]) -> list[int]:
    return [size for size, dim in zip(shape, declared, strict=True) if dim < 0]


def _filled(shape: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    left = iter(sizes)
    return tuple(next(left) if dim < 0 else dim for dim in shape)
