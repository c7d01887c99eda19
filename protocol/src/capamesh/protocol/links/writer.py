"""Writes what the core of a link has to send, as fast as its socket takes it. IO: asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from capamesh.protocol.links.connection import Connection

WRITE_AHEAD_BYTES: Final = 256 * 1024
"""The bytes handed to the socket at a time: one chunk."""
UNSENT_BYTES: Final = 512 * 1024
"""The bytes that the kernel may hold before they are on the wire, so that a body of 600 KB seldom waits for the loop's next
turn: 128 KiB cost 3 % more (measured). A small message waits behind them and one chunk, 6 ms at 1 Gbit/s; behind the kernel's
own choice, up to 4 MiB, it would be 34 ms (computed)."""


class LinkWriter:
    """The sending half of one link's socket."""

    __slots__ = (
        "_core",
        "_give_up",
        "_is_due",
        "_loop",
        "_most_bytes",
        "_transport",
        "is_held",
        "is_paused",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        core: Connection,
        most_bytes: int,
        give_up: Callable[[str], None],
    ) -> None:
        """`give_up` is told why when more than `most_bytes` wait that the peer does not read."""
        self._loop = loop
        self._core = core
        self._most_bytes = most_bytes
        self._give_up = give_up
        self._transport: asyncio.Transport | None = None
        self._is_due = False
        self.is_paused = False
        """True while the socket takes nothing."""
        self.is_held = False
        """True while a read is handled, after which all is written in one go."""

    def begin(self, transport: asyncio.Transport) -> None:
        """Write to `transport` from now on."""
        self._transport = transport
        plain = cast("socket.socket | None", transport.get_extra_info("socket"))
        if plain is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Windows has no such option
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.flush_soon()

    def flush_soon(self, *, is_alone: bool = False) -> None:
        """Write in the loop's next turn, with what is said until then; at once what `is_alone`, behind which nothing is expected."""
        if self.is_held:
            return
        if is_alone:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write now; give up a peer that does not read."""
        self._is_due = False
        if self._transport is not None:
            self.write()
            if self._core.queued_bytes > self._most_bytes:
                self._give_up(f"{self._core.queued_bytes} bytes wait that the peer does not read")

    def write(self) -> None:
        """Write as much as the socket takes."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while not self.is_paused and self._core.has_output():
            buffers = self._core.take(WRITE_AHEAD_BYTES)
            if len(buffers) == 1:
                transport.write(buffers[0])
            else:
                transport.writelines(buffers)

    def end(self) -> None:
        """Write nothing more."""
        self._transport = None
