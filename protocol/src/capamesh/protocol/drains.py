"""The newest drain order that a member knows, in its data folder too. IO: the file.

Nodes and routers keep it: whoever joins later, or was away, hears of it from any member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError, ProtocolViolation
from capamesh.protocol.network import DRAINS_FILE, MAX_ORDER_BYTES
from capamesh.protocol.private_files import read_public

if TYPE_CHECKING:
    from datetime import datetime

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.data_dir import DataDir
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import DrainOrder, NetworkTrust


class Drains:
    """The newest drain order of the network, by one member's trust."""

    def __init__(self, trust: NetworkTrust, home: DataDir, log: FilteringBoundLogger) -> None:
        """Take up the order that is kept in `home`. `trust` knows the newest revocation list by then."""
        self._trust = trust
        self._home = home
        self._log = log
        self._load()

    @property
    def newest(self) -> DrainOrder:
        """The newest order; the empty one where there never was one."""
        return self._trust.drains

    @property
    def encoded(self) -> bytes:
        """The newest order as bytes, empty where there never was one."""
        return self._trust.encoded_drains

    @property
    def is_kept(self) -> bool:
        """Return whether the newest order is on the disk."""
        return self._home.is_kept(DRAINS_FILE)

    def newer(self, encoded: bytes) -> DrainOrder | None:
        """Return an order that replaces the newest, None for another; raise `ProtocolViolation` when it is not the owner's."""
        return self._trust.newer_drains(encoded)

    def adopt(self, order: DrainOrder) -> None:
        """Take over an order that `newer` has returned, and keep it. What the disk refuses is tried again with each status."""
        self._trust.adopt_drains(order)
        is_kept = self._home.keep(DRAINS_FILE, self.encoded)
        self._log.info(
            "drains_updated", version=order.version, nodes=len(order.peers), is_kept=is_kept
        )

    def heard(self, encoded: bytes) -> bool:
        """Take over an order that the mesh delivered where it is newer, and say whether it is.

        One that does not count any more is passed over: it crossed the revocation list that retires its key.
        """
        try:
            order = self.newer(encoded)
        except ProtocolViolation as exc:
            self._log.warning("drains_refused", reason=exc.message)
            return False
        if order is not None:
            self.adopt(order)
        return order is not None

    def until(self, peer: PeerId, now: datetime) -> datetime | None:
        """Return until when the owner has drained a node, None where routers may send to it."""
        return self._trust.drained_until(peer, now)

    def _load(self) -> None:
        file = self._home.folder / DRAINS_FILE
        if not file.exists():
            return
        try:
            self._trust.take_drains(
                read_public(file, "the drain order", limit_bytes=MAX_ORDER_BYTES)
            )
        except (ConfigError, ProtocolViolation) as error:
            self._home.set_aside(
                DRAINS_FILE, error.message, "it comes again with the first member that is met"
            )
