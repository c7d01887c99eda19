"""The declarations of a model's configuration about its tensors, to be compared with what the model has. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capamesh.protocol.adverts import ImageFormat
from capamesh.protocol.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Reshape:
    """A tensor that callers and the model lay out differently: the same elements in the same order.

    As many -1 are in one shape as in the other, and stand for the same sizes in their order.
    """

    name: str
    outer: tuple[int, ...]
    """The shape as callers see it, the batch axis included."""
    inner: tuple[int, ...]
    """The shape as the model has it, the batch axis included."""


@dataclass(frozen=True, slots=True)
class DeclaredIo:
    """Inputs and outputs as an operator declared them; empty: nothing is declared."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    """May be some of the model's only."""
    has_batch_axis: bool = False
    """True if the shapes leave out an axis 0 of any size that the model has."""
    optional: frozenset[str] = frozenset()
    """Inputs that the model may not have: it has values of its own for them."""
    flattened: frozenset[str] = frozenset()
    """Inputs that Triton gives the model on one axis, one request after the other."""
    reshaped_inputs: tuple[Reshape, ...] = ()
    reshaped_outputs: tuple[Reshape, ...] = ()
    formats: tuple[tuple[str, ImageFormat], ...] = ()
    """Inputs that are pictures."""
    filled_in: frozenset[str] = frozenset()
    """Inputs that the node gives the model itself: states and controls of sequences."""

    def problem(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
        """Return why a model with `inputs` and `outputs` is not what was declared; "" if it is.

        -1 on either side fits any size; a model's shape `()` may be any (`LoadedModel.inputs`).
        """
        if self.inputs:
            declared = {spec.name for spec in self.inputs} | self.filled_in
            missing = [spec.name for spec in inputs if spec.name not in declared]
            if missing:
                return f"the model's inputs {missing} are not declared; declare all or none"
        for side, ours, models in (
            ("input", self.inputs, inputs),
            ("output", self.outputs, outputs),
        ):
            by_name = {spec.name: spec for spec in models}
            for spec in ours:
                if spec.name not in by_name and side == "input" and spec.name in self.optional:
                    continue
                if spec.name not in by_name:
                    names = ", ".join(list(by_name)[:20])
                    return f"{side} {spec.name!r} is declared; the model has {names}"
                if problem := self._mismatch(spec, by_name[spec.name]):
                    return f"{side} {spec.name!r} is declared as {problem}"
        return ""

    def _mismatch(self, ours: TensorSpec, model: TensorSpec) -> str:
        if ours.datatype is not model.datatype:
            return f"{ours.datatype}, the model has {model.datatype}"
        shape = (-1, *ours.shape) if self.has_batch_axis else ours.shape
        if ours.name in self.flattened and len(model.shape) != len(shape):
            return (
                f"allow_ragged_batch, and the model's shape {list(model.shape)} has no axis for the batch: "
                "requests are not laid end to end here; export it with a batch axis and pad by "
                "[[batching.ragged]] in capamesh.toml"
            )
        if not model.shape:
            return ""
        if self.has_batch_axis and model.shape[0] != -1:
            return (
                f"batched, but axis 0 of the model's shape {list(model.shape)} is fixed; "
                "set max_batch_size to 0"
            )
        fits = len(shape) == len(model.shape) and all(
            -1 in {mine, other} or mine == other
            for mine, other in zip(shape, model.shape, strict=True)
        )
        if fits:
            return ""
        with_batch = ", the batch axis first" if self.has_batch_axis else ""
        return f"{list(shape)}{with_batch}; the model has {list(model.shape)}"
