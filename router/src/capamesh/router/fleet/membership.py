"""The way of one advert: from an envelope that the mesh delivers to the nodes that this router sends requests to.

An envelope is verified and read (`Hearing`), which says what it changes in the fleet. Owners judge whose files are
served, the view gains and loses endpoints, the operator's overrides are laid on what is new, and then whoever waits
for a node is told. Does no IO but the log's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.adverts import RejectReason
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.fleet import Change, Changed, Joined, Left

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import RevocationList
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.hearing import Hearing
    from capamesh.router.fleet.last_fleet import LastFleet
    from capamesh.router.fleet.overrides import Overrides
    from capamesh.router.fleet.ownership_keeper import OwnerKeeper
    from capamesh.router.fleet.view import FleetView


class Dialler(Protocol):
    """What dials the endpoints of the fleet: the pool of links."""

    def hurry(self, endpoint: Endpoint, *, is_changed: bool) -> None:
        """Dial an endpoint soon whose node has shown that it is there."""


class FleetMembers:
    """Keeps the fleet's view as the nodes' adverts, goodbyes and silence have it."""

    def __init__(
        self,
        hearing: Hearing,
        owners: OwnerKeeper,
        fleet: FleetView,
        overrides: Overrides,
        last_fleet: LastFleet,
        dialler: Dialler,
        *,
        on_changes: Callable[[list[Change]], None],
        clocks: Clocks,
        log: FilteringBoundLogger,
    ) -> None:
        """`on_changes` is called with what has changed once the fleet's view has it, also when that is nothing."""
        self._hearing = hearing
        self._owners = owners
        self._fleet = fleet
        self._overrides = overrides
        self._last_fleet = last_fleet
        self._dialler = dialler
        self._on_changes = on_changes
        self._clocks = clocks
        self._log = log

    def heard(self, raw: bytes) -> None:
        """Take in an envelope that the mesh delivered; one that is not believed is logged."""
        try:
            peer, changes = self._hearing.heard(raw, self._clocks.now())
        except AdvertRejected as error:
            if error.reason == RejectReason.QUOTA:  # `Notices` tell of it once
                return
            self._log.warning("advert_rejected", reason=error.reason, error=error.message)
            return
        self.apply(changes)
        if peer in self._hearing.members:
            self._last_fleet.heard(peer, raw, is_news=bool(changes))
        for endpoint in self._fleet.endpoints_of(peer):
            self._dialler.hurry(endpoint, is_changed=bool(changes))

    def restore(self, envelopes: Iterable[bytes]) -> None:
        """Take over the fleet that was known when this router ended, as far as it is believable."""
        for raw in envelopes:
            try:
                peer, changes = self._hearing.restored(raw, self._clocks.now())
            except AdvertRejected as error:
                self._log.info("last_fleet_member_refused", reason=error.reason)
                continue
            self.apply(changes)
            if peer in self._hearing.members:
                self._last_fleet.heard(peer, raw, is_news=False)
        self._last_fleet.is_changed = False
        self._log.info("last_fleet_restored", nodes=len(self._last_fleet))

    def tick(self) -> None:
        """Notice which nodes have been silent for too long."""
        self.apply(self._hearing.tick(self._clocks.now(), self._fleet.is_linked))

    def expel(self, revocations: RevocationList) -> None:
        """Remove the nodes that are revoked, by their names or by the invites that admitted them."""
        for peer in list(self._fleet.adverts):
            invite = self._hearing.quotas.invite_of(peer)
            if peer in revocations.peers or invite in revocations.invites:
                self.apply(self._hearing.expel(peer, self._clocks.now()))

    def visited(self, endpoint: Endpoint) -> None:
        """Take in an endpoint that has dialled this router."""
        self._fleet.visit(endpoint)
        self._override(endpoint.peer)

    def visitor_left(self, endpoint: Endpoint) -> None:
        """Take out an endpoint that had dialled this router and is gone."""
        self._fleet.leave(endpoint)

    def apply(self, changes: list[Change]) -> None:
        """Bring the fleet's view up to date with what has changed."""
        self._owners.take(changes)  # which hands them on to the view
        for change in changes:
            match change:
                case Joined(advert):
                    self._override(advert.peer)
                    names = [f"{model.name}/{model.version}" for model in advert.models]
                    self._log.info("node_joined", peer=advert.peer, models=names)
                case Left(peer, reason):
                    self._last_fleet.left(peer)
                    self._log.info("node_left", peer=peer, reason=reason.value)
                case Changed(advert):
                    self._override(advert.peer)
                    self._log.info("node_changed", peer=advert.peer, is_draining=advert.is_draining)
                case _:
                    pass
        self._on_changes(changes)

    def _override(self, peer: PeerId) -> None:
        self._overrides.apply(self._fleet, peer, self._clocks.steady_s())
