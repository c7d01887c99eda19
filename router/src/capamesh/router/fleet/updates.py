"""Brings a router's view of the fleet, and its links, up to date with what the membership says has changed. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.fleet import Change, Changed, Joined, Left
from capamesh.router.fleet.naming import name_of

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.endpoint import Endpoint
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
        clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        """`take` brings changes to the fleet's view: itself, or those who own models before it.

        `drain` lays on a node's endpoints whether the owner has drained it.
        `on_changes` is called with what has changed once the view has it, also when that is nothing.
        """
        self._fleet = fleet
        self._overrides = overrides
        self._dialler = dialler
        self._take = take
        self._on_changes = on_changes
        self._drain = drain
        self._clock = clock
        self._log = log

    def heard(self, peer: PeerId, changes: list[Change]) -> None:
        """Take over what an advert of a node has changed; the node is there, and so it is dialled soon."""
        self.apply(changes)
        for endpoint in self._fleet.endpoints_of(peer):
            self._dialler.hurry(endpoint, is_changed=bool(changes))

    def apply(self, changes: list[Change]) -> None:
        """Bring the fleet's view up to date with what has changed."""
        names = {peer: name_of(self._fleet.adverts, peer) for peer in _left(changes)}
        self._take(changes)
        for change in changes:
            match change:
                case Joined(advert):
                    self._lay_on(advert.peer)
                    models = [f"{model.name}/{model.version}" for model in advert.models]
                    self._log.info("node_joined", node=advert.name, peer=advert.peer, models=models)
                case Left(peer, reason):
                    self._log.info("node_left", node=names[peer], peer=peer, reason=reason.value)
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
        self._overrides.apply(self._fleet, peer, self._clock())
        self._drain(peer)


def _left(changes: list[Change]) -> list[PeerId]:
    return [change.peer for change in changes if isinstance(change, Left)]
