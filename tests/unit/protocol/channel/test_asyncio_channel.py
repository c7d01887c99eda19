from __future__ import annotations

import asyncio
import socket

from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
from capamesh.protocol.channel.framing import encode


async def test_bytes_of_one_read_are_there_for_the_next_reader() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = await AsyncioChannel.connect(ours)
        theirs.sendall(
            encode({"type": "start"}) + encode({"type": "ping"}) + encode({"type": "stop"})
        )
        async with asyncio.timeout(60):
            async for message in channel.messages():
                assert message == {"type": "start"}
                break
            async for message in channel.messages():
                assert message == {"type": "stop"}
                break
        assert theirs.recv(100) == encode({"type": "pong"})
        await channel.close()
