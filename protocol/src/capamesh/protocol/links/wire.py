"""The wire below links: mutual TLS 1.3 over TCP, or whatever else proves who is there. IO: asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from capamesh.protocol.advertised_address import listen_reason
from capamesh.protocol.connection_limits import ConnectionLimits, limits_within
from capamesh.protocol.descriptors import descriptor_limit
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.listener import LinkListener, bind
from capamesh.protocol.links.refusals import HandshakeRefusals
from capamesh.protocol.links.tls_transport import open_tls
from capamesh.protocol.network import Membership, tls_context
from capamesh.protocol.network.tls import show_membership

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

BACKLOG = 512
"""Connections that wait for their TLS handshake (guess: a fleet that reconnects at once)."""


class Listener(Protocol):
    """Accepts links until it is closed; those that it accepted go on."""

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """Return the sockets that listen."""
        ...

    def close(self) -> None:
        """Accept no one any more."""


class Wire(Protocol):
    """Gives links their transports, whose `ssl_object` says which certificate the peer has proved to own."""

    def renew(self, membership: Membership) -> None:
        """Show a renewed membership from now on; raise `ConfigError` when that cannot be."""

    async def connect(
        self, addresses: Sequence[str], port: int, make_link: Callable[[], Link], patience_s: float
    ) -> Link:
        """Return a link, not verified yet, to the first of the addresses that takes one; raise `OSError`."""
        ...

    async def listen(
        self,
        host: str,
        port: int,
        make_link: Callable[[], Link],
        limits: ConnectionLimits | None,
        patience_s: float,
    ) -> Listener:
        """Accept links on `host:port` (0: any free port); raise `ConfigError` when it is taken.

        Without `limits` they are those of a process with as many descriptors as this one may have.
        """
        ...


MakeWire = Callable[[Membership, Path, "FilteringBoundLogger | None", Callable[[], float]], Wire]
"""Makes the wire of a member whose membership is saved in a folder, with a log and a clock; raises `ConfigError`."""


class TlsWire(Wire):
    """Mutual TLS 1.3 over TCP, with this member's contexts."""

    def __init__(
        self,
        membership: Membership,
        folder: Path,
        log: FilteringBoundLogger | None,
        clock: Callable[[], float],
    ) -> None:
        """Log TLS handshakes that fail here, where there is a `log`."""
        self._dialing = tls_context(membership, folder, server_side=False)
        self._listening = tls_context(membership, folder, server_side=True)
        self._refusals = None if log is None else HandshakeRefusals(log, clock)

    @override
    def renew(self, membership: Membership) -> None:
        for context in (self._dialing, self._listening):
            show_membership(context, membership)

    @override
    async def connect(
        self, addresses: Sequence[str], port: int, make_link: Callable[[], Link], patience_s: float
    ) -> Link:
        loop = asyncio.get_running_loop()
        for last, address in enumerate(addresses, start=1):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.setblocking(False)
                await loop.sock_connect(connection, (address, port))
                link = make_link()
                await open_tls(
                    connection, self._dialing, link, server_side=False, patience_s=patience_s
                )
            except BaseException as error:
                connection.close()
                if last == len(addresses) or not isinstance(error, OSError):
                    raise
            else:
                return link
        raise OSError("no address to dial")

    @override
    async def listen(
        self,
        host: str,
        port: int,
        make_link: Callable[[], Link],
        limits: ConnectionLimits | None,
        patience_s: float,
    ) -> LinkListener:
        try:
            sockets = await bind(host, port, BACKLOG)
        except OSError as exc:
            raise ConfigError(
                f"cannot listen for links on {host}:{port}: {listen_reason(exc)}; give another port"
            ) from exc
        return LinkListener(
            sockets,
            make_link,
            self._listening,
            limits or limits_within(descriptor_limit()),
            patience_s,
            None if self._refusals is None else self._refusals.note,
        )
