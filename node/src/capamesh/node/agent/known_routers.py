"""The routers that a node behind NAT dials, by what they told of themselves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.node.contract.messages import Routers

if TYPE_CHECKING:
    from capamesh.protocol.adverts import RouterAdvert
    from capamesh.protocol.ids import PeerId

ROUTER_FORGOTTEN_S = 600.0
"""A router not heard of for so long is dialled no more (guess: its mesh may be down while its links work)."""
MAX_ROUTERS: Final = 64
"""The first that are heard (guess: a network has a few, each with a few processes)."""
MAX_ADDRESSES: Final = 16
"""The most addresses of one router, which has one for each of its processes: each is dialled while the router is heard."""


class KnownRouters:
    """The addresses at which the routers that were heard of lately take links."""

    def __init__(self) -> None:
        self._addresses: dict[PeerId, tuple[str, ...]] = {}
        self._heard_s: dict[PeerId, float] = {}

    def heard(self, router: RouterAdvert, now_s: float) -> bool:
        """Take over what a router told; return whether there is anything new to dial, or less.

        A router beyond the first `MAX_ROUTERS` is not dialled until one of those is forgotten.
        """
        if router.peer in self._heard_s or len(self._heard_s) < MAX_ROUTERS:
            self._heard_s[router.peer] = now_s
        gone = {
            peer for peer, heard_s in self._heard_s.items() if now_s - heard_s > ROUTER_FORGOTTEN_S
        }
        for peer in gone:
            del self._addresses[peer], self._heard_s[peer]
        if router.peer not in self._heard_s:
            return bool(gone)
        addresses = router.link_addresses[:MAX_ADDRESSES]
        is_new = self._addresses.get(router.peer) != addresses
        self._addresses[router.peer] = addresses
        return is_new or bool(gone)

    def message(self) -> Routers:
        """Return what a worker is told."""
        return Routers(dict(self._addresses))

    def __len__(self) -> int:
        return len(self._addresses)
