"""The view of the fleet: which endpoints host which model, kept current from changes. Holds state, does no IO.

Policies choose among `Replica`s: one model version at one endpoint. A replica is the same object, with all that was
learnt of it, for as long as that endpoint hosts that version; a tuple of replicas is the same object for as long
as its members are, so that whoever derives something from it can tell by identity whether to do so again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, assert_never
from weakref import WeakValueDictionary

from typing_extensions import override

from capamesh.protocol.adverts import ModelOffer, ModelState, NodeAdvert
from capamesh.protocol.fleet import Change, Changed, Joined, Left, Recovered, Suspected
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.reach import Inside
from capamesh.router.fleet.absent_models import AbsentModels
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.hosted_version import NO_RANKING, HostedVersion, Ranking, rank
from capamesh.router.fleet.node_addresses import AddressRule, addresses_within
from capamesh.router.fleet.replica import Replica
from capamesh.router.fleet.wanted_loads import Away

if TYPE_CHECKING:
    from capamesh.protocol.steps import Steps
    from capamesh.router.ownership.owners import Judged, Owners

_Key = tuple[ModelName, ModelVersion]
_NONE: dict[ModelVersion, HostedVersion] = {}


class FleetView:
    """The fleet by model. `on_new` and `on_gone` are told of endpoints that must be dialled or let go."""

    def __init__(
        self,
        *,
        on_new: Callable[[Endpoint], None],
        on_gone: Callable[[Endpoint], None],
        address_rule: AddressRule = addresses_within(Inside.LOOPBACK),  # noqa: B008 - it holds no state
        owners: Owners | None = None,
    ) -> None:
        """`owners` say which files are served and which versions are trusted; None: all are.

        They are to be told of a change before this view is; `judge_anew` takes in what that changed for others.
        """
        self._on_new = on_new
        self._on_gone = on_gone
        self._address_rule = address_rule
        self._refused: dict[PeerId, str] = {}
        self._owners = owners
        self._adverts: dict[PeerId, NodeAdvert] = {}
        self.has_had_nodes = False
        """True once a node has been heard of, whether it is still there or not."""
        self._dialled: dict[PeerId, dict[str, Endpoint]] = {}
        self._visiting: dict[PeerId, list[Endpoint]] = {}
        self._hung_up: set[PeerId] = set()
        """The nodes of the fleet that had dialled this router and have no link of that kind any more."""
        self._models: dict[ModelName, dict[ModelVersion, HostedVersion]] = {}
        self._hosted: WeakValueDictionary[_Key, HostedVersion] = WeakValueDictionary()
        """The versions in `_models`, and others that somebody holds."""
        self.rankings: dict[ModelName, Ranking] = {}
        """The ranking of the versions of each model that some node has ready."""
        self._ready: dict[PeerId, dict[_Key, ModelOffer]] = {}
        """The offers of each node that are in `_models`."""
        self.absent = AbsentModels()
        """The other models that are known: they are not ready, or were here of late."""
        self.are_names_secret = False
        """True if errors name no model but the one asked for: clients have keys, each for some models."""

    @override
    def __repr__(self) -> str:
        return f"FleetView({len(self._adverts)} nodes, {len(self._models)} models)"

    # reading

    def replicas(self, model: ModelName, version: ModelVersion) -> tuple[Replica, ...]:
        """Return who hosts the model at `version`, or its newest version when that is empty."""
        versions = self._models.get(model)
        if versions is None:
            return ()
        hosted = versions.get(version or self.newest(model))
        return () if hosted is None else hosted.replicas

    def hosted(self, model: ModelName, version: ModelVersion) -> HostedVersion:
        """Return a version as the fleet hosts it: the same object for as long as it is held, also if no node has it."""
        key = (model, version)
        hosted = self._hosted.get(key)
        if hosted is None:
            hosted = self._hosted[key] = HostedVersion()
        return hosted

    def replicas_at(self, endpoint: Endpoint) -> list[Replica]:
        """Return all that can be had at one endpoint."""
        offered = self._ready.get(endpoint.peer, ())
        found = (self.replica_at(endpoint, model, version) for model, version in offered)
        return [replica for replica in found if replica is not None]

    def replica_at(
        self, endpoint: Endpoint, model: ModelName, version: ModelVersion
    ) -> Replica | None:
        """Return one version of a model at one endpoint."""
        hosted = self._models.get(model, _NONE).get(version)
        return None if hosted is None else hosted.by_endpoint.get(endpoint)

    def awaits_reload(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a node that had it ready says that it loads it again."""
        hosted = self._models.get(model, _NONE).get(version)
        return hosted is not None and bool(hosted.away)

    def newest(self, model: ModelName) -> ModelVersion:
        """Return the version that an empty one stands for, "" when no node has a trusted one ready.

        It is the largest trusted one that is hosted where there is a way to go, linked at the moment or not, and not
        just loaded again; else the largest trusted.
        """
        return self.rankings.get(model, NO_RANKING).newest

    def has(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether some node, reachable or not, has just this version ready."""
        return version in self._models.get(model, ())

    def is_reached(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a request for the model at `version`, "" being its newest, can be sent to some node now."""
        return any(
            replica.endpoint.is_usable and not replica.is_out
            for replica in self.replicas(model, version)
        )

    def has_unreached(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a node that takes requests has it ready, and there is no way to that node now.

        It dials this router, and will again.
        """
        hosted = self._models.get(model, _NONE).get(version)
        if hosted is None:
            return False
        reached = {endpoint.peer for endpoint in hosted.by_endpoint}
        return any(
            peer not in reached and not self._adverts[peer].is_draining for peer in hosted.offers
        )

    def trusted(self, model: ModelName) -> Collection[ModelVersion]:
        """Return those of `versions_ready` to which a request may go that names none."""
        return self.rankings.get(model, NO_RANKING).trusted

    def owned(self) -> list[dict[str, object]]:
        """Return who owns each model version that is hosted, for people and JSON; none where all are served."""
        return [] if self._owners is None else self._owners.described()

    def owner_of(self, model: ModelName, version: ModelVersion) -> dict[str, object] | None:
        """Return the same of one version."""
        return None if self._owners is None else self._owners.description(model, version)

    def choice(self, model: ModelName, version: ModelVersion) -> str:
        """Return why a version is served as it is, for people, where nodes host several files as it; else ""."""
        return "" if self._owners is None else self._owners.choice(model, version)

    def withheld(self, model: ModelName, version: ModelVersion) -> str:
        """Return why nodes that say to host a version are not asked for it, for people; "" when there are none."""
        return "" if self._owners is None else self._owners.withheld(model, version)

    def unloaded(self, model: ModelName, version: ModelVersion) -> list[Away]:
        """Return the nodes that may load the model, each with its version; "" is any that is trusted.

        Only those that have the file that the version is served as: a load of another would help nobody.
        """
        versions, owners = self.absent.unloaded(model), self._owners
        found: list[Away] = []
        for each in [version] if version else versions:
            if owners is None:
                found += [Away(peer, each, peer) for peer in versions.get(each, ())]
            elif version or owners.is_trusted(model, each):
                found += [
                    Away(peer, each, owners.invite_of(model, peer))
                    for peer, digest in versions.get(each, {}).items()
                    if owners.admits(model, each, digest)
                ]
        return found

    def has_ready(self, peer: PeerId, model: ModelName, version: ModelVersion) -> bool:
        """Return whether a node has the version ready, of the file that it is served as."""
        hosted = self._models.get(model, _NONE).get(version)
        return hosted is not None and peer in hosted.offers and peer not in hosted.away

    def nodes_ready(self, model: ModelName, version: ModelVersion) -> int:
        """Return the number of nodes that have the version ready, of the file that it is served as."""
        hosted = self._models.get(model, _NONE).get(version)
        return 0 if hosted is None else len(hosted.offers) - len(hosted.away)

    def versions_ready(self, model: ModelName) -> Collection[ModelVersion]:
        """Return the versions that some node has ready, or loads again, in no order; cheap, and kept current."""
        return self._models.get(model, _NONE).keys()

    def versions(self, model: ModelName) -> list[ModelVersion]:
        """Return the versions that some node has ready, oldest first."""
        return sorted(self._models.get(model, ()), key=int)

    def models(self) -> list[ModelName]:
        """Return the models that some node has ready, by name."""
        return sorted(self._models)

    def offer(self, model: ModelName, version: ModelVersion) -> ModelOffer | None:
        """Return how some node describes the model, None when no node has it ready."""
        hosted = self._models.get(model, {}).get(version or self.newest(model))
        return None if hosted is None else next(iter(hosted.offers.values()))

    def offers(self) -> Steps[list[ModelOffer]]:
        """Return every model version that is known, ready or not, once, the readiest offer of each, in steps of a node."""
        best: dict[_Key, ModelOffer] = {}
        for advert in list(self._adverts.values()):
            yield
            for offer in advert.models:
                key = (offer.name, offer.version)
                is_better = offer.is_ready and self.is_served(offer)
                if key not in best or (is_better and not best[key].is_ready):
                    best[key] = offer
        return [offer for _, offer in sorted(best.items(), key=lambda item: item[0])]

    @property
    def adverts(self) -> Mapping[PeerId, NodeAdvert]:
        """All nodes of the fleet."""
        return self._adverts

    def endpoints_of(self, peer: PeerId) -> list[Endpoint]:
        """Return the ways to reach one node."""
        return [*self._dialled.get(peer, {}).values(), *self._visiting.get(peer, ())]

    def refused_addresses(self, peer: PeerId) -> str:
        """Return which addresses of a node are not dialled and why, "" when all are."""
        return self._refused.get(peer, "")

    def is_linked(self, peer: PeerId) -> bool:
        """Return whether a link to a node is up, which shows that it is alive."""
        return any(endpoint.link is not None for endpoint in self.endpoints_of(peer))

    def has_hung_up(self, peer: PeerId) -> bool:
        """Return whether a node had dialled this router, and its last link has ended since."""
        return peer in self._hung_up

    def endpoints(self) -> Iterable[Endpoint]:
        """Return all ways to reach all nodes."""
        for peer in self._adverts:
            yield from self.endpoints_of(peer)

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

    def visit(self, endpoint: Endpoint) -> None:
        """Add an endpoint that dialled this router itself; its node may be heard of later."""
        self._visiting.setdefault(endpoint.peer, []).append(endpoint)
        self._hung_up.discard(endpoint.peer)
        advert = self._adverts.get(endpoint.peer)
        endpoint.is_draining = advert is not None and advert.is_draining
        self._index(endpoint.peer)

    def leave(self, endpoint: Endpoint) -> None:
        """Remove an endpoint that had dialled this router."""
        visitors = self._visiting.get(endpoint.peer, [])
        if endpoint in visitors:
            visitors.remove(endpoint)
            if not visitors:
                del self._visiting[endpoint.peer]
                if endpoint.peer in self._adverts:
                    self._hung_up.add(endpoint.peer)
            self._index(endpoint.peer, gone=(endpoint,))

    def judge_anew(self, judged: Judged) -> None:
        """Take in that other files are served, or other versions trusted, than before."""
        for peer in judged.peers:
            self._index(peer)
        for model in judged.models:
            if model in self._models:
                self._rank(model)

    def is_served(self, offer: ModelOffer) -> bool:
        """Return whether the file that a node offers is the one that the version is served as."""
        owners = self._owners
        return owners is None or owners.admits(offer.name, offer.version, offer.digest)

    def _heard(self, advert: NodeAdvert) -> None:
        peer = advert.peer
        known_advert = self._adverts.get(peer)
        # a node that was killed says at first what it has found by then
        is_restarted = (
            known_advert is not None and known_advert.sequence.boot_ns != advert.sequence.boot_ns
        )
        self._adverts[peer] = advert
        self.has_had_nodes, self.absent.have_all_left = True, False
        known = self._dialled.setdefault(peer, {})
        dialled = self._address_rule(advert)
        wanted = set(dialled.addresses)
        if dialled.refused:
            self._refused[peer] = dialled.refused
        else:
            self._refused.pop(peer, None)
        gone = [known.pop(address) for address in known.keys() - wanted]
        for address in sorted(wanted - known.keys()):
            known[address] = Endpoint(peer, address)
            self._on_new(known[address])
        for endpoint in self.endpoints_of(peer):
            endpoint.is_draining = advert.is_draining
        self._index(peer, gone=gone, is_restarted=is_restarted)
        for endpoint in gone:
            self._on_gone(endpoint)

    def _left(self, peer: PeerId) -> None:
        self._suspect(peer, is_suspected=False)  # who comes back is heard of: not suspected
        self._adverts.pop(peer, None)
        self.absent.have_all_left = not self._adverts
        self._refused.pop(peer, None)
        self._hung_up.discard(peer)
        gone = list(self._dialled.pop(peer, {}).values())
        self._index(peer, gone=gone)
        for endpoint in gone:
            self._on_gone(endpoint)

    def _suspect(self, peer: PeerId, *, is_suspected: bool) -> None:
        for endpoint in self.endpoints_of(peer):
            endpoint.is_suspected = is_suspected

    # the index: one node's part at a time, since a fleet's nodes change one by one

    def _index(
        self, peer: PeerId, *, gone: Iterable[Endpoint] = (), is_restarted: bool = False
    ) -> None:
        """Bring one node's replicas in line with its advert and endpoints; `gone` it has no more.

        `is_restarted`: the advert is the first since its node was started anew.
        """
        advert = self._adverts.get(peer)
        before = self._ready.get(peer, {})
        ready: dict[_Key, ModelOffer] = {}
        away: set[_Key] = set()
        absent: list[ModelOffer] = []
        for offer in advert.models if advert is not None else ():
            key = (offer.name, offer.version)
            if offer.is_ready:
                if self.is_served(offer):
                    ready[key] = offer
            elif (
                offer.state is ModelState.LOADING and key in before and self.is_served(before[key])
            ):
                ready[key] = before[key]
                away.add(key)
            else:
                absent.append(offer)
        is_back = advert is None or advert.is_draining or is_restarted
        self.absent.heard(peer, absent, before, ready, is_back=is_back)
        endpoints = self.endpoints_of(peer)
        for key in before.keys() - ready.keys():
            hosted = self._models[key[0]][key[1]]
            del hosted.offers[peer]
            hosted.away.discard(peer)
            self._settle(key, hosted, hosted.drop((*gone, *endpoints)))
        for key, offer in ready.items():
            versions = self._models.setdefault(key[0], {})
            is_changed = key[1] not in versions
            if is_changed:
                versions[key[1]] = self.hosted(*key)
            hosted = versions[key[1]]
            hosted.offers[peer] = offer
            is_away = key in away
            is_moved = is_away != (peer in hosted.away)
            if is_moved:
                (hosted.away.add if is_away else hosted.away.discard)(peer)
            is_changed |= hosted.drop(gone)
            assert advert is not None  # noqa: S101 - or nothing of it were ready
            for endpoint in endpoints:
                replica = hosted.by_endpoint.get(endpoint)
                if replica is None:
                    replica = hosted.by_endpoint[endpoint] = Replica(endpoint, offer, advert)
                    is_changed = True
                else:
                    replica.advertised(offer, advert)
                replica.set_away(is_away)
            self._settle(key, hosted, is_changed, is_moved=is_moved)
        if ready:
            self._ready[peer] = ready
        else:
            self._ready.pop(peer, None)

    def _settle(
        self, key: _Key, hosted: HostedVersion, is_changed: bool, *, is_moved: bool = False
    ) -> None:
        """Take in that a version's members changed, if they did, and forget what nobody has any more.

        `is_moved`: one of them has gone away or is back.
        """
        model, version = key
        if is_changed:
            hosted.members_changed()
        elif hosted.offers and not is_moved:
            return
        versions = self._models[model]
        if not hosted.offers:
            del versions[version]
        if versions:
            self._rank(model)
        else:
            del self._models[model], self.rankings[model]

    def _rank(self, model: ModelName) -> None:
        """Find out anew which versions of a model are trusted, which is the newest of them, and which are tried."""
        self.rankings[model] = rank(model, self._models[model], self._owners)
