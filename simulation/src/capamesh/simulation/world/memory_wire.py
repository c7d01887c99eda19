"""The wire of links between machines in memory: no TLS, but the peer's certificate is known as if it had proved it. Pure but for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from capamesh.protocol.links.link import Link
from capamesh.protocol.links.wire import Listener, Wire
from capamesh.protocol.network import ALPN
from capamesh.simulation.memory_tcp import MACHINE

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.connection_limits import ConnectionLimits
    from capamesh.protocol.network import Membership


class Certificates:
    """The certificate by which each machine's process is known on its links."""

    def __init__(self) -> None:
        self._of: dict[object, bytes] = {}

    def make_wire(
        self,
        membership: Membership,
        folder: Path,
        log: FilteringBoundLogger | None,
        clock: Callable[[], float],
    ) -> MemoryWire:
        """Make the wire of the machine whose code runs: `links.wire.MakeWire`."""
        del folder, log, clock
        return MemoryWire(self._of, membership)


class MemoryWire(Wire):
    """One machine's links."""

    def __init__(self, certificates: dict[object, bytes], membership: Membership) -> None:
        self._certificates = certificates
        self.renew(membership)

    @override
    def renew(self, membership: Membership) -> None:
        self._certificates[MACHINE.get()] = membership.chain[0]

    @override
    async def connect(
        self, addresses: Sequence[str], port: int, make_link: Callable[[], Link], patience_s: float
    ) -> Link:
        loop = asyncio.get_running_loop()
        _, door = await loop.create_connection(
            lambda: _Door(make_link, self._certificates), addresses[0], port
        )
        return door.link

    @override
    async def listen(
        self,
        host: str,
        port: int,
        make_link: Callable[[], Link],
        limits: ConnectionLimits | None,
        patience_s: float,
    ) -> Listener:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Door(make_link, self._certificates), host, port)


class _Door(asyncio.Protocol):
    """Gives a connection to its link, once it is known who the peer is."""

    def __init__(self, make_link: Callable[[], Link], certificates: dict[object, bytes]) -> None:
        self.link = make_link()
        self._certificates = certificates

    @override
    def connection_made(self, transport: Any) -> None:
        # what TLS would have proved; asyncio's transports take it from whoever makes them
        transport._extra["ssl_object"] = _Proof(transport, self._certificates)  # noqa: SLF001
        transport.set_protocol(self.link)
        self.link.connection_made(transport)


class _Proof:
    """Answers as `ssl.SSLObject` does."""

    def __init__(self, transport: Any, certificates: dict[object, bytes]) -> None:  # noqa: ANN401 - asyncio's private one
        self._transport = transport
        self._certificates = certificates

    def getpeercert(self, *, binary_form: bool) -> bytes:
        assert binary_form  # noqa: S101 - links ask for nothing else
        return self._certificates[self._transport._sock.peer.machine]  # noqa: SLF001 - the socket itself

    def selected_alpn_protocol(self) -> str:
        return ALPN
