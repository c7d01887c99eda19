"""Which candidates host which model, kept current from the fleet's changes. Holds state, does no IO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import assert_never

from capamesh.protocol.adverts import ModelOffer, NodeAdvert
from capamesh.protocol.fleet import Change, Changed, Joined, Left, Recovered, Suspected
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.candidates import Candidate


class FleetView:
    """The fleet by model. `on_new` and `on_gone` are told of candidates that must be dialled or let go."""

    def __init__(
        self, *, on_new: Callable[[Candidate], None], on_gone: Callable[[Candidate], None]
    ) -> None:
        self._on_new = on_new
        self._on_gone = on_gone
        self._adverts: dict[PeerId, NodeAdvert] = {}
        self._dialled: dict[PeerId, dict[str, Candidate]] = {}
        self._visiting: dict[PeerId, list[Candidate]] = {}
        self._hosts: dict[ModelName, dict[ModelVersion, tuple[Candidate, ...]]] = {}
        self._newest: dict[ModelName, ModelVersion] = {}

    def __repr__(self) -> str:
        return f"FleetView({len(self._adverts)} nodes, {len(self._hosts)} models)"

    # reading

    def hosts(self, model: ModelName, version: ModelVersion) -> Sequence[Candidate]:
        """Return who hosts the model at `version`, or its newest version when that is empty."""
        versions = self._hosts.get(model)
        if versions is None:
            return ()
        return versions.get(version or self._newest[model], ())

    def versions(self, model: ModelName) -> list[ModelVersion]:
        """Return the versions that some node has ready, oldest first."""
        return sorted(self._hosts.get(model, ()), key=int)

    def models(self) -> list[ModelName]:
        """Return the models that some node has ready, by name."""
        return sorted(self._hosts)

    def offer(self, model: ModelName, version: ModelVersion) -> ModelOffer | None:
        """Return how some node describes the model, None when no node has it ready."""
        wanted = version or self._newest.get(model)
        for advert in self._adverts.values():
            for offer in advert.models:
                if offer.name == model and offer.version == wanted and offer.is_ready:
                    return offer
        return None

    def offers(self) -> list[ModelOffer]:
        """Return every model version that is known, ready or not, once, the readiest offer of each."""
        best: dict[tuple[ModelName, ModelVersion], ModelOffer] = {}
        for advert in self._adverts.values():
            for offer in advert.models:
                key = (offer.name, offer.version)
                if key not in best or (offer.is_ready and not best[key].is_ready):
                    best[key] = offer
        return [offer for _, offer in sorted(best.items(), key=lambda item: item[0])]

    @property
    def adverts(self) -> Mapping[PeerId, NodeAdvert]:
        """All nodes of the fleet."""
        return self._adverts

    def candidates_of(self, peer: PeerId) -> list[Candidate]:
        """Return the ways to reach one node."""
        return [*self._dialled.get(peer, {}).values(), *self._visiting.get(peer, ())]

    def candidates(self) -> Iterable[Candidate]:
        """Return all ways to reach all nodes."""
        for peer in self._adverts:
            yield from self.candidates_of(peer)

    # changing

    def apply(self, changes: Iterable[Change]) -> None:
        """Take over what the membership says."""
        for change in changes:
            match change:
                case Joined(advert) | Changed(advert):
                    self._heard(advert)
                case Left(peer):
                    self._left(peer)
                case Suspected(peer):
                    self._suspect(peer, is_suspected=True)
                case Recovered(peer):
                    self._suspect(peer, is_suspected=False)
                case _:
                    assert_never(change)

    def visit(self, candidate: Candidate) -> None:
        """Add a candidate that dialled this router itself; its node may be heard of later."""
        self._visiting.setdefault(candidate.peer, []).append(candidate)
        advert = self._adverts.get(candidate.peer)
        candidate.is_draining = advert is not None and advert.is_draining
        self._index()

    def leave(self, candidate: Candidate) -> None:
        """Remove a candidate that had dialled this router."""
        visitors = self._visiting.get(candidate.peer, [])
        if candidate in visitors:
            visitors.remove(candidate)
            if not visitors:
                del self._visiting[candidate.peer]
            self._index()

    def _heard(self, advert: NodeAdvert) -> None:
        peer = advert.peer
        self._adverts[peer] = advert
        known = self._dialled.setdefault(peer, {})
        wanted = {a for device in advert.devices for a in device.data_addresses}
        for address in known.keys() - wanted:
            self._on_gone(known.pop(address))
        for address in sorted(wanted - known.keys()):
            known[address] = Candidate(peer, address)
            self._on_new(known[address])
        for candidate in self.candidates_of(peer):
            candidate.is_draining = advert.is_draining
        self._index()

    def _left(self, peer: PeerId) -> None:
        self._suspect(peer, is_suspected=False)  # who comes back is heard of: not suspected
        self._adverts.pop(peer, None)
        for candidate in self._dialled.pop(peer, {}).values():
            self._on_gone(candidate)
        self._index()

    def _suspect(self, peer: PeerId, *, is_suspected: bool) -> None:
        for candidate in self.candidates_of(peer):
            candidate.is_suspected = is_suspected

    def _index(self) -> None:
        hosts: dict[ModelName, dict[ModelVersion, list[Candidate]]] = {}
        for peer, advert in self._adverts.items():
            candidates = self.candidates_of(peer)
            for offer in advert.models:
                if offer.is_ready:  # also while nobody can be reached: that is another error
                    hosts.setdefault(offer.name, {}).setdefault(offer.version, []).extend(
                        candidates
                    )
        self._hosts = {
            model: {version: tuple(of) for version, of in versions.items()}
            for model, versions in hosts.items()
        }
        self._newest = {
            model: max([v for v, of in versions.items() if of] or versions, key=int)
            for model, versions in hosts.items()
        }
