"""Brings a router's view of the fleet, and its links, up to date with what the membership says has changed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.fleet import Change, Changed, Joined, Left, LeftReason
from capamesh.router.fleet.naming import name_of

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.lost_nodes import Key, LostNodes
    from capamesh.router.fleet.overrides import Overrides
    from capamesh.router.fleet.view import FleetView


class Dialler(Protocol):
    """The pool of links, as far as it dials the endpoints of the fleet."""

    __slots__ = ()

    def hurry(self, endpoint: Endpoint, *, is_changed: bool) -> None:
        """Dial an endpoint soon whose node has shown that it is there."""


class FleetUpdates:
    """Takes over the changes of one router's fleet."""

    def __init__(
        self,
        fleet: FleetView,
        overrides: Overrides,
        dialler: Dialler,
        *,
        take: Callable[[list[Change]], None],
        on_changes: Callable[[list[Change]], None],
        drain: Callable[[PeerId], None] = lambda _: None,
        is_drained: Callable[[PeerId], bool] = lambda _: False,
        invite_of: Callable[[PeerId], str] = lambda _: "",
        lost: LostNodes,
        clocks: Clocks,
        log: FilteringBoundLogger,
    ) -> None:
        """`take` brings changes to the fleet's view: itself, or those who own models before it.

        `drain` lays on a node's endpoints whether the owner has drained it, and `is_drained` tells that. `invite_of` returns
        the invite that has admitted a member. `lost` takes those that vanish.
        `on_changes` is called with what has changed once the view has it, also when that is nothing.
        """
        self._fleet = fleet
        self._overrides = overrides
        self._dialler = dialler
        self._take = take
        self._on_changes = on_changes
        self._drain = drain
        self._is_drained = is_drained
        self._invite_of = invite_of
        self._lost = lost
        self._clocks = clocks
        self._log = log

    def heard(self, peer: PeerId, changes: list[Change]) -> None:
        """Take over what an advert of a node has changed; the node is there, and so it is dialled soon."""
        self.apply(changes)
        for endpoint in self._fleet.endpoints_of(peer):
            self._dialler.hurry(endpoint, is_changed=bool(changes))

    def apply(self, changes: list[Change]) -> None:
        """Bring the fleet's view up to date with what has changed."""
        left = [change.peer for change in changes if isinstance(change, Left)]
        names = {peer: name_of(self._fleet.adverts, peer) for peer in left}
        hosted = {peer: self._hosted(peer) for peer in left}
        self._take(changes)
        for change in changes:
            match change:
                case Joined(advert):
                    self._lay_on(advert.peer)
                    models = [f"{model.name}/{model.version}" for model in advert.models]
                    self._log.info("node_joined", node=advert.name, peer=advert.peer, models=models)
                    self._joined(advert)
                case Left(peer, reason):
                    vanished_with = hosted[peer] if reason is LeftReason.EXPIRED else None
                    if vanished_with is not None:
                        self._has_lost(peer, names[peer], vanished_with)
                    else:
                        self._lost.left(peer)
                        self._log.info(
                            "node_left", node=names[peer], peer=peer, reason=reason.value
                        )
                case Changed(advert):
                    self._lay_on(advert.peer)
                    self._log.info(
                        "node_changed",
                        node=advert.name,
                        peer=advert.peer,
                        is_draining=advert.is_draining,
                    )
                case _:
                    pass
        self._on_changes(changes)

    def visited(self, endpoint: Endpoint) -> None:
        """Take in an endpoint that has dialled this router."""
        self._fleet.visit(endpoint)
        self._lay_on(endpoint.peer)

    def visitor_left(self, endpoint: Endpoint) -> None:
        """Take out an endpoint that had dialled this router and is gone."""
        self._fleet.leave(endpoint)

    def _lay_on(self, peer: PeerId) -> None:
        self._overrides.apply(self._fleet, peer, self._clocks.steady_s())
        self._drain(peer)

    def _joined(self, advert: NodeAdvert) -> None:
        invite = self._invite_of(advert.peer)
        known = self._lost.joined(advert.peer, invite, self._clocks.steady_s())
        if known is not None:
            self._log.info(
                "node_returned",
                node=advert.name,
                peer=advert.peer,
                away_s=(self._wall_ms() - known.lost_at_ms) // 1000,
            )

    def _has_lost(self, peer: PeerId, name: str, hosted: Mapping[Key, int]) -> None:
        self._lost.lost(peer, name, hosted, now_s=self._clocks.steady_s(), wall_ms=self._wall_ms())
        models = [f"{model}/{version}" for model, version in hosted]
        self._log.warning("node_lost", node=name, peer=peer, models=models)

    def _wall_ms(self) -> int:
        return self._clocks.wall_ns() // 1_000_000

    def _hosted(self, peer: PeerId) -> dict[Key, int] | None:
        """Return the models that requests to a node can be for, each with the number of nodes that have it.

        None: it was to take no requests, and is not missed.
        """
        fleet = self._fleet
        advert = fleet.adverts.get(peer)
        if advert is None or advert.is_draining or self._is_drained(peer):
            return None
        keys = [(offer.name, offer.version) for offer in advert.models if offer.is_ready]
        return {key: fleet.nodes_ready(*key) for key in keys if fleet.has_ready(peer, *key)}
