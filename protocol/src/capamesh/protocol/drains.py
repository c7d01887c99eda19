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

    def read(self, encoded: bytes) -> DrainOrder:
        """Return an order that is not taken over yet; raise `ProtocolViolation` when it is not the owner's."""
        return self._trust.read_drains(encoded)

    def take(self, encoded: bytes) -> bool:
        """Take an order over and keep it where it is newer, and say whether it is.

        Raises `ProtocolViolation` when it is not the owner's. What the disk refuses is tried again with each status.
        """
        if not self._trust.take_drains(encoded):
            return False
        is_kept = self._home.keep(DRAINS_FILE, encoded)
        order = self.newest
        self._log.info(
            "drains_updated", version=order.version, nodes=len(order.peers), is_kept=is_kept
        )
        return True

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
