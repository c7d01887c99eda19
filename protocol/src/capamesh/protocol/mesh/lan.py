# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false
# libp2p is partly typed.
"""Finds members on the local network by multicast DNS. Does IO: threads of zeroconf, seen from trio.

What answers is a stranger: it is dialled and has to prove membership like any other. The service type
carries a part of the network id, so that networks on one LAN do not dial each other for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
from libp2p.discovery.mdns.broadcaster import PeerBroadcaster
from libp2p.discovery.mdns.listener import PeerListener
from libp2p.discovery.mdns.utils import stringGen
from zeroconf import Zeroconf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from libp2p.abc import IPeerStore

    from capamesh.protocol.ids import NetworkId, PeerId
    from capamesh.protocol.mesh.hardening import Warn

_NAME_CHARS = 63
"""The longest label that DNS has (RFC 1035); random, as libp2p's mDNS specification has it."""


def service_type(network_id: NetworkId) -> str:
    """Return the service type of a network; DNS-SD allows 15 characters before `._udp` (RFC 6763)."""
    return f"_p2p-{network_id.removeprefix('cm-')[:8]}._udp.local."


def announced(addrs: Sequence[str]) -> tuple[list[str], int]:
    """Return the addresses to announce, and the port of a wildcard address (0 when there is none).

    libp2p puts this machine's own addresses before the port when there are no others to announce.
    """
    for addr in addrs:
        parts = addr.split("/")
        if parts[2] in {"0.0.0.0", "::"}:  # noqa: S104  # recognized, not bound
            return [], int(parts[4])
    return list(addrs), 0


class _Found:
    """Stands where libp2p's listener expects a peer store; called on zeroconf's threads."""

    def __init__(self, found: Callable[[list[str]], None]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._found = found

    def add_addrs(self, peer: object, addrs: Sequence[object], ttl_s: int) -> None:
        del ttl_s
        texts = [f"{addr}/p2p/{peer}" for addr in addrs]
        try:
            self._token.run_sync_soon(self._found, texts)
        except trio.RunFinishedError:
            return

    def clear_addrs(self, peer: object) -> None:
        """Whoever leaves is noticed by its connection."""


async def find_on_lan(
    network_id: NetworkId,
    peer_id: PeerId,
    addrs: Sequence[str],
    *,
    found: Callable[[list[str]], None],
    warn: Warn,
) -> None:
    """Announce `addrs`, if any, and report others' until cancelled. A LAN without multicast is a warning."""
    kind = service_type(network_id)
    name = f"{stringGen(_NAME_CHARS)}.{kind}"
    store = _Found(found)

    listen, port = announced(addrs)

    def start() -> tuple[Zeroconf, PeerBroadcaster, PeerListener]:
        zeroconf = Zeroconf()
        broadcaster = PeerBroadcaster(zeroconf, kind, name, peer_id, port, listen_addrs=listen)
        if listen or port:
            broadcaster.register()
        return zeroconf, broadcaster, PeerListener(cast("IPeerStore", store), zeroconf, kind, name)

    def stop(zeroconf: Zeroconf, broadcaster: PeerBroadcaster, listener: PeerListener) -> None:
        if listen or port:
            broadcaster.unregister()
        listener.stop()
        zeroconf.close()

    try:
        running = await trio.to_thread.run_sync(start)
    except OSError as exc:
        warn("mdns_failed", f"this network has no multicast: {exc}")
        return
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(2) as limit:
            limit.shield = True
            await trio.to_thread.run_sync(stop, *running, abandon_on_cancel=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - the stubs are older than trio
