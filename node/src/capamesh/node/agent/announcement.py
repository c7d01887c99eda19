"""The announcement of a node: its workers' offers, put together. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from capamesh.node.contract.messages import DeviceOffer
from capamesh.protocol.adverts import (
    Device,
    ModelOffer,
    ModelState,
    NodeAdvert,
    Sequence,
    parse_address,
)
from capamesh.protocol.adverts.interval import MIN_INTERVAL_S
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId

_RANK = {
    ModelState.READY: 0,
    ModelState.LOADING: 1,
    ModelState.UNLOADING: 2,
    ModelState.UNLOADED: 3,
    ModelState.FAILED: 4,
}
"""The rank of each state: of one model on several devices, the state that is of most use is shown."""

TOO_LARGE = "the node's models together do not fit into one advert: host fewer, or on two nodes"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The facts of a node that stay as they are while its agent runs."""

    peer: PeerId
    region: str
    price_per_million: float
    agent_version: str
    name: str = ""


class Announcement:
    """The node's advert as it would be now."""

    def __init__(self, facts: NodeFacts) -> None:
        self._facts = facts
        self._offers: dict[int, DeviceOffer] = {}
        """The offer of each worker, or what it is to offer again once it is up."""
        self._down: set[int] = set()
        self._is_terse = False
        """True if models that have failed are left out, for want of room."""
        self._withdrawn: set[tuple[ModelName, ModelVersion]] = set()
        self.is_draining = False

    @property
    def workers(self) -> frozenset[int]:
        """The workers that are up and have made an offer."""
        return frozenset(self._offers.keys() - self._down)

    def offered(self, worker: int, offer: DeviceOffer) -> bool:
        """Take over what a worker offers; return whether it is news, which other free memory is not."""
        known = None if worker in self._down else self._offers.get(worker)
        self._offers[worker] = offer
        self._down.discard(worker)
        return known is None or _settled(offer) != _settled(known)

    def lost(self, worker: int, reason: str) -> bool:
        """Say of what a worker had ready that it is loading, for the worker is down and restarts; return whether it is news.

        Routers wait for a model that is loading and was ready before; of one that nobody speaks of they know nothing.
        """
        offer = self._offers.get(worker)
        if offer is None or worker in self._down:
            return False
        self._down.add(worker)
        models = tuple(_restarting(model, reason) for model in offer.models)
        self._offers[worker] = replace(offer, models=models)
        return True

    def advert(self, sequence: Sequence, interval_s: int = MIN_INTERVAL_S) -> NodeAdvert:
        """Return the advert to publish under `sequence`, the next of which comes after `interval_s`."""
        facts = self._facts
        return NodeAdvert(
            peer=facts.peer,
            sequence=sequence,
            devices=tuple(self._devices()),
            models=tuple(
                model
                for model in self._models()
                if not self._is_terse or model.state is not ModelState.FAILED
            ),
            region=facts.region,
            price_per_million=facts.price_per_million,
            agent_version=facts.agent_version,
            is_draining=self.is_draining,
            interval_s=interval_s,
            name=facts.name,
        )

    def models_of(self, worker: int) -> list[ModelOffer]:
        """Return what one worker offers, less what was given up; nothing before it has made an offer."""
        offer = self._offers.get(worker)
        return [
            replace(model, state=ModelState.FAILED, reason=TOO_LARGE, inputs=(), outputs=())
            if (model.name, model.version) in self._withdrawn
            else model
            for model in (offer.models if offer is not None else ())
        ]

    def device_of(self, worker: int) -> Device | None:
        """Return the device of a worker as that last told of it; None before it has made an offer."""
        offer = self._offers.get(worker)
        return None if offer is None else offer.device

    def leave_out_failed(self) -> bool:
        """Say no more of models that have failed, for the advert is too large; return whether that helps."""
        is_helping = not self._is_terse and any(
            model.state is ModelState.FAILED for model in self._models()
        )
        self._is_terse = True
        return is_helping

    def give_up_largest(self) -> ModelOffer | None:
        """Withdraw the ready model with the most tensors, for the advert is too large; return it.

        Returns None when there is none left to withdraw. The model stays withdrawn while the agent runs.
        """
        ready = [model for model in self._models() if model.state is ModelState.READY]
        if not ready:
            return None
        largest = max(ready, key=lambda model: len(model.inputs) + len(model.outputs))
        self._withdrawn.add((largest.name, largest.version))
        return largest

    @property
    def is_ready(self) -> bool:
        """Return whether some worker runs and none of its models is still loading."""
        models = self._models()
        return bool(self.workers) and not any(model.state is ModelState.LOADING for model in models)

    def _devices(self) -> list[Device]:
        return [
            replace(offer.device, index=index)
            for index, (_, offer) in enumerate(sorted(self._offers.items()))
        ]

    def _models(self) -> list[ModelOffer]:
        best: dict[tuple[ModelName, ModelVersion], ModelOffer] = {}
        for worker in sorted(self._offers):
            for model in self.models_of(worker):
                key = (model.name, model.version)
                known = best.get(key)
                if known is None or _RANK[model.state] < _RANK[known.state]:
                    best[key] = model
        return [model for _, model in sorted(best.items())]


def _restarting(model: ModelOffer, reason: str) -> ModelOffer:
    """Return how a model is offered while its worker restarts."""
    if model.state not in {ModelState.READY, ModelState.LOADING}:
        return model
    text = f"its worker restarts: {reason}" if reason else "its worker restarts"
    return replace(model, state=ModelState.LOADING, reason=text)


def _settled(offer: DeviceOffer) -> DeviceOffer:
    """Return an offer without what changes all the time."""
    return replace(offer, device=replace(offer.device, memory_free_bytes=0))


def check_advertised(host: str) -> None:
    """Raise `ConfigError` when no router would take `host` from an advert."""
    try:
        parse_address(f"[{host}]:1" if ":" in host else f"{host}:1")
    except ValueError as exc:
        raise ConfigError(f"cannot advertise the host {host!r}: {exc}; give --advertise") from exc
