"""The other routers of the network, as far as their adverts are heard. Pure: times come in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.protocol.adverts import RouterAdvert
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import Member, RevocationList

KEPT_S: Final = 35.0
"""A router that is silent for so long is not listed any more: as a node that advertises as often."""
MOST: Final = 256
"""The most routers that are kept (guess)."""


class RoutersHeard:
    """The newest advert of each router. An invite has no more places than it admits members."""

    def __init__(self) -> None:
        self._heard: dict[PeerId, tuple[RouterAdvert, str, float]] = {}

    @override
    def __repr__(self) -> str:
        return f"RoutersHeard({len(self._heard)} routers)"

    def heard(self, advert: RouterAdvert, member: Member, now_s: float) -> None:
        """Take in the advert of a router, unless it is older than another of it or has no place."""
        self._forget_silent(now_s)
        known = self._heard.get(advert.peer)
        if known is not None and known[0].sequence >= advert.sequence:
            return
        of_invite = Counter(invite for _, invite, _ in self._heard.values())[member.invite_serial]
        if known is None and (len(self._heard) >= MOST or of_invite >= member.invite_members):
            return
        self._heard[advert.peer] = (advert, member.invite_serial, now_s)

    def expel(self, revocations: RevocationList) -> None:
        """Forget routers that are revoked."""
        for peer, (_, invite, _) in list(self._heard.items()):
            if peer in revocations.peers or invite in revocations.invites:
                del self._heard[peer]

    def at(self, now_s: float) -> list[RouterAdvert]:
        """Return the adverts of those that are heard at this time, by their names."""
        self._forget_silent(now_s)
        return sorted(
            (advert for advert, _, _ in self._heard.values()),
            key=lambda advert: (advert.name, advert.peer),
        )

    def _forget_silent(self, now_s: float) -> None:
        for peer, (_, _, heard_s) in list(self._heard.items()):
            if heard_s + KEPT_S <= now_s:
                del self._heard[peer]
