"""The things that a router tells of itself and of the models that it can reach, whatever wire asks. Pure.

They are JSON objects, with the names of the Open Inference Protocol and of Triton's extensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Final

from capamesh.protocol.adverts import ModelOffer, ModelState, shown_version
from capamesh.protocol.oip import (
    IndexState,
    ModelStatistics,
    has_batch_axis,
    index_entry,
    model_config_body,
    model_metadata_body,
    model_statistics_entry,
)
from capamesh.router.balancing.absence import not_hosted

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.steps import Steps
    from capamesh.router.requests.inference import InferenceService

_INDEX_STATES: Final = {
    ModelState.READY: IndexState.READY,
    ModelState.LOADING: IndexState.LOADING,
    ModelState.UNLOADING: IndexState.UNLOADING,
    ModelState.FAILED: IndexState.UNAVAILABLE,
    ModelState.UNLOADED: IndexState.UNAVAILABLE,
}
_OUT_OF_REACH: Final = "no node that has it can be reached now"
EXTENSIONS: Final = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "sequence",
    "statistics",
]
"""Triton's extensions of the protocol of which every call is there."""


class ModelDescriptions:
    """Tells of the models of one router."""

    def __init__(
        self,
        service: InferenceService,
        *,
        is_ready: Callable[[], bool],
        wall_clock: Callable[[], float],
    ) -> None:
        """`is_ready` tells whether some model can be run; `wall_clock` gives seconds since the epoch."""
        self._service = service
        self._fleet = service.fleet
        self.is_ready = is_ready
        self._wall_clock = wall_clock

    def server(self) -> dict[str, object]:
        """Return what this server is."""
        return {
            "name": "capamesh",
            "version": package_version("capamesh"),
            "extensions": EXTENSIONS,
        }

    def metadata(self, model: ModelName, version: ModelVersion) -> dict[str, object]:
        """Return a model's inputs and outputs; an empty version is any. ModelNotFound, ModelUnavailable: nobody hosts it."""
        offer = self._offer(model, version)
        return model_metadata_body(
            offer.name,
            [offer.version] if version else self._fleet.versions(offer.name),
            offer.inputs,
            offer.outputs,
            scheduling=offer.scheduling,
        )

    def config(self, model: ModelName, version: ModelVersion) -> dict[str, object]:
        """Return a model's configuration as Triton words it. ModelNotFound, ModelUnavailable: nobody hosts it."""
        offer = self._offer(model, version)
        return model_config_body(
            offer.name,
            offer.inputs,
            offer.outputs,
            max_batch_size=offer.max_batch_size,
            formats=dict(offer.formats),
            scheduling=offer.scheduling,
            labelled=offer.labelled,
            is_decoupled=offer.max_parts > 0,
        )

    def windows(self, model: ModelName, version: ModelVersion) -> dict[str, object]:
        """Return the windows into which a stream of samples is cut for a model, which no protocol has a word for; may be empty.

        ModelNotFound, ModelUnavailable: nobody hosts it.
        """
        windows = self._offer(model, version).windows
        if windows is None:
            return {}
        told = {
            "input": windows.input,
            "samples": windows.samples,
            "context": windows.context,
            "rate_hz": windows.rate_hz,
            "constants": dict(windows.constants),
        }
        return {"window": told}

    def is_model_ready(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether some node can run the model now. ModelNotFound, ModelUnavailable: nobody hosts it."""
        return self._fleet.is_reached(self._offer(model, version).name, version)

    def statistics(self, model: ModelName, version: ModelVersion) -> list[dict[str, object]]:
        """Return, as Triton words it, what this router's requests of a model or a version came to since it is hosted.

        ModelNotFound, ModelUnavailable: nobody hosts it.
        """
        offer = self._offer(model, version)
        versions = [offer.version] if version else self._fleet.versions(offer.name)
        return [self._statistics_of(offer.name, each) for each in versions]

    def all_statistics(self) -> Iterator[dict[str, object]]:
        """Return the statistics of all versions of all models that a node has ready."""
        for model in self._fleet.models():
            for version in self._fleet.versions(model):
                yield self._statistics_of(model, version)

    def index(self, *, is_ready_only: bool) -> Iterator[dict[str, object] | None]:
        """Return all model versions of the fleet, or just those that can be run; None after work that came to no entry."""
        offers: list[ModelOffer] = []
        for _ in _into(offers, self._fleet.offers()):
            yield None
        for offer in offers:
            state, reason = self._standing(offer)
            if state is IndexState.READY or not is_ready_only:
                yield index_entry(offer.name, shown_version(offer.version), state, reason=reason)

    def _statistics_of(self, model: ModelName, version: ModelVersion) -> dict[str, object]:
        counts, offer = (
            self._fleet.hosted(model, version).requests,
            self._fleet.offer(model, version),
        )
        is_batched = offer is not None and has_batch_axis(offer.inputs, offer.outputs)
        ago_s = self._service.routing.clock() - counts.last_s
        return model_statistics_entry(
            model,
            version,
            ModelStatistics(
                counts.answered,
                counts.answered_s,
                counts.rows if is_batched else counts.answered,
                counts.queue_us / 1e6,
                counts.run_us / 1e6,
                counts.failed,
                counts.failed_s,
                round((self._wall_clock() - ago_s) * 1e3) if counts.answered else 0,
                counts.kept,
                counts.kept_s,
                counts.missed,
            ),
        )

    def _standing(self, offer: ModelOffer) -> tuple[IndexState, str]:
        """Return the state of a model version, and why: one that is said to be ready can be run only where a link leads."""
        if offer.is_ready and not self._fleet.is_reached(offer.name, offer.version):
            withheld = self._fleet.withheld(offer.name, offer.version)
            return IndexState.UNAVAILABLE, withheld or _OUT_OF_REACH
        return _INDEX_STATES[offer.state], offer.reason

    def _offer(self, model: ModelName, version: ModelVersion) -> ModelOffer:
        offer = self._fleet.offer(model, version)
        if offer is None:
            raise not_hosted(self._fleet, model, version)
        return offer


def _into(found: list[ModelOffer], steps: Steps[list[ModelOffer]]) -> Steps[None]:
    found += yield from steps
