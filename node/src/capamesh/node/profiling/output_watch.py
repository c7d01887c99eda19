"""The true form of a model's outputs: its declaration, widened by the runs that it was tried with. Pure.

ONNX Runtime lets a model answer with other shapes than it declares. Routers hold answers against what is advertised, so
what is advertised has to be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from capamesh.protocol.tensor_spec import ANY_DIM

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel, StopSwitch
    from capamesh.protocol.tensors import Tensor, TensorSpec


class OutputWatch:
    """A loaded model that remembers the shapes of what it gives; for trial runs only."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._seen: dict[str, set[tuple[int, ...]]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._loaded, name)

    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        """Run the model as `LoadedModel.run` does, and remember the shapes of its outputs."""
        given = self._loaded.run(inputs, outputs, stop)
        for tensor in given:
            self._seen.setdefault(tensor.name, set()).add(tensor.shape)
        return given

    def widened(self, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """Return `specs` as all that was seen fits them: any size where a size differs, no shape where the rank does."""
        found = tuple(
            replace(spec, shape=_widened(spec.shape, self._seen.get(spec.name, ())))
            for spec in specs
        )
        return specs if found == specs else found


def _widened(
    declared: tuple[int, ...], seen: Sequence[tuple[int, ...]] | set[tuple[int, ...]]
) -> tuple[int, ...]:
    shape = declared
    for given in seen:
        if not shape or shape == given:
            continue
        if len(shape) != len(given):
            return ()
        shape = tuple(
            dim if dim == size else ANY_DIM for dim, size in zip(shape, given, strict=True)
        )
    return shape
