"""The child's end of a channel in a process without an event loop. Does IO, and blocks.

Pings are answered where the child waits for a message: one that works for long, or hangs, is silent, which its owner sees.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.channel.framing import PING, PONG, Decoder, Message, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

_READ_BYTES: Final = 256 * 1024
"""The bytes that are read at a time, as at the other end (guess)."""


class BlockingChannel:
    """Sends and receives messages."""

    def __init__(self, sock: socket.socket) -> None:
        # Or a grandchild that outlives the child would keep the channel open.
        sock.set_inheritable(False)
        sock.setblocking(True)
        self._sock = sock
        self._decoder = Decoder()
        self._decoded: deque[Message] = deque()

    @classmethod
    def inherit(cls, channel_fd: int) -> BlockingChannel:
        """Return the child's end of the channel whose descriptor number came as `--channel-fd`."""
        return cls(socket.socket(fileno=channel_fd))

    def send(self, message: Mapping[str, Any]) -> None:
        """Write a message; a channel whose owner is gone takes it all the same.

        Raises:
            ProtocolViolation, TooLarge: as `channel.framing.encode`.
        """
        frame = encode(message)
        try:
            self._sock.sendall(frame)
        except ConnectionError:
            return

    def next(self) -> Message | None:
        """Wait for the next message and return it, with pings answered on the way; None: the owner is gone.

        Raises:
            ProtocolViolation: the owner sent junk.
        """
        while True:
            while self._decoded:
                message = self._decoded.popleft()
                if message["type"] != PING:
                    return message
                self.send({"type": PONG})
            try:
                data = self._sock.recv(_READ_BYTES)
            except ConnectionError:
                return None
            if not data:
                return None
            self._decoded.extend(self._decoder.feed(data))
