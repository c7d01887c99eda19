"""The adverts of routers that a node hears in the mesh, and the time by what they sign. IO: reads the clocks, logs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from capamesh.protocol.adverts import KIND_ROUTER, open_envelope, router_from_body
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.network_clock import ClockNotice, NetworkClock

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.adverts import RouterAdvert
    from capamesh.protocol.network import NetworkTrust
    from capamesh.protocol.network_clock import Skew
    from capamesh.protocol.system import System


class Hearing:
    """Opens what members publish to nodes."""

    def __init__(self, trust: NetworkTrust, log: FilteringBoundLogger, system: System) -> None:
        self._trust = trust
        self._log = log
        self._notice = ClockNotice()
        self._system = system
        self._clock = NetworkClock(*self._now())

    def router_in(self, raw: bytes) -> RouterAdvert | None:
        """Return what a router says of itself; None: it is not for this node, or not to be believed."""
        wall_ms, steady_s = self._now()
        try:
            # when it was sealed is the sidecar's to judge, and for us to set our clock by
            envelope = open_envelope(
                raw,
                self._trust,
                self._clock.membership_ms(wall_ms, steady_s),
                is_time_checked=False,
            )
            member = envelope.sender
            self._clock.heard(member.peer_id, member.invite_serial, envelope.issued_at_ms, steady_s)
            if envelope.kind != KIND_ROUTER:
                return None
            return router_from_body(envelope.body, envelope.sender.peer_id, envelope.sequence)
        except AdvertRejected as error:
            self._log.warning("advert_rejected", reason=error.reason, error=error.message)
            return None

    def membership_time(self) -> datetime:
        """Return the time of day by which memberships and drains end."""
        now_ms = self._clock.membership_ms(*self._now())
        return datetime.fromtimestamp(now_ms / 1000, UTC)

    def check_clock(self) -> None:
        """Log it when this machine's clock is wrong by what routers sign, and when it is right again."""
        notice = self._notice.about(self.skew())
        if notice is not None:
            (self._log.info if notice.is_good else self._log.warning)(notice.event, **notice.fields)

    def skew(self) -> Skew | None:
        """Return how wrong this machine's clock is; None: not known to be."""
        return self._clock.skew(*self._now())

    def correction_ms(self) -> int:
        """Return what has to be added to this machine's time to have the routers'."""
        return self._clock.correction_ms(*self._now())

    def _now(self) -> tuple[int, float]:
        return self._system.wall_ns() // 1_000_000, self._system.steady_s()
