# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false
# libp2p is partly typed.
"""Keeps connections to known peers: dials again whenever one is not connected. Does IO, on trio."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import public_bytes_of
from capamesh.protocol.mesh.dial_failures import reason_of_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from libp2p.abc import IHost
    from libp2p.network.swarm import Swarm

    from capamesh.protocol.mesh.hardening import Warn

DIAL_LIMIT_S: Final = 10.0
"""The longest dial (guess: TCP, noise, yamux and the handshake take 0.3 s on loopback and a few round trips elsewhere)."""

LOOK_EVERY_S: Final = 0.25
"""Connections are looked for this often (guess: looking costs a dictionary look-up)."""

BACKOFF: Final = RestartPolicy(first_s=0.25, factor=2.0, most_s=30.0, stable_after_s=10.0)
"""The waits between dials (guess: a router that restarts is found within a second, one that is gone costs two dials a
minute)."""

AWAY_MOST_S: Final = 1.0
"""The longest wait for a peer that was connected of late and whose address refuses at once: its process is away, and all
who were connected to it are to be so again a second after it is back (guess: a refused dial costs next to nothing)."""

LATELY_S: Final = 600.0
"""A peer counts as lately known for this long (guess: as long as a node dials the links of a router that it hears no more)."""

AT_ONCE_S: Final = 1.0
"""A dial that fails later has met a peer that has too much to do, or a network that loses it (guess)."""

_FAMILIES: Final = {
    "dns": trio.socket.AF_UNSPEC,
    "dns4": trio.socket.AF_INET,
    "dns6": trio.socket.AF_INET6,
}

MAX_TARGETS: Final = 1024
"""The most peers that are dialled (guess: anybody who answers on the local network can name peers)."""

MAX_ADDRS_PER_TARGET: Final = 16
"""The most addresses of one peer (guess: a host has a few interfaces)."""


class Dialler:
    """One task for each peer to be connected to. `is_refused` tells who is not dialled for now."""

    def __init__(
        self,
        host: IHost,
        nursery: trio.Nursery,
        *,
        is_refused: Callable[[ID], bool],
        warn: Warn,
    ) -> None:
        self._host = host
        self._swarm = cast("Swarm", host.get_network())
        self._nursery = nursery
        self._is_refused = is_refused
        self._warn = warn
        self._targets: dict[ID, list[Multiaddr]] = {}

    def add(self, addrs: Iterable[str]) -> None:
        """Keep connections to the peers of these addresses, each ending in `/p2p/<peer id>`.

        An address that cannot be used is reported as a warning and skipped.
        """
        for text in addrs:
            try:
                peer, addr = parse_target(text)
            except ConfigError as exc:
                self._warn("bad_address", exc.message)
                continue
            if peer == self._host.get_id():
                continue
            known = self._targets.get(peer)
            if known is None and len(self._targets) < MAX_TARGETS:
                self._targets[peer] = [addr]
                self._nursery.start_soon(self._keep, peer)
            elif known is not None and addr not in known and len(known) < MAX_ADDRS_PER_TARGET:
                known.append(addr)

    async def _keep(self, peer: ID) -> None:
        backoff = Backoff(BACKOFF)
        attempt = 0
        met_s = -math.inf
        while True:
            began_s = trio.current_time()
            addrs = self._targets[peer]
            if not self._is_refused(peer):
                await self._dial(peer, addrs[attempt % len(addrs)])
                attempt += 1
            connected_since_s = trio.current_time()
            while self._is_connected(peer):  # libp2p's events come for connections, not peers
                await trio.sleep(LOOK_EVERY_S)
                met_s = trio.current_time()
            now_s = trio.current_time()
            wait_s = backoff.failed(now_s - connected_since_s, jitter=random.random())  # noqa: S311  # it spreads load
            has_refused = connected_since_s - began_s < AT_ONCE_S
            if has_refused and now_s - met_s < LATELY_S:
                wait_s = min(wait_s, AWAY_MOST_S * random.uniform(0.5, 1.0))  # noqa: S311  # likewise
            await trio.sleep(wait_s)

    async def _dial(self, peer: ID, addr: Multiaddr) -> None:
        store = self._host.get_peerstore()
        # libp2p dials one address of each kind it knows, always the same; and remembers failures.
        store.clear_addrs(peer)
        self._swarm.unblock_peer(peer)
        try:
            with trio.move_on_after(DIAL_LIMIT_S) as limit:
                await self._host.connect(PeerInfo(peer, [await resolve(addr)]))
            if limit.cancelled_caught:
                self._warn("dial_failed", f"cannot reach {addr}: no answer in {DIAL_LIMIT_S:g} s")
        except Exception as exc:  # noqa: BLE001  # libp2p documents no error classes; the next dial follows
            self._warn("dial_failed", f"cannot reach {addr}: {reason_of_failure(exc)}")

    def _is_connected(self, peer: ID) -> bool:
        """Ask the swarm: `connect` can return without a connection."""
        return any(not conn.is_closed for conn in self._swarm.get_connections(peer))


async def resolve(addr: Multiaddr) -> Multiaddr:
    """Return `addr` with an IP address, picked at random, in place of a DNS name, which libp2p does not dial.

    Raises:
        OSError: the name cannot be resolved.
    """
    _, kind, name, *rest = str(addr).split("/")
    if kind not in _FAMILIES:
        return addr
    found = await trio.socket.getaddrinfo(name, None, _FAMILIES[kind], trio.socket.SOCK_STREAM)
    ip = random.choice(found)[4][0]  # noqa: S311  # it spreads load
    return Multiaddr("/".join(("", "ip6" if ":" in str(ip) else "ip4", str(ip), *rest)))


def parse_target(text: str) -> tuple[ID, Multiaddr]:
    """Return the peer and where to dial it.

    Raises:
        ConfigError: the text is no multiaddress that ends in `/p2p/<peer id>` and names a TCP port.
    """
    head, _, peer_text = text.rpartition("/p2p/")
    try:
        public_bytes_of(peer_text)
        addr = Multiaddr(head)
        addr.value_for_protocol("tcp")
        return ID.from_string(peer_text), addr
    except Exception as exc:
        raise ConfigError(
            f"{text[:200]!r} is no address such as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…: {exc}"
        ) from exc
