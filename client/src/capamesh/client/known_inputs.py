"""The inputs of models as a client has learned them, so that it asks once. Pure but for a lock."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Final

from capamesh.client.answers import ModelMetadata
from capamesh.protocol.tensors import TensorSpec

MAX_MODELS: Final = 256
"""The most models whose inputs are remembered (guess: more than a program uses)."""


class KnownInputs:
    """The inputs of models by name and version, as far as they were asked for."""

    def __init__(self) -> None:
        self._inputs: dict[tuple[str, str], Mapping[str, TensorSpec]] = {}
        self._lock = Lock()

    def of(self, model: str, version: str) -> Mapping[str, TensorSpec] | None:
        """Return a model's inputs by name; None: nothing is known of it."""
        return self._inputs.get((model, version))

    def learn(self, metadata: ModelMetadata, version: str) -> Mapping[str, TensorSpec]:
        """Keep the inputs of a model, asked for by `version` (empty: any), and return them."""
        inputs = {spec.name: spec for spec in metadata.inputs}
        with self._lock:
            while len(self._inputs) >= MAX_MODELS:
                del self._inputs[next(iter(self._inputs))]
            self._inputs[metadata.name, version] = inputs
        return inputs

    def forget(self, model: str, version: str) -> None:
        """Ask anew the next time."""
        with self._lock:
            self._inputs.pop((model, version), None)
