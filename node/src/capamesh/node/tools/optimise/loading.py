"""Loads a model, or a pipeline with the models of its steps, for as long as it is needed. Reads files, loads."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

from capamesh.node.repository import scan
from capamesh.node.runtime.pipeline import PipelineModel

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource, Scan
    from capamesh.node.runtime.api import Backend, LoadedModel
    from capamesh.protocol.ids import ModelName, ModelVersion


@contextlib.contextmanager
def opened(source: ModelSource, backend: Backend) -> Generator[LoadedModel]:
    """Yield the model at `source`, loaded; the models of a pipeline's steps come from the folder around it.

    ModelInvalid: it cannot be loaded, or its steps do not fit together.
    """
    with contextlib.ExitStack() as open_models:
        if source.is_pipeline:
            steps = _Steps(scan(source.path.parent), backend, open_models)
            yield steps.pipeline(source)
        else:
            model = backend.load(source)
            open_models.callback(model.close)
            yield model


class _Steps:
    """The models of one folder, loaded when a step asks for them, each once."""

    def __init__(self, folder: Scan, backend: Backend, open_models: contextlib.ExitStack) -> None:
        self._sources = folder.models
        self._backend = backend
        self._open_models = open_models
        self._loaded: dict[tuple[ModelName, ModelVersion], LoadedModel] = {}
        self._begun: set[tuple[ModelName, ModelVersion]] = set()

    def pipeline(self, source: ModelSource) -> PipelineModel:
        self._begun.add((source.name, source.version))
        model = PipelineModel(
            source.name, source.version, source.manifest.rules.steps, self._resolve
        )
        self._open_models.callback(model.close)
        return model

    def _resolve(self, name: ModelName, version: ModelVersion) -> LoadedModel | None:
        found = [s for s in self._sources if s.name == name and version in {"", s.version}]
        if not found:
            return None
        source = max(found, key=lambda source: int(source.version))
        key = source.name, source.version
        if key not in self._loaded:
            if key in self._begun:
                return None  # pipelines that contain each other; a node loads neither
            self._loaded[key] = self._load(source)
        return self._loaded[key]

    def _load(self, source: ModelSource) -> LoadedModel:
        if source.is_pipeline:
            return self.pipeline(source)
        model = self._backend.load(source)
        self._open_models.callback(model.close)
        return model
