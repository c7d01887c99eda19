"""A connection of a scripted client of gRPC to a router, after which nothing may be held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from http2_client import Http2Client
from hyperframe.frame import SettingsFrame
from raw_http import GUARD_S
from router_http import Http


class Attacker(Http2Client):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._reader = reader
        self._writer = writer
        self.is_ended = False

    def send(self, *frames: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.writelines(frames)

    async def read(self) -> None:
        """Read what is there, and wait for something."""
        async with asyncio.timeout(GUARD_S):
            try:
                data = await self._reader.read(1 << 16)
            except ConnectionResetError:
                data = b""
        self.is_ended = not data
        self.take(data)

    async def read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert not self.is_ended, self.frames
            await self.read()

    async def read_all(self) -> None:
        while not self.is_ended:
            await self.read()

    def leave(self) -> None:
        self._writer.transport.abort()


async def connected(http: Http, **client_settings: int) -> Attacker:
    reader, writer = await asyncio.open_connection(http.client.host, http.client.port)
    attacker = Attacker(reader, writer)
    acknowledged = SettingsFrame(0, flags=["ACK"]).serialize()
    attacker.send(attacker.begin(**client_settings), acknowledged)
    return attacker


@asynccontextmanager
async def attacking(http: Http, **client_settings: int) -> AsyncIterator[Attacker]:
    """Connect, and see at the end that nothing is held for who was connected."""
    attacker = await connected(http, **client_settings)
    yield attacker
    attacker.leave()
    async with asyncio.timeout(GUARD_S):
        while len(http.front.connections) or http.fleet.counts:
            await asyncio.sleep(0)
    assert (http.front.requests.count, http.front.budget.used_bytes) == (0, 0)
    assert http.front.budget.arriving_bytes == 0
