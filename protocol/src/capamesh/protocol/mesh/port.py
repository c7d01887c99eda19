# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateUsage=false, reportAttributeAccessIssue=false
# libp2p is partly typed, and what must be replaced in it is private.
"""The mesh's port: who may connect, for how long without a proof, and whose place is given away. Does IO, on trio.

A connection is refused before noise, which costs milliseconds of CPU; libp2p itself knows a number of connections and no
addresses, and keeps an accepted one's place for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.network.connection.raw_connection import RawConnection
from typing_extensions import override

from capamesh.protocol.connection_limits import ConnectionLimiter, ConnectionLimits, Rate
from capamesh.protocol.descriptors import shares_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.io.abc import ReadWriteCloser
    from libp2p.network.swarm import Swarm
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

    from capamesh.protocol.connection_limits import Slot
    from capamesh.protocol.mesh.hardening import WalledYamux

MAX_CONNECTIONS: Final = 4096
"""The most connections (guess: nodes connect to a few routers each, so this serves a fleet of tens of thousands)."""

CLOSE_LIMIT_S: Final = 1.0
"""The longest close of a socket (guess: a stranger that does not read must not keep its place)."""


def limits_for_mesh(descriptors: int) -> ConnectionLimits:
    """Return the limits of a mesh port whose process may have so many descriptors and uses them for nothing else."""
    connections = max(2, min(MAX_CONNECTIONS, descriptors - 2 * shares_of(descriptors).own))
    unproven = min(64, max(1, connections // 4))
    return ConnectionLimits(
        connections,
        unproven=unproven,
        unproven_of_address=max(1, unproven // 2),
        # A fifth of a core: noise and a membership handshake take some 4 ms in Python (guess).
        of_strangers=Rate(per_s=50.0, burst=100.0),
    )


class MeshPort:
    """The places of accepted connections, from before their first byte to their end."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limiter = ConnectionLimiter(limits)
        self._members: set[ID] = set()
        self._slots: dict[ID, set[Slot]] = {}
        """The slots of each peer that has said who it is."""

    @override
    def __repr__(self) -> str:
        return f"MeshPort({self.limiter!r})"

    def members_are(self, members: set[ID]) -> None:
        """Take in that the set of peers that proved membership has changed."""
        self._members = members
        for peer in members:
            for slot in self._slots.get(peer, ()):
                self.limiter.proved(slot, trio.current_time())

    def guard(self, swarm: Swarm) -> None:
        """Have every connection that the swarm accepts ask for a place, and let it go when it ends."""

        async def handle(
            read_write_closer: ReadWriteCloser, maddr: Multiaddr, _failure_event: object
        ) -> None:
            remote = read_write_closer.get_remote_address()
            slot = self.limiter.opened(str(remote[0]) if remote else "", trio.current_time())
            raw = RawConnection(read_write_closer, False)
            if slot is None:
                await _close(raw.close)
                return
            try:
                with trio.CancelScope() as scope:  # pyright: ignore[reportCallIssue] - the stubs are older than trio
                    slot.close = lambda _: scope.cancel()
                    await self._serve(swarm, raw, maddr, slot)
                if scope.cancelled_caught:
                    await _close(raw.close)
            finally:
                self.limiter.closed(slot)

        swarm._do_handle_inbound_connection = handle  # type: ignore[method-assign, assignment]  # noqa: SLF001  # see above

    async def _serve(self, swarm: Swarm, raw: RawConnection, maddr: Multiaddr, slot: Slot) -> None:
        try:
            muxed = await swarm.upgrade_inbound_raw_conn(raw, maddr)
        except Exception:  # noqa: BLE001  # whoever cannot even say hello is not worth a line
            await _close(raw.close)
            return
        peer = muxed.peer_id
        self._slots.setdefault(peer, set()).add(slot)
        if peer in self._members:
            self.limiter.proved(slot, trio.current_time())
        try:
            await cast("WalledYamux", muxed).event_closed.wait()
        except trio.Cancelled:
            await _close(muxed.close)
            raise
        finally:
            self._slots[peer].discard(slot)
            if not self._slots[peer]:
                del self._slots[peer]


async def _close(close: Callable[[], Awaitable[None]]) -> None:
    """Close, however the peer behaves and although this task may be cancelled."""
    with trio.move_on_after(CLOSE_LIMIT_S) as scope:
        scope.shield = True
        try:
            await close()
        except Exception:  # noqa: BLE001  # it is gone already
            return
