"""Opens links: dials and listens over mutual TLS 1.3, and checks who is there. IO: asyncio."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.protocol.connection_limits import ConnectionLimits
from capamesh.protocol.errors import ConfigError, LinkLost, NotMember
from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.links.receive_budget import ReceiveBudget
from capamesh.protocol.network import Member, Membership, NetworkTrust, Role
from capamesh.protocol.reach import Inside, inside_of
from capamesh.protocol.system import System

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.links.wire import Listener

MAX_ADDRESSES_OF_NAME = 4
"""The most addresses of a name that are tried (guess: one of each family, twice)."""
MAX_LINKS_OF_PEER = 16
"""A router process keeps one link to a worker; the rest is for links that linger (guess)."""


def is_one_too_many(
    links: Iterable[Link | None], newcomer: Link, limit: int = MAX_LINKS_OF_PEER
) -> bool:
    """Close `newcomer` and return True when its peer has `limit` others among `links`."""
    peer = newcomer.member
    count = sum(
        link is not None
        and link.member is not None
        and peer is not None
        and link.member.peer_id == peer.peer_id
        for link in links
    )
    if count < limit:
        return False
    newcomer.close(f"{count} links of this peer are open, the limit; close one first")
    return True


def check_hello(
    trust: NetworkTrust,
    hello: Hello,
    certificate: bytes,
    now: dt.datetime,
    *,
    role: Role,
    peer: PeerId | None = None,
) -> Member:
    """Return who introduced itself; raise `NotMember` unless chain, role and identity all hold.

    `certificate` is the TLS certificate in DER: the key that the handshake proved. `peer` is who was
    dialled, None when anyone of the role may come.
    """
    if hello.network != trust.network_id:
        raise NotMember(
            f"the peer is of network {hello.network[:64]!r}, this one is {trust.network_id}"
        )
    if not hello.chain or hello.chain[0] != certificate:
        raise NotMember("the introduction's certificate is not the one of the TLS connection")
    member = trust.verify(hello.chain, now, role=role)
    if peer is not None and member.peer_id != peer:
        raise NotMember(f"dialled {peer}, but {member.peer_id} answered")
    return member


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`; raise `ConfigError`."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f"address {address!r} is not of the form host:port with a port up to 65535"
        )
    return host.strip("[]"), int(port)


async def _permitted(host: str, port: int, innermost: Inside) -> list[str]:
    """Return the IP addresses of `host` that lie no further inside than `innermost`; raise `LinkLost` or `OSError`."""
    if inside_of(host) is None:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    else:
        addresses = [host]
    permitted = [
        address
        for address in addresses
        if (inside := inside_of(address)) is not None and inside <= innermost
    ]
    if not permitted:
        raise LinkLost(
            f"{host} is not dialled: {', '.join(addresses[:MAX_ADDRESSES_OF_NAME])} lies further inside than "
            f"{innermost.word} addresses do"
        )
    return permitted[:MAX_ADDRESSES_OF_NAME]


class LinkTransport:
    """This member's side of all its links: its introduction, its TLS contexts, its limits."""

    def __init__(
        self,
        membership: Membership,
        folder: Path,
        *,
        agent_version: str,
        limits: LinkLimits | None = None,
        times: LinkTimes | None = None,
        budget: ReceiveBudget | None = None,
        log: FilteringBoundLogger | None = None,
        system: System | None = None,
    ) -> None:
        """Prepare TLS from the membership saved in `folder`; raise `ConfigError` when that cannot be.

        `budget` is what all its links may receive together; without one each has `LinkLimits.receive_bytes`.
        With a `log`, TLS handshakes that fail here are told.
        """
        system = system or System()
        self._limits = limits or LinkLimits()
        self._times = times or LinkTimes()
        self._budget = budget
        self._hello = Hello(
            network=membership.network_id,
            chain=membership.chain,
            agent_version=agent_version,
            initial_credit_bytes=self._limits.initial_credit_bytes,
            message_bytes=self._limits.message_bytes,
            part_window_bytes=self._limits.part_window_bytes,
            process=system.token_bytes(8),
        )
        self._clock = system.steady_s
        self._wire = system.make_wire(membership, folder, log, system.steady_s)

    def renew(self, membership: Membership) -> Hello:
        """Show the renewed membership on all links from now on; return what to show on those that are open.

        Raises `ConfigError` when TLS cannot take it.
        """
        self._wire.renew(membership)
        self._hello = replace(self._hello, chain=membership.chain)
        return self._hello

    async def dial(
        self, address: str, owner: LinkHandler, *, innermost: Inside = Inside.LOOPBACK
    ) -> Link:
        """Open a link to `host:port` and wait until the peer is verified.

        Raises `LinkLost` when that has not happened within `LinkTimes.hello_s`, or when the host lies further
        inside than `innermost`.
        """
        host, port = split_address(address)
        patience_s = self._times.hello_s
        link: Link | None = None
        try:
            async with asyncio.timeout(patience_s):
                link = await self._wire.connect(
                    await _permitted(host, port, innermost),
                    port,
                    lambda: self._link(owner, is_dialer=True),
                    patience_s,
                )
                await asyncio.shield(link.up)
        except TimeoutError as exc:
            if link is not None:
                link.abort("not verified in time")
            raise LinkLost(f"no verified link to {address} within {patience_s} s") from exc
        except (OSError, UnicodeError) as exc:  # an ssl.SSLError; a name that IDNA refuses
            raise LinkLost(f"cannot reach {address}: {exc}") from exc
        except asyncio.CancelledError:
            if link is not None:
                link.abort("no longer wanted")
            raise
        return link

    async def listen(
        self,
        host: str,
        port: int,
        owner_of: Callable[[], LinkHandler],
        *,
        limits: ConnectionLimits | None = None,
    ) -> Listener:
        """Accept links on `host:port` (0: any free port); raise `ConfigError` when it is taken.

        Without `limits` they are those of a process with as many descriptors as this one may have.
        """
        return await self._wire.listen(
            host, port, lambda: self._link(owner_of(), is_dialer=False), limits, self._times.hello_s
        )

    def _link(self, owner: LinkHandler, *, is_dialer: bool) -> Link:
        return Link(
            owner,
            self._hello,
            is_dialer=is_dialer,
            limits=self._limits,
            times=self._times,
            budget=self._budget,
            clock=self._clock,
        )
