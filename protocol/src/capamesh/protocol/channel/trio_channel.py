"""The child's end of a channel on a trio event loop. Does IO."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from capamesh.protocol.channel.framing import PING, PONG, Decoder, Message, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MAX_WAITING_MESSAGES: Final = 10_000
"""The most messages that wait (guess: some seconds of the adverts of a large fleet, for an owner that is busy)."""

_READ_BYTES: Final = 256 * 1024
"""The bytes that are read at a time, as at the other end (guess)."""


class TrioChannel:
    """Sends and receives messages; `run` must be running for `send` to reach the owner."""

    def __init__(self, sock: socket.socket) -> None:
        # Or a grandchild that outlives the child would keep the channel open.
        sock.set_inheritable(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._put, self._take = trio.open_memory_channel[bytes](MAX_WAITING_MESSAGES)

    @classmethod
    def inherit(cls, channel_fd: int) -> TrioChannel:
        """Return the child's end of the channel whose descriptor number came as `--channel-fd`."""
        return cls(socket.socket(fileno=channel_fd))

    def send(self, message: Mapping[str, Any]) -> bool:
        """Queue `message`; False when the owner has not read `MAX_WAITING_MESSAGES` before it.

        Raises:
            ProtocolViolation, TooLarge: as `channel.framing.encode`.
        """
        try:
            self._put.send_nowait(encode(message))
        except trio.WouldBlock:
            return False
        return True

    async def run(self) -> None:
        """Write what is queued until cancelled or until the owner is gone."""
        try:
            async for frame in self._take:
                await self._stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def messages(self) -> AsyncIterator[Message]:
        """Yield messages until the owner is gone; answer pings on the way, without yielding them.

        Raises:
            ProtocolViolation: the owner sent junk.
        """
        decoder = Decoder()
        while data := await self._read():
            for message in decoder.feed(data):
                if message["type"] == PING:
                    self.send({"type": PONG})
                else:
                    yield message

    async def close(self) -> None:
        """Close the channel, which the owner sees as the end of the stream."""
        await self._stream.aclose()

    async def _read(self) -> bytes | bytearray:
        try:
            return await self._stream.receive_some(_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
