"""The models of one worker and where each stands: loading, ready or failed. Reads model files in threads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.node.store import ModelSource, scan
from capamesh.protocol.adverts import MAX_MODELS, ModelOffer, ModelState, offer_problem
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.ids import ModelName, ModelVersion

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.backend import Backend, LoadedModel

_ADVERTISABLE = re.compile(r"[0-9]{1,20}")
"""What an advert takes as a version; a folder without any is refused as a whole, under an empty one."""
UNVERIFIED = "unverified"
"""Stands for the provider while no model has shown which it is."""


@dataclass(slots=True)
class HostedModel:
    """A model version that takes requests."""

    source: ModelSource
    loaded: LoadedModel = field(repr=False)
    max_in_flight: int
    in_flight: int = 0

    @property
    def version(self) -> ModelVersion:
        """The version served."""
        return self.source.version


class HostedModels:
    """What a folder of models became on this device. Owned by the worker's event loop."""

    def __init__(
        self,
        root: Path,
        backend: Backend,
        *,
        max_in_flight: int,
        on_change: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._root = root
        self._backend = backend
        self._max_in_flight = max_in_flight
        self._on_change = on_change
        self._log = log
        self._ready: dict[ModelName, dict[ModelVersion, HostedModel]] = {}
        self._newest: dict[ModelName, HostedModel] = {}
        self._offers: dict[tuple[ModelName, ModelVersion], ModelOffer] = {}

    def find(self, model: ModelName, version: ModelVersion) -> HostedModel | None:
        """Return the model at `version`, or its newest version when that is empty; None if not ready."""
        if not version:
            return self._newest.get(model)
        return self._ready.get(model, {}).get(version)

    def is_known(self, model: ModelName, version: ModelVersion) -> bool:
        """Whether the folder has it, though it may not be ready."""
        return any(
            name == model and (not version or version == known) for name, known in self._offers
        )

    def offers(self) -> tuple[ModelOffer, ...]:
        """Return all models, in the order of their names, as adverts show them."""
        offers = list(self._offers.items())
        if len(offers) > MAX_MODELS:  # the ready ones first: an advert holds no more
            offers.sort(key=lambda item: (not item[1].is_ready, item[0]))
            del offers[MAX_MODELS:]
        return tuple(offer for _, offer in sorted(offers))

    def describe(self) -> str:
        """Return the ready models for an error message."""
        names = [f"{name}/{version}" for name, of in sorted(self._ready.items()) for version in of]
        return ", ".join(names[:20]) or "none that is ready"

    @property
    def provider(self) -> str:
        """The provider that runs the models, as found after loading; `UNVERIFIED` before the first."""
        for versions in self._ready.values():
            for hosted in versions.values():
                return hosted.loaded.provider
        return UNVERIFIED

    async def load_all(self) -> None:
        """Load every model of the folder, one after the other, telling of each."""
        found = await asyncio.to_thread(scan, self._root)
        for refused in found.refused:
            self._log.warning(
                "model_refused", model=refused.name, version=refused.version, reason=refused.reason
            )
            if not _ADVERTISABLE.fullmatch(refused.version):
                continue  # the log alone can say it: an advert names versions
            name, version = ModelName(refused.name), ModelVersion(refused.version)
            self._offers[name, version] = ModelOffer(
                name, version, "", ModelState.FAILED, refused.reason, (), ()
            )
        if not found.models:
            self._log.warning(
                "no_models", folder=str(self._root), expected="NAME/VERSION/model.onnx or NAME.onnx"
            )
        for source in found.models:
            self._offer(source, ModelState.LOADING)
        self._on_change()
        for source in found.models:
            await self._load(source)
            self._on_change()

    async def _load(self, source: ModelSource) -> None:
        try:
            loaded = await asyncio.to_thread(self._backend.load, source)
        except ModelInvalid as error:
            self._log.warning(
                "model_failed", model=source.name, version=source.version, reason=error.message
            )
            self._offer(source, ModelState.FAILED, error.message)
            return
        offer = ModelOffer(
            source.name,
            source.version,
            source.digest,
            ModelState.READY,
            "",
            loaded.inputs,
            loaded.outputs,
        )
        problem = offer_problem(offer)
        if problem:  # nobody could be told of it
            loaded.close()
            self._log.warning(
                "model_failed", model=source.name, version=source.version, reason=problem
            )
            self._offer(source, ModelState.FAILED, problem)
            return
        hosted = HostedModel(source, loaded, source.manifest.max_queue or self._max_in_flight)
        self._ready.setdefault(source.name, {})[source.version] = hosted
        newest = self._newest.get(source.name)
        if newest is None or int(source.version) > int(newest.version):
            self._newest[source.name] = hosted
        self._offers[source.name, source.version] = offer
        self._log.info("model_ready", model=source.name, version=source.version)

    def _offer(self, source: ModelSource, state: ModelState, reason: str = "") -> None:
        self._offers[source.name, source.version] = ModelOffer(
            source.name, source.version, source.digest, state, reason, (), ()
        )
