"""The nodes that the network's owner has drained, as one router keeps to it: they get no new requests. IO: keeps the order.

A drain is laid on a node's endpoints as its own word that it drains is: `Endpoint.is_draining`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.network.certificates import CLOCK_SKEW

if TYPE_CHECKING:
    from capamesh.protocol.drains import Drains
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import DrainOrder
    from capamesh.router.fleet.view import FleetView


class FleetDrains:
    """The newest drain order, laid on the endpoints of one router's fleet."""

    def __init__(
        self,
        drains: Drains,
        fleet: FleetView,
        *,
        now: Callable[[], datetime],
        pass_on: Callable[[bytes], None],
        on_changed: Callable[[], None],
    ) -> None:
        """`now` is the time by which memberships end, too. `pass_on` gives the mesh an order that an operator posted.

        `on_changed` is called when nodes were drained or enabled: requests may wait for one.
        """
        self._drains = drains
        self._fleet = fleet
        self._now = now
        self._pass_on = pass_on
        self._on_changed = on_changed
        self._laid = self._held()
        """The peers that are drained as far as their endpoints have been told."""

    @property
    def encoded(self) -> bytes:
        """The newest order as bytes, empty where there never was one."""
        return self._drains.encoded

    def until(self, peer: PeerId) -> datetime | None:
        """Return until when a node is drained, None where requests may be sent there."""
        return self._drains.until(peer, self._now())

    def post(self, encoded: bytes) -> tuple[DrainOrder, bool]:
        """Take over an order that an operator posted, and return the newest, and whether it is on the disk.

        Raises `InvalidRequest` when it is not the owner's, signed by a clock that is ahead of this network's, or signed beside another one
        without knowing of it: to take it over would undo that unseen.
        """
        now = self._now()
        order = self._newer(encoded)
        if order is None:
            return self._drains.newest, self._drains.is_kept
        if order.issued_at > now + CLOCK_SKEW:
            raise InvalidRequest(
                f"the drain order was signed at {order.issued_at:%Y-%m-%dT%H:%M:%SZ}, and here it is "
                f"{now:%Y-%m-%dT%H:%M:%SZ}: set the clock of the machine that signs, and sign again"
            )
        if order.rank == self._drains.newest.rank:
            raise InvalidRequest(
                f"another drain order of version {order.version} came while this one was signed: sign again, from the newest"
            )
        self._adopt(order, encoded)
        return order, self._drains.is_kept

    def spread(self, encoded: bytes) -> None:
        """Take over an order that a worker of this router has let an operator post, and pass it on where it is newer.

        Two of one version are settled here as in the mesh. Raises `InvalidRequest` when it is not the owner's.
        """
        order = self._newer(encoded)
        if order is not None:
            self._adopt(order, encoded)

    def heard(self, encoded: bytes) -> None:
        """Take over an order that the mesh delivered."""
        if self._drains.heard(encoded):
            self.tick()

    def tick(self) -> None:
        """Lay the order on the fleet where it holds since the last look, and take it off where it holds no more."""
        held = self._held()
        changed = held ^ self._laid
        self._laid = held
        for peer in changed:
            self.lay_on(peer)
        if changed:
            self._on_changed()

    def _newer(self, encoded: bytes) -> DrainOrder | None:
        try:
            return self._drains.newer(encoded)
        except ProtocolViolation as exc:
            raise InvalidRequest(exc.message) from exc

    def _adopt(self, order: DrainOrder, encoded: bytes) -> None:
        self._drains.adopt(order)
        self._pass_on(encoded)
        self.tick()

    def lay_on(self, peer: PeerId) -> None:
        """Let a node's endpoints, which may be new, take new requests or not: by its own word, and by the owner's."""
        advert = self._fleet.adverts.get(peer)
        is_draining = (advert is not None and advert.is_draining) or peer in self._laid
        for endpoint in self._fleet.endpoints_of(peer):
            endpoint.is_draining = is_draining

    def _held(self) -> set[PeerId]:
        now = self._now()
        return {peer for peer in self._drains.newest.peers if self._drains.until(peer, now)}
