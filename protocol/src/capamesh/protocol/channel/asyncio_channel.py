"""One end of a channel on an asyncio (or uvloop) event loop. Does IO."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.channel.framing import (
    MAX_MESSAGE_BYTES,
    PING,
    PONG,
    Decoder,
    Message,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MAX_BUFFERED_BYTES: Final = 2 * MAX_MESSAGE_BYTES
"""The most buffered bytes: two of the largest messages (guess: a peer that has not read that much is stuck)."""

_READ_BYTES: Final = 256 * 1024
"""The bytes that are read at a time (guess: a few hundred adverts in one system call)."""


class AsyncioChannel:
    """Sends and receives messages; made by `connect`, used by an owner and by an asyncio child alike."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._decoded: deque[Message] = deque()

    @classmethod
    async def connect(cls, sock: socket.socket) -> AsyncioChannel:
        """Return a channel that owns `sock`, one end of a Unix socketpair."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        return cls(reader, writer)

    @classmethod
    async def inherit(cls, channel_fd: int) -> AsyncioChannel:
        """Return the child's end of the channel whose descriptor number came as `--channel-fd`."""
        sock = socket.socket(fileno=channel_fd)
        # Or a grandchild that outlives the child would keep the channel open.
        sock.set_inheritable(False)
        return await cls.connect(sock)

    def send(self, message: Mapping[str, Any]) -> bool:
        """Queue `message`; return False when the channel is closed or the other end does not read.

        Raises:
            ProtocolViolation, TooLarge: as `encode`.
        """
        frame = encode(message)
        if self._writer.is_closing():
            return False
        waiting_bytes = self._writer.transport.get_write_buffer_size()
        if waiting_bytes + len(frame) > MAX_BUFFERED_BYTES:
            return False
        self._writer.write(frame)
        return True

    async def drain(self) -> None:
        """Wait until the other end has read enough that more can be queued; returns when it is gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def messages(self) -> AsyncIterator[Message]:
        """Yield messages until the other end is gone; answer pings on the way, without yielding them.

        Raises:
            ProtocolViolation: the other end sent junk.
        """
        while True:
            # kept outside of this generator: what came with the last message is the next reader's
            while self._decoded:
                message = self._decoded.popleft()
                if message["type"] == PING:
                    self.send({"type": PONG})
                else:
                    yield message
            data = await self._read()
            if not data:
                return
            self._decoded.extend(self._decoder.feed(data))

    async def close(self) -> None:
        """Close the channel, which the other end sees as the end of the stream."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(_READ_BYTES)
        except ConnectionError:
            return b""
