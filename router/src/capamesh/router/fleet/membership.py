"""The way of one advert: from an envelope that the mesh delivers to the nodes that this router sends requests to.

An envelope is verified and read (`Hearing`), which says what it changes in the fleet. Owners judge whose files are
served, the view gains and loses endpoints, the operator's overrides are laid on what is new, and then whoever waits
for a node is told (`FleetUpdates`). Does no IO but the log's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from capamesh.protocol.adverts import RejectReason
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.fleet import Change, Left

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import RevocationList
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.hearing import Hearing
    from capamesh.router.fleet.last_fleet import LastFleet
    from capamesh.router.fleet.lost_nodes import LostNodes
    from capamesh.router.fleet.updates import FleetUpdates
    from capamesh.router.fleet.view import FleetView

TICK_S = 0.5
"""A member's silence is noticed as exactly as this (guess: 2 % of the silence that is borne)."""


class FleetMembers:
    """Keeps the fleet's view as the nodes' adverts, goodbyes and silence have it."""

    def __init__(
        self,
        hearing: Hearing,
        fleet: FleetView,
        updates: FleetUpdates,
        last_fleet: LastFleet,
        lost: LostNodes,
        *,
        last_error: Callable[[Endpoint], str] = lambda _: "",
        clocks: Clocks,
        log: FilteringBoundLogger,
    ) -> None:
        """`last_error` is why an endpoint has no link, "" where it has one or was not dialled."""
        self._hearing = hearing
        self._fleet = fleet
        self._updates = updates
        self._last_fleet = last_fleet
        self._lost = lost
        self._last_error = last_error
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
        self._updates.heard(peer, changes)
        self._keep(peer, raw, changes)

    def restore(self, envelopes: Iterable[bytes]) -> None:
        """Take over the fleet that was known when this router ended, as far as it is believable."""
        for raw in envelopes:
            try:
                peer, changes = self._hearing.restored(raw, self._clocks.now())
            except AdvertRejected as error:
                self._log.info("last_fleet_member_refused", reason=error.reason)
                continue
            self._updates.apply(changes)
            self._keep(peer, raw, changes)
        self._last_fleet.is_changed = False
        self._log.info("last_fleet_restored", nodes=len(self._last_fleet))

    def tick(self) -> None:
        """Notice which nodes have been silent for too long."""
        now = self._clocks.now()
        self.apply(self._hearing.tick(now, self._fleet.is_linked, self._is_in_vain))
        self._lost.tick(now.wall_ms)

    def expel(self, revocations: RevocationList) -> None:
        """Remove the nodes that are revoked, by their names or by the invites that admitted them."""
        for peer in list(self._fleet.adverts):
            invite = self._hearing.quotas.invite_of(peer)
            if peer in revocations.peers or invite in revocations.invites:
                self.apply(self._hearing.expel(peer, self._clocks.now()))
        self._lost.expel(revocations)
        self._hearing.routers.expel(revocations)

    def apply(self, changes: list[Change]) -> None:
        """Take over what has changed, whatever it was that changed it."""
        self._updates.apply(changes)
        self._forget(changes)

    def _is_in_vain(self, peer: PeerId) -> bool:
        """Return whether a node cannot be reached at any of its addresses; or has none, and has hung up."""
        endpoints = self._fleet.endpoints_of(peer)
        if not endpoints:
            return self._fleet.has_hung_up(peer)
        return all(map(self._last_error, endpoints))

    def _keep(self, peer: PeerId, raw: bytes, changes: list[Change]) -> None:
        """Keep what a member has said for the next start of this router."""
        self._forget(changes)
        if peer in self._hearing.members:
            self._last_fleet.heard(peer, raw, is_news=bool(changes))

    def _forget(self, changes: list[Change]) -> None:
        for change in changes:
            if isinstance(change, Left):
                self._last_fleet.left(change.peer)
