"""A link whose socket is a list of bytes, and the bare core of a peer at its other end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from link_wire import deliver, feed, hello

from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import Event
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.network import ALPN


class Transport:
    """A transport to nowhere that keeps what is written; a link finds TLS on it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.is_closed = False

    def get_extra_info(self, name: str) -> Any:
        if name != "ssl_object":
            return None
        return SimpleNamespace(
            selected_alpn_protocol=lambda: ALPN, getpeercert=lambda binary_form: b"leaf"
        )

    def _nothing(self, *_: object, **__: object) -> None: ...

    set_write_buffer_limits = pause_reading = resume_reading = _nothing

    def write(self, data: bytes) -> None:
        self.sent += data

    def writelines(self, parts: list[bytes]) -> None:
        for part in parts:
            self.sent += part

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0


class Owner(LinkHandler):
    """Owns one link; `on_down` is when it hears of its end."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.told: list[bytes] = []
        self.on_down: Callable[[], None] = lambda: None

    def verify(self, *_: object) -> Any:
        return SimpleNamespace(peer_id="peer")

    def link_down(self, link: Link, reason: str) -> None:
        del link
        self.reasons.append(reason)
        self.on_down()

    def load(self, meta: bytes) -> bytes:
        return meta

    def load_told(self, link: Link, meta: bytes) -> None:
        del link
        self.told.append(meta)


class Ends:
    """A link and the core at its other end; nothing moves but when a test says."""

    def __init__(self, own: LinkLimits | None = None, *, is_greeted: bool = True) -> None:
        own = own or LinkLimits()
        self.owner, self.transport = Owner(), Transport()
        self.link = Link(
            self.owner,  # type: ignore[arg-type]  # all that a link asks of it
            hello(own),
            is_dialer=True,
            limits=own,
            times=LinkTimes(),
        )
        self.peer = Connection(is_dialer=False, hello=hello(LinkLimits()), limits=LinkLimits())
        self.link.connection_made(self.transport)  # type: ignore[arg-type]  # likewise
        if is_greeted:
            self.link._writer.flush()
            self.read()
            self.deliver()

    def read(self) -> list[Event]:
        data = bytes(self.transport.sent)
        self.transport.sent.clear()
        return feed(self.peer, data)

    async def reads(self) -> list[Event]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.read()

    def deliver(self) -> None:
        """Let the link read what the peer has said, in one go."""
        deliver(self.link, b"".join(self.peer.take(1 << 20)))

    def lose(self) -> None:
        self.transport.is_closed = True
        self.link.connection_lost(None)

    @property
    def is_idle(self) -> bool:
        return not self.link._askers.requests and not self.link._askers.loads
